package sync

import (
	isync "internal/sync"
	"runtime"
	_ "unsafe"
)

// This file is part of package sync in the builds of bench/million/locks. It
// measures how long mutexes are held.

// A Held is what is known of the mutexes that are unlocked at one place, in
// nanoseconds.
type Held struct {
	Stack [12]uintptr // of the Unlock
	Times int         // that one was held for NotedHold, or longer

	Longest int64 // hold, on the clock

	// Used is the most CPU time of a hold. It leaves out those in which the scheduler
	// has stopped the goroutine, or had it help the garbage collector: the thread did
	// something else then.
	Used int64
}

// NotedHold is the shortest hold that is noted.
const NotedHold = 50_000

var noted struct {
	isync.Mutex
	held map[[12]uintptr]*Held
}

// TakeHeld returns what was noted since the last call.
func TakeHeld() []Held {
	noted.Lock()
	defer noted.Unlock()
	held := make([]Held, 0, len(noted.held))
	for _, h := range noted.held {
		held = append(held, *h)
	}
	noted.held = nil
	return held
}

// A hold is one of a mutex's. Only who holds the mutex uses it.
type hold struct {
	since, ran int64
	turn       [3]uint64
}

func (h *hold) begin() { h.since, h.ran, h.turn = begin() }

// end returns the time since begin, and of a long hold how much of it the thread ran;
// -1: and had something else to do.
func (h *hold) end() (took, used int64) {
	if took = nanotime() - h.since; took < NotedHold {
		return took, 0
	}
	if h.turn != turn() {
		return took, -1
	}
	return took, min(ran()-h.ran, took)
}

// note is called after the mutex was unlocked.
func note(took, used int64) {
	var stack [12]uintptr
	runtime.Callers(3, stack[:])
	noted.Lock()
	defer noted.Unlock()
	h := noted.held[stack]
	if h == nil {
		if noted.held == nil {
			noted.held = make(map[[12]uintptr]*Held)
		}
		h = &Held{Stack: stack}
		noted.held[stack] = h
	}
	h.Times++
	h.Longest = max(h.Longest, took)
	h.Used = max(h.Used, used)
}

// These are in package runtime.

func begin() (now, ran int64, turn [3]uint64)
func turn() [3]uint64
func ran() int64

//go:linkname nanotime runtime.nanotime
func nanotime() int64
