package wsproxy_test

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/seed-ffb73231/wsproxy"
	"github.com/seed-ffb73231/wsproxy/internal/wstest"
)

// A way is a test's view of a session in which one side, from, misbehaves; to is
// the opposite side.
type way struct {
	name      string
	toldBad   int // close code for a protocol violation
	toldOther int // close code for the opposite side, then and when this side is lost
}

var ways = []way{{"client", 1002, 1001}, {"upstream", 1002, 1011}}

func (w way) masked() bool { return w.name == "client" }

func (w way) side() wsproxy.Side {
	if w.masked() {
		return wsproxy.Client
	}
	return wsproxy.Upstream
}

func (w way) open(r *rig, requestLines, answerLines string) (from, to *wstest.Wire) {
	r.t.Helper()
	from, to = r.open(requestLines, answerLines)
	if w.name == "upstream" {
		from, to = to, from
	}
	return from, to
}

// A11, C22: frames that arrive together with a handshake, from either side, are
// relayed after the 101, all of them and in order.
func TestEarlyFrames(t *testing.T) {
	t.Attr("case", "A11 C22")
	t.Parallel()
	for name, stream := range map[string][]string{
		"one frame":      {"early"},
		"several frames": {"one", "", strings.Repeat("x", 300), "last"},
	} {
		var sent [2]string // in the encodings of client and upstream
		for _, s := range stream {
			sent[0] += wstest.RawFrame(wstest.Text, true, s)
			sent[1] += wstest.RawFrame(wstest.Text, false, s)
		}
		// How much is in the same write as the handshake: everything, a part of
		// a header, a part of a payload.
		for _, cut := range []int{len(sent[1]), 1, len(sent[1]) - 1} {
			t.Run(fmt.Sprint(name, " cut at ", cut), func(t *testing.T) {
				t.Parallel()
				eachSession(t, func(t *testing.T, c carrier) {
					r := c.rig(t)
					client := r.client()
					client.Send(wstest.Request("/", "") + sent[0][:cut])
					upstream := r.upstream()
					req := upstream.ReadRequest()
					// Not before the 101: the upstream has got only the
					// request.
					if n := upstream.In.Buffered(); n > 0 {
						t.Fatalf("%d bytes went to the upstream before its answer", n)
					}
					upstream.Send(wstest.AnswerTo(req, "") + sent[1][:cut])
					if got := client.ReadResponse().StatusCode; got != 101 {
						t.Fatalf("answered %d, want 101", got)
					}
					client.Send(sent[0][cut:])
					upstream.Send(sent[1][cut:])
					for _, s := range stream {
						upstream.Want(wstest.Text, s)
						client.Want(wstest.Text, s)
					}
					client.SendClose(1000, "")
					upstream.WantClose(1000)
				})
			})
		}
	}
}

// A breach is a sequence of frames that violates RFC 6455, and the valid frames
// that must precede it.
type breach struct{ good, bad string }

// breaches are the violations, by the case's number and a name.
func breaches(masked bool) map[string]breach {
	f := func(first byte, payload string) string { return wstest.RawFrame(first, masked, payload) }
	head := func(first, length byte, more ...byte) string {
		if masked {
			length |= 0x80
		}
		return string([]byte{first, length}) + string(more) + "KEY!payload"
	}
	b := map[string]breach{
		"A45: top bit of a 64-bit length": {bad: head(wstest.Binary, 127, 0x80, 0, 0, 0, 0, 0, 0, 1)},
		"A45: all bits of a length":       {bad: head(wstest.Binary, 127, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF)},
		"A47: 125 in 16 bits":             {bad: head(wstest.Binary, 126, 0, 125)},
		"A47: 0 in 64 bits":               {bad: head(wstest.Binary, 127, 0, 0, 0, 0, 0, 0, 0, 0)},
		"A47: 65535 in 64 bits":           {bad: head(wstest.Binary, 127, 0, 0, 0, 0, 0, 0, 0xFF, 0xFF)},
		"A48: wrong masking":              {bad: wstest.RawFrame(wstest.Text, !masked, "x")},
		"A50: stray continuation":         {bad: f(0x80, "x")},
		"A50: stray unfinished one":       {bad: f(0x00, "x")},
		"A50: continuation after the end": {f(0x01, "x") + f(0x80, "y"), f(0x80, "z")},
		"A50: text in a message":          {f(0x01, "x"), f(wstest.Text, "y")},
		"A50: fragment in a message":      {f(0x02, "x") + f(wstest.Ping, "p"), f(0x02, "y")},
		"A54: ping of 126 bytes":          {bad: f(wstest.Ping, strings.Repeat("x", 126))},
		"A54: pong of 64 KiB":             {bad: f(wstest.Pong, strings.Repeat("x", 1<<16))[:20]},
		"A50: close of 126 bytes":         {bad: f(wstest.Close, wstest.CloseBody(1000, strings.Repeat("x", 124)))},
		"A52: close of one byte":          {bad: f(wstest.Close, "\x03")},
		"A52: reason not UTF-8":           {bad: f(wstest.Close, wstest.CloseBody(1000, "ok\xC3\x28"))},
		"A52: reason cut in a character":  {bad: f(wstest.Close, wstest.CloseBody(1000, "\xE2\x82"))},
	}
	for _, rsv := range []byte{0x40, 0x20, 0x10, 0x70} {
		for name, first := range map[string]byte{"data": wstest.Text, "fragment": 0x01, "ping": wstest.Ping, "close": wstest.Close} {
			b[fmt.Sprintf("A50: RSV %#x on %s", rsv, name)] = breach{bad: f(first|rsv, "\x03\xE8")}
		}
	}
	for _, op := range []byte{3, 4, 5, 6, 7, 11, 12, 13, 14, 15} {
		b[fmt.Sprintf("A50: opcode %#x", op)] = breach{bad: f(0x80|op, "x")}
	}
	for name, first := range map[string]byte{"ping": 0x09, "pong": 0x0A, "close": 0x08} {
		b["A50: fragmented "+name] = breach{bad: f(first, "")}
	}
	for _, code := range []int{999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535} {
		b[fmt.Sprint("A52: code ", code)] = breach{bad: f(wstest.Close, wstest.CloseBody(code, "no"))}
	}
	b["A52: code 0"] = breach{bad: f(wstest.Close, "\x00\x00")}
	return b
}

// A45, A47, A48, A50, A52, A54: a side that violates the protocol gets Close
// 1002, and the other side the corresponding code. What came before is relayed,
// nothing after it is. What the other side still has to send arrives before the
// Close. It makes no difference how the bytes are split.
func TestBreaches(t *testing.T) {
	t.Attr("case", "A45 A47 A48 A50 A52 A54 C12 C13 C15")
	t.Parallel()
	eachWay(t, func(t *testing.T, c carrier, w way) {
		r, n := c.rig(t), 0
		for name, b := range breaches(w.masked()) {
			cuts := []bool{false, true}
			switch { // there are many breaches, and the decisions are the same
			case c.has(wstest.TLS) && rand.IntN(6) > 0, c.has(wstest.Unix) && rand.IntN(3) > 0:
				continue
			case !c.simulated():
				cuts = cuts[rand.IntN(2):][:1]
			}
			for _, bytewise := range cuts {
				inCase(t, fmt.Sprintf("%s bytewise=%v", name, bytewise), func() {
					from, to := w.open(r, "", "")
					wantBreach(r, n, c, w, from, to, b, bytewise)
					n++
				})
			}
		}
	})
}

// A51: with permessage-deflate, RSV1 may be set on a message's first frame
// only. The other bits remain invalid.
func TestBreachesWithDeflate(t *testing.T) {
	t.Attr("case", "A51")
	t.Parallel()
	const deflate = "Sec-WebSocket-Extensions: permessage-deflate\r\n"
	eachWay(t, func(t *testing.T, c carrier, w way) {
		f := func(first byte, payload string) string { return wstest.RawFrame(first, w.masked(), payload) }
		r, n := c.rig(t), 0
		for name, b := range map[string]breach{
			"continuation":       {f(0x41, "x"), f(0xC0, "y")},
			"middle":             {f(0x42, "x"), f(0x40, "y")},
			"ping":               {f(0xC1, "x"), f(0xC9, "y")},
			"ping in a message":  {f(0x41, "x"), f(0xC9, "y")},
			"close":              {f(0xC2, ""), f(0xC8, wstest.CloseBody(1000, ""))},
			"RSV2":               {f(0xC2, "x"), f(0xA2, "y")},
			"RSV1 and RSV3":      {f(0xC2, "x"), f(0xD2, "y")},
			"uncompressed, then": {f(wstest.Text, "x"), f(0xCA, "y")},
		} {
			inCase(t, name, func() {
				from, to := w.open(r, deflate, deflate)
				wantBreach(r, n, c, w, from, to, b, false)
				n++
			})
		}
	}, carrier.relaysFrames)
}

// wantBreach has from send the valid frames, the invalid one and more, and
// checks the end of the rig's n-th session.
func wantBreach(r *rig, n int, c carrier, w way, from, to *wstest.Wire, b breach, bytewise bool) {
	r.t.Helper()
	good := from.Frame(wstest.Text, "before") + b.good
	stream := good + b.bad + from.Frame(wstest.Text, "after")
	if bytewise {
		for i := range len(stream) {
			from.Send(stream[i : i+1])
		}
	} else {
		from.Send(stream)
	}
	c.want(to, good)
	to.SendText("last words")
	to.WantClose(w.toldOther)
	to.SendClose(w.toldOther, "")
	from.Want(wstest.Text, "last words")
	from.WantClose(w.toldBad)
	from.WantEnd()
	from.Close()
	to.Close()
	m := r.wantRecord(n, w.name, "protocol error")
	if got := m["from_"+w.name+".bytes"]; got != uint64(len(good)) && !c.whole {
		r.t.Errorf("counted %v bytes from the %s, want %d", got, w.name, len(good))
	}
}

// wantRecord is wantEnded for the n-th session.
func (r *rig) wantRecord(n int, by, reason string) map[string]any {
	r.t.Helper()
	m := r.logs.Wait(r.t, n)
	if m["msg"] != "wsproxy: session ended" || m["by"] != by || m["reason"] != reason {
		r.t.Fatalf("logged %v, want a session ended by %q for %q", m, by, reason)
	}
	return m
}

// A46: a frame of the maximum legal length is relayed as it arrives, in little
// memory. It is cut short: no Close frame fits into it, so the opposite
// connection is closed without one.
func TestEndlessFrame(t *testing.T) {
	t.Attr("case", "A46")
	if !alone(t) {
		return
	}
	eachWayAlone(t, func(t *testing.T, c carrier, w way) {
		r := c.rig(t)
		from, to := w.open(r, "", "")
		h := []byte{wstest.Binary, 127, 0x7F, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF}
		if w.masked() {
			h = append(h, "KEY!"...)
			h[1] |= 0x80
		}
		from.Send(string(h))
		to.WantBytes(string(h))
		piece := make([]byte, 32<<10)
		pass := func(n int) {
			for range n {
				sent := make(chan error, 1)
				go func() {
					_, err := from.Write(piece)
					sent <- err
				}()
				_, err := io.CopyN(io.Discard, to.In, int64(len(piece)))
				if err := errors.Join(err, wstest.Receive(t, sent)); err != nil {
					t.Fatal(err)
				}
			}
		}
		heap := func() int64 {
			var m runtime.MemStats
			runtime.GC()
			runtime.ReadMemStats(&m)
			return int64(m.HeapAlloc)
		}
		pass(10)
		before := heap()
		pass(60) // 2 MB
		if grown := heap() - before; grown > 300<<10 {
			t.Errorf("the heap grew by %d KiB", grown>>10)
		}
		from.Close()
		to.WantEnd()
		to.Close()
		r.wantEnded(w.name, "lost")
	}, carrier.relaysFrames)
}

// WithLostCode replaces 1011 for a client whose upstream is lost, and nothing
// else.
func TestLostCode(t *testing.T) {
	t.Parallel()
	eachSession(t, func(t *testing.T, c carrier) {
		r := c.rig(t, wsproxy.WithLostCode(1012))
		client, upstream := r.open("", "")
		upstream.Close()
		client.WantClose(1012)
		client.Close()
		if m := r.wantEnded("upstream", "lost"); fmt.Sprint(m["code"]) != "1012" {
			t.Errorf("logged the code %v, want 1012", m["code"])
		}
	})
	r := newRig(t, wstest.TCP, wsproxy.WithLostCode(1012))
	client, upstream := r.open("", "")
	upstream.Send("\xff\xff")
	client.WantClose(1011)
	client.Close()
	upstream.Close()
	r.wantEnded("upstream", "protocol error")
}

// A52, C15, F23: a valid Close frame is relayed unchanged in both directions,
// and so is the answer.
func TestClosePasses(t *testing.T) {
	t.Attr("case", "A52 C15 F23")
	t.Parallel()
	bodies := []string{"", wstest.CloseBody(1000, strings.Repeat("r", 123)), wstest.CloseBody(1001, "grüße"), wstest.CloseBody(4401, "token expired")}
	for _, code := range []int{1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 3000, 3999, 4000, 4999} {
		bodies = append(bodies, wstest.CloseBody(code, ""))
	}
	eachWay(t, func(t *testing.T, c carrier, w way) {
		bodies := slices.Clone(bodies)
		if !c.simulated() { // each code passes over memory
			rand.Shuffle(len(bodies), func(i, j int) { bodies[i], bodies[j] = bodies[j], bodies[i] })
			bodies = bodies[:8]
		}
		r := c.rig(t)
		for n, body := range bodies {
			from, to := w.open(r, "", "")
			from.Send(from.Frame(wstest.Close, body))
			to.Want(wstest.Close, body)
			to.SendText("still here")
			to.Send(to.Frame(wstest.Close, wstest.CloseBody(1000, "and this is mine")))
			from.Want(wstest.Text, "still here")
			from.Want(wstest.Close, wstest.CloseBody(1000, "and this is mine"))
			// RFC 6455, 7.1.1: the proxy closes the client's connection first,
			// and waits for the upstream to close its own.
			if w.masked() {
				from.WantEnd()
				to.Close()
			} else {
				to.WantEnd()
				from.Close()
			}
			m := r.wantRecord(n, w.name, "closed")
			want := int64(1005)
			if body != "" {
				want = int64(body[0])<<8 | int64(body[1])
			}
			if m["code"] != want {
				t.Errorf("logged code %v, want %d", m["code"], want)
			}
		}
	})
}

// Closes that cross: each side gets the other side's.
func TestCloseCrossing(t *testing.T) {
	t.Parallel()
	eachWay(t, func(t *testing.T, c carrier, w way) {
		r := c.rig(t)
		from, to := w.open(r, "", "")
		from.SendClose(4001, "from")
		to.SendClose(4002, "to")
		to.Want(wstest.Close, wstest.CloseBody(4001, "from"))
		from.Want(wstest.Close, wstest.CloseBody(4002, "to"))
		from.Close()
		to.Close()
		if m := r.logs.Wait(t, 0); m["reason"] != "closed" || m["error"] != nil {
			t.Errorf("logged %v", m)
		}
	})
}

// A59: nothing after a Close frame is relayed, in the same write or later, not
// even another Close.
func TestDataAfterClose(t *testing.T) {
	t.Attr("case", "A59")
	t.Parallel()
	eachWay(t, func(t *testing.T, c carrier, w way) {
		r := c.rig(t)
		from, to := w.open(r, "", "")
		from.Send(from.Frame(wstest.Close, wstest.CloseBody(4000, "")) + from.Frame(wstest.Text, "no"))
		from.SendText("neither")
		from.SendClose(4001, "nor this")
		from.Send("\xFF\xFF\xFF garbage")
		to.WantClose(4000)
		to.SendClose(4000, "")
		from.WantClose(4000)
		from.Close()
		if w.masked() {
			to.Close()
		}
		to.WantEnd()
		m := r.wantEnded(w.name, "closed")
		if got := m["from_"+w.name+".frames"]; got != uint64(1) {
			t.Errorf("counted %v frames, want the Close only", got)
		}
	})
}

// A side that sends a Close and closes its socket at once, with the proxy's
// bytes unread: its last frames still reach the other side, although writing to
// it fails.
func TestCloseOfOneThatIsGone(t *testing.T) {
	t.Parallel()
	eachWay(t, func(t *testing.T, c carrier, w way) {
		r := c.rig(t)
		from, to := w.open(r, "", "")
		to.SendText("unread")
		from.Want(wstest.Text, "unread") // what follows finds a closed socket
		from.SendText("goodbye")
		from.SendClose(4401, "token expired")
		from.Close()
		for range 20 {
			if _, err := io.WriteString(to, to.Frame(wstest.Text, strings.Repeat("x", 1000))); err != nil {
				break
			}
		}
		to.Want(wstest.Text, "goodbye")
		to.Want(wstest.Close, wstest.CloseBody(4401, "token expired"))
		to.Close()
		r.wantEnded(w.name, "closed")
	})
}

// F21, F22, F24, F25, C25: a side that leaves without a Close frame. The other
// one gets a Close if a frame boundary allows it; complete frames of the lost
// side arrive before.
func TestLost(t *testing.T) {
	t.Attr("case", "C25 F21 F22 F24 F25")
	t.Parallel()
	tests := []struct {
		name string
		tail func(w *wstest.Wire) string // the end of its stream
		mid  bool                        // it ends in the middle of a relayed frame
	}{
		{"at a boundary", func(*wstest.Wire) string { return "" }, false},
		{"in a header", func(w *wstest.Wire) string { return w.Frame(wstest.Binary, strings.Repeat("x", 300))[:3] }, false},
		{"in a Close", func(w *wstest.Wire) string { return w.Frame(wstest.Close, wstest.CloseBody(1000, "x"))[:4] }, false},
		{"in a payload", func(w *wstest.Wire) string { return w.Frame(wstest.Binary, "12345678")[:9] }, true},
		{"in a long payload", func(w *wstest.Wire) string { return w.Frame(wstest.Binary, strings.Repeat("x", 100_000))[:50_000] }, true},
		{"in a message", func(w *wstest.Wire) string { return w.Frame(0x01, "fragment") }, false},
	}
	eachWay(t, func(t *testing.T, c carrier, w way) {
		r, n := c.rig(t), 0
		for _, test := range tests {
			for _, reset := range []bool{false, true} {
				inCase(t, fmt.Sprintf("%s reset=%v", test.name, reset), func() {
					from, to := w.open(r, "", "")
					sent := from.Frame(wstest.Text, "hello") + test.tail(from)
					passed := sent
					if !test.mid && test.name != "in a message" {
						passed = from.Frame(wstest.Text, "hello")
					}
					if !reset {
						from.Send(sent)
						from.CloseWrite()
						c.want(to, passed)
					} else {
						// A reset may overtake bytes that were sent before it.
						from.Send(sent)
						c.want(to, passed)
						from.Reset()
					}
					if !test.mid || c.whole {
						to.WantClose(w.toldOther)
						to.SendClose(w.toldOther, "")
						if w.masked() { // an upstream should close first
							to.Close()
						}
					}
					to.WantEnd()
					to.Close()
					if !reset {
						from.WantEnd()
					}
					r.wantRecord(n, w.name, "lost")
					r.wantOver()
					n++
				})
			}
		}
	})
}

// A80: after a TLS stream that is garbled, or cut in the middle of a record, no
// answer is possible: the connection is closed at once, whatever the other side
// does.
func TestTLSBroken(t *testing.T) {
	t.Attr("case", "A80")
	t.Parallel()
	for _, w := range ways {
		for name, breaks := range map[string]func(c net.Conn){
			"garbled": func(c net.Conn) { io.WriteString(c, "\x17\x03\x03\x00\x20"+strings.Repeat("x", 32)) },
			"cut":     func(c net.Conn) { io.WriteString(c, "\x17\x03\x03"); c.(*net.TCPConn).CloseWrite() },
		} {
			t.Run(w.name+" "+name, func(t *testing.T) {
				r := newRig(t, wstest.TLS)
				from, to := w.open(r, "", "")
				from.SendText("hello")
				to.Want(wstest.Text, "hello")
				below := from.Conn.(*tls.Conn).NetConn()
				breaks(below)
				to.WantClose(w.toldOther)
				began := time.Now()
				if _, err := io.Copy(io.Discard, below); errors.Is(err, os.ErrDeadlineExceeded) || time.Since(began) > 4*time.Second {
					t.Errorf("closed after %v, %v: want it done at once", time.Since(began), err)
				}
				to.SendClose(w.toldOther, "")
				to.Close()
				r.wantEnded(w.name, "lost")
			})
		}
	}
}

// F29: a side that has sent a FIN still gets what the other side sends, until
// that side has answered the Close.
func TestHalfClose(t *testing.T) {
	t.Attr("case", "F29")
	t.Parallel()
	eachWay(t, func(t *testing.T, c carrier, w way) {
		r := c.rig(t)
		from, to := w.open(r, "", "")
		from.SendText("over to you")
		from.CloseWrite()
		to.Want(wstest.Text, "over to you")
		to.WantClose(w.toldOther)
		big := strings.Repeat("bye", 100_000)
		to.SendLater(to.Frame(wstest.Text, big) + to.Frame(wstest.Close, wstest.CloseBody(w.toldOther, "")))
		from.Want(wstest.Text, big)
		from.WantEnd()
		to.Close()
		r.wantEnded(w.name, "lost")
	})
}

// F35: Pings and Pongs of the applications are relayed unchanged, and so are
// Pongs that only resemble answers to the proxy's own Pings.
func TestForeignPingsPass(t *testing.T) {
	t.Attr("case", "C11 F35")
	t.Parallel()
	eachWay(t, func(t *testing.T, c carrier, w way) {
		r := c.rig(t)
		from, to := w.open(r, "", "")
		for _, f := range []wstest.Frame{
			{First: wstest.Ping, Payload: ""}, {First: wstest.Ping, Payload: "app"}, {First: wstest.Ping, Payload: strings.Repeat("p", 125)}, {First: wstest.Ping, Payload: "twelve bytes"},
			{First: wstest.Pong, Payload: ""}, {First: wstest.Pong, Payload: "app"}, {First: wstest.Pong, Payload: strings.Repeat("p", 125)}, {First: wstest.Pong, Payload: "twelve bytes"},
		} {
			from.Send(from.Frame(f.First, f.Payload))
			to.Want(f.First, f.Payload)
		}
	})
}

// C23, C24, and splice(2): payloads of all sizes, around the limits where the
// relay changes its method, arrive as they were sent, in one frame or many,
// with small ones between large ones.
func TestPayloadSizes(t *testing.T) {
	t.Attr("case", "C16 C23 C24")
	t.Parallel()
	sizes := []int{0, 1, 125, 126, 127, 511, 512, 513, 48_000}
	for _, base := range []int{16 << 10, 32 << 10, 64 << 10} {
		for d := -16; d <= 16; d += 8 {
			sizes = append(sizes, base+d)
		}
	}
	for range 8 {
		sizes = append(sizes, rand.IntN(100_000))
	}
	sizes = append(sizes, 1<<20-4, 1<<20, 1<<20+4, 2_000_000, 5)
	streams := make(map[string]string)
	for _, w := range ways {
		var b strings.Builder
		random := rand.NewChaCha8([32]byte{1})
		for i, n := range sizes {
			payload := make([]byte, n)
			random.Read(payload)
			if i%3 == 0 { // in two fragments, a Ping between
				b.WriteString(wstest.RawFrame(0x02, w.masked(), string(payload[:n/2])))
				b.WriteString(wstest.RawFrame(wstest.Ping, w.masked(), "between"))
				b.WriteString(wstest.RawFrame(0x80, w.masked(), string(payload[n/2:])))
			} else {
				b.WriteString(wstest.RawFrame(wstest.Binary, w.masked(), string(payload)))
			}
		}
		streams[w.name] = b.String()
	}
	eachWay(t, func(t *testing.T, c carrier, w way) {
		r := c.rig(t)
		from, to := w.open(r, "", "")
		from.SendLater(streams[w.name])
		c.want(to, streams[w.name])
		from.SendClose(1000, "")
		to.WantClose(1000)
		to.SendClose(1000, "")
		from.WantClose(1000)
		from.Close()
		to.Close()
		m := r.wantEnded(w.name, "closed")
		if got, want := m["from_"+w.name+".messages"], uint64(len(sizes)); got != want {
			t.Errorf("counted %v messages, want %d", got, want)
		}
	})
}

// C18, C19, C20, C21: while Pings are injected all the time, each end gets
// exactly the bytes that the other one sent, plus the Pings, which are at frame
// boundaries, also within fragmented messages, and minus the Pongs that answer
// them. Pings to an upstream are masked, each with a key of its own; those to a
// client are not.
func TestInjection(t *testing.T) {
	t.Attr("case", "C18 C19 C20 C21")
	t.Parallel()
	talk := func(t *testing.T, c carrier, many int32, client, upstream bool) {
		pause := func() {}
		if c.simulated() { // or no time would pass
			pause = func() { wstest.Elapse(rand.N(3 * time.Millisecond)) }
		}
		r := c.rig(t, wsproxy.WithPing(time.Millisecond, time.Minute))
		a, b := r.open("", "")
		for _, w := range []*wstest.Wire{a, b} { // every Ping takes several turns, on a machine that may be busy
			w.SetDeadline(time.Now().Add(10 * wstest.Timeout))
		}
		ends := [2]*talker{{w: a, talks: client, many: many}, {w: b, talks: upstream, many: many}}
		ends[0].peer, ends[1].peer = ends[1], ends[0]
		var writing, reading sync.WaitGroup
		for i, e := range ends {
			e.pongs = make(chan string, 1000)
			writing.Go(func() { e.write(rand.New(rand.NewPCG(uint64(i), rand.Uint64())), pause) })
			reading.Go(e.read)
		}
		writing.Wait()
		a.SendClose(1000, "")
		reading.Wait()
		for _, e := range ends {
			want := e.peer.sent
			want.WriteString(wstest.RawFrame(wstest.Close, e.peer.w.Client, wstest.CloseBody(1000, "")))
			equal := bytes.Equal(e.got.Bytes(), want.Bytes())
			if c.whole {
				messages, controls := parts(want.String())
				gotMessages, gotControls := parts(e.got.String())
				equal = slices.Equal(gotMessages, messages) && slices.Equal(gotControls, controls)
			}
			if !equal {
				t.Errorf("%s: got %d bytes but for the Pings, not the %d that were sent", e.w.Who(), e.got.Len(), want.Len())
			}
		}
		if up := ends[1]; len(up.keys) != int(up.pings.Load()) {
			t.Errorf("%d masking keys in %d Pings", len(up.keys), up.pings.Load())
		}
	}
	for name, talks := range map[string][2]bool{"client talks": {true, false}, "upstream talks": {false, true}} {
		for _, c := range carriers() { // one at a time: each sends as much as it can
			t.Run(name+"/"+c.String(), func(t *testing.T) {
				c.run(t, func(t *testing.T) { talk(t, c, 4, talks[0], talks[1]) })
			})
		}
	}
	t.Run("both talk", func(t *testing.T) {
		for range 2 {
			eachSessionInTime(t, func(t *testing.T, c carrier) {
				talk(t, c, 150, true, true)
			})
		}
	})
}

// A talker sends random frames and checks what arrives, in TestInjection.
type talker struct {
	w     *wstest.Wire
	peer  *talker
	talks bool
	many  int32        // number of Pings after which it ends
	sent  bytes.Buffer // without the Pongs to the proxy's Pings; owned by write
	got   bytes.Buffer // without the proxy's Pings; owned by read
	keys  map[string]bool
	pings atomic.Int32 // of the proxy, so far
	pongs chan string  // for these Pings
}

// write sends frames, in pieces, until many Pings have been injected into both
// directions.
func (e *talker) write(r *rand.Rand, pause func()) {
	inMessage := false
	for e.talks && e.peer.pings.Load() < e.many || e.peer.talks && e.pings.Load() < e.many {
		select {
		case body, ok := <-e.pongs:
			if !ok { // its reader has failed
				return
			}
			e.w.Send(e.w.Frame(wstest.Pong, body))
			continue
		default:
		}
		if !e.talks {
			body, ok := <-e.pongs
			if !ok { // its reader has failed
				return
			}
			e.w.Send(e.w.Frame(wstest.Pong, body))
			continue
		}
		size := r.IntN(200)
		if r.IntN(20) == 0 {
			size = r.IntN(50_000)
		}
		first := byte(r.IntN(2) << 7)
		switch control := r.IntN(5) == 0; {
		case control:
			first, size = wstest.Ping+byte(r.IntN(2)), 13+r.IntN(100) // the proxy's have 12 bytes
		case inMessage:
			inMessage = first == 0
		default:
			inMessage = first == 0
			first |= byte(1 + r.IntN(2))
		}
		b := e.w.Frame(first, strings.Repeat(string(rune('a'+r.IntN(26))), size))
		e.sent.WriteString(b)
		for len(b) > 0 {
			n := 1 // often a header in pieces
			if r.IntN(2) == 0 {
				n += r.IntN(len(b))
			}
			e.w.Send(b[:n])
			b = b[n:]
			pause()
		}
	}
}

// read parses everything that arrives and separates the proxy's Pings.
func (e *talker) read() {
	defer close(e.pongs)
	e.keys = make(map[string]bool)
	var whole bytes.Buffer
	e.w.In = bufio.NewReader(io.TeeReader(e.w.Conn, &whole))
	for {
		f, err := e.w.ReadFrame()
		if err != nil {
			e.w.T.Errorf("%s: got %v, want a Close", e.w.Who(), err)
			return
		}
		// Complete frames in the reader's buffer stay there.
		size := whole.Len() - e.w.In.Buffered()
		raw := whole.Next(size)
		if f.First == wstest.Ping && len(f.Payload) == 12 {
			if !e.w.Client {
				e.keys[string(raw[2:6])] = true
			}
			e.pings.Add(1)
			e.pongs <- f.Payload
			continue
		}
		e.got.Write(raw)
		if f.First == wstest.Close {
			if !e.w.Client {
				e.w.Send(e.w.Frame(wstest.Close, f.Payload))
				e.w.Close()
			}
			return
		}
	}
}
