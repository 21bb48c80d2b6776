package wire

import (
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Files returns how many descriptors a process has open; its own pid is 0.
func Files(pid int) int {
	list, err := os.ReadDir("/proc/" + name(pid) + "/fd")
	if err != nil {
		return -1
	}
	if pid == 0 {
		return len(list) - 1 // the one of this reading
	}
	return len(list)
}

// RSS returns a process's resident memory in bytes, files and all.
func RSS(pid int) int {
	text, _ := os.ReadFile("/proc/" + name(pid) + "/status")
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			n, _ := strconv.Atoi(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(rest), "kB")))
			return n << 10
		}
	}
	return -1
}

func name(pid int) string {
	if pid == 0 {
		return "self"
	}
	return fmt.Sprint(pid)
}

// CPU returns the CPU time that this process has used.
func CPU() time.Duration {
	var u syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &u) != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// Heap collects what is garbage, pools included, and returns what is left.
func Heap() int {
	for range 3 { // a pool's contents live for two
		runtime.GC()
	}
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int(m.HeapAlloc)
}

// RaiseFiles lifts the soft limit on descriptors to the hard one, and returns
// it.
func RaiseFiles() int {
	var lim syscall.Rlimit
	if syscall.Getrlimit(syscall.RLIMIT_NOFILE, &lim) != nil {
		return 0
	}
	lim.Cur = lim.Max
	if syscall.Setrlimit(syscall.RLIMIT_NOFILE, &lim) != nil {
		return 0
	}
	return int(lim.Max)
}

// FreeMemory gives what the collector keeps back to the system.
func FreeMemory() { debug.FreeOSMemory() }
