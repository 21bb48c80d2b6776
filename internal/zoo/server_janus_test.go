//go:build linux

package zoo

import (
	"encoding/json"
	"fmt"
	"testing"
)

// Janus is a server of WebRTC; its clients say what they want over WebSockets.
// Debian's janus.
var janus = server{
	name:   "Janus",
	source: debian("janus"),
	start: func(t *testing.T) *process {
		return command{
			args: []string{"janus", "--configs-folder=DIR", "--config=DIR/janus.jcfg", "--disable-colors"},
			files: map[string]string{
				// A session without a keep-alive would end after a minute.
				"janus.jcfg": `general: { session_timeout = 0 }
transports: { disable = "libjanus_http.so,libjanus_mqtt.so,libjanus_nanomsg.so,libjanus_pfunix.so,libjanus_rabbitmq.so" }
plugins: { disable = "libjanus_sip.so,libjanus_nosip.so,libjanus_lua.so,libjanus_duktape.so,libjanus_recordplay.so,libjanus_voicemail.so" }
media: { rtp_port_range = "20000-20100" }
`,
				"janus.transport.websockets.jcfg": `general: { json = "compact", ws = true, ws_port = PORT, ws_ip = "127.0.0.1" }
`,
			},
		}.start(t)
	},
	path:         "/",
	subprotocols: []string{"janus-protocol"},
	kinds:        onlyText,
	most:         70_000,
	greet: func(v *visit) error {
		made, err := askJanus(v, `{"janus":"create","transaction":"create"}`)
		v.name = fmt.Sprint(made.Data.ID)
		return err
	},
	say: func(v *visit, m message) error { // it repeats a request's name
		answer, err := askJanus(v, fmt.Sprintf(`{"janus":"keepalive","session_id":%s,"transaction":"%s"}`, v.name, m.data))
		if err == nil && answer.Transaction != string(m.data) {
			err = fmt.Errorf("%v came back as %.80q", m, answer.Transaction)
		}
		return err
	},
	lives: []life{{"a room", func(t *testing.T, f form) (string, error) {
		v, err := dial(t, f, offer{path: "/", subprotocols: []string{"janus-protocol"}})
		if err != nil {
			return "", err
		}
		session, err := askJanus(v, `{"janus":"create","transaction":"1"}`)
		if err != nil {
			return "", err
		}
		plugin, err := askJanus(v, fmt.Sprintf(`{"janus":"attach","session_id":%d,"plugin":"janus.plugin.videoroom","transaction":"2"}`, session.Data.ID))
		if err != nil {
			return "", err
		}
		to := fmt.Sprintf(`{"janus":"message","session_id":%d,"handle_id":%d,"transaction":"3","body":`, session.Data.ID, plugin.Data.ID)
		made, err := askJanus(v, to+`{"request":"create","description":"cats"}}`)
		if err != nil {
			return "", err
		}
		joined, err := askJanus(v, to+fmt.Sprintf(`{"request":"join","ptype":"publisher","room":%d,"display":"lion"}}`, made.Plugin.Data.Room))
		if err == nil && joined.Janus == "ack" { // the plugin works on it; the event may also come before
			joined, err = receiveJanus(v)
		}
		return joined.Plugin.Data.Videoroom + " " + joined.Plugin.Data.Description, err
	}}},
}

type janusAnswer struct {
	Janus, Transaction string
	Data               struct{ ID uint64 }
	Plugin             struct {
		Data struct {
			Videoroom, Description string
			Room                   uint64
		}
	} `json:"plugindata"`
}

// askJanus sends a request and returns the answer.
func askJanus(v *visit, request string) (janusAnswer, error) {
	if err := v.send(text(request)); err != nil {
		return janusAnswer{}, err
	}
	return receiveJanus(v)
}

func receiveJanus(v *visit) (answer janusAnswer, err error) {
	m, err := v.receive()
	if err == nil {
		err = json.Unmarshal(m.data, &answer)
	}
	if err == nil && answer.Janus == "error" {
		err = fmt.Errorf("%s", m.data)
	}
	return answer, err
}
