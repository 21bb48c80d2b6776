package browser

import (
	"fmt"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/seed-ffb73231/wsproxy"
)

// patience is how long a connection may be silent before the middlebox cuts it.
// Pings are frequent enough for a slow machine.
const (
	patience = 1500 * time.Millisecond
	interval = patience / 6
)

// TestSilence puts a middlebox between the browser and the proxy that cuts
// silent connections, as many on the internet do.
func TestSilence(t *testing.T) {
	require(t)
	t.Parallel()
	certificate := trusted.Issue("page.test")
	open := func(t *testing.T, ping time.Duration) (*tab, *site) {
		t.Parallel()
		b := newTab(t)
		s := newSite(t, &certificate, wsproxy.WithPing(ping, limit))
		box := startBox(t, s.address)
		b.visit(at("https", "page.test", box, "/"))
		b.dial(at("wss", "page.test", box, "/websocket")).open(t, "through the box")
		b.echo("hello")
		return b, s
	}
	t.Run("with pings", func(t *testing.T) {
		b, _ := open(t, interval)
		b.await(fmt.Sprintf(`got.events.includes("close") || performance.now() - got.opened > %d`, (3 * patience).Milliseconds()))
		b.talk().open(t, "a silent session with pings")
		b.echo("still there")
	})
	t.Run("without pings", func(t *testing.T) {
		b, s := open(t, 0)
		if got := b.awaitClose(); got.Code != 1006 || got.Clean {
			t.Errorf("a silent session without pings: got %s, want it cut: 1006, not clean", got)
		}
		if r := s.record(t); r["by"] != "client" || r["reason"] != "lost" {
			t.Errorf("the proxy has logged %v, want the client lost", r)
		}
	})
}

// startBox starts a TCP forwarder to target that cuts connections in which no
// bytes have moved, in either direction, for its patience.
func startBox(t *testing.T, target string) (address string) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	conns := make(map[net.Conn]bool) // guarded by mu; nil at the end
	enter := func(c net.Conn) bool {
		mu.Lock()
		defer mu.Unlock()
		if conns == nil {
			c.Close()
			return false
		}
		conns[c] = true
		return true
	}
	var running sync.WaitGroup
	t.Cleanup(func() {
		ln.Close()
		mu.Lock()
		for c := range conns {
			c.Close()
		}
		conns = nil
		mu.Unlock()
		running.Wait()
	})
	running.Go(func() {
		for {
			a, err := ln.Accept()
			if err != nil {
				return
			}
			b, err := net.Dial("tcp", target)
			if err != nil {
				a.Close()
				continue
			}
			if !enter(a) || !enter(b) {
				b.Close()
				continue
			}
			cut := func() {
				a.Close()
				b.Close()
			}
			timer := time.AfterFunc(patience, cut)
			carry := func(to, from net.Conn) {
				defer cut()
				defer timer.Stop()
				io.Copy(to, stirring{from, timer})
			}
			running.Go(func() { carry(a, b) })
			running.Go(func() { carry(b, a) })
		}
	})
	return ln.Addr().String()
}

// A stirring reader resets a timer whenever bytes arrive.
type stirring struct {
	io.Reader
	timer *time.Timer
}

func (s stirring) Read(p []byte) (int, error) {
	n, err := s.Reader.Read(p)
	if n > 0 {
		s.timer.Reset(patience)
	}
	return n, err
}
