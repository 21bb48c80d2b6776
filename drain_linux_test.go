package wsproxy_test

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/seed-ffb73231/wsproxy"
)

// talk is an upstream that says something once a second and answers a Close,
// for each connection, until its standard input ends.
func talk(t *testing.T, front net.Listener) {
	go func() {
		for {
			conn, err := front.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				u := &wire{Conn: conn, t: t, br: bufio.NewReader(conn)}
				req, err := http.ReadRequest(u.br)
				if err != nil {
					return
				}
				io.WriteString(conn, goodAnswer(req, ""))
				stop := make(chan struct{})
				var talking sync.WaitGroup
				talking.Go(func() {
					tick := time.NewTicker(time.Second)
					defer tick.Stop()
					for {
						if _, err := io.WriteString(conn, u.frame(text, strings.Repeat("x", 300))); err != nil {
							return
						}
						select {
						case <-tick.C:
						case <-stop:
							return
						}
					}
				})
				f, err := u.readFrame()
				close(stop)
				talking.Wait()
				if err == nil && f.first == closing {
					io.WriteString(conn, u.frame(closing, f.payload))
				}
			}()
		}
	}()
	io.Copy(io.Discard, os.Stdin)
}

// 5,000 live sessions on real sockets are drained over a window: at a rate that
// stays even, with no frame cut in two, and all clients get the code. Their
// upstream is another process: one's descriptors don't suffice.
func TestDrainThousands(t *testing.T) {
	const upstreamEnv = "WSPROXY_TEST_TALK"
	if os.Getenv(upstreamEnv) != "" {
		front := listen(t, tcp)
		os.Stdout.WriteString(front.Addr().String() + "\n")
		talk(t, front)
		return
	}
	if raceEnabled() {
		t.Skip("the race detector makes 5,000 sessions too slow to be timed")
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestDrainThousands$")
	cmd.Env = append(os.Environ(), upstreamEnv+"=1")
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Wait()
	defer stdin.Close()
	address, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}

	const sessions, window, patience = 5000, 8 * time.Second, 2 * time.Minute
	r := newRig(t, tcp, wsproxy.WithDrain(window, 1012), wsproxy.WithDetach(), wsproxy.WithPing(time.Hour, time.Minute),
		wsproxy.WithDialContext(func(ctx context.Context, network, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, strings.TrimSpace(address))
		}))
	told := make(chan time.Time, sessions)
	for i := range sessions {
		c := r.client()
		c.SetDeadline(time.Now().Add(patience))
		c.send(handshakeRequest("/", ""))
		if resp := c.readResponse(); resp.StatusCode != 101 {
			t.Fatalf("session %d: %d", i, resp.StatusCode)
		}
		go func() {
			defer c.Close()
			for {
				f, err := c.readFrame()
				switch {
				case err != nil:
					t.Errorf("session %d: %v, want a Close before that", i, err)
					told <- time.Time{}
					return
				case f.first == closing:
					if f.payload != closeBody(1012, "shutting down") {
						t.Errorf("session %d: told %q", i, f.payload)
					}
					told <- time.Now()
					io.WriteString(c, c.frame(closing, f.payload))
					return
				case f != frame{text, strings.Repeat("x", 300)}:
					t.Errorf("session %d: got frame %#x %.20q", i, f.first, f.payload)
				}
			}
		}()
	}
	began := time.Now()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := r.proxy.Shutdown(ctx); err != nil {
		t.Fatalf("Shutdown: %v", err)
	}
	took := time.Since(began)
	var perSlot [4]int // of 2 s: shorter ones would measure the machine
	for range sessions {
		if at := receive(t, told); !at.IsZero() {
			perSlot[min(max(int(at.Sub(began)*4/window), 0), 3)]++
		}
	}
	t.Logf("drained in %v; told per %v: %v", took, window/4, perSlot)
	for i, n := range perSlot {
		if even := sessions / len(perSlot); n < even*8/10 || n > even*12/10 {
			t.Errorf("slot %d: %d sessions were told, want %d give or take a fifth: %v", i, n, even, perSlot)
		}
	}
	if d := r.proxy.Stats().Drain; d.Total != sessions || d.Told != sessions || d.Cut != 0 {
		t.Errorf("got %+v", d)
	}
}
