//go:build linux

package zoo

import (
	"fmt"
	"testing"
)

// websockify is what noVNC comes with, here before a server of VNC on LibVNCServer.
// Debian's websockify.
var websockify = server{
	name:   "websockify",
	source: debian("websockify"),
	start: func(t *testing.T) *process {
		vnc := startVNC(t)
		return command{args: []string{"websockify", "127.0.0.1:PORT", vnc.addr}}.start(t)
	},
	path:         "/websockify",
	subprotocols: []string{"binary"},
	kinds:        onlyBinary,
	most:         1,
	greet:        greetRFB,
	say:          sayRFB,
}

// startVNC starts a server of VNC with a small screen.
func startVNC(t *testing.T) *process {
	return command{args: []string{compile(t, "vnc.c", "-lvncserver"), "PORT"}}.start(t)
}

// greetRFB goes through VNC's handshake without a password (RFC 6143, 7.1 to
// 7.3).
func greetRFB(v *visit) error {
	if err := wantRFB(v, 12); err != nil {
		return err
	}
	if err := v.send(message{true, []byte("RFB 003.008\n")}); err != nil {
		return err
	}
	if err := wantRFB(v, 2); err != nil { // one kind of security: none
		return err
	}
	if err := v.send(message{true, []byte{1}}); err != nil {
		return err
	}
	if err := wantRFB(v, 4); err != nil {
		return err
	}
	if err := v.send(message{true, []byte{1}}); err != nil { // others may look as well
		return err
	}
	return wantRFB(v, 24+len("the zoo"))
}

// sayRFB asks for the whole screen and gets its pixels (7.5.3, 7.6.1).
func sayRFB(v *visit, _ message) error {
	if err := v.send(message{true, []byte{3, 0, 0, 0, 0, 0, 0, 64, 0, 64}}); err != nil {
		return err
	}
	return wantRFB(v, 4+12+64*64*4)
}

// wantRFB reads a number of bytes, in any messages.
func wantRFB(v *visit, size int) error {
	for got := 0; got < size; {
		m, err := v.receive()
		if err != nil {
			return fmt.Errorf("after %d bytes of %d: %w", got, size, err)
		}
		if got += len(m.data); got > size {
			return fmt.Errorf("%d bytes came, want %d", got, size)
		}
	}
	return nil
}
