//go:build linux && (amd64 || arm64) && wsproxy_simulated && wsproxy_locks

package main

import (
	"cmp"
	"fmt"
	"maps"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"
)

// This file is in the builds of ./locks only, whose package sync has TakeHeld. They
// have a row more for each phase, and print which functions held mutexes longest.

func init() {
	takeHeld = printHeld
	for _, phase := range []string{"opening", "at rest", "joins and leaves", "operations", "drain"} {
		figures = append(figures, figure{"longest hold of a lock, CPU / clock: " + phase, func(r *result) string { return r.Held[phase] }})
	}
}

// A holder is a function that unlocks mutexes.
type holder struct {
	name          string
	times         int
	used, longest time.Duration
}

// printHeld prints the functions that held mutexes longest since the last call, and
// returns the longest holds by CPU time and on the clock.
func printHeld(n int, phase string) string {
	byName := make(map[string]*holder)
	for _, held := range sync.TakeHeld() {
		name, ok := function(held.Stack[:])
		if !ok {
			continue
		}
		h := byName[name]
		if h == nil {
			h = &holder{name: name}
			byName[name] = h
		}
		h.times += held.Times
		h.used, h.longest = max(h.used, time.Duration(held.Used)), max(h.longest, time.Duration(held.Longest))
	}
	if len(byName) == 0 {
		return "< " + short(sync.NotedHold)
	}
	holders := slices.SortedFunc(maps.Values(byName), func(a, b *holder) int { return cmp.Compare(b.used, a.used) })
	fmt.Fprintf(os.Stderr, "\n%d sessions, %s: holds of locks for %s or longer\n%10s %10s %8s\n", n, phase, short(sync.NotedHold), "CPU", "clock", "times")
	for _, h := range holders {
		fmt.Fprintf(os.Stderr, "%10s %10s %8d  %s\n", short(h.used), short(h.longest), h.times, h.name)
	}
	longest := slices.MaxFunc(holders, func(a, b *holder) int { return cmp.Compare(a.longest, b.longest) })
	return fmt.Sprintf("%s (%s) / %s (%s)", short(holders[0].used), holders[0].name, short(longest.longest), longest.name)
}

// function returns the name of the function that has unlocked a mutex. It returns
// false for locks of the simulated kernel.
func function(stack []uintptr) (name string, ok bool) {
	frames := runtime.CallersFrames(stack)
	for more := true; more; {
		var f runtime.Frame
		if f, more = frames.Next(); f.Function != "" && !strings.HasPrefix(f.Function, "sync.") && !strings.HasPrefix(f.Function, "runtime.") {
			return f.Function[strings.LastIndexByte(f.Function, '/')+1:], !strings.Contains(f.File, "/simulated_")
		}
	}
	return "package sync", true
}
