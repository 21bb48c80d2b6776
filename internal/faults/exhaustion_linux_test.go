package faults

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/seed-ffb73231/wsproxy"
	"github.com/seed-ffb73231/wsproxy/internal/faults/peer"
	"github.com/seed-ffb73231/wsproxy/internal/wstest"
)

// This machine runs out of descriptors and ports. That is not the upstream's
// fault, and it is temporary: 503.

func init() { roles["proxy"] = proxyProcess }

// proxyProcess is a proxy to the target in its first argument. It prints its
// address, and then its log, one JSON record per line. Each number that it
// reads from its standard input sets how many more descriptors it may open; it
// then prints "ok".
func proxyProcess(args []string) {
	fail := func(err error) {
		if err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
	}
	proxy, err := wsproxy.New(args[0], wsproxy.WithInsecureAnyOrigin(), wsproxy.WithLogger(slog.New(slog.NewJSONHandler(os.Stdout, nil))))
	fail(err)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	fail(err)
	fmt.Println(ln.Addr())
	server := &http.Server{Handler: proxy, ErrorLog: log.New(io.Discard, "", 0)}
	go server.Serve(ln)
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		left, err := strconv.Atoi(in.Text())
		fail(err)
		fail(leaveDescriptors(left))
		fmt.Println("ok")
	}
}

// leaveDescriptors sets the process's limit so that it can open n more
// descriptors, however the open ones are numbered.
func leaveDescriptors(n int) error {
	var l syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &l); err != nil {
		return err
	}
	l.Cur = l.Max
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &l); err != nil { // looking takes one
		return err
	}
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return err
	}
	used := make(map[uint64]bool)
	for _, e := range entries {
		var fd uint64
		fmt.Sscan(e.Name(), &fd)
		if _, err := os.Readlink("/proc/self/fd/" + e.Name()); err == nil { // and not the one that read the directory
			used[fd] = true
		}
	}
	limit := uint64(0)
	for free := 0; free <= n; limit++ {
		if !used[limit] {
			free++
		}
	}
	l.Cur = min(limit-1, l.Max)
	return syscall.Setrlimit(syscall.RLIMIT_NOFILE, &l)
}

// leave has a proxy's process limit itself to n more descriptors.
func (p *process) leave(t *testing.T, n int) {
	t.Helper()
	if _, err := fmt.Fprintln(p.in, n); err != nil {
		t.Fatal(err)
	}
	if got := p.line(t); got != "ok" {
		t.Fatalf("got %q, want ok", got)
	}
}

// record returns the next record of its log.
func (p *process) record(t *testing.T) map[string]any {
	t.Helper()
	m := make(map[string]any)
	if line := p.line(t); json.Unmarshal([]byte(line), &m) != nil {
		t.Fatalf("got %q, want a record", line)
	}
	return m
}

// F16: a proxy with one descriptor left accepts a client's connection and
// cannot dial. Open sessions continue, including long frames, for which it
// would prefer a pipe. When there is room again, everything works again.
func TestOutOfDescriptors(t *testing.T) {
	t.Attr("case", "F16 F52")
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	p := start(t, "proxy", "http://"+ln.Addr().String())
	address := p.line(t)
	connect := func() *wstest.Wire {
		t.Helper()
		c, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		return wstest.NewWire(t, c, true)
	}
	open := func(c *wstest.Wire) (client, upstream *wstest.Wire) {
		t.Helper()
		c.Send(peer.Request("/", ""))
		ln.(*net.TCPListener).SetDeadline(time.Now().Add(wstest.Timeout))
		accepted, err := ln.Accept()
		if err != nil {
			t.Fatal(err)
		}
		u := wstest.NewWire(t, accepted, false)
		peer.Accept(u, "")
		c.WantStatus(101)
		return c, u
	}
	c, u := open(connect())
	closed := func(c, u *wstest.Wire) {
		t.Helper()
		c.SendClose(1000, "")
		u.WantCloseAfterPings(1000)
		u.SendClose(1000, "")
		u.Close()
		c.WantCloseAfterPings(1000)
		c.WantEnd()
		if m := p.record(t); m["reason"] != "closed" || m["by"] != "client" {
			t.Errorf("logged %v, want a session closed by the client", m)
		}
	}

	// A pipe that is kept for the next long frame is given up for a connection.
	long := strings.Repeat("long", 1<<20)
	go io.WriteString(c, c.Frame(wstest.Binary, long))
	u.Want(wstest.Binary, long)
	p.leave(t, 1)
	closed(open(connect()))

	p.leave(t, 1)
	for range 3 {
		poor := connect()
		poor.Send(peer.Request("/", ""))
		h, body := poor.WantStatus(503)
		if h.Get("Retry-After") == "" || body != "Service Unavailable\n" {
			t.Errorf("got %v, %q, want Retry-After", h, body)
		}
		poor.Close()
		if m := p.record(t); m["kind"] != "local" || m["status"] != 503.0 || m["op"] != "dial" {
			t.Errorf("logged %v, want a local fault", m)
		}
	}
	go io.WriteString(c, c.Frame(wstest.Binary, long))
	u.Want(wstest.Binary, long)

	// None left: the server cannot accept the connection, retries, and accepts
	// it when there is a descriptor.
	p.leave(t, 0)
	waiting := connect()
	waiting.Send(peer.Request("/", ""))
	c.SendText("still here")
	u.Want(wstest.Text, "still here")
	waiting.SetReadDeadline(time.Now().Add(soon))
	if _, err := waiting.Read(make([]byte, 1)); !os.IsTimeout(err) {
		t.Errorf("got %v, want no answer while there is no descriptor", err)
	}
	waiting.SetReadDeadline(time.Now().Add(wstest.Timeout))
	p.leave(t, 20)
	accepted, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	w := wstest.NewWire(t, accepted, false)
	peer.Accept(w, "")
	waiting.WantStatus(101)

	closed(c, u)
	closed(waiting, w)
}

// fourPorts leaves the proxy four ports for its own connections.
func (n *network) fourPorts() {
	n.t.Helper()
	n.in("proxy", "sh", "-c", "echo 40000 40003 >/proc/sys/net/ipv4/ip_local_port_range")
}

// F17: with only four ports, a fifth session is refused with 503. When one of
// the four is closed, there is room again.
func TestOutOfPorts(t *testing.T) {
	t.Attr("case", "F17")
	n := newNetwork(t)
	r := n.rig(peer.Legs{}, wsproxy.WithCloseTimeout(soon))
	n.fourPorts()
	var clients, upstreams []*wstest.Wire
	for range 4 {
		c, u := r.Open()
		clients, upstreams = append(clients, c), append(upstreams, u)
	}
	for i := range 3 {
		c := r.Connect()
		c.Send(peer.Request("/", ""))
		h, body := c.WantStatus(503)
		r.Phrase(503, body)
		if h.Get("Retry-After") == "" {
			t.Errorf("got %v, want Retry-After", h)
		}
		if m := r.FailedAs(i, 503, "local"); m["op"] != "dial" {
			t.Errorf("logged %v, want it to be about dialling", m)
		}
	}
	if got := r.Proxy.Stats().Failed["local"]; got != 3 {
		t.Errorf("counted %d local faults, want 3", got)
	}
	for i, c := range clients {
		c.SendText("still here")
		upstreams[i].Want(wstest.Text, "still here")
	}
	goodbye(t, r, clients[0], upstreams[0])
	if r.Opened(3); !t.Failed() {
		c, u := r.Open()
		clients[0], upstreams[0] = c, u
	}
	for i, c := range clients {
		c.Reset()
		upstreams[i].WantCloseAfterPings(1001)
		upstreams[i].Close()
	}
}

// F17: the upstream closes first, so TIME-WAIT (a minute) is on its side: four
// ports suffice for any number of sessions in sequence, whoever ends them.
func TestPortsComeBack(t *testing.T) {
	t.Attr("case", "F17 F23")
	n := newNetwork(t)
	r := n.rig(peer.Legs{})
	n.fourPorts()
	ends := []func(c, u *wstest.Wire){
		func(c, u *wstest.Wire) {
			c.SendClose(1000, "")
			u.WantCloseAfterPings(1000)
			u.SendClose(1000, "")
			u.Close()
			c.WantGone()
		},
		func(c, u *wstest.Wire) {
			u.SendClose(1000, "")
			c.WantCloseAfterPings(1000)
			c.SendClose(1000, "")
			u.WantCloseAfterPings(1000)
			u.Close()
		},
		func(c, u *wstest.Wire) {
			c.TCP().Close()
			u.WantCloseAfterPings(1001)
			u.SendClose(1001, "")
			u.Close()
		},
		func(c, u *wstest.Wire) { c.Reset(); u.WantCloseAfterPings(1001); u.Close() },
		func(c, u *wstest.Wire) { u.Close(); c.WantCloseAfterPings(1011); c.SendClose(1011, ""); c.WantGone() },
		func(c, u *wstest.Wire) { u.Reset(); c.WantCloseAfterPings(1011); c.SendClose(1011, ""); c.WantGone() },
	}
	for i := range 5 * len(ends) {
		c, u := r.Open()
		ends[i%len(ends)](c, u)
		c.TCP().Close()
		r.Opened(0)
	}
	if got := r.Proxy.Stats().Failed["local"]; got != 0 {
		t.Errorf("counted %d local faults, want none", got)
	}
}
