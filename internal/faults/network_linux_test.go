package faults

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/seed-ffb73231/wsproxy"
	"github.com/seed-ffb73231/wsproxy/internal/faults/peer"
	"github.com/seed-ffb73231/wsproxy/internal/wstest"
)

// Networks of the tests' own: one namespace each for client, proxy and
// upstream, with a cable between the proxy's and each of the others. There is
// only this process: a socket stays in the namespace in which it was created.

// A network consists of those namespaces.
type network struct {
	t         testing.TB
	name      string // of the namespaces begins so
	multipath bool   // clients ask for Multipath TCP
}

// Addresses of the ends of the cables.
const (
	clientHost, frontHost = "10.221.1.1", "10.221.1.2"
	proxyHost, backHost   = "10.221.2.1", "10.221.2.2"
)

var networks atomic.Int64

// newNetwork creates the cables.
func newNetwork(t testing.TB) *network {
	t.Helper()
	needNamespaces(t)
	n := &network{t: t, name: fmt.Sprintf("wsfault%d-%d-", os.Getpid(), networks.Add(1))}
	for _, ns := range []string{"client", "proxy", "upstream"} {
		run(t, "ip", "netns", "add", n.name+ns)
		t.Cleanup(func() { exec.Command("ip", "netns", "del", n.name+ns).Run() })
		n.in(ns, "ip", "link", "set", "lo", "up")
	}
	n.cable("client", clientHost, frontHost)
	n.cable("upstream", backHost, proxyHost)
	return n
}

// needNamespaces skips a test if namespaces are not available.
func needNamespaces(t testing.TB) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("network namespaces need root")
	}
	for _, command := range []string{"ip", "nft"} {
		if _, err := exec.LookPath(command); err != nil {
			t.Skipf("%s is not installed: run setup.sh", command)
		}
	}
	if out, err := exec.Command("ip", "netns", "list").CombinedOutput(); err != nil {
		t.Skipf("no network namespaces here: %s", out)
	}
}

func run(t testing.TB, command ...string) {
	t.Helper()
	if out, err := exec.Command(command[0], command[1:]...).CombinedOutput(); err != nil {
		t.Fatalf("%v: %v: %s", command, err, out)
	}
}

// in runs a command in a namespace.
func (n *network) in(ns string, command ...string) {
	n.t.Helper()
	run(n.t, append([]string{"ip", "netns", "exec", n.name + ns}, command...)...)
}

// cable connects a namespace to the proxy's: its end is called wire, and the
// proxy's end has the namespace's name.
func (n *network) cable(ns, address, proxyAddress string) {
	n.t.Helper()
	n.in("proxy", "ip", "link", "add", ns, "type", "veth", "peer", "name", "wire", "netns", n.name+ns)
	n.in("proxy", "ip", "address", "add", proxyAddress+"/30", "dev", ns)
	n.in("proxy", "ip", "link", "set", ns, "up")
	n.in(ns, "ip", "address", "add", address+"/30", "dev", "wire")
	n.in(ns, "ip", "link", "set", "wire", "up")
}

// pull unplugs a cable. Neither end notices: what is sent is lost.
func (n *network) pull(ns string) { n.drop(ns, "both") }

// drop drops the packets on a cable: those that go "to" the proxy, "from" it,
// or "both".
func (n *network) drop(ns, direction string) {
	n.t.Helper()
	n.in("proxy", "nft", "add table inet cut"+ns+"; "+
		"add chain inet cut"+ns+" to { type filter hook input priority 0; }; "+
		"add chain inet cut"+ns+" from { type filter hook output priority 0; }")
	if direction != "from" {
		n.in("proxy", "nft", "add rule inet cut"+ns+" to iifname "+ns+" drop")
	}
	if direction != "to" {
		n.in("proxy", "nft", "add rule inet cut"+ns+" from oifname "+ns+" drop")
	}
}

// plug undoes drop.
func (n *network) plug(ns string) { n.t.Helper(); n.in("proxy", "nft", "delete table inet cut"+ns) }

// do calls f in a namespace. f must do its work in the goroutine in which it is
// called.
func (n *network) do(ns string, f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		file, err := os.Open("/run/netns/" + n.name + ns)
		if err != nil {
			done <- err
			return
		}
		defer file.Close()
		if err := unix.Setns(int(file.Fd()), unix.CLONE_NEWNET); err != nil {
			done <- os.NewSyscallError("setns", err)
			return
		}
		done <- f()
	}()
	return <-done
}

func (n *network) dial(ctx context.Context, ns, address string) (c net.Conn, err error) {
	d := net.Dialer{KeepAlive: -1} // as the proxy's own
	d.SetMultipathTCP(n.multipath && ns == "client")
	err = n.do(ns, func() (err error) { c, err = d.DialContext(ctx, "tcp", address); return err })
	return c, err
}

// rig starts a proxy in its namespace, with a client and an upstream in theirs.
func (n *network) rig(legs peer.Legs, options ...wsproxy.Option) *peer.Rig {
	n.t.Helper()
	cfg := peer.Config{Legs: legs,
		Listen: func(side wsproxy.Side) (ln net.Listener, err error) {
			ns, host := "proxy", frontHost
			if side == wsproxy.Upstream {
				ns, host = "upstream", backHost
			}
			err = n.do(ns, func() (err error) { ln, err = net.Listen("tcp", host+":0"); return err })
			return ln, err
		},
		Dial: func(address string) (net.Conn, error) { return n.dial(context.Background(), "client", address) },
		Options: append([]wsproxy.Option{wsproxy.WithDialContext(func(ctx context.Context, _, address string) (net.Conn, error) {
			return n.dial(ctx, "proxy", address)
		})}, options...),
	}
	return peer.New(n.t, cfg)
}

// F26, F27, F28: a cable is unplugged, or packets are lost in one direction.
// The other side gets a Close when the Ping's answer is overdue, and not
// before.
func TestCablePulled(t *testing.T) {
	for _, direction := range []string{"both", "to", "from"} {
		t.Run(direction, func(t *testing.T) {
			peer.EachSideOfFew(t, func(t *testing.T, legs peer.Legs, faulty wsproxy.Side) {
				t.Attr("case", map[string]string{"both client": "F26", "both upstream": "F27"}[direction+" "+faulty.String()]+" F28")
				n := newNetwork(t)
				r := n.rig(legs, pings(), wsproxy.WithCloseTimeout(soon))
				cut, across := r.OpenSide(faulty)
				cut.SendText("last words")
				across.Want(wstest.Text, "last words")
				respond(cut)
				other := respond(across)
				began := time.Now()
				n.drop(faulty.String(), direction)
				other.wantClosed(t, peer.Told(faulty))
				lostBetween(t, r, faulty, began, patient/2, silent)
			})
		})
	}
}

// A peer that vanishes while a rate limit holds back what it has sent is
// detected as soon as any other: nobody reads its answers, but its machine does
// not acknowledge the Pings.
func TestCablePulledWhileSlowed(t *testing.T) {
	t.Attr("case", "A83 F26")
	n := newNetwork(t)
	r := n.rig(peer.Legs{}, pings(), wsproxy.WithCloseTimeout(soon),
		wsproxy.WithRateLimit(wsproxy.Client, wsproxy.RateLimit{Messages: 1}))
	c, u := r.Open()
	c.Send(strings.Repeat(c.Frame(wstest.Text, "m"), 1000))
	u.Want(wstest.Text, "m")
	other := respond(u)
	began := time.Now()
	n.pull("client")
	other.wantClosed(t, peer.Told(wsproxy.Client))
	lostBetween(t, r, wsproxy.Client, began, patient/2, silent)
}

// F26, F27: while data for a vanished peer is unacknowledged, TCP's keep-alive
// does not run. The write timeout, or a Ping, ends the session.
func TestCablePulledWhileWriting(t *testing.T) {
	peer.EachSideOfFew(t, func(t *testing.T, legs peer.Legs, faulty wsproxy.Side) {
		t.Attr("case", map[wsproxy.Side]string{wsproxy.Client: "F26", wsproxy.Upstream: "F27"}[faulty])
		n := newNetwork(t)
		r := n.rig(legs, pings(), wsproxy.WithWriteTimeout(patient), wsproxy.WithCloseTimeout(soon))
		cut, across := r.OpenSide(faulty)
		across.SendText("first")
		cut.Want(wstest.Text, "first")
		began := time.Now()
		n.pull(faulty.String())
		flood(across)
		m := r.Ended(faulty, wsproxy.ReasonLost)
		if !mentions(m, stuck) && !mentions(m, silent) {
			t.Errorf("logged %v", m)
		}
		if d := time.Since(began); d < patient/2 || d > patient+15*time.Second {
			t.Errorf("ended after %v, want about %v", d, patient)
		}
		across.WantGone()
	})
}

// A cable that is plugged in again in time: what was sent meanwhile arrives,
// and nobody has noticed.
func TestCablePutBack(t *testing.T) {
	t.Attr("case", "F26 F27 F35")
	peer.EachSideOfFew(t, func(t *testing.T, legs peer.Legs, faulty wsproxy.Side) {
		n := newNetwork(t)
		r := n.rig(legs, wsproxy.WithPing(pingEvery, wstest.Timeout))
		cut, across := r.OpenSide(faulty)
		n.pull(faulty.String())
		across.SendText("into the void")
		cut.SendText("from the void")
		for range 2 { // Pings are the clock
			if f, err := across.ReadFrame(); err != nil || f.First != wstest.Ping {
				t.Fatalf("got %v, %v, want a Ping", f, err)
			}
			across.Send(across.Frame(wstest.Pong, "any"))
		}
		n.plug(faulty.String())
		wantButPings(t, cut, "into the void")
		wantMessage(t, across, "from the void")
		cut.Reset()
		r.Ended(faulty, wsproxy.ReasonLost)
	})
}

// wantMessage expects a message after any number of control frames.
func wantMessage(t *testing.T, w *wstest.Wire, message string) {
	t.Helper()
	for {
		f, err := w.ReadFrame()
		if err != nil || f.First < wstest.Close && f != (wstest.Frame{First: wstest.Text, Payload: message}) {
			t.Fatalf("%s: got %v, %v, want %q", w.Who(), f, err, message)
		}
		if f.First < wstest.Close {
			return
		}
	}
}

// F1, F2: the path to the upstream before there is a connection: lost packets,
// no route, nobody at the address.
func TestNoWay(t *testing.T) {
	ways := []struct {
		name, cases string
		cut         func(n *network)
		status      int
		kind        string
	}{
		{"lost", "F2", func(n *network) { n.pull("upstream") }, 504, "timeout"},
		{"answers lost", "F2", func(n *network) { n.drop("upstream", "to") }, 504, "timeout"},
		{"prohibited", "F1", func(n *network) {
			n.in("proxy", "ip", "route", "add", "unreachable", backHost+"/32")
		}, 502, "unreachable"},
		{"no route", "F1", func(n *network) { n.in("proxy", "ip", "link", "set", "upstream", "down") }, 502, "unreachable"},
		{"rejected", "F1", func(n *network) {
			n.in("upstream", "nft", "add table inet r; add chain inet r in { type filter hook input priority 0; }; add rule inet r in tcp dport 1-65535 reject with icmpx type host-unreachable")
		}, 502, "unreachable"},
		{"nobody listens", "F1", nil, 502, "refused"},
	}
	for _, w := range ways {
		t.Run(w.name, func(t *testing.T) {
			t.Attr("case", w.cases)
			n := newNetwork(t)
			limit := patient
			if w.status != 504 {
				limit = wstest.Timeout // a new network may lose something at first
			}
			r := n.rig(peer.Legs{}, wsproxy.WithHandshakeTimeout(limit))
			if w.cut == nil {
				r.Back().Close()
			} else {
				w.cut(n)
			}
			began := time.Now()
			refused(r, w.status)
			if d := time.Since(began); w.status == 504 && d < patient || d > patient+10*time.Second {
				t.Errorf("answered after %v", d)
			}
			r.Failed(w.status, w.kind)
		})
	}
}

// F5: the cable is unplugged during the TLS handshake.
func TestCablePulledInTLS(t *testing.T) {
	t.Attr("case", "F5 F3")
	for _, before := range []string{"TLS", "the answer"} {
		t.Run("before "+before, func(t *testing.T) {
			n := newNetwork(t)
			r := n.rig(peer.Legs{Client: wstest.TCP, Upstream: wstest.TLS}, wsproxy.WithHandshakeTimeout(patient))
			c := r.Connect()
			c.Send(peer.Request("/", ""))
			u := r.Accept()
			if before == "TLS" {
				n.pull("upstream")
				go u.In.Peek(1) // its side of the handshake
			} else {
				u.ReadRequest()
				n.pull("upstream")
				u.Send("HTTP/1.1 101 Switching Protocols\r\n")
			}
			c.WantStatus(504)
			r.Failed(504, "timeout")
			u.TCP().Close()
		})
	}
}

// Multipath TCP (RFC 8684), which Go's listeners accept: the kernel reports for
// such a connection what it knows about its first subflow. If that is reset and
// another one works, the session continues.
func TestMultipathTCP(t *testing.T) {
	t.Attr("case", "F51")
	const second, secondFront = "10.221.3.1", "10.221.3.2"
	n := newNetwork(t)
	n.in("proxy", "ip", "link", "add", "second", "type", "veth", "peer", "name", "wire2", "netns", n.name+"client")
	n.in("proxy", "ip", "address", "add", secondFront+"/30", "dev", "second")
	n.in("proxy", "ip", "link", "set", "second", "up")
	n.in("client", "ip", "address", "add", second+"/30", "dev", "wire2")
	n.in("client", "ip", "link", "set", "wire2", "up")
	n.in("client", "ip", "route", "add", frontHost, "via", secondFront, "src", second, "table", "2")
	n.in("client", "ip", "rule", "add", "from", second, "table", "2")
	for _, ns := range []string{"client", "proxy"} {
		if out, err := exec.Command("ip", "netns", "exec", n.name+ns, "ip", "mptcp", "limits", "set", "subflow", "2", "add_addr_accepted", "2").CombinedOutput(); err != nil {
			t.Skipf("no Multipath TCP here: %s", out)
		}
	}
	n.in("client", "ip", "mptcp", "endpoint", "add", second, "dev", "wire2", "subflow")
	n.multipath = true
	// The connection of a quiet session is checked every half write timeout.
	r := n.rig(peer.Legs{}, wsproxy.WithPing(1700*time.Millisecond, wstest.Timeout), wsproxy.WithWriteTimeout(time.Second))
	c, u := r.Open()
	if is, err := c.TCP().MultipathTCP(); !is {
		t.Fatalf("the client's connection is no Multipath TCP, %v", err)
	}
	c.SendText("over the first way")
	u.Want(wstest.Text, "over the first way")
	if !wstest.Until(func() bool {
		out, _ := exec.Command("ip", "netns", "exec", n.name+"client", "ss", "-Htn", "src", second).Output()
		return strings.Contains(string(out), "ESTAB")
	}) {
		t.Fatal("no second subflow")
	}

	// What is sent over the first subflow is answered by a reset.
	n.in("client", "nft", "add table inet r; add chain inet r in { type filter hook input priority 0; }; "+
		"add rule inet r in iifname wire meta l4proto tcp reject with tcp reset")
	u.SendText("over the second way")
	c.Want(wstest.Text, "over the second way")
	respond(u)
	for range 2 { // Pings are the clock
		if f, err := c.ReadFrame(); err != nil || f.First != wstest.Ping {
			t.Fatalf("got %v, %v, want a Ping by the second way", f, err)
		} else {
			c.Send(c.Frame(wstest.Pong, f.Payload))
		}
	}
	c.SendClose(1000, "")
	c.WantCloseAfterPings(1000)
	r.Ended(wsproxy.Client, wsproxy.ReasonClosed)
}

// A namespace's descriptor isn't for everyone to see.
func TestNamespacesAreGone(t *testing.T) {
	needNamespaces(t)
	t.Run("", func(t *testing.T) { newNetwork(t) })
	out, err := exec.Command("ip", "netns", "list").Output()
	if prefix := fmt.Sprintf("wsfault%d-", os.Getpid()); err != nil || strings.Contains(string(out), prefix) {
		t.Errorf("namespaces are left: %s, %v", out, err)
	}
}
