//go:build linux

package zoo

import (
	"errors"
	"fmt"
	"strings"
	"testing"
)

// ttyd shares a terminal with browsers. A server of our own on Debian's
// python3-websockets that speaks its protocol, with a real shell, for Debian 12
// does not have ttyd itself.
var ttyd = server{
	name:   "ttyd",
	source: debian("python3-websockets"),
	start: func(t *testing.T) *process {
		return command{args: []string{"/usr/bin/python3", testdata("python/ttyd_server.py"), "PORT"}}.start(t)
	},
	path:         "/ws",
	subprotocols: []string{"tty"},
	fallback:     true,
	nginx:        ownHost,
	why:          "it compares the page's origin with Host",
	kinds:        onlyText,
	most:         1000, // a terminal takes no longer lines
	greet:        func(v *visit) error { return greetTTY(v, "zoo") },
	say: func(v *visit, m message) error { // the shell counts it
		_, err := typeTTY(v, fmt.Sprintf("printf '<%%d>\\n' $(printf %%s '%s' | wc -c)", m.data), fmt.Sprintf("<%d>", len(m.data)))
		return err
	},
	leave: func(v *visit) error { return v.send(message{true, []byte("0exit\r")}) },
	lives: []life{{"in its page", func(t *testing.T, f form) (string, error) {
		token, err := page(f.http("/token"))
		if err != nil {
			return "", err
		}
		if text, err := page(f.http("/")); err != nil || !strings.Contains(text, "ttyd") {
			return "", fmt.Errorf("its page: %.80q, %w", text, err)
		}
		v, err := dial(t, f, offer{path: "/ws", subprotocols: []string{"tty"}})
		if err != nil {
			return "", err
		}
		defer v.conn.Close()
		if err := greetTTY(v, strings.Split(token, `"`)[3]); err != nil {
			return "", err
		}
		if err := v.send(message{true, []byte(`1{"columns":132,"rows":43}`)}); err != nil {
			return "", err
		}
		size, err := typeTTY(v, "stty size", "43 132")
		if err != nil {
			return "", err
		}
		if _, err := typeTTY(v, "seq 20000", "19999\r\n20000"); err != nil { // 109 kB on the screen
			return "", err
		}
		return "stty says " + size + ", all of seq 20000", nil
	}}},
}

// greetTTY logs in and waits for the shell's prompt.
func greetTTY(v *visit, token string) error {
	if err := v.send(message{true, fmt.Appendf(nil, `{"AuthToken":%q,"columns":80,"rows":24}`, token)}); err != nil {
		return err
	}
	_, err := awaitTTY(v, "$ ")
	return err
}

// typeTTY types a line and waits for the end of the shell's answer, which is not
// in what was typed, for the terminal shows that as well.
func typeTTY(v *visit, line, want string) (string, error) {
	if err := v.send(message{true, []byte("0" + line + "\r")}); err != nil {
		return "", err
	}
	if _, err := awaitTTY(v, want+"\r\n"); err != nil {
		return "", fmt.Errorf("typed %.40q: %w", line, err)
	}
	return want, nil
}

// awaitTTY waits until the terminal shows a text.
func awaitTTY(v *visit, want string) (string, error) {
	shown := ""
	for !strings.Contains(shown, want) {
		m, err := v.receive()
		if err != nil {
			return "", fmt.Errorf("it shows %.200q: %w", shown[max(0, len(shown)-200):], err)
		}
		if !m.binary || len(m.data) == 0 {
			return "", errors.New("a message without a kind")
		}
		if m.data[0] == '0' {
			shown += string(m.data[1:])
		}
	}
	return shown, nil
}
