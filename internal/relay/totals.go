package relay

import (
	"sync/atomic"
	"unsafe"

	"github.com/seed-ffb73231/wsproxy/internal/frame"
)

// Counts holds counters for one direction; see wsproxy.Counts.
type Counts struct {
	Frames, Messages, Bytes, Pings, LargestMessage uint64
}

// Totals holds what has passed in all sessions of a proxy. Reading it costs the
// same however many sessions there are.
type Totals []cell

// A cell holds what has passed in a part of the sessions. There are several, on
// cache lines of their own, so that processors seldom wait for each other.
type cell [2]struct {
	tally               // of what has come from the side
	sent  atomic.Uint64 // messages of the program's own, to the side
	_     [64 - unsafe.Sizeof(tally{}) - 8]byte
}

const cells = 16

// NewTotals returns totals of nothing.
func NewTotals() Totals { return make(Totals, cells) }

// Counts returns what has come from a side.
func (t Totals) Counts(from frame.Side) (sum Counts) {
	for i := range t {
		c := t[i][from].load()
		sum.Frames += c.Frames
		sum.Messages += c.Messages
		sum.Bytes += c.Bytes
		sum.Pings += c.Pings
		sum.LargestMessage = max(sum.LargestMessage, c.LargestMessage)
	}
	return sum
}

// Sent returns the number of messages of the program's own to a side.
func (t Totals) Sent(to frame.Side) (n uint64) {
	for i := range t {
		n += t[i][to].sent.Load()
	}
	return n
}

// A tally collects [Counts].
type tally struct {
	frames, messages, bytes, pings, largest atomic.Uint64
}

func (t *tally) add(frames, messages, bytes int) {
	if frames > 0 {
		t.frames.Add(uint64(frames))
	}
	if messages > 0 {
		t.messages.Add(uint64(messages))
	}
	t.bytes.Add(uint64(bytes))
}

// announce records the size of a message.
func (t *tally) announce(size uint64) {
	for {
		largest := t.largest.Load()
		if size <= largest || t.largest.CompareAndSwap(largest, size) {
			return
		}
	}
}

func (t *tally) load() Counts {
	return Counts{t.frames.Load(), t.messages.Load(), t.bytes.Load(), t.pings.Load(), t.largest.Load()}
}
