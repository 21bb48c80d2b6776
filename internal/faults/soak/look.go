//go:build linux

package main

import (
	"fmt"
	"math"
	"runtime"
	"strings"

	"github.com/seed-ffb73231/wsproxy/internal/faults/wire"
)

// Toxiproxy leaks goroutines, and what they hold, whenever a toxic cuts off a
// stream. These are told apart from the proxy's by their stacks and by where
// memory was allocated.

// profileRate is the number of bytes for each sample: few, because the sum must
// be exact to some ten KiB.
const profileRate = 4 << 10

func init() { runtime.MemProfileRate = profileRate }

// look reads the figures, without Toxiproxy's.
func look() figures {
	heap := wire.Heap()
	return figures{goroutines: runtime.NumGoroutine() - astray(), files: wire.Files(0), heap: heap - toxiHeap()}
}

// astray returns the number of Toxiproxy's goroutines that wait for somebody to
// take a chunk. When none of its streams is open, these are the leaked ones.
func astray() (n int) {
	for group := range strings.SplitSeq(stacks(), "\n\n") {
		if strings.Contains(group, "toxics.(*NoopToxic).Pipe") && strings.Contains(group, "toxics/noop.go:16") ||
			strings.Contains(group, "stream.(*ChanWriter).Write") {
			var k int
			for line := range strings.Lines(group) { // "3 @ 0x…", behind the profile's title
				if _, err := fmt.Sscanf(line, "%d @", &k); err == nil {
					n += k
					break
				}
			}
		}
	}
	return n
}

// toxiHeap returns the number of bytes in use that Toxiproxy has allocated.
func toxiHeap() int {
	records := make([]runtime.MemProfileRecord, 1000)
	for {
		n, ok := runtime.MemProfile(records, false)
		if ok {
			records = records[:n]
			break
		}
		records = make([]runtime.MemProfileRecord, n+100)
	}
	var sum float64
	for i := range records {
		r := &records[i]
		if r.InUseObjects() == 0 || !ofToxiproxy(r.Stack()) {
			continue
		}
		// The probability that an allocation of this size is sampled.
		size := float64(r.InUseBytes()) / float64(r.InUseObjects())
		sum += float64(r.InUseBytes()) / (1 - math.Exp(-size/profileRate))
	}
	return int(sum)
}

func ofToxiproxy(stack []uintptr) bool {
	frames := runtime.CallersFrames(stack)
	for {
		f, more := frames.Next()
		if strings.Contains(f.Function, "Shopify/toxiproxy") {
			return true
		}
		if !more {
			return false
		}
	}
}
