package faults

import (
	"fmt"
	"net/http"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/seed-ffb73231/wsproxy"
	"github.com/seed-ffb73231/wsproxy/internal/faults/peer"
	"github.com/seed-ffb73231/wsproxy/internal/wstest"
)

// Peers in their own processes that are killed or stopped.

func (p *process) signal(t *testing.T, s syscall.Signal) {
	t.Helper()
	if err := p.Process.Signal(s); err != nil {
		t.Fatal(err)
	}
	if s == syscall.SIGSTOP && !wstest.Until(func() bool {
		b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.Process.Pid))
		_, state, _ := strings.Cut(string(b), ") ")
		return strings.HasPrefix(state, "T")
	}) {
		t.Fatal("the process doesn't stop")
	}
}

// echoed opens a session with an upstream in its own process, and uses it.
func echoed(t *testing.T, r *peer.Rig) *wstest.Wire {
	t.Helper()
	c := r.Connect()
	c.Send(peer.Request("/", ""))
	c.WantStatus(http.StatusSwitchingProtocols)
	c.SendText("hello")
	c.Want(wstest.Text, "hello")
	return c
}

// F21, F22: the upstream's process is killed: its clients get a Close at once,
// and new ones cannot be served.
func TestUpstreamKilled(t *testing.T) {
	t.Attr("case", "F21 F22 F1")
	for _, legs := range peer.Few {
		legs.Upstream = wstest.TCP
		t.Run(legs.Name(), func(t *testing.T) {
			upstream := start(t, "upstream")
			r := peer.New(t, peer.Config{Legs: legs, Target: "http://" + upstream.line(t)})
			var clients []*wstest.Wire
			for range 5 {
				clients = append(clients, echoed(t, r))
			}
			began := time.Now()
			upstream.signal(t, syscall.SIGKILL)
			for i, c := range clients {
				c.WantCloseAfterPings(1011)
				c.SendClose(1011, "")
				c.WantEnd()
				r.EndedAs(i, wsproxy.Upstream, wsproxy.ReasonLost)
			}
			if d := time.Since(began); d > 15*time.Second {
				t.Errorf("told after %v, want it at once", d)
			}
			upstream.Wait() // its listener goes last
			refused(r, 502)
			r.Failed(502, "refused")
		})
	}
}

// F27, F3: the upstream's process is stopped: its kernel still acknowledges and
// accepts connections. Pings detect it, and so does the handshake timeout.
func TestUpstreamStopped(t *testing.T) {
	t.Attr("case", "F27 F3")
	upstream := start(t, "upstream")
	r := peer.New(t, peer.Config{Target: "http://" + upstream.line(t), Options: []wsproxy.Option{pings(), wsproxy.WithHandshakeTimeout(patient)}})
	c := echoed(t, r)
	client := respond(c)
	answers(t, r, wsproxy.Upstream)
	began := time.Now()
	upstream.signal(t, syscall.SIGSTOP)
	client.wantClosed(t, 1011)
	lostBetween(t, r, wsproxy.Upstream, began, patient/2, silent)
	refused(r, 504)
	r.Failed(504, "timeout")
	upstream.signal(t, syscall.SIGCONT)
	echoed(t, r).Reset()
	r.EndedAs(1, wsproxy.Client, wsproxy.ReasonLost)
}

// F27: a process that is stopped for less time loses nothing.
func TestUpstreamPauses(t *testing.T) {
	t.Attr("case", "F27 F35")
	upstream := start(t, "upstream")
	r := peer.New(t, peer.Config{Target: "http://" + upstream.line(t), Options: []wsproxy.Option{wsproxy.WithPing(pingEvery, wstest.Timeout)}})
	c := echoed(t, r)
	for range 3 {
		upstream.signal(t, syscall.SIGSTOP)
		c.SendText("are you there")
		for n := 0; n < 2; { // its own Pings are the clock
			f, err := c.ReadFrame()
			if err != nil || f.First != wstest.Ping {
				t.Fatalf("got %v, %v, want a Ping", f, err)
			}
			c.Send(c.Frame(wstest.Pong, f.Payload))
			n++
		}
		upstream.signal(t, syscall.SIGCONT)
		wantButPings(t, c, "are you there")
	}
	c.Reset()
	r.Ended(wsproxy.Client, wsproxy.ReasonLost)
}

// F25, F26: the client's process is killed, or stopped.
func TestClientKilledOrStopped(t *testing.T) {
	for _, signal := range []syscall.Signal{syscall.SIGKILL, syscall.SIGSTOP} {
		t.Run(signal.String(), func(t *testing.T) {
			t.Attr("case", map[syscall.Signal]string{syscall.SIGKILL: "F25", syscall.SIGSTOP: "F26"}[signal])
			r := peer.New(t, peer.Config{Options: []wsproxy.Option{pings()}})
			client := start(t, "client", "http://"+r.Address()+"/")
			u := r.Accept()
			peer.Accept(u, "")
			if got := client.line(t); got != "open" {
				t.Fatal(got)
			}
			u.SendText("hello")
			upstream := respond(u)
			answers(t, r, wsproxy.Client)
			began := time.Now()
			client.signal(t, signal)
			upstream.wantClosed(t, 1001)
			if signal == syscall.SIGSTOP {
				defer client.signal(t, syscall.SIGCONT)
				lostBetween(t, r, wsproxy.Client, began, patient/2, silent)
			} else {
				r.Ended(wsproxy.Client, wsproxy.ReasonLost)
			}
		})
	}
}
