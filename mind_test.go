package wsproxy

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/http/httptest"
	"testing"
	"time"
	"unsafe"

	"github.com/seed-ffb73231/wsproxy/internal/frame"
)

// drive feeds a stream to a direction in chunks, as a driver does, and
// returns what it let through and what it ended with. cut says how long the
// next chunk is.
func drive(t testing.TB, d *direction, stream []byte, cut func() int) (out []byte, n Counts, end final) {
	t.Helper()
	var held []byte
	for len(stream) > 0 && !d.ended {
		size := min(cut(), len(stream))
		chunk := append(bytes.Clone(held), stream[:size]...)
		stream = stream[size:]
		var last verdict
		d.walk(chunk, &last)
		switch {
		case last.n < 0, last.n+last.hold > len(chunk), last.edge > last.n, last.hold > frame.MaxControlSize:
			t.Fatalf("impossible verdict %+v on a chunk of %d", last, len(chunk))
		case last.hold > 0 && d.left > 0:
			t.Fatalf("verdict %+v holds bytes back inside a frame", last)
		}
		out = append(out, chunk[:last.n]...)
		n.add(Counts{Frames: uint64(last.frames), Messages: uint64(last.messages), Bytes: uint64(last.n)})
		if end = last.final; end.size > 0 {
			size := end.size
			out = append(out, chunk[last.n:last.n+size]...)
		}
		held = append(held[:0], chunk[len(chunk)-last.hold:]...)
	}
	return out, n, end
}

// C18: however a stream is cut, the same bytes go on; all of them.
func TestWalkEverySplit(t *testing.T) {
	t.Attr("case", "C17 C18")
	r := rand.New(rand.NewPCG(1, 2))
	for range 50 {
		masked := r.IntN(2) == 0
		stream := randomFrames(r, 20, masked, 70_000)
		for _, most := range []int{1, 2, 3, 7, 100, 40_000} {
			d := direction{scan: frame.Scanner{Masked: masked}}
			out, count, end := drive(t, &d, stream, func() int { return 1 + r.IntN(most) })
			if d.ended || !bytes.Equal(out, stream) {
				t.Fatalf("chunks up to %d: got %d of %d bytes, %v", most, len(out), len(stream), end.broken)
			}
			if count.Bytes != uint64(len(stream)) || count.Frames != 20 {
				t.Fatalf("counted %+v, want 20 frames, %d bytes", count, len(stream))
			}
		}
	}
}

// F35: of Pongs, just those to our own Pings stay here.
func TestWalkAbsorbs(t *testing.T) {
	t.Attr("case", "F35")
	tag := [8]byte{1, 2, 3, 4, 5, 6, 7, 8}
	own := func() []byte { return frame.AppendControl(nil, frame.OpPong, true, pingBody(tag, 9)) }
	keep := [][]byte{
		appendFrame(nil, frame.FinBit|frame.OpText, true, 5),
		frame.AppendControl(nil, frame.OpPong, true, []byte("theirs")),
		frame.AppendControl(nil, frame.OpPong, true, pingBody([8]byte{8}, 9)),
		frame.AppendControl(nil, frame.OpPing, true, pingBody(tag, 9)),
		appendFrame(nil, frame.FinBit|frame.OpText, true, 300),
	}
	var stream, want []byte
	for _, f := range keep {
		stream = append(append(stream, own()...), f...)
		want = append(want, f...)
	}
	stream = append(stream, own()...)
	for size := 1; size <= len(stream); size++ {
		d := direction{tag: tag, scan: frame.Scanner{Masked: true}}
		out, count, _ := drive(t, &d, stream, func() int { return size })
		if !bytes.Equal(out, want) {
			t.Fatalf("chunks of %d: got %x, want %x", size, out, want)
		}
		if count.Frames != uint64(len(keep)) || count.Messages != 2 {
			t.Fatalf("counted %+v, want the %d frames that went on", count, len(keep))
		}
	}
}

// The verdict names the last boundary, so that somebody who waits for one
// gets it in a stream of frames that never end with a chunk.
func TestWalkEdge(t *testing.T) {
	a := appendFrame(nil, frame.FinBit|frame.OpBinary, false, 10)
	long := appendFrame(nil, frame.FinBit|frame.OpBinary, false, 1000)
	var d direction
	var v verdict
	if d.walk(append(bytes.Clone(a), long[:500]...), &v); v.edge != len(a) || v.n != len(a)+500 || !v.data {
		t.Errorf("got %+v, want the edge at %d", v, len(a))
	}
	if d.walk(bytes.Clone(long[500:600]), &v); v.edge != -1 || !v.data {
		t.Errorf("got %+v, want no edge", v)
	}
	if d.walk(append(bytes.Clone(long[600:]), a[:1]...), &v); v.edge != v.n || v.hold != 1 || !v.data {
		t.Errorf("got %+v, want the edge at the end and one byte held", v)
	}
	if d.walk(frame.AppendControl(bytes.Clone(a[:1]), frame.OpPing, false, nil)[:1], &v); v.n != 0 || v.data {
		t.Errorf("got %+v, want nothing yet", v)
	}
}

// FuzzRelayStream: whatever bytes come, in whatever chunks, the direction
// lets the same ones through: a legal stream whole, any other up to where it
// goes wrong.
func FuzzRelayStream(f *testing.F) {
	r := rand.New(rand.NewPCG(3, 4))
	for range 5 {
		f.Add(randomFrames(r, 5, true, 300), true, byte(0), uint64(7))
		f.Add(randomFrames(r, 5, false, 300), false, byte(frame.RSV1Bit), uint64(8))
	}
	f.Add(frame.AppendClose(nil, true, 1000, "bye"), true, byte(0), uint64(1))
	f.Add(frame.AppendControl(nil, frame.OpPong, true, pingBody([8]byte{1}, 2)), true, byte(0), uint64(1))
	f.Fuzz(func(t *testing.T, stream []byte, masked bool, rsv byte, seed uint64) {
		if len(stream) > 2000 {
			return // nothing more to find in it, and slow
		}
		made := direction{tag: [8]byte{1}, scan: frame.Scanner{Masked: masked, RSVMessage: rsv & frame.RSVBits}}
		whole, cut := made, made
		want, count, end := drive(t, &whole, stream, func() int { return len(stream) })
		r := rand.New(rand.NewPCG(seed, 0))
		got, countCut, endCut := drive(t, &cut, stream, func() int { return 1 + r.IntN(9) })
		if !bytes.Equal(got, want) || whole != cut || count != countCut || end != endCut {
			t.Fatalf("whole: %d bytes, %+v; cut: %d bytes, %+v", len(want), whole, len(got), cut)
		}
		// What went on is a legal stream itself: it passes again, unchanged.
		again := made
		out, _, end := drive(t, &again, want, func() int { return 1 + len(want) })
		if end.broken != nil || !bytes.Equal(out, want) {
			t.Fatalf("%d of %d bytes pass a second time: %v", len(out), len(want), end.broken)
		}
	})
}

// No allocation per relayed frame: here in the walk; TestSessionAllocs has
// the whole relay.
func TestWalkAllocs(t *testing.T) {
	stream := randomFrames(rand.New(rand.NewPCG(5, 6)), 30, true, 70_000)
	stream = append(stream, appendFrame(nil, frame.FinBit|frame.OpContinuation, true, 3)...)
	d := direction{scan: frame.Scanner{Masked: true}}
	var v verdict
	if n := testing.AllocsPerRun(100, func() {
		d.scan.InMessage = false
		if d.walk(stream, &v); v.n == 0 {
			t.Fatal(v.final.broken)
		}
		d.ended = false
	}); n != 0 {
		t.Errorf("got %v allocations for 31 frames, want 0", n)
	}
}

func BenchmarkWalk(b *testing.B) {
	for name, frames := range map[string]int{"1": 1, "32": 32} {
		b.Run("frames="+name, func(b *testing.B) {
			var stream []byte
			for range frames {
				stream = appendFrame(stream, frame.FinBit|frame.OpBinary, true, 128)
			}
			d := direction{scan: frame.Scanner{Masked: true}}
			var v verdict
			b.SetBytes(int64(len(stream)))
			b.ReportAllocs()
			for b.Loop() {
				if d.walk(stream, &v); v.n != len(stream) {
					b.Fatal(v)
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(frames), "ns/frame")
		})
	}
}

// The rules of keeping alive, one by one.
func TestPolicyCheck(t *testing.T) {
	const s = time.Second
	p := policy{ping: 25 * s, pong: 10 * s, write: 30 * s}
	tests := []struct {
		name  string
		p     policy
		now   time.Duration
		l     life
		want  need
		again time.Duration
	}{
		{"just begun", p, 0, life{writing: -1}, needNothing, 15 * s},
		{"heard lately", p, 20 * s, life{heard: 15 * s, writing: -1}, needNothing, 35 * s},
		{"silent for long", p, 25 * s, life{writing: -1}, needPing, 35 * s},
		{"pinged", p, 30 * s, life{pinged: 25 * s, writing: -1}, needNothing, 35 * s},
		{"pinged, and not answered", p, 35 * s, life{pinged: 25 * s, writing: -1}, needEndSilent, 35 * s},
		{"pinged, and heard since", p, 35 * s, life{heard: 26 * s, pinged: 25 * s, writing: -1}, needNothing, 50 * s},
		{"heard and pinged in the same moment", p, 35 * s, life{heard: 25 * s, pinged: 25 * s, writing: -1}, needNothing, 50 * s},
		{"not answered, but a write moves", p, 35 * s, life{pinged: 25 * s, writing: 34 * s}, needMoreTime, 45 * s},
		{"not answered, but what is queued moves", p, 35 * s, life{pinged: 25 * s, writing: -1, taking: true}, needMoreTime, 45 * s},
		{"not answered, after others were", p, 35 * s, life{pinged: 25 * s, writing: -1, answers: true, present: true}, needEndSilent, 35 * s},
		{"never answers, and is there", p, 35 * s, life{pinged: 25 * s, writing: -1, present: true}, needNothing, 50 * s},
		{"never answers, and had no time to yet", p, 30 * s, life{pinged: 25 * s, writing: -1, present: true}, needNothing, 35 * s},
		{"never answers, is there, and was pinged an interval ago", p, 50 * s, life{pinged: 25 * s, writing: -1, present: true}, needPing, 65 * s},
		{"never answers, and its machine acknowledges nothing", p, 35 * s, life{pinged: 25 * s, writing: -1}, needEndSilent, 35 * s},
		{"the same with a time-out over the interval", policy{ping: 10 * s, pong: 25 * s, write: 60 * s}, 20 * s, life{pinged: 10 * s, writing: -1}, needNothing, 30 * s},
		{"is there, with a time-out over the interval", policy{ping: 10 * s, pong: 25 * s, write: 60 * s}, 20 * s, life{pinged: 10 * s, writing: -1, present: true}, needPing, 30 * s},
		{"not answered, but we were stopped", p, 60 * s, life{pinged: 25 * s, writing: -1, late: true}, needMoreTime, 70 * s},
		{"not answered, but bytes wait in our socket", p, 35 * s, life{pinged: 25 * s, writing: -1, answers: true, present: true, input: true}, needHearing, 50 * s},
		{"not answered, behind bytes that may still be on their way", p, 35 * s, life{pinged: 25 * s, writing: -1, answers: true, present: true, behind: 30 * slowest}, needNothing, 50 * s},
		{"not answered, and they must have arrived", p, 65 * s, life{pinged: 25 * s, writing: -1, answers: true, present: true, behind: 30 * slowest}, needEndSilent, 65 * s},
		{"not answered, behind bytes without end", p, (25 + 11*10) * s, life{pinged: 25 * s, writing: -1, answers: true, present: true, behind: 1 << 60}, needEndSilent, (25 + 11*10) * s},
		{"nobody reads it", p, 25 * s, life{writing: -1, unread: true}, needPing, 35 * s},
		{"nobody reads it, and it is there", p, 49 * s, life{pinged: 25 * s, writing: -1, answers: true, unread: true, input: true, present: true}, needNothing, 50 * s},
		{"nobody reads it, it is there, and was pinged an interval ago", p, 50 * s, life{pinged: 25 * s, writing: -1, answers: true, unread: true, input: true, present: true}, needPing, 65 * s},
		{"nobody reads it, and its machine acknowledges nothing", p, 35 * s, life{pinged: 25 * s, writing: -1, answers: true, unread: true, input: true}, needEndSilent, 35 * s},
		{"a write without progress", p, 40 * s, life{heard: 40 * s, writing: 10 * s}, needEndStuck, 40 * s},
		{"a write about to be stuck", p, 39 * s, life{heard: 39 * s, writing: 10 * s}, needNothing, 40 * s},
		{"a write begun at 0", p, 30 * s, life{heard: 30 * s, writing: 0}, needEndStuck, 30 * s},
		{"reset, and nobody at work on it", policy{write: 30 * s}, 40 * s, life{heard: 39 * s, writing: -1, reset: true}, needEndReset, 40 * s},
		{"reset, and we were stopped", policy{write: 30 * s}, 40 * s, life{heard: 30 * s, writing: -1, reset: true, late: true}, needNothing, 40*s + lateness},
		{"reset a moment ago", policy{write: 30 * s}, 40 * s, life{heard: 39500 * time.Millisecond, writing: -1, reset: true}, needNothing, 40500 * time.Millisecond},
		{"reset, with bytes before it that wait for the leg across", policy{write: 30 * s}, 40 * s, life{writing: -1, unread: true, reset: true}, needNothing, 55 * s},
		{"no pings", policy{write: 30 * s}, 99 * s, life{writing: -1}, needNothing, 114 * s},
		{"no pings, writing", policy{write: 30 * s}, 99 * s, life{writing: 90 * s}, needNothing, 114 * s},
	}
	for _, tt := range tests {
		got, again := tt.p.check(tt.now, tt.l)
		if got != tt.want || again != tt.again {
			t.Errorf("%s: got need %v, again at %v, want %v, %v", tt.name, got, again, tt.want, tt.again)
		}
	}
	for _, tt := range []struct {
		idle, now, data time.Duration
		want            bool
	}{
		{0, 1e6 * s, 0, false},
		{60 * s, 59 * s, 0, false},
		{60 * s, 60 * s, 0, true},
		{60 * s, 60 * s, 1 * s, false},
	} {
		p := policy{idle: tt.idle, write: 30 * s}
		if got, _ := p.checkIdle(tt.now, tt.data); got != tt.want {
			t.Errorf("idle %v at %v, data at %v: got %v, want %v", tt.idle, tt.now, tt.data, got, tt.want)
		}
	}
}

// C27: intervals of sessions differ, and are never longer than was asked.
func TestPolicyJitter(t *testing.T) {
	seen := make(map[time.Duration]bool)
	for range 100 {
		got := newPace().of(25 * time.Second)
		if got < 25*time.Second*9/10 || got > 25*time.Second {
			t.Fatalf("got %v, want 22.5 s to 25 s", got)
		}
		seen[got] = true
	}
	if len(seen) < 90 {
		t.Errorf("got %d different intervals of 100", len(seen))
	}
	if got := newPace().of(0); got != 0 {
		t.Errorf("pings switched off: got an interval of %v", got)
	}
}

// A session's memory stays within its size class: 1,024 bytes, of which the
// allocator takes 8 for itself.
func TestSessionSize(t *testing.T) {
	if size := unsafe.Sizeof(Session{}); size > 1024-8 {
		t.Errorf("a Session takes %d bytes", size)
	}
}

// Every pair of events of a session's end: who is told what.
func TestEnding(t *testing.T) {
	const C, U = frame.Client, frame.Upstream
	begin := func(c *cause) func(*ending) { return func(e *ending) { e.begin(c, nil); e.tell(C); e.tell(U) } }
	var told [2]int // what each side was told; -1: the other's Close verbatim
	closeFrom := func(s frame.Side, code int) func(*ending) {
		return func(e *ending) {
			verbatim, instead := e.closeFrom(s, 4000)
			if verbatim {
				told[s.Other()] = -1
			} else if instead != 0 {
				told[s.Other()] = int(instead)
			}
		}
	}
	endFrom := func(s frame.Side, c [2]*cause) func(*ending) {
		return func(e *ending) {
			e.over[s] = true
			if !e.ended[s] {
				if code := e.endFrom(s, c[s], nil); code != 0 {
					told[s.Other()] = int(code)
				}
			}
		}
	}
	tests := []struct {
		name   string
		events []func(*ending)
		want   [2]int
		cause  *cause
	}{
		{"client closes, upstream answers", []func(*ending){closeFrom(C, 4000), closeFrom(U, 4000)}, [2]int{-1, -1}, causeClosed[C]},
		{"upstream closes, client answers", []func(*ending){closeFrom(U, 4000), closeFrom(C, 4000)}, [2]int{-1, -1}, causeClosed[U]},
		{"client closes, upstream goes", []func(*ending){closeFrom(C, 4000), endFrom(U, causeLost)}, [2]int{4000, -1}, causeClosed[C]},
		{"upstream closes, client goes", []func(*ending){closeFrom(U, 4000), endFrom(C, causeLost)}, [2]int{-1, 4000}, causeClosed[U]},
		{"client goes, upstream answers", []func(*ending){endFrom(C, causeLost), closeFrom(U, 1001)}, [2]int{0, 1001}, causeLost[C]},
		{"upstream goes, client answers", []func(*ending){endFrom(U, causeLost), closeFrom(C, 1011)}, [2]int{1011, 0}, causeLost[U]},
		{"client breaks, upstream answers", []func(*ending){endFrom(C, causeProtocol), closeFrom(U, 1001)}, [2]int{1002, 1001}, causeProtocol[C]},
		{"upstream breaks, client answers", []func(*ending){endFrom(U, causeProtocol), closeFrom(C, 1011)}, [2]int{1011, 1002}, causeProtocol[U]},
		{"client breaks, upstream breaks", []func(*ending){endFrom(C, causeProtocol), endFrom(U, causeProtocol)}, [2]int{1002, 1001}, causeProtocol[C]},
		{"client breaks, upstream goes", []func(*ending){endFrom(C, causeProtocol), endFrom(U, causeLost)}, [2]int{1002, 1001}, causeProtocol[C]},
		{"idle, both answer", []func(*ending){begin(causeIdle), closeFrom(C, 1001), closeFrom(U, 1001)}, [2]int{}, causeIdle},
	}
	for _, tt := range tests {
		told = [2]int{}
		var e ending
		for _, f := range tt.events {
			f(&e)
		}
		if told != tt.want || e.cause != tt.cause {
			t.Errorf("%s: told %v for %q by the %v, want %v for %q by the %v", tt.name,
				told, e.cause.name, e.cause.by, tt.want, tt.cause.name, tt.cause.by)
		}
	}
}

// A client that has left leaves no trace in the map by which sessions are
// counted.
func TestNoKeysLeft(t *testing.T) {
	p, err := New("http://upstream.test", WithMaxSessionsPerClient(2, nil))
	if err != nil {
		t.Fatal(err)
	}
	for i := range 100 {
		r := httptest.NewRequest("GET", "/", nil)
		r.RemoteAddr = fmt.Sprintf("192.0.2.%d:1", i)
		_, s, e := p.admit(r)
		if e != nil {
			t.Fatal(e)
		}
		p.leave(s)
	}
	if g := &p.registry; len(g.perClient) > 0 || g.count > 0 || g.oldest != nil || g.newest != nil {
		t.Errorf("%d clients and %d sessions are left", len(g.perClient), g.count)
	}
}

// A leg that was reset while the rate limit holds it up is lost once the grace
// is over; being unread doesn't begin it anew.
func TestResetWhileSlowed(t *testing.T) {
	p := policy{ping: 25 * time.Second, pong: 10 * time.Second, write: 30 * time.Second}
	l := life{heard: 10 * time.Second, writing: -1, unread: true, slowed: true, reset: true}
	if need, again := p.check(10*time.Second+resetGrace/2, l); need != needNothing || again != 10*time.Second+resetGrace {
		t.Errorf("within the grace: got need %d, again at %v", need, again)
	}
	if need, _ := p.check(10*time.Second+resetGrace, l); need != needEndReset {
		t.Errorf("after the grace: got need %d, want the end", need)
	}
}

// randomFrames returns a legal stream of n frames, most of them short, none
// with a payload over most bytes.
func randomFrames(r *rand.Rand, n int, masked bool, most int) []byte {
	var b []byte
	InMessage := false
	for range n {
		first := []byte{frame.OpText, frame.OpBinary}[r.IntN(2)]
		if InMessage {
			first = frame.OpContinuation
		}
		control := r.IntN(4) == 0
		if control {
			first = frame.FinBit | []byte{frame.OpPing, frame.OpPong}[r.IntN(2)]
		} else if r.IntN(2) == 0 {
			first |= frame.FinBit
			InMessage = false
		} else {
			InMessage = true
		}
		size := r.IntN(20)
		if !control && r.IntN(10) == 0 {
			size = r.IntN(most)
		}
		b = appendFrame(b, first, masked, size)
	}
	return b
}

// appendFrame appends a frame with a payload of that many bytes.
func appendFrame(b []byte, first byte, masked bool, size int) []byte {
	mask := byte(0)
	if masked {
		mask = frame.MaskBit
	}
	switch {
	case size < 126:
		b = append(b, first, mask|byte(size))
	case size <= 0xFFFF:
		b = append(b, first, mask|126)
		b = binary.BigEndian.AppendUint16(b, uint16(size))
	default:
		b = append(b, first, mask|127)
		b = binary.BigEndian.AppendUint64(b, uint64(size))
	}
	if masked {
		b = append(b, 1, 2, 3, 4)
	}
	for i := range size {
		b = append(b, byte(i))
	}
	return b
}
