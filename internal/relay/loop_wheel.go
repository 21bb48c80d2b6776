//go:build linux && (amd64 || arm64) && !noloop

package relay

import (
	"math/bits"
	"time"
)

// A wheel holds the timers of a loop's sessions, which therefore cost little memory
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
	slots [wheelLevels][wheelSlots]*Session // the first of each
}

const (
	tick        = 4 * time.Millisecond // well below protocol.Lateness
	wheelBits   = 6
	wheelSlots  = 1 << wheelBits
	wheelLevels = 7
	wheelEnd    = 1 << (wheelBits*wheelLevels - 1) // ticks; centuries
)

// A timer is a session's place in a wheel.
type timer struct {
	next *Session  // in the same slot
	prev **Session // what refers to the session; nil: it is not in a wheel
	at   int64     // the tick at which it fires
}

func (t *timer) set() bool { return t.prev != nil }

// set sets a session's timer to fire at a tick, or at the next one if that is past.
func (w *wheel) set(s *Session, at int64) {
	w.remove(s)
	s.events.timer.at = max(at, w.now+1)
	w.insert(s)
}

func (w *wheel) insert(s *Session) {
	t := &s.events.timer
	at := min(t.at, w.now+wheelEnd)
	level := (bits.Len64(uint64(at^w.now)) - 1) / wheelBits
	slot := at >> (level * wheelBits) & (wheelSlots - 1)
	w.used[level] |= 1 << slot
	first := &w.slots[level][slot]
	t.next, t.prev = *first, first
	if t.next != nil {
		t.next.events.timer.prev = &t.next
	}
	*first = s
}

func (w *wheel) remove(s *Session) {
	t := &s.events.timer
	if !t.set() {
		return
	}
	*t.prev = t.next
	if t.next != nil {
		t.next.events.timer.prev = t.prev
	}
	t.next, t.prev = nil, nil
}

// first returns the first slot in use, and the tick at which it is reached. The
// slot may be empty.
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

// advance moves the wheel to a tick, and calls fire for the sessions whose timers are
// due. fire may set and remove timers. When that many have fired, it stops at an
// earlier tick.
func (w *wheel) advance(to int64, most int, fire func(*Session)) {
	for fired := 0; fired < most; {
		level, slot, at, ok := w.first()
		if !ok || at > to {
			w.now = max(w.now, to)
			break
		}
		w.now = at
		for first := &w.slots[level][slot]; *first != nil; {
			s := *first
			w.remove(s)
			if s.events.timer.at > at {
				w.insert(s)
			} else {
				fire(s)
				fired++
			}
		}
		w.used[level] &^= 1 << slot
	}
}
