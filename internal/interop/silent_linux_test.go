//go:build linux

package interop

import (
	"bytes"
	"context"
	"net/http"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/seed-ffb73231/wsproxy"
)

// A silent peer is a server in C that answers no Ping.
type silentPeer struct {
	name, library string
	text          bool
	greeting      string   // what it says first
	offers        []string // subprotocols
	agrees        string
	says, hears   string // what it is told in the end, and its answer
}

// Servers that answer no Ping work with the default settings, and survive a
// silence that is longer than the ping timeout, because their kernels
// acknowledge the Pings.
func TestSilentServers(t *testing.T) {
	for _, p := range []silentPeer{
		// noVNC offers binary, and older ones base64 as well.
		{name: "vnc", library: "vncserver", greeting: "RFB 003.008\n", offers: []string{"binary"}, agrees: "binary",
			says: "RFB 003.008\n", hears: "\x01\x01"}, // one security type: none
		{name: "civet", library: "civetweb", text: true, says: "still there?", hears: "still there?"},
	} {
		t.Run(p.name, func(t *testing.T) {
			address := p.start(t)
			for name, options := range map[string][]wsproxy.Option{
				"defaults":   nil,
				"fast pings": {wsproxy.WithPing(200*time.Millisecond, 300*time.Millisecond)},
				"detached":   {wsproxy.WithPing(200*time.Millisecond, 300*time.Millisecond), wsproxy.WithDetach()},
			} {
				t.Run(name, func(t *testing.T) {
					f := newFront(t, "http://"+address, false, options...)
					silence := 3 * time.Second
					if options == nil {
						silence = 0
					}
					p.talk(t, f, silence)
				})
			}
		})
	}
}

// talk opens a session, leaves it silent for a while, and exchanges messages.
func (p *silentPeer) talk(t *testing.T, f *front, silence time.Duration) {
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	conn, _, err := websocket.Dial(ctx, f.url+"/", &websocket.DialOptions{
		Subprotocols: p.offers,
		HTTPHeader:   http.Header{"Origin": {f.origin}}, // as pages do; LibVNCServer insists
	})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.CloseNow()
	if got := conn.Subprotocol(); got != p.agrees {
		t.Errorf("got the subprotocol %q, want %q", got, p.agrees)
	}
	want := []byte(p.greeting)
	read := func() {
		t.Helper()
		var got []byte
		for len(got) < len(want) {
			_, message, err := conn.Read(ctx)
			if err != nil {
				t.Fatalf("got %q, %v, want %q", got, err, want)
			}
			got = append(got, message...)
		}
		if !bytes.Equal(got, want) {
			t.Fatalf("got %q, want %q", got, want)
		}
	}
	read()
	// The client reads all the time and so answers Pings.
	spoken := time.AfterFunc(silence, func() {
		kind := websocket.MessageBinary
		if p.text {
			kind = websocket.MessageText
		}
		if err := conn.Write(ctx, kind, []byte(p.says)); err != nil {
			t.Errorf("after %v: %v", silence, err)
		}
	})
	defer spoken.Stop()
	want = []byte(p.hears)
	read()
	// Neither server answers a Close soon, if at all.
	conn.CloseNow()
	if _, err := f.sessions.await(ctx, "/"); err != nil {
		t.Errorf("the session's end: %v", err)
	}
}

// start builds and starts the peer, and returns its address.
func (p *silentPeer) start(t *testing.T) string {
	t.Helper()
	cc, err := exec.LookPath("cc")
	if err != nil {
		unavailable(t, "cc is not installed: run setup.sh")
	}
	binary := filepath.Join(t.TempDir(), p.name)
	build := exec.CommandContext(t.Context(), cc, "-o", binary, filepath.Join("testdata", "c", p.name+".c"), "-l"+p.library)
	if out, err := build.CombinedOutput(); err != nil {
		unavailable(t, "lib"+p.library+"-dev is not installed: run setup.sh\n"+string(out))
	}
	return program{binary, []string{"PORT"}, "", 0}.start(t, "").addr
}
