package relay

import (
	"sync"
	"sync/atomic"
	"testing"

	"github.com/seed-ffb73231/wsproxy/internal/frame"
)

// The totals are the sum of what all sessions add, whichever cells they add to,
// and of messages the largest; each direction has its own.
func TestTotals(t *testing.T) {
	totals := NewTotals()
	var sessions sync.WaitGroup
	for id := range 3 * cells {
		sessions.Go(func() {
			for range 100 {
				totals[id%cells][frame.Client].add(2, 1, 10)
				totals[id%cells][frame.Client].announce(uint64(id))
			}
		})
	}
	sessions.Wait()
	const n = 3 * cells
	if got, want := totals.Counts(frame.Client), (Counts{Frames: 200 * n, Messages: 100 * n, Bytes: 1000 * n, LargestMessage: n - 1}); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	if got := totals.Counts(frame.Upstream); got != (Counts{}) {
		t.Errorf("from the other side: got %+v, want nothing", got)
	}
}

// BenchmarkContention counts a frame, as all sessions do; see the face's
// BenchmarkContention.
func BenchmarkContention(b *testing.B) {
	totals := NewTotals()
	var sessions atomic.Uint64
	b.RunParallel(func(pb *testing.PB) {
		total := &totals[sessions.Add(1)%cells][frame.Client]
		for pb.Next() {
			total.add(1, 1, 130)
		}
	})
}
