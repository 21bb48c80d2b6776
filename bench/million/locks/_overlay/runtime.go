package runtime

import (
	"internal/goarch"
	"internal/runtime/syscall/linux"
	"unsafe"
)

// This file is part of package runtime in the builds of bench/million/locks: the
// clocks with which package sync measures how long mutexes are held.

// A heldClock is what a processor last read of its thread's CPU time. Each reading is
// a system call, which would take longer than most holds.
type heldClock struct {
	thread  *m
	at, ran int64
	_       [40]byte // a cache line for each
}

var heldClocks [256]heldClock

// heldReads is the interval of the readings.
const heldReads = 20_000

// sync_begin returns the time, the thread's CPU time, which is up to heldReads old, and
// what changes when the goroutine has to stop, or to help the garbage collector.
//
//go:linkname sync_begin sync.begin
func sync_begin() (now, ran int64, turn [3]uint64) {
	mp := getg().m
	pp := mp.p.ptr()
	c := &heldClocks[pp.id&255]
	if now = nanotime(); c.thread != mp || now-c.at > heldReads {
		c.thread, c.ran, c.at = mp, heldRan(), nanotime()
		now = c.at
	}
	return now, c.ran, sync_turn()
}

//go:linkname sync_turn sync.turn
func sync_turn() [3]uint64 {
	mp := getg().m
	pp := mp.p.ptr()
	return [3]uint64{uint64(uintptr(unsafe.Pointer(mp))), uint64(pp.id)<<32 | uint64(pp.schedtick), uint64(pp.gcAssistTime)}
}

//go:linkname heldRan sync.ran
func heldRan() int64 {
	const (
		clockGettime = goarch.IsAmd64*228 + goarch.IsArm64*113
		threadClock  = 3
	)
	var t [2]int64
	linux.Syscall6(clockGettime, threadClock, uintptr(unsafe.Pointer(&t)), 0, 0, 0, 0)
	return t[0]*1e9 + t[1]
}
