package attacks

import (
	"bytes"
	"compress/flate"
	"io"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/seed-ffb73231/wsproxy"
	"github.com/seed-ffb73231/wsproxy/internal/wstest"
)

// A side is a test's view of a session from one of its ends.
type side struct {
	who       string
	toldBad   int // the code for breaking the protocol
	toldOther int // the code across, for that and for going without a Close
}

var sides = []side{{"client", 1002, 1001}, {"upstream", 1002, 1011}}

// eachSide runs a test on both kinds of legs, with either side as from.
func eachSide(t *testing.T, f func(t *testing.T, secure bool, s side)) {
	eachLeg(t, func(t *testing.T, secure bool) {
		for _, s := range sides {
			t.Run(s.who, func(t *testing.T) { f(t, secure, s) })
		}
	})
}

// between opens a session and returns its ends, from's end first.
func (r *rig) between(s side, requestLines, answerLines string) (from, to *wstest.Wire) {
	r.Helper()
	from, to = r.open(requestLines, answerLines)
	if s.who == "upstream" {
		from, to = to, from
	}
	return from, to
}

// other returns the opposite side.
func (s side) other() string {
	if s.who == "client" {
		return "upstream"
	}
	return "client"
}

// closed closes a session properly, from's Close first, and checks that nothing
// else has arrived.
func closed(s side, from, to *wstest.Wire) {
	from.T.Helper()
	from.Send(closeFrame(s.who, 1000, ""))
	to.WantBytes(closeFrame(s.who, 1000, ""))
	to.Send(closeFrame(s.other(), 1000, ""))
	from.WantBytes(closeFrame(s.other(), 1000, ""))
	from.Close()
	to.Close()
}

// A49, A57, A60, C10, C11, C14: valid frames, and frames that are only the
// peers' concern, are relayed byte for byte, whatever they hold.
func TestFramesPass(t *testing.T) {
	deflated := func(b []byte) string {
		var w bytes.Buffer
		z, _ := flate.NewWriter(&w, flate.BestCompression)
		z.Write(b)
		z.Flush()
		return strings.TrimSuffix(w.String(), "\x00\x00\xff\xff") // RFC 7692, 7.2.1
	}
	bomb := deflated(make([]byte, 64<<20))
	for _, row := range []struct {
		cases, name string
		frames      func(f func(first byte, payload string) string) string
	}{
		{"A60 C14", "text that is not UTF-8", func(f func(byte, string) string) string {
			return f(wstest.Text, "\xff\xfe") + f(wstest.Text, "\xed\xa0\x80") + f(0x01, "\xce") + f(0x80, "\xba\xf4\x90\x80\x80")
		}},
		{"A57", "64 MiB in 64 KiB", func(f func(byte, string) string) string { return f(0xC2, bomb) }},
		{"A57", "compressed garbage", func(f func(byte, string) string) string { return f(0xC1, strings.Repeat("\xff\x00", 700)) }},
		{"C10", "lengths around the limits of each form", func(f func(byte, string) string) string {
			var b strings.Builder
			for _, n := range []int{0, 1, 125, 126, 127, 128, 65535, 65536, 65537} {
				b.WriteString(f(wstest.Binary, strings.Repeat("\x00", n)) + f(wstest.Text, strings.Repeat("x", n)))
			}
			return b.String()
		}},
		{"C11", "Pings and Pongs", func(f func(byte, string) string) string {
			return f(wstest.Ping, "") + f(wstest.Ping, "\x00\xff\xfe\xfd") + f(wstest.Ping, strings.Repeat("\xfe", 125)) + f(wstest.Pong, "unasked") + strings.Repeat(f(wstest.Ping, "ten"), 10)
		}},
		{"C13", "Pings within a message", func(f func(byte, string) string) string {
			return f(0x01, "a") + f(wstest.Ping, "p") + f(0x00, "") + f(wstest.Pong, "q") + f(0x00, "b") + f(wstest.Ping, "") + f(0x80, "")
		}},
		{"A55 C13", "10,000 fragments of no bytes", func(f func(byte, string) string) string {
			return f(0x02, "") + strings.Repeat(f(0x00, ""), 10_000) + f(0x80, "x")
		}},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Attr("case", row.cases)
			eachSide(t, func(t *testing.T, secure bool, s side) {
				const deflate = "Sec-WebSocket-Extensions: permessage-deflate\r\n"
				r := newRig(t, secure)
				from, to := r.between(s, deflate, deflate)
				sent := row.frames(func(first byte, payload string) string { return frame(s.who, first, payload) })
				go io.WriteString(from, sent)
				to.WantBytes(sent)
				closed(s, from, to)
				if got := r.ended(0); got != s.who+": closed 1000" {
					t.Errorf("logged %q, want a Close by the %s", got, s.who)
				}
			})
		})
	}
}

// C10, C14: the available part of a frame is relayed as it arrives; nothing
// waits for the rest.
func TestPartsOfFramesPass(t *testing.T) {
	t.Attr("case", "C10 C14")
	eachSide(t, func(t *testing.T, secure bool, s side) {
		from, to := newRig(t, secure).between(s, "", "")
		f := frame(s.who, wstest.Text, strings.Repeat("x", 10_000))
		for at := 0; at < len(f); at += 997 {
			part := f[at:min(at+997, len(f))]
			from.Send(part)
			to.WantBytes(part)
		}
		closed(s, from, to)
	})
}

// A56: sending one byte at a time only takes longer, and the time grows
// linearly with the number of bytes.
func TestByteByByte(t *testing.T) {
	t.Attr("case", "A56")
	eachSide(t, func(t *testing.T, secure bool, s side) {
		from, to := newRig(t, secure).between(s, "", "")
		var b strings.Builder
		for i := range 60 {
			b.WriteString(frame(s.who, wstest.Text, strings.Repeat("x", i%7)))
			b.WriteString(frame(s.who, wstest.Pong, "twelve bytes")) // looked into, for it might be ours
			b.WriteString(frame(s.who, wstest.Ping, strings.Repeat("p", i*2)))
		}
		stream := b.String()
		go func() {
			for i := range len(stream) {
				if _, err := io.WriteString(from, stream[i:i+1]); err != nil {
					return
				}
			}
		}()
		to.WantBytes(stream)
		closed(s, from, to)
	})
}

// A11, C22: what one side sends before the other is connected waits, and none
// of it is lost, however much it is.
func TestEarly(t *testing.T) {
	t.Attr("case", "A11 C22")
	eachLeg(t, func(t *testing.T, secure bool) {
		t.Run("a megabyte from each side", func(t *testing.T) {
			r := newRig(t, secure)
			long := strings.Repeat("early ", 1<<18)
			c := r.client()
			go io.WriteString(c, handshake("")+frame("client", wstest.Text, long))
			u := r.upstream()
			head := u.ReadHead()
			go io.WriteString(u, answer(head, "")+frame("upstream", wstest.Text, long))
			c.WantBytes(opened(""))
			got := make(chan bool)
			go func() { c.WantBytes(frame("upstream", wstest.Text, long)); close(got) }()
			u.WantBytes(frame("client", wstest.Text, long))
			<-got
			closed(sides[0], c, u)
		})
		t.Run("a Close from each side", func(t *testing.T) {
			r := newRig(t, secure)
			c := r.client()
			c.Send(handshake("") + closeFrame("client", 4001, "never mind"))
			u := r.upstream()
			u.Send(answer(u.ReadHead(), "") + closeFrame("upstream", 4002, "neither"))
			c.WantBytes(opened(""))
			u.WantBytes(closeFrame("client", 4001, "never mind"))
			c.WantBytes(closeFrame("upstream", 4002, "neither"))
			u.Close()
			wantRest(c, "")
		})
		t.Run("all that an upstream has to say", func(t *testing.T) {
			r := newRig(t, secure)
			c := r.client()
			c.Send(handshake(""))
			u := r.upstream()
			u.Send(answer(u.ReadHead(), "") + frame("upstream", wstest.Text, "bye") + closeFrame("upstream", 4000, "that was it"))
			u.Close()
			c.WantBytes(opened("") + frame("upstream", wstest.Text, "bye") + closeFrame("upstream", 4000, "that was it"))
			c.Close()
			if got := r.ended(0); got != "upstream: closed 4000" {
				t.Errorf("logged %q, want a Close by the upstream", got)
			}
		})
		t.Run("another handshake", func(t *testing.T) {
			r := newRig(t, secure)
			c := r.client()
			c.Send(handshake("") + handshake(""))
			u := r.upstream()
			u.Send(answer(u.ReadHead(), ""))
			u.WantClose(1001) // a G is no frame
			u.Close()
			wantRest(c, opened("")+closeFrame("upstream", 1002, "protocol error by the client"))
		})
	})
}

// A49: the proxy's own frames to an upstream are masked with keys of its own. A
// client's frames keep their keys, unusual ones too.
func TestMasks(t *testing.T) {
	t.Attr("case", "A49")
	eachLeg(t, func(t *testing.T, secure bool) {
		r := newRig(t, secure, wsproxy.WithPing(10*time.Millisecond, 10*time.Second))
		c, u := r.open("", "")
		go io.Copy(io.Discard, c.In)
		keys := make(map[string]bool)
		for len(keys) < 5 {
			b, err := u.In.Peek(6)
			if err != nil {
				t.Fatal(err)
			}
			if k := string(b[2:6]); keys[k] || k == "\x00\x00\x00\x00" {
				t.Fatalf("upstream: got the masking key %x again, or none", k)
			} else {
				keys[k] = true
			}
			f, err := u.ReadFrame()
			if err != nil || f.First != wstest.Ping || len(f.Payload) != 12 {
				t.Fatalf("upstream: got frame %v, %v, want a Ping of the proxy's", f, err)
			}
			u.Send(frame("upstream", wstest.Pong, f.Payload))
		}
		// GET / in the clear, aimed at a cache that does not know WebSocket.
		raw := "\x82\x85\x00\x00\x00\x00GET /"
		c.Send(raw)
		for {
			if b, err := u.In.Peek(1); err != nil {
				t.Fatal(err)
			} else if b[0] != wstest.Ping {
				break
			}
			f, err := u.ReadFrame()
			if err != nil {
				t.Fatal(err)
			}
			u.Send(frame("upstream", wstest.Pong, f.Payload))
		}
		u.WantBytes(raw)
	})
}

// A80, C25: a stream that ends without a goodbye, of WebSocket or of TLS,
// counts as lost, at whatever point.
func TestCutOff(t *testing.T) {
	t.Attr("case", "A80 C25")
	eachSide(t, func(t *testing.T, secure bool, s side) {
		for name, end := range map[string]struct {
			tail   string
			passes bool // the tail goes on, and leaves a frame open across
		}{
			"at a frame's end":     {"", false},
			"in a header":          {frame(s.who, wstest.Binary, strings.Repeat("x", 300))[:3], false},
			"in a Close":           {closeFrame(s.who, 1000, "bye")[:4], false},
			"in a payload":         {frame(s.who, wstest.Text, "12345678")[:9], true},
			"in an empty fragment": {frame(s.who, 0x01, "") + frame(s.who, 0x00, "x")[:1], false},
		} {
			t.Run(name, func(t *testing.T) {
				r := newRig(t, secure)
				from, to := r.between(s, "", "")
				from.Send(frame(s.who, wstest.Text, "hello") + end.tail)
				from.FIN()
				to.WantBytes(frame(s.who, wstest.Text, "hello"))
				switch {
				case end.passes:
					wantRest(to, end.tail)
				case name == "in an empty fragment":
					to.WantBytes(frame(s.who, 0x01, ""))
					fallthrough
				default:
					to.WantClose(s.toldOther)
				}
				to.Close()
				if got := r.ended(0); !strings.HasPrefix(got, s.who+": lost ") {
					t.Errorf("logged %q, want the %s lost", got, s.who)
				}
			})
		}
	})
}

// A46, A57: the length that a header announces takes no memory.
func TestAnnouncedOnly(t *testing.T) {
	t.Attr("case", "A46 A57")
	eachSide(t, func(t *testing.T, secure bool, s side) {
		r := newRig(t, secure)
		mask, bit := "", byte(0)
		if s.who == "client" {
			mask, bit = "KEY!", 0x80
		}
		announcing := string([]byte{wstest.Binary, 127 | bit, 0x7F, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF}) + mask + "some"
		runtime.GC()
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		const sessions = 20
		for range sessions {
			from, to := r.between(s, "", "")
			from.Send(announcing)
			to.WantBytes(announcing)
		}
		runtime.GC()
		runtime.ReadMemStats(&after)
		// This includes the tests' own ends: 64 KiB of buffer each.
		if grown := (int64(after.HeapAlloc) - int64(before.HeapAlloc)) / sessions; grown > 400<<10 {
			t.Errorf("a session took %d KiB, want it not to grow with what was announced", grown>>10)
		}
	})
}
