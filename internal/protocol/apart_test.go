package protocol

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/seed-ffb73231/wsproxy/internal/frame"
)

// With Limits.Apart a walk lets through the bytes of one message, up to its end, or one
// whole control frame, never both. However the stream is cut, the same messages and
// control frames go on.
func TestWalkApart(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	for range 50 {
		masked := r.IntN(2) == 0
		stream := randomFrames(r, 20, masked, 3000)
		for _, most := range []int{1, 3, 100, 100_000} {
			d := Direction{Scan: frame.Scanner{Masked: masked}}
			var held, data, controls []byte
			frames := 0
			for rest := stream; len(rest) > 0; {
				n := min(1+r.IntN(most), len(rest))
				chunk := append(bytes.Clone(held), rest[:n]...)
				rest, held = rest[n:], held[:0]
				for len(chunk) > 0 {
					var v Verdict
					d.Walk(chunk, &Limits{Apart: true}, Quota{}, &v)
					part := chunk[:v.N]
					switch {
					case d.Ended:
						t.Fatalf("ended: %v", v.Final.Broken)
					case v.Messages > 1, v.Control && v.Data, v.Control && v.Frames != 1, v.Rest > 0 && v.Hold > 0, v.N+v.Hold+v.Rest != len(chunk):
						t.Fatalf("impossible verdict %+v", v)
					case v.Control:
						controls = append(controls, part...)
					default:
						data = append(data, part...)
					}
					frames += v.Frames
					held = append(held[:0], chunk[len(chunk)-v.Hold-v.Rest:len(chunk)-v.Rest]...)
					chunk = chunk[len(chunk)-v.Rest:]
				}
			}
			wantData, wantControls := apart(t, stream, masked)
			if frames != 20 || !bytes.Equal(data, wantData) || !bytes.Equal(controls, wantControls) {
				t.Fatalf("chunks up to %d: got %d frames, %d and %d bytes, want 20, %d and %d", most, frames, len(data), len(controls), len(wantData), len(wantControls))
			}
		}
	}
}

// apart returns the data frames of a stream, and its control frames.
func apart(t *testing.T, stream []byte, masked bool) (data, controls []byte) {
	t.Helper()
	scan := frame.Scanner{Masked: masked}
	for len(stream) > 0 {
		h, err := scan.Next(stream)
		if err != nil {
			t.Fatal(err)
		}
		n := h.Size + int(h.Length)
		if h.Control() {
			controls = append(controls, stream[:n]...)
		} else {
			data = append(data, stream[:n]...)
		}
		stream = stream[n:]
	}
	return data, controls
}

// A message that a stage refuses ends the session: for a cause of the proxy's own both
// sides are told at once; for one of the sender's, the sender is told last, as after any
// violation. If the session is ending, the first cause stays.
func TestRefused(t *testing.T) {
	policy := &Policy{Close: 5, Write: 60}
	own := CauseFor("hook", 4000, "no")
	for _, from := range []frame.Side{frame.Client, frame.Upstream} {
		c := NewCourse(policy, 1)
		o := c.Refused(1, from, own, errors.New("no"))
		if o.Legs[frame.Client].Close != 4000 || o.Legs[frame.Upstream].Close != frame.GoingAway || !o.Began {
			t.Errorf("from %d, the proxy's: %+v", from, o)
		}
		c = NewCourse(policy, 1)
		o = c.Refused(1, from, CauseOf(from, ErrNotUTF8), ErrNotUTF8)
		told := [2]frame.Code{upstreamLost, goingAway}[from.Other()]
		if o.Legs[from].Close != 0 || o.Legs[from.Other()].Close != told {
			t.Errorf("from %d, the sender's: %+v", from, o)
		}
		if o = c.Closed(2, from.Other(), told); o.Legs[from].Close != frame.InvalidPayload {
			t.Errorf("from %d: after the other side's answer: %+v", from, o)
		}
		c = NewCourse(policy, 1)
		c.Closed(1, from.Other(), 1000)
		if o = c.Refused(2, from, own, nil); o.Legs[from].Close != 0 || o.Legs[from.Other()].Close != 1000 {
			t.Errorf("from %d, with an end under way: %+v", from, o)
		}
		if cause, _, _ := c.Result(); cause == own || !strings.HasPrefix(cause.Reason, "closed") {
			t.Errorf("from %d: the cause is %v", from, cause)
		}
	}
}
