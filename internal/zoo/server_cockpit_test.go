//go:build linux

package zoo

import (
	"crypto/rand"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
)

// Cockpit administers machines from a page. Debian's cockpit-ws and
// cockpit-bridge, in a session without a login. It compares the page's origin
// with the scheme, which its configuration takes from a proxy, and Host.
var cockpit = server{
	name:   "Cockpit",
	keeps:  true,
	source: debian("cockpit-ws"),
	start: func(t *testing.T) *process {
		return command{
			args:  []string{"/usr/lib/cockpit/cockpit-ws", "--address=127.0.0.1", "--port=PORT", "--local-session=/usr/bin/cockpit-bridge"},
			env:   []string{"XDG_CONFIG_DIRS=DIR"},
			files: map[string]string{"cockpit/cockpit.conf": "[WebService]\nProtocolHeader = X-Forwarded-Proto\n"},
		}.start(t)
	},
	path:         "/cockpit/socket",
	subprotocols: []string{"cockpit1"},
	nginx:        actionCable.nginx,
	why:          actionCable.why,
	auto: func(m message) *message {
		if !m.binary && strings.HasPrefix(string(m.data), "\n") && strings.Contains(string(m.data), `"ping"`) {
			return &message{data: []byte(strings.Replace(string(m.data), `"ping"`, `"pong"`, 1))}
		}
		return nil
	},
	kinds: onlyText,
	most:  70_000,
	greet: func(v *visit) error {
		if err := controlCockpit(v, "", "init"); err != nil {
			return err
		}
		if err := controlCockpit(v, `{"command":"init","version":1}`, ""); err != nil {
			return err
		}
		v.name = rand.Text() // all of a user's pages share the session
		return controlCockpit(v, `{"command":"open","channel":"`+v.name+`","payload":"echo"}`, "ready")
	},
	say: func(v *visit, m message) error {
		if err := v.send(text(v.name + "\n" + string(m.data))); err != nil {
			return err
		}
		got, err := receiveCockpit(v, len(m.data))
		if err == nil && got != string(m.data) {
			err = fmt.Errorf("%v came back as %.80q", m, got)
		}
		return err
	},
	lives: []life{{"a command", func(t *testing.T, f form) (string, error) {
		v, err := dial(t, f, offer{path: "/cockpit/socket", subprotocols: []string{"cockpit1"}})
		if err != nil {
			return "", err
		}
		v.name = rand.Text()
		if err := controlCockpit(v, "", "init"); err != nil {
			return "", err
		}
		if err := controlCockpit(v, `{"command":"init","version":1}`, ""); err != nil {
			return "", err
		}
		if err := controlCockpit(v, `{"command":"open","channel":"`+v.name+`","payload":"stream","spawn":["seq","20000"]}`, "ready"); err != nil {
			return "", err
		}
		said, err := receiveCockpit(v, 108894)
		return fmt.Sprintf("all of seq 20000: %v", strings.HasSuffix(said, "\n20000\n")), err
	}}},
}

// controlCockpit sends a control message, and receives others up to one with this
// command; "": none.
func controlCockpit(v *visit, control, command string) error {
	if control != "" {
		if err := v.send(text("\n" + control)); err != nil {
			return err
		}
	}
	for command != "" {
		got, err := v.receiveText("\n")
		if err != nil {
			return fmt.Errorf("waiting for %s: %w", command, err)
		}
		var c struct{ Command, Problem string }
		if err := json.Unmarshal([]byte(got), &c); err != nil {
			return err
		}
		if c.Problem != "" {
			return fmt.Errorf("%s", got)
		}
		if c.Command == command {
			return nil
		}
	}
	return nil
}

// receiveCockpit receives this much from the channel.
func receiveCockpit(v *visit, size int) (string, error) {
	var all strings.Builder
	for all.Len() < size {
		got, err := v.receiveText(v.name + "\n")
		if err != nil {
			return "", err
		}
		all.WriteString(strings.TrimPrefix(got, v.name+"\n"))
	}
	return all.String(), nil
}
