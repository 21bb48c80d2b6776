//go:build linux

package zoo

import (
	"crypto/rand"
	"fmt"
	"strings"
	"testing"
)

// Action Cable is Rails'. Debian's ruby-actioncable, alone on puma. It compares
// the page's origin with the scheme and Host, and sends its own Pings every 3 s.
var actionCable = server{
	name:   "Action Cable on puma",
	source: debian("ruby-actioncable"),
	start: func(t *testing.T) *process {
		return command{args: []string{"puma", "-b", "tcp://127.0.0.1:PORT", testdata("ruby/cable.ru")}}.start(t)
	},
	path:         "/cable",
	subprotocols: []string{"actioncable-v1-json", "actioncable-unsupported"},
	nginx:        ownHost + "\nproxy_set_header X-Forwarded-Proto $zoo_scheme;",
	why:          "it compares the page's origin with Host and X-Forwarded-Proto",
	kinds:        onlyText,
	keeps:        true,
	auto: func(m message) *message { // nothing answers its Pings
		if strings.HasPrefix(string(m.data), `{"type":"ping"`) {
			return &message{}
		}
		return nil
	},
	greet: func(v *visit) error {
		if _, err := v.receiveText(`{"type":"welcome"}`); err != nil {
			return err
		}
		v.name = fmt.Sprintf(`{\"channel\":\"ZooChannel\",\"id\":\"%s\"}`, rand.Text())
		_, err := v.ask(`{"command":"subscribe","identifier":"`+v.name+`"}`, `{"identifier":"`+v.name+`","type":"confirm_subscription"`)
		return err
	},
	say: func(v *visit, m message) error {
		return v.echoes(fmt.Sprintf(`{"command":"message","identifier":"%s","data":"{\"action\":\"echo\",\"text\":\"%s\"}"}`, v.name, m.data),
			fmt.Sprintf(`{"identifier":"%s","message":{"text":"%s"}}`, v.name, m.data))
	},
	lives: []life{script("its client", "actioncable_life.js")},
	leave: func(v *visit) error {
		_, err := v.ask(`{"command":"message","identifier":"`+v.name+`","data":"{\"action\":\"leave\"}"}`, `{"type":"disconnect"`)
		return err
	},
}
