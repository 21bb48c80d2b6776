//go:build linux

package floods_test

import (
	"crypto/tls"
	"crypto/x509"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/seed-ffb73231/wsproxy/internal/faults/wire"
	"github.com/seed-ffb73231/wsproxy/internal/relay"
	"github.com/seed-ffb73231/wsproxy/internal/wstest"
)

// A flood is a proxy, the clients that flood it, and its good sessions.
type flood struct {
	t     *testing.T
	proxy *child
	good  *good
	back  *backend
	tls   *tls.Config
	base  state // before the flood

	mu    sync.Mutex
	conns []net.Conn // guarded by mu; of clients
}

func newFlood(t *testing.T) *flood {
	if testing.Short() {
		t.Skip("short")
	}
	back := newBackend(t)
	meter := start(t, "meter")
	proxy := start(t, "proxy", "FLOOD="+back.addr(), "GOOD="+meter.Plain)
	f := &flood{t: t, proxy: proxy, back: back, good: &good{t: t, meter: meter, front: proxy.Plain}}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(proxy.Authority) {
		t.Fatal("no certificate")
	}
	f.tls = &tls.Config{RootCAs: pool, ServerName: "front.test"}
	t.Cleanup(f.leave)
	f.good.rest()
	f.base = proxy.state("/live")
	return f
}

// leave disconnects all clients.
func (f *flood) leave() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, c := range f.conns {
		c.Close()
	}
	f.conns = nil
}

// dial connects a client whose receive buffer is small.
func (f *flood) dial(overTLS bool) net.Conn {
	f.t.Helper()
	addr := f.proxy.Plain
	if overTLS {
		addr = f.proxy.TLS
	}
	d := net.Dialer{Timeout: wire.Timeout, Control: func(_, _ string, raw syscall.RawConn) error {
		return raw.Control(func(fd uintptr) {
			syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVBUF, 4<<10)
		})
	}}
	c, err := d.Dial("tcp", addr)
	if err != nil {
		f.t.Fatal(err)
	}
	if overTLS {
		t := tls.Client(c, f.tls)
		t.SetDeadline(time.Now().Add(wire.Timeout))
		if err := t.Handshake(); err != nil {
			f.t.Fatal(err)
		}
		t.SetDeadline(time.Time{})
		c = t
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.conns = append(f.conns, c)
	return c
}

// open opens a session.
func (f *flood) open(path string, overTLS bool) *wire.End {
	f.t.Helper()
	c := f.dial(overTLS)
	e, status, err := wire.Open(c, path, "")
	if e == nil {
		f.t.Fatalf("%s: %d, %v", path, status, err)
	}
	return e
}

// perSession returns the memory that the proxy's process has used since the
// start, divided by n sessions.
func (f *flood) perSession(now state, n int) (memory, rss int) {
	return (now.Memory - f.base.Memory) / n, (now.RSS - f.base.RSS) / n
}

// present waits until the proxy has n sessions: some may still be in their
// handshake.
func (f *flood) present(n int) {
	f.t.Helper()
	await(f.t, "all sessions are there", func() bool { return f.proxy.state("/state").Files >= f.base.Files+n })
}

// bounded checks that.
func (f *flood) bounded(what string, n, bound int) {
	f.t.Helper()
	loaded := f.proxy.state("/state")
	live := f.proxy.state("/live")
	memory, rss := f.perSession(live, n)
	_, rss = max(memory, 0), max(rss, (loaded.RSS-f.base.RSS)/n)
	f.t.Logf("%s: %d sessions, %d bytes of heap and stacks each, %d of resident memory; %d descriptors, %d goroutines",
		what, n, memory, rss, live.Files, live.Goroutines)
	if memory > bound {
		f.t.Errorf("%s: %d bytes of heap and stacks for each session, over %d", what, memory, bound)
	}
	if most := garbage*bound + slack/n; rss > most && !wstest.Race { // the detector's own memory is resident, too
		f.t.Errorf("%s: %d bytes of resident memory for each session, over %d", what, rss, most)
	}
}

// ended waits until n sessions of a proxy have ended for the reason.
func (f *flood) ended(proxy, how string, n int) {
	f.t.Helper()
	var st proxyState
	await(f.t, proxy+": the end of all", func() bool {
		st = f.proxy.state("/state").Proxies[proxy]
		return st.Open == 0 && st.Handshakes == 0
	})
	if got := st.Ended[how] - f.base.Proxies[proxy].Ended[how]; got != uint64(n) {
		f.t.Errorf("%s: %d sessions ended as %q, want %d; %v", proxy, got, how, n, st.Ended)
	}
}

// over checks that nothing is left of the flood in the end.
func (f *flood) over() {
	f.t.Helper()
	f.leave()
	var now state
	await(f.t, "descriptors, goroutines, memory as before, and nothing of the event driver's", func() bool {
		now = f.proxy.state("/live")
		return now.Files <= f.base.Files+2 && now.Goroutines <= f.base.Goroutines+4 && now.Memory-f.base.Memory < slack/4 &&
			now.Events == relay.Census{}
	})
	f.t.Logf("%d KiB of heap and stacks are left", (now.Memory-f.base.Memory)>>10)
}

// A backend is the upstream of the flood's sessions. The request's path selects
// its behaviour.
type backend struct {
	l      net.Listener
	codes  [5000]atomic.Int64 // Closes received, by code
	conns  sync.WaitGroup
	silent atomic.Int64 // handshakes that wait for an answer

	mu   sync.Mutex
	open map[net.Conn]bool // guarded by mu
}

func newBackend(t *testing.T) *backend {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	b := &backend{l: l, open: make(map[net.Conn]bool)}
	go b.serve()
	t.Cleanup(func() {
		l.Close()
		// A kernel whose window is closed may not have noticed a reset yet.
		b.mu.Lock()
		for c := range b.open {
			c.Close()
		}
		b.mu.Unlock()
		b.conns.Wait()
	})
	return b
}

func (b *backend) addr() string { return b.l.Addr().String() }

func (b *backend) serve() {
	for {
		c, err := b.l.Accept()
		if err != nil {
			return
		}
		c.(*net.TCPConn).SetWriteBuffer(16 << 10)
		c.(*net.TCPConn).SetReadBuffer(16 << 10)
		b.mu.Lock()
		b.open[c] = true
		b.mu.Unlock()
		b.conns.Go(func() {
			b.handle(c)
			c.Close()
			b.mu.Lock()
			defer b.mu.Unlock()
			delete(b.open, c)
		})
	}
}

var (
	bulk = wstest.AppendFrame(nil, wstest.Binary, nil, make([]byte, 32<<10))
)

func (b *backend) handle(c net.Conn) {
	r, br, err := wire.ReadRequest(c)
	if err != nil {
		return
	}
	switch what := r.URL.Path[strings.LastIndexByte(r.URL.Path, '/')+1:]; what {
	case "silent":
		b.silent.Add(1)
		defer b.silent.Add(-1)
		br.ReadByte() // until the proxy leaves
	case "header":
		line := []byte("X-More: " + strings.Repeat("x", 1000) + "\r\n")
		io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\n")
		for range 64 << 10 {
			if _, err := c.Write(line); err != nil {
				return
			}
		}
	case "large": // the largest header that the proxy accepts
		lines := numbered(250, "X-%x: "+strings.Repeat("y", 220), "\r\n") + "\r\n"
		if _, err := io.WriteString(c, wstest.AnswerTo(r, lines)); err == nil {
			c.SetDeadline(time.Time{})
			e := wire.NewEnd(c, br, false)
			e.Start()
			e.Wait()
		}
	case "drain": // it reads everything
		if _, err := wire.Accept(c, br, r); err == nil {
			io.Copy(io.Discard, br)
		}
	default:
		e, err := wire.Accept(c, br, r)
		if err != nil {
			return
		}
		switch what {
		case "push": // as fast as the client reads
			e.Start()
			for e.Raw(bulk) == nil {
			}
			e.Wait()
		case "mute": // it reads nothing until it has pushed everything
			for e.Raw(bulk) == nil {
			}
			e.Start()
			e.Wait()
		case "sink":
			e.Start()
			e.Wait()
		case "crawl": // it reads a little at a time
			buf := make([]byte, 1<<10)
			for {
				if _, err := br.Read(buf); err != nil {
					return
				}
				time.Sleep(10 * time.Millisecond)
			}
		}
		if e.Code > 0 && e.Code < len(b.codes) {
			b.codes[e.Code].Add(1)
		}
	}
}
