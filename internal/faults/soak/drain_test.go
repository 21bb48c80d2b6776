//go:build linux

package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/seed-ffb73231/wsproxy"
	"github.com/seed-ffb73231/wsproxy/internal/faults/wire"
	"github.com/seed-ffb73231/wsproxy/internal/wstest"
)

// said is what the upstream of TestDrainThousands sends once a second.
var said = []byte(strings.Repeat("x", 300))

// talk serves sessions that send a message once a second and answer a Close,
// until standard input ends.
func talk(l net.Listener) {
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				r, br, err := wire.ReadRequest(c)
				if err != nil {
					return
				}
				e, err := wire.Accept(c, br, r)
				if err != nil {
					return
				}
				e.Sent.Keep = false
				e.Start()
				tick := time.NewTicker(time.Second)
				defer tick.Stop()
				for e.Message(wstest.OpText, said, 1) == nil {
					select {
					case <-tick.C:
					case <-e.Done():
						return
					}
				}
				<-e.Done()
			}()
		}
	}()
	io.Copy(io.Discard, os.Stdin)
}

// 5,000 live sessions are drained over a window: at an even rate, with no frame
// cut, and each client gets the code. Their upstream is another process,
// because the descriptors of one process do not suffice.
func TestDrainThousands(t *testing.T) {
	const upstreamEnv = "WSPROXY_TEST_TALK"
	wire.RaiseFiles()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if os.Getenv(upstreamEnv) != "" {
		fmt.Println(l.Addr())
		talk(l)
		return
	}
	if testing.Short() {
		t.Skip("short")
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

	const sessions, window, patience = 5000, 16 * time.Second, 2 * time.Minute
	p, err := wsproxy.New("http://"+strings.TrimSpace(address), wsproxy.WithDrain(window, 1012), wsproxy.WithDetach(), wsproxy.WithPing(time.Hour, time.Minute),
		wsproxy.WithLogger(slog.New(slog.DiscardHandler)))
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: p, ReadHeaderTimeout: wire.Timeout}
	go server.Serve(l)
	defer server.Close()
	defer p.Close()

	var messages atomic.Int64
	told := make(chan time.Time, sessions)
	for i := range sessions {
		c, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		e, status, err := wire.Open(c, "/", "")
		if err != nil || status != 101 {
			t.Fatalf("session %d: answered %d, %v", i, status, err)
		}
		e.Start()
		go func() {
			<-e.Done()
			at := time.Now()
			if e.Code != 1012 || e.Reason != "shutting down" || e.Err != io.EOF {
				t.Errorf("session %d: told Close %d %q, then %v; want Close 1012 and the end", i, e.Code, e.Reason, e.Err)
			}
			messages.Add(int64(e.Got.Messages))
			if e.Got.Bytes != e.Got.Messages*len(said) {
				t.Errorf("session %d: got %v, want whole ones of %d bytes", i, &e.Got, len(said))
			}
			told <- at
		}()
	}
	began := time.Now()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := p.Shutdown(ctx); err != nil {
		t.Fatalf("Shutdown: %v", err)
	}
	took := time.Since(began)
	var perSlot [4]int // of 4 s: shorter ones would measure the machine
	timeout := time.After(wire.Timeout)
	for i := range sessions {
		select {
		case at := <-told:
			perSlot[min(int(at.Sub(began)*time.Duration(len(perSlot))/window), len(perSlot)-1)]++
		case <-timeout:
			t.Fatalf("%d sessions have ended, want %d", i, sessions)
		}
	}
	t.Logf("drained in %v; told per %v: %v", took, window/4, perSlot)
	for i, n := range perSlot {
		if even := sessions / len(perSlot); n < even*8/10 || n > even*12/10 {
			t.Errorf("slot %d: %d sessions were told, want %d give or take a fifth: %v", i, n, even, perSlot)
		}
	}
	if n := messages.Load(); n < sessions {
		t.Errorf("the clients got %d messages, want one each and more", n)
	}
	if d := p.Stats().Drain; d.Total != sessions || d.Told != sessions || d.Cut != 0 {
		t.Errorf("got %+v, want all %d told and none cut", d, sessions)
	}
}
