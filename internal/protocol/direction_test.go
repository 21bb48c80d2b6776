package protocol

import (
	"bytes"
	"encoding/binary"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/seed-ffb73231/wsproxy/internal/frame"
)

// counts is what a stream was counted as.
type counts struct{ frames, messages, bytes int }

// drive feeds a stream to a direction in chunks, as a driver does, and
// returns what it let through and what it ended with. cut says how long the
// next chunk is.
func drive(t testing.TB, d *Direction, stream []byte, cut func() int) (out []byte, n counts, end Final) {
	t.Helper()
	var held []byte
	for len(stream) > 0 && !d.Ended {
		size := min(cut(), len(stream))
		chunk := append(bytes.Clone(held), stream[:size]...)
		stream = stream[size:]
		var last Verdict
		d.Walk(chunk, nil, Quota{}, &last)
		switch {
		case last.N < 0, last.N+last.Hold > len(chunk), last.Edge > last.N, last.Hold > frame.MaxControlSize:
			t.Fatalf("impossible verdict %+v on a chunk of %d", last, len(chunk))
		case last.Hold > 0 && d.Left > 0:
			t.Fatalf("verdict %+v holds bytes back inside a frame", last)
		}
		out = append(out, chunk[:last.N]...)
		n.frames, n.messages, n.bytes = n.frames+last.Frames, n.messages+last.Messages, n.bytes+last.N
		if end = last.Final; end.Size > 0 {
			size := end.Size
			out = append(out, chunk[last.N:last.N+size]...)
		}
		held = append(held[:0], chunk[len(chunk)-last.Hold:]...)
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
			d := Direction{Scan: frame.Scanner{Masked: masked}}
			out, count, end := drive(t, &d, stream, func() int { return 1 + r.IntN(most) })
			if d.Ended || !bytes.Equal(out, stream) {
				t.Fatalf("chunks up to %d: got %d of %d bytes, %v", most, len(out), len(stream), end.Broken)
			}
			if count.bytes != len(stream) || count.frames != 20 {
				t.Fatalf("counted %+v, want 20 frames, %d bytes", count, len(stream))
			}
		}
	}
}

// F35: of Pongs, just those to our own Pings stay here.
func TestWalkAbsorbs(t *testing.T) {
	t.Attr("case", "F35")
	tag := [4]byte{1, 2, 3, 4}
	var made int
	own := func() []byte { // every other one unmasked, as paho-mqtt for Python sends them
		made++
		return frame.AppendControl(nil, frame.OpPong, made%2 == 0, PingBody(tag, 9))
	}
	keep := [][]byte{
		appendFrame(nil, frame.FinBit|frame.OpText, true, 5),
		frame.AppendControl(nil, frame.OpPong, true, []byte("theirs")),
		frame.AppendControl(nil, frame.OpPong, true, PingBody([4]byte{8}, 9)),
		frame.AppendControl(nil, frame.OpPing, true, PingBody(tag, 9)),
		appendFrame(nil, frame.FinBit|frame.OpText, true, 300),
	}
	for i := range pingStart(tag) { // those that differ in one byte from ours
		body := PingBody(tag, 9)
		body[i] ^= 1
		keep = append(keep, frame.AppendControl(nil, frame.OpPong, true, body))
	}
	var stream, want []byte
	for _, f := range keep {
		stream = append(append(stream, own()...), f...)
		want = append(want, f...)
	}
	stream = append(stream, own()...)
	for size := 1; size <= len(stream); size++ {
		d := Direction{Tag: tag, Scan: frame.Scanner{Masked: true}}
		out, count, _ := drive(t, &d, stream, func() int { return size })
		if !bytes.Equal(out, want) {
			t.Fatalf("chunks of %d: got %x, want %x", size, out, want)
		}
		if count.frames != len(keep) || count.messages != 2 {
			t.Fatalf("counted %+v, want the %d frames that went on", count, len(keep))
		}
	}
}

// A Pong to our own Ping may be unmasked, and nothing else that a client sends: it
// is found at the first byte that differs.
func TestWalkUnmaskedPong(t *testing.T) {
	tag := [4]byte{1, 2, 3, 4}
	pong := frame.AppendControl(nil, frame.OpPong, false, PingBody(tag, 9))
	for n := range pong {
		d := Direction{Tag: tag, Scan: frame.Scanner{Masked: true}}
		var v Verdict
		if d.Walk(bytes.Clone(pong[:n+1]), nil, Quota{}, &v); d.Ended || v.N != 0 || n+1 < len(pong) && v.Hold != n+1 || n+1 == len(pong) && v.Pong != 9 {
			t.Errorf("%d bytes of it: got %+v, want them held back and number 9 at the end", n+1, v)
		}
		if n >= 2+len(pingStart(tag)) {
			continue // its number may be any
		}
		other := bytes.Clone(pong[:max(n+1, 2)])
		other[n] ^= 1
		d = Direction{Tag: tag, Scan: frame.Scanner{Masked: true}}
		if d.Walk(other, nil, Quota{}, &v); !d.Ended || v.Final.Broken != frame.ErrUnmasked && n > 0 {
			t.Errorf("another byte %d: got %+v, want %v", n, v, frame.ErrUnmasked)
		}
	}
	for _, other := range [][]byte{
		frame.AppendControl(nil, frame.OpPong, false, []byte("theirs")),
		frame.AppendControl(nil, frame.OpPing, false, PingBody(tag, 9)),
		appendFrame(nil, frame.FinBit|frame.OpBinary, false, PingBodySize),
	} {
		d := Direction{Tag: tag, Scan: frame.Scanner{Masked: true}}
		if _, _, final := drive(t, &d, other, func() int { return 1 }); final.Broken != frame.ErrUnmasked {
			t.Errorf("%x: got %+v, want %v", other, final, frame.ErrUnmasked)
		}
	}
}

// However many empty fragments a message has, they exceed its limit.
func TestWalkCountsEmpty(t *testing.T) {
	d := Direction{Scan: frame.Scanner{InMessage: true}, empty: math.MaxUint32 - 1}
	fragment := appendFrame(nil, frame.OpContinuation, false, 0)
	var v Verdict
	d.Walk(bytes.Repeat(fragment, 3), &Limits{}, Quota{}, &v)
	if d.Walk(bytes.Clone(fragment), &Limits{Message: 1 << 31}, Quota{}, &v); v.Final.Broken != ErrTooBig {
		t.Errorf("got %v after %d of them, want %v", v.Final.Broken, d.empty, ErrTooBig)
	}
}

// The verdict names the last boundary, so that somebody who waits for one
// gets it in a stream of frames that never end with a chunk.
func TestWalkEdge(t *testing.T) {
	a := appendFrame(nil, frame.FinBit|frame.OpBinary, false, 10)
	long := appendFrame(nil, frame.FinBit|frame.OpBinary, false, 1000)
	var d Direction
	var v Verdict
	if d.Walk(append(bytes.Clone(a), long[:500]...), nil, Quota{}, &v); v.Edge != len(a) || v.N != len(a)+500 || !v.Data {
		t.Errorf("got %+v, want the edge at %d", v, len(a))
	}
	if d.Walk(bytes.Clone(long[500:600]), nil, Quota{}, &v); v.Edge != -1 || !v.Data {
		t.Errorf("got %+v, want no edge", v)
	}
	if d.Walk(append(bytes.Clone(long[600:]), a[:1]...), nil, Quota{}, &v); v.Edge != v.N || v.Hold != 1 || !v.Data {
		t.Errorf("got %+v, want the edge at the end and one byte held", v)
	}
	if d.Walk(frame.AppendControl(bytes.Clone(a[:1]), frame.OpPing, false, nil)[:1], nil, Quota{}, &v); v.N != 0 || v.Data {
		t.Errorf("got %+v, want nothing yet", v)
	}
}

// The verdict names the end of the last message, wherever the frames after it end,
// and the direction says whether the last frame is within one.
func TestWalkBetween(t *testing.T) {
	data := func(first byte, n int) []byte { return appendFrame(nil, first, false, n) }
	whole, fragment, more, end := data(frame.FinBit|frame.OpText, 10), data(frame.OpText, 10), data(frame.OpContinuation, 10), data(frame.FinBit|frame.OpContinuation, 10)
	ping := frame.AppendControl(nil, frame.OpPing, false, []byte("ping"))
	for _, tt := range []struct {
		name      string
		frames    [][]byte // the last one is cut short
		between   int
		continues bool
	}{
		{"whole messages", [][]byte{whole, whole, whole}, 24, false},
		{"a fragment after a message", [][]byte{whole, fragment, more}, 12, true},
		{"after a fragmented message", [][]byte{fragment, more, end, ping}, 36, false},
		{"a Ping within a message", [][]byte{whole, fragment, ping}, 12, true},
		{"a Ping after a message", [][]byte{whole, ping, ping}, 12, false},
		{"no end", [][]byte{fragment, more, end}, 0, true},
		{"nothing before", [][]byte{fragment}, 0, false},
	} {
		var d Direction
		var v Verdict
		stream := bytes.Join(tt.frames, nil)
		d.Walk(stream[:len(stream)-1], nil, Quota{}, &v)
		if v.Between != tt.between || d.Continues(stream[v.Edge]) != tt.continues {
			t.Errorf("%s: got the end of a message at %d, and a last frame within one: %v; want %d, %v", tt.name, v.Between, d.Continues(stream[v.Edge]), tt.between, tt.continues)
		}
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
	f.Add(frame.AppendControl(nil, frame.OpPong, true, PingBody([4]byte{1}, 2)), true, byte(0), uint64(1))
	f.Fuzz(func(t *testing.T, stream []byte, masked bool, rsv byte, seed uint64) {
		if len(stream) > 2000 {
			return // nothing more to find in it, and slow
		}
		made := Direction{Tag: [4]byte{1}, Scan: frame.Scanner{Masked: masked, RSVMessage: rsv & frame.RSVBits}}
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
		if end.Broken != nil || !bytes.Equal(out, want) {
			t.Fatalf("%d of %d bytes pass a second time: %v", len(out), len(want), end.Broken)
		}
	})
}

// No allocation per relayed frame: here in the walk; TestSessionAllocs has
// the whole relay.
func TestWalkAllocs(t *testing.T) {
	stream := randomFrames(rand.New(rand.NewPCG(5, 6)), 30, true, 70_000)
	stream = append(stream, appendFrame(nil, frame.FinBit|frame.OpContinuation, true, 3)...)
	d := Direction{Scan: frame.Scanner{Masked: true}}
	var v Verdict
	if n := testing.AllocsPerRun(100, func() {
		d.Scan.InMessage = false
		if d.Walk(stream, nil, Quota{}, &v); v.N == 0 {
			t.Fatal(v.Final.Broken)
		}
		d.Ended = false
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
			d := Direction{Scan: frame.Scanner{Masked: true}}
			var v Verdict
			b.SetBytes(int64(len(stream)))
			b.ReportAllocs()
			for b.Loop() {
				if d.Walk(stream, nil, Quota{}, &v); v.N != len(stream) {
					b.Fatal(v)
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(frames), "ns/frame")
		})
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
