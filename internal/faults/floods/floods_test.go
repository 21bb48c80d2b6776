//go:build linux

package floods_test

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/seed-ffb73231/wsproxy"
	"github.com/seed-ffb73231/wsproxy/internal/faults/wire"
	"github.com/seed-ffb73231/wsproxy/internal/wstest"
)

// The limits of what a session costs the proxy's process in the worst case, in
// bytes of heap and stacks: both of its directions are blocked with a chunk in
// hand. README.md repeats them.
const (
	boundPlain     = 112 << 10 // ServeHTTP waits for the session's end
	boundDetached  = 96 << 10
	boundTLS       = 176 << 10 // TLS to the client
	boundLimited   = 112 << 10 // rate limits on both sides
	boundHandshake = 48 << 10  // a connection whose handshake isn't done
	boundHeader    = 144 << 10 // a session at rest with handshakes as large as may be; net/http keeps the client's
	boundForgotten = 32 << 10  // the same, detached: nobody keeps it

	garbage = 2        // resident memory may be so many times as much: the collector lets the heap double
	slack   = 48 << 20 // and this much besides: pools, arenas, what good sessions leave
)

// Slow readers: clients stop reading while their upstreams push. The upstream's
// data is held up, not buffered, and a client that reads nothing for the write
// timeout is dropped.
func TestSlowReaders(t *testing.T) {
	t.Attr("case", "A66 F32 F45")
	f := newFlood(t)
	const n = 1000
	for range n {
		f.open("/plain/push", false)
	}
	f.present(n)
	f.bounded("slow readers", n, boundPlain)
	f.good.keep("1,000 slow readers")
	f.ended("plain", "lost by client", n)
	await(t, "Closes at the upstreams", func() bool { return f.back.codes[1001].Load() == n })
	f.over()
}

// Both directions are blocked: nobody reads, everybody pushes.
func TestStuckBothWays(t *testing.T) {
	t.Attr("case", "F33 F45 A66")
	for _, test := range []struct {
		path  string
		tls   bool
		bound int
		ended bool // within the write timeout
	}{
		{"plain", false, boundPlain, true},
		{"detached", false, boundDetached, true},
		{"plain", true, boundTLS, true},
		{"limited", false, boundLimited, false},
	} {
		name := test.path
		if test.tls {
			name += " tls"
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel() // they mostly wait for the write timeout, each of a proxy of its own
			f := newFlood(t)
			n := 300
			if test.tls && wstest.Race {
				n = 120 // TLS takes long to fill their buffers then
			}
			var pushers sync.WaitGroup
			for range n {
				e := f.open("/"+test.path+"/mute", test.tls)
				frame := wstest.AppendFrame(nil, wstest.Binary, &[4]byte{1, 2, 3, 4}, make([]byte, 32<<10))
				pushers.Go(func() {
					for e.Raw(frame) == nil {
					}
				})
			}
			f.present(n)
			f.bounded(name, n, test.bound)
			if test.ended {
				await(t, "the end of all", func() bool { return f.proxy.state("/state").Proxies[test.path].Open == 0 })
			} else if open := f.proxy.state("/state").Proxies[test.path].Open; open != n {
				t.Errorf("%d sessions are open, want %d: a rate limit ends none", open, n)
			}
			f.leave()
			pushers.Wait()
			f.over()
		})
	}
}

// Endless frames, tiny frames and Pings: they are relayed at the pace of their
// reader, and cost nothing else.
func TestFrameFloods(t *testing.T) {
	t.Attr("case", "A45 A46 A53 A55 A56 A58 F45")
	f := newFlood(t)
	key := &[4]byte{1, 2, 3, 4}
	endless := wstest.AppendHeader(nil, wstest.Binary, key, 1<<63-1)
	var tiny, pings []byte
	for range 200 {
		tiny = wstest.AppendFrame(tiny, wstest.OpContinuation, key, []byte("x"))
		pings = wstest.AppendFrame(pings, wstest.Ping, key, make([]byte, 125))
	}
	stop := make(chan struct{})
	var floods sync.WaitGroup
	var sent [3]atomic.Int64
	each := func(kind int, path string, first, more []byte, pause time.Duration) {
		e := f.open(path, false)
		floods.Go(func() {
			ticker := time.NewTicker(pause)
			defer ticker.Stop()
			for b := first; ; b = more {
				if e.Raw(b) != nil {
					return
				}
				sent[kind].Add(1)
				select {
				case <-stop:
					return
				case <-ticker.C:
				}
			}
		})
	}
	const n = 100
	for range n {
		each(0, "/plain/drain", endless, []byte("x"), 50*time.Millisecond)
	}
	for range n / 5 {
		each(1, "/plain/sink", wstest.AppendFrame(nil, wstest.OpText, key, []byte("x")), tiny, 100*time.Millisecond)
		each(2, "/plain/crawl", pings, pings, 50*time.Millisecond)
	}
	f.good.keep("frame floods")
	f.present(n)
	f.bounded("frame floods", n+2*n/5, boundPlain)
	t.Logf("%d bytes of endless frames, %d tiny fragments, %d Pings", sent[0].Load(), 200*sent[1].Load(), 200*sent[2].Load())
	close(stop)
	f.leave()
	floods.Wait()
	f.ended("plain", "lost by client", n+2*n/5)

	// With a limit, an endless frame is refused at its header, and its payload
	// is not waited for.
	for range 50 {
		e := f.open("/small/sink", false)
		e.Start()
		if err := e.Raw(endless); err != nil {
			t.Fatal(err)
		}
		if err := e.Wait(); err != nil {
			t.Fatal(err)
		}
		if e.Code != 1009 {
			t.Fatalf("an endless frame got Close %d, want 1009", e.Code)
		}
	}
	f.ended("small", "limit by client", 50)
	f.over()
}

// Endless headers, from either side.
func TestHeaderFloods(t *testing.T) {
	t.Attr("case", "A62 A63 F45")
	f := newFlood(t)
	status := func(head string) int {
		c := f.dial(false)
		defer c.Close()
		c.SetDeadline(time.Now().Add(wire.Timeout))
		go io.WriteString(c, head) // more than will be read
		resp, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil {
			return 0
		}
		return resp.StatusCode
	}
	const n = 100
	long := wstest.Request("/plain/sink", "X-Long: "+strings.Repeat("x", 1<<20)+"\r\n")
	many := wstest.Request("/plain/sink", strings.Repeat("X-Many: 1\r\n", 100_000))
	within := wstest.Request("/plain/sink", "X-Long: "+strings.Repeat("x", maxHeaderBytes+1000)+"\r\n") // net/http lets 4 KiB more through
	answers := make(map[int]int)
	for i := range n {
		answers[status([]string{long, many, within}[i%3])]++
	}
	if answers[http.StatusRequestHeaderFieldsTooLarge] < n*9/10 { // a reset may overtake the answer
		t.Errorf("answered %v, want %d", answers, http.StatusRequestHeaderFieldsTooLarge)
	}
	before := f.proxy.state("/state").Proxies["plain"].Opened
	var clients sync.WaitGroup
	var bad atomic.Int64
	for range n {
		clients.Go(func() {
			if status(wstest.Request("/plain/header", "")) != http.StatusBadGateway {
				bad.Add(1)
			}
		})
	}
	f.good.keep("header floods")
	clients.Wait()
	if bad.Load() > 0 {
		t.Errorf("%d clients of upstreams with endless headers weren't answered 502", bad.Load())
	}
	f.bounded("header floods", n, boundHandshake+maxHeaderBytes)
	st := f.proxy.state("/state").Proxies["plain"]
	if st.Opened != before || st.Failed["bad answer"] != n {
		t.Errorf("%d sessions opened, refused %v; want none, and %d bad answers", st.Opened-before, st.Failed, n)
	}
	f.over()
}

// numbered returns n different elements, joined.
func numbered(n int, format, sep string) string {
	var b strings.Builder
	for i := range n {
		if i > 0 {
			b.WriteString(sep)
		}
		fmt.Fprintf(&b, format, i)
	}
	return b.String()
}

// Handshakes of 64 KiB in every form: excessive ones are refused, and accepted
// ones cost their session no more than the limit, on both sides.
func TestHeaderShapes(t *testing.T) {
	t.Attr("case", "A62 A63 F45 A84")
	filler := strings.Repeat("y", 220)
	for _, path := range []string{"plain", "hooked", "detached"} {
		t.Run(path, func(t *testing.T) {
			f := newFlood(t)
			for name, lines := range map[string]string{
				"fields":       numbered(8810, "%x:", "\r\n") + "\r\n",
				"values":       numbered(6000, "A: %x", "\r\n") + "\r\n",
				"subprotocols": "Sec-WebSocket-Protocol: " + numbered(10_000, "%x", ",") + "\r\n",
				"extensions":   "Sec-WebSocket-Extensions: " + numbered(10_000, "%x", ",") + "\r\n",
				"parameters":   "Sec-WebSocket-Extensions: a; " + numbered(10_000, "%x", ";") + "\r\n",
			} {
				for range 50 {
					c := f.dial(false)
					if _, status, err := wire.Open(c, "/"+path+"/sink", lines); status != http.StatusRequestHeaderFieldsTooLarge {
						t.Fatalf("%s: answered %d, %v, want 431", name, status, err)
					}
					c.Close()
				}
			}
			bound, n := boundHeader, 0
			if path == "detached" {
				bound = boundForgotten
			}
			for _, lines := range []string{
				"X-A: " + strings.Repeat("y", 60_000) + "\r\n",
				numbered(250, "X-%x: "+filler, "\r\n") + "\r\n",
				numbered(250, "X-%x"+filler+":", "\r\n") + "\r\n",
				numbered(250, "X-A: %x"+filler, "\r\n") + "\r\n",
				"Sec-WebSocket-Protocol: " + numbered(250, "%x"+filler, ",") + "\r\n",
				"Sec-WebSocket-Protocol: " + strings.Repeat(",", 60_000) + "\r\n",
				"Sec-WebSocket-Extensions: a; " + numbered(250, "%x"+filler, ";") + "\r\n",
				"Connection: " + numbered(10_000, "%x", ",") + "\r\n",
			} {
				var opens sync.WaitGroup // one by one they would take long: the upstreams' buffers are small
				for range 25 {
					c, err := net.Dial("tcp", f.proxy.Plain) // whose buffers take a large answer
					if err != nil {
						t.Fatal(err)
					}
					f.mu.Lock()
					f.conns = append(f.conns, c)
					f.mu.Unlock()
					opens.Go(func() {
						e, status, err := wire.Open(c, "/"+path+"/large", lines)
						if e == nil {
							t.Errorf("%.40q: %d, %v", lines, status, err)
							return
						}
						e.Start()
					})
					n++
				}
				opens.Wait()
			}
			if open := f.proxy.state("/state").Proxies[path].Open; open != n {
				t.Fatalf("%d sessions are open, want %d", open, n)
			}
			f.bounded("shapes of headers, "+path, n, bound)
			f.good.keep("shapes of headers")
			f.over()
		})
	}
}

// Limits in other units than bytes, all at once: handshakes of many elements,
// small frames without end, Pings under a message limit, and backlogs behind a
// rate limit, from clients that stay and from clients that leave.
func TestMixedFlood(t *testing.T) {
	t.Attr("case", "A53 A82 A83 A84 F45 F53")
	f := newFlood(t)
	key := &[4]byte{1, 2, 3, 4}
	small := bytes.Repeat(wstest.AppendFrame(nil, wstest.Text, key, []byte("x")), 200)
	pings := bytes.Repeat(wstest.AppendFrame(nil, wstest.Ping, key, []byte("x")), 300)
	backlog := bytes.Repeat(small, 10) // minutes of it

	stop := make(chan struct{})
	var floods sync.WaitGroup
	again := func(pause time.Duration, do func(i int) error) {
		floods.Go(func() {
			ticker := time.NewTicker(pause)
			defer ticker.Stop()
			for i := 0; ; i++ {
				if err := do(i); err != nil {
					t.Error(err)
					return
				}
				select {
				case <-stop:
					return
				case <-ticker.C:
				}
			}
		})
	}
	// once has a client of its own send a handshake, and more when it is
	// accepted.
	once := func(path, lines string, want int, more func(e *wire.End) error) error {
		c, err := net.DialTimeout("tcp", f.proxy.Plain, wire.Timeout)
		if err != nil {
			return err
		}
		defer c.Close()
		e, status, err := wire.Open(c, path, lines)
		if status != want {
			return fmt.Errorf("%s: answered %d, %v, want %d", path, status, err, want)
		}
		if e == nil {
			return nil
		}
		e.Start()
		return more(e)
	}

	shapes := []string{
		numbered(400, "%x:", "\r\n") + "\r\n",
		numbered(400, "A: %x", "\r\n") + "\r\n",
		"Sec-WebSocket-Protocol: " + numbered(10_000, "%x", ",") + "\r\n",
		"Sec-WebSocket-Extensions: a; " + numbered(10_000, "%x", ";") + "\r\n",
	}
	var refused, strict, left atomic.Int64
	for range 4 {
		again(50*time.Millisecond, func(i int) error {
			refused.Add(1)
			return once("/plain/sink", shapes[i%len(shapes)], http.StatusRequestHeaderFieldsTooLarge, nil)
		})
	}
	for range 5 {
		e := f.open("/plain/drain", false)
		again(20*time.Millisecond, func(int) error { return e.Raw(small) })
	}
	again(100*time.Millisecond, func(int) error {
		strict.Add(1)
		return once("/strict/sink", "", http.StatusSwitchingProtocols, func(e *wire.End) error {
			e.Raw(pings)
			if err := e.Wait(); err != nil || e.Code != 1008 {
				return fmt.Errorf("a flood of Pings got Close %d, %v, want 1008", e.Code, err)
			}
			return nil
		})
	})
	for range 8 {
		again(100*time.Millisecond, func(int) error {
			left.Add(1)
			return once("/slowed/sink", "", http.StatusSwitchingProtocols, func(e *wire.End) error {
				began := time.Now()
				if err := e.Raw(backlog); err != nil {
					return err
				}
				e.Close(1000, "")
				if err := errors.Join(e.CloseWrite(), e.Wait()); err != nil {
					return err
				}
				if took := time.Since(began); took > slowedClose+10*time.Second {
					return fmt.Errorf("who left a backlog kept its session for %v", took)
				}
				return nil
			})
		})
	}
	const stay = 100
	for range stay {
		if err := f.open("/slowed/sink", false).Raw(backlog); err != nil {
			t.Fatal(err)
		}
	}
	f.present(stay)
	f.good.keep("mixed floods")
	f.bounded("mixed floods", stay, boundLimited)
	close(stop)
	floods.Wait()
	t.Logf("%d handshakes of many items, %d floods of Pings, %d backlogs that were left", refused.Load(), strict.Load(), left.Load())
	if n := f.proxy.state("/state").Proxies["plain"].Failed[wsproxy.KindBadHandshake]; n != uint64(refused.Load()) {
		t.Errorf("%d handshakes were refused, want %d", n, refused.Load())
	}
	f.leave()
	f.ended("strict", "limit by client", int(strict.Load()))
	f.ended("slowed", "lost by client", int(left.Load())+stay)
	f.over()
}

// Incomplete handshakes: 9,000 that never send the rest of their header, 1,000
// whose upstream does not answer, and as many as WithMaxHandshakes admits of
// 400 more. 20,000 descriptors allow no more: each of the latter takes two in
// this process and two in the proxy's.
func TestHalfDoneHandshakes(t *testing.T) {
	t.Attr("case", "A61 A64 A68 F3 F15 F45")
	const halves, waiting, crowd = 9000, 1000, 400
	if n := wire.RaiseFiles(); n < 16_000 {
		t.Skipf("%d descriptors are not enough", n)
	}
	f := newFlood(t)
	var answers sync.WaitGroup
	var timeouts, full, odd atomic.Int64
	ask := func(path string) {
		c := f.dial(false)
		answers.Go(func() {
			_, status, _ := wire.Open(c, path, "")
			switch status {
			case http.StatusGatewayTimeout:
				timeouts.Add(1)
			case http.StatusServiceUnavailable:
				full.Add(1)
			default:
				odd.Add(1)
			}
			c.Close()
		})
	}
	for i := range waiting + crowd {
		if i < waiting {
			ask("/plain/silent")
		} else {
			ask("/handshakes/silent")
		}
	}
	half := wstest.Request("/plain/sink", "")
	var shed atomic.Int64
	for i := range halves {
		c := f.dial(false)
		if _, err := io.WriteString(c, half[:len(half)/2]); err != nil {
			t.Fatal(err)
		}
		if i%10 == 0 { // the others are like it
			answers.Go(func() {
				c.SetReadDeadline(time.Now().Add(wire.Timeout))
				if _, err := c.Read(make([]byte, 512)); err == nil || !isTimeout(err) {
					shed.Add(1) // 408, or closed
				}
			})
		}
	}
	f.present(halves + waiting + maxHandshakes)
	f.bounded("half-done handshakes", halves+waiting+maxHandshakes, boundHandshake)
	f.good.keep("half-done handshakes")
	answers.Wait()
	if timeouts.Load() != waiting+maxHandshakes || full.Load() != crowd-maxHandshakes || odd.Load() > 0 {
		t.Errorf("%d were answered 504, %d 503, %d otherwise; want %d, %d, 0", timeouts.Load(), full.Load(), odd.Load(), waiting+maxHandshakes, crowd-maxHandshakes)
	}
	if shed.Load() != halves/10 {
		t.Errorf("%d of %d half requests were shed", shed.Load(), halves/10)
	}
	await(t, "the proxy has closed all of them", func() bool { return f.proxy.state("/state").Files <= f.base.Files+goodSessions })
	if n := f.back.silent.Load(); n != 0 {
		t.Errorf("%d upstreams still wait", n)
	}
	f.over()
}

func isTimeout(err error) bool {
	e, ok := err.(net.Error)
	return ok && e.Timeout()
}
