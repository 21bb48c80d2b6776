// Package remains finds what sessions have left in a process. Test suites look for
// it at their end.
package remains

import (
	"fmt"
	"os"
	"runtime"
	"strings"
	"time"

	"github.com/seed-ffb73231/wsproxy/internal/relay"
)

// patience is how long Find waits for sessions that are about to end.
const patience = time.Minute

// Find waits until nothing of any session is left: no goroutine, and nothing of the
// event driver's, be it a loop, a connection, a timer or a descriptor for events. It
// returns what there still is in the end, or "".
func Find() (found string) {
	for end := time.Now().Add(patience); ; time.Sleep(time.Millisecond) { // between two looks
		if found = look(); found == "" || time.Now().After(end) {
			return found
		}
	}
}

// Exit ends the process after its tests, with an exit code that is not 0 if the tests'
// own is not, or if sessions have left anything.
func Exit(code int) {
	if found := Find(); found != "" {
		fmt.Printf("sessions have left after all tests: %s\n", found)
		code = max(code, 1)
	}
	os.Exit(code)
}

func look() string {
	if c := relay.CountEvents(); c != (relay.Census{}) {
		return fmt.Sprintf("of the event driver: %+v", c)
	}
	if s := Goroutines(); s != "" {
		return "goroutines:\n" + s
	}
	if n := Polls(0); n > RuntimePolls {
		return fmt.Sprintf("%d descriptors for events; the runtime has %d", n, RuntimePolls)
	}
	return ""
}

// Goroutines returns the stacks of all goroutines that run a session.
func Goroutines() string {
	b := make([]byte, 1<<20)
	for {
		n := runtime.Stack(b, true)
		if n < len(b) {
			b = b[:n]
			break
		}
		b = make([]byte, 2*len(b))
	}
	var found []string
	for s := range strings.SplitSeq(string(b), "\n\n") {
		for _, of := range []string{"(*Session)", "(*pump)", "(*leg)", "(*tap)"} {
			if strings.Contains(s, "/wsproxy."+of) || strings.Contains(s, "/relay."+of) {
				found = append(found, s)
				break
			}
		}
	}
	return strings.Join(found, "\n\n")
}

// Polls returns the number of a process's descriptors that wait for events, or that
// wake who waits, where they are known: on Linux. A pid of 0 is this process.
func Polls(pid int) int { return Files(pid, "anon_inode:[event") }

// RuntimePolls is how many of them the Go runtime has.
const RuntimePolls = 2

// Files returns the number of a process's open files whose names begin so, on Linux.
// A pid of 0 is this process.
func Files(pid int, name string) (n int) {
	dir := "/proc/self/fd"
	if pid != 0 {
		dir = fmt.Sprintf("/proc/%d/fd", pid)
	}
	entries, _ := os.ReadDir(dir)
	for _, e := range entries {
		to, _ := os.Readlink(dir + "/" + e.Name())
		if strings.HasPrefix(to, name) {
			n++
		}
	}
	return n
}
