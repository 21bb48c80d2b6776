//go:build linux && (amd64 || arm64) && !noloop

package relay

import (
	"math/bits"
	"time"
)

// A wheel holds the timers of a loop's sessions, which therefore cost no memory
// and no work of the runtime's. It is a hierarchical timing wheel: to set a timer,
// or to remove it, takes the same time however many there are. Time is counted in
// ticks since the loop was made. A timer fires at its tick or later, never before.
//
// Each level has 64 slots, of which each is as long as the whole level below. A
// timer is in the lowest level in whose slots its tick and the wheel's differ. Thus
// the slots of a level that are in use are all ahead of the wheel, and what is in
// a lower level comes first. When the wheel reaches a slot above the lowest
// level, its timers move down.
type wheel struct {
	now   int64 // the tick up to which timers have fired
	used  [wheelLevels]uint64
	slots [wheelLevels][wheelSlots]timer // heads of circular lists
}

const (
	tick        = 4 * time.Millisecond // well below protocol.Lateness
	wheelBits   = 6
	wheelSlots  = 1 << wheelBits
	wheelLevels = 7
	wheelEnd    = 1 << (wheelBits*wheelLevels - 1) // ticks; centuries
)

// A timer is an element of a wheel.
type timer struct {
	next, prev *timer // nil: not in a wheel
	at         int64  // the tick at which it fires
	s          *Session
}

// set sets a timer to fire at a tick, or at the next one if that is past.
func (w *wheel) set(t *timer, at int64) {
	w.remove(t)
	t.at = max(at, w.now+1)
	w.insert(t)
}

func (w *wheel) insert(t *timer) {
	at := min(t.at, w.now+wheelEnd)
	level := (bits.Len64(uint64(at^w.now)) - 1) / wheelBits
	slot := at >> (level * wheelBits) & (wheelSlots - 1)
	head := &w.slots[level][slot]
	if w.used[level]&(1<<slot) == 0 {
		w.used[level] |= 1 << slot
		head.next, head.prev = head, head
	}
	t.next, t.prev = head.next, head
	t.next.prev, head.next = t, t
}

func (w *wheel) remove(t *timer) {
	if t.next != nil {
		t.next.prev, t.prev.next = t.prev, t.next
		t.next, t.prev = nil, nil
	}
}

// first returns the first slot in use, and the tick at which it is reached. The
// slot's list may be empty.
func (w *wheel) first() (level, slot int, at int64, ok bool) {
	for level, used := range w.used {
		if used != 0 {
			slot := bits.TrailingZeros64(used)
			shift := level * wheelBits
			at := w.now>>(shift+wheelBits)<<(shift+wheelBits) | int64(slot)<<shift
			return level, slot, at, true
		}
	}
	return 0, 0, 0, false
}

// advance moves the wheel to a tick, and calls fire for the timers that are due.
// fire may set and remove timers. When that many have fired, it stops at an
// earlier tick.
func (w *wheel) advance(to int64, most int, fire func(*timer)) {
	for fired := 0; fired < most; {
		level, slot, at, ok := w.first()
		if !ok || at > to {
			w.now = max(w.now, to)
			break
		}
		w.now = at
		head := &w.slots[level][slot]
		for t := head.next; t != head; t = head.next {
			w.remove(t)
			if t.at > at {
				w.insert(t)
			} else {
				fire(t)
				fired++
			}
		}
		w.used[level] &^= 1 << slot
	}
}
