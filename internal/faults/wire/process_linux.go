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

// Files returns the number of open descriptors of a process. A pid of 0 is this
// process.
func Files(pid int) int {
	list, err := os.ReadDir("/proc/" + name(pid) + "/fd")
	if err != nil {
		return -1
	}
	if pid == 0 {
		return len(list) - 1 // without the one that reads the list
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

// Heap collects garbage, pools included, and returns the size of the heap.
func Heap() int {
	for range 3 { // a pool's contents survive one
		runtime.GC()
	}
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int(m.HeapAlloc)
}

// RaiseFiles raises the soft limit on descriptors to the hard one and returns it.
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

// FreeMemory returns unused memory to the system.
func FreeMemory() { debug.FreeOSMemory() }
