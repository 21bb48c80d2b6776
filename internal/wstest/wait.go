package wstest

import (
	"runtime"
	"testing"
	"time"
)

// Timeout is how long a test waits for what must come, in real time.
const Timeout = 60 * time.Second

// bubbleTimeout is the same for waits in bubbles, where hours may pass for what
// is waited for. A session's Pings alone can keep a bubble's clock going, so
// that synctest doesn't find that all else waits for ever.
const bubbleTimeout = 1000 * time.Hour

// patience returns how long a test waits for one thing, in real or simulated
// time.
func patience() time.Duration {
	if inBubble() {
		return bubbleTimeout
	}
	return Timeout
}

// inBubble reports whether time is simulated: the clock of a synctest bubble
// starts with the year 2000.
func inBubble() bool { return time.Now().Year() < 2010 }

// Elapse lets simulated time pass. Elsewhere this would be a real sleep, and
// panics.
func Elapse(d time.Duration) {
	if !inBubble() {
		panic("Elapse: not in a synctest bubble")
	}
	time.Sleep(d)
}

// Receive receives from c. A test in which nothing comes fails, with the stacks
// of all goroutines.
func Receive[T any](t testing.TB, c <-chan T) (v T) {
	t.Helper()
	timeout := time.NewTimer(patience())
	defer timeout.Stop()
	select {
	case v = <-c:
	case <-timeout.C:
		stacks := make([]byte, 1<<20)
		t.Fatalf("waited for ever for %T:\n%s", c, stacks[:runtime.Stack(stacks, true)])
	}
	return v
}

// Until polls until a condition holds, and reports whether it does.
func Until(holds func() bool) bool {
	for deadline := time.Now().Add(patience()); !holds(); {
		if time.Now().After(deadline) {
			return false
		}
		time.Sleep(time.Millisecond) // between two looks, not in place of one
	}
	return true
}

// Await waits until something holds. If it never does, the test fails with what
// otherwise returns.
func Await(t testing.TB, holds func() bool, otherwise func() string) {
	t.Helper()
	if !Until(holds) {
		t.Fatal(otherwise())
	}
}
