//go:build linux

package zoo

import (
	"fmt"
	"strings"
	"testing"
)

// Prosody is a server of XMPP, here over WebSockets (RFC 7395), with guests.
// Debian's prosody.
var prosody = server{
	name:   "Prosody",
	source: debian("prosody"),
	start: func(t *testing.T) *process {
		return command{
			args: []string{"prosody", "--config", "DIR/conf.lua", "-F"},
			files: map[string]string{"conf.lua": `
run_as_root = true
pidfile = "DIR/pid"
data_path = "DIR"
plugin_paths = {}
modules_enabled = { "saslauth", "websocket", "disco", "ping" }
modules_disabled = { "s2s", "posix" }
c2s_ports = {}
consider_websocket_secure = true
http_ports = { PORT }
http_interfaces = { "127.0.0.1" }
https_ports = {}
log = { info = "*console" }
VirtualHost "zoo.example"
  authentication = "anonymous"
  http_host = "127.0.0.1"
Component "rooms.zoo.example" "muc"
`},
		}.start(t)
	},
	path:         "/xmpp-websocket",
	subprotocols: []string{"xmpp"},
	kinds:        onlyText,
	most:         70_000,
	greet:        greetXMPP,
	say:          sayXMPP,
	leave:        leaveXMPP,
	lives:        []life{roomXMPP("/xmpp-websocket")},
}

// greetXMPP logs in as a guest.
func greetXMPP(v *visit) error {
	const open = `<open xmlns="urn:ietf:params:xml:ns:xmpp-framing" to="zoo.example" version="1.0"/>`
	for _, step := range []struct{ send, want string }{
		{open, "ANONYMOUS"},
		{`<auth xmlns="urn:ietf:params:xml:ns:xmpp-sasl" mechanism="ANONYMOUS"/>`, "<success"},
		{open, "urn:ietf:params:xml:ns:xmpp-bind"},
		{`<iq xmlns="jabber:client" type="set" id="b"><bind xmlns="urn:ietf:params:xml:ns:xmpp-bind"/></iq>`, "<jid>"},
	} {
		answer, err := xmpp(v, step.send, step.want)
		if err != nil {
			return err
		}
		if _, rest, ok := strings.Cut(answer, "<jid>"); ok {
			v.name, _, _ = strings.Cut(rest, "</jid>")
		}
	}
	return nil
}

// sayXMPP sends a message to oneself.
func sayXMPP(v *visit, m message) error {
	_, err := xmpp(v, fmt.Sprintf(`<message xmlns="jabber:client" type="chat" to=%q><body>%s</body></message>`, v.name, m.data),
		fmt.Sprintf("<body>%s</body>", m.data))
	return err
}

// leaveXMPP ends the stream (RFC 7395, 3.6).
func leaveXMPP(v *visit) error {
	_, err := xmpp(v, `<close xmlns="urn:ietf:params:xml:ns:xmpp-framing"/>`, "<close")
	return err
}

// roomXMPP joins a room of the server at this path.
func roomXMPP(path string) life {
	return life{"a room", func(t *testing.T, f form) (string, error) {
		v, err := dial(t, f, offer{path: path, subprotocols: []string{"xmpp"}})
		if err != nil {
			return "", err
		}
		if err := greetXMPP(v); err != nil {
			return "", err
		}
		room := "cats-" + port(f.addr) + "@rooms.zoo.example"
		if _, err := xmpp(v, `<presence xmlns="jabber:client" to="`+room+`/lion"><x xmlns="http://jabber.org/protocol/muc"/></presence>`, "<subject"); err != nil {
			return "", err
		}
		_, err = xmpp(v, `<message xmlns="jabber:client" type="groupchat" to="`+room+`"><body>roar</body></message>`, "<body>roar</body>")
		return "joined, said and heard", err
	}}
}

// xmpp sends a stanza and reads others up to one that contains the text.
func xmpp(v *visit, stanza, want string) (string, error) {
	if err := v.send(text(stanza)); err != nil {
		return "", err
	}
	for {
		m, err := v.receive()
		if err != nil {
			return "", fmt.Errorf("waiting for %.40q: %w", want, err)
		}
		if strings.Contains(string(m.data), want) {
			return string(m.data), nil
		}
	}
}
