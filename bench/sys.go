//go:build linux

package main

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unsafe"
)

// raiseFiles lifts the limit on open files for this process and those that
// it starts.
func raiseFiles(n uint64) {
	var lim syscall.Rlimit
	if syscall.Getrlimit(syscall.RLIMIT_NOFILE, &lim) != nil {
		return
	}
	want := syscall.Rlimit{Cur: max(n, lim.Cur), Max: max(n, lim.Max)}
	if syscall.Setrlimit(syscall.RLIMIT_NOFILE, &want) != nil { // not root
		want = syscall.Rlimit{Cur: min(n, lim.Max), Max: lim.Max}
		_ = syscall.Setrlimit(syscall.RLIMIT_NOFILE, &want)
	}
}

// tree returns pid and its descendants.
func tree(pid int) []int {
	pids := []int{pid}
	tasks, _ := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	for _, t := range tasks {
		list, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%s/children", pid, t.Name()))
		for f := range strings.FieldsSeq(string(list)) {
			if child, err := strconv.Atoi(f); err == nil {
				pids = append(pids, tree(child)...)
			}
		}
	}
	return pids
}

// cpuTime returns the CPU time, user and system, that the processes used.
// It reads their CPU clocks, which count nanoseconds where
// /proc/PID/stat counts hundredths of a second.
func cpuTime(pids []int) time.Duration {
	var sum time.Duration
	for _, pid := range pids {
		const sched = 2
		var ts syscall.Timespec
		clock := ^pid<<3 | sched
		if _, _, errno := syscall.RawSyscall(syscall.SYS_CLOCK_GETTIME, uintptr(clock), uintptr(unsafe.Pointer(&ts)), 0); errno == 0 {
			sum += time.Duration(ts.Nano())
		}
	}
	return sum
}

// memory returns the memory of the processes in KiB: all of it, shared pages
// by their share, and the part that no file backs. The latter leaves out
// program text, of which a loaded process touches more than an idle one.
func memory(pids []int) (total, anon int) {
	for _, pid := range pids {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(text)) {
			f := strings.Fields(line)
			if len(f) < 2 {
				continue
			}
			n, _ := strconv.Atoi(f[1])
			switch f[0] {
			case "Pss:":
				total += n
			case "Pss_Anon:", "Pss_Shmem:":
				anon += n
			}
		}
	}
	return total, anon
}

// openFiles is how many files a process may open.
func openFiles() int {
	var lim syscall.Rlimit
	_ = syscall.Getrlimit(syscall.RLIMIT_NOFILE, &lim)
	return int(lim.Cur)
}

// poller is a level-triggered epoll instance.
type poller struct {
	fd     int
	events [256]syscall.EpollEvent
}

func newPoller() *poller {
	fd, err := syscall.EpollCreate1(syscall.EPOLL_CLOEXEC)
	if err != nil {
		panic(err)
	}
	return &poller{fd: fd}
}

func (p *poller) set(op, fd int, events uint32) {
	ev := syscall.EpollEvent{Events: events, Fd: int32(fd)}
	if err := syscall.EpollCtl(p.fd, op, fd, &ev); err != nil {
		panic(fmt.Sprintf("epoll_ctl %d: %v", fd, err))
	}
}

func (p *poller) wait(ms int) []syscall.EpollEvent {
	n, err := syscall.EpollWait(p.fd, p.events[:], ms)
	if err != nil {
		return nil
	}
	return p.events[:n]
}

// read and write are the system calls without the runtime's bookkeeping, which
// wakes a second thread during a long call: the tool should leave the cores to
// the proxy. The sockets do not block.
func read(fd int, p []byte) (int, syscall.Errno) {
	n, _, errno := syscall.RawSyscall(syscall.SYS_READ, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(p))), uintptr(len(p)))
	return int(n), errno
}

func write(fd int, p []byte) (int, syscall.Errno) {
	n, _, errno := syscall.RawSyscall(syscall.SYS_WRITE, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(p))), uintptr(len(p)))
	return int(n), errno
}

// discard drops up to n received bytes without copying them.
func discard(fd, n int) (int, syscall.Errno) {
	var b byte
	r, _, errno := syscall.RawSyscall6(syscall.SYS_RECVFROM, uintptr(fd), uintptr(unsafe.Pointer(&b)), uintptr(n), syscall.MSG_TRUNC, 0, 0)
	return int(r), errno
}

// connect opens a blocking socket whose reads and writes time out.
func connect(addr string) (fd int, err error) {
	ap, err := netip.ParseAddrPort(addr)
	if err != nil {
		return -1, err
	}
	fd, err = syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	limit := syscall.Timeval{Sec: 10}
	_ = syscall.SetsockoptTimeval(fd, syscall.SOL_SOCKET, syscall.SO_RCVTIMEO, &limit)
	_ = syscall.SetsockoptTimeval(fd, syscall.SOL_SOCKET, syscall.SO_SNDTIMEO, &limit)
	_ = syscall.SetsockoptInt(fd, syscall.IPPROTO_TCP, syscall.TCP_NODELAY, 1)
	to := &syscall.SockaddrInet4{Port: int(ap.Port()), Addr: ap.Addr().As4()}
	for {
		err = syscall.Connect(fd, to)
		if err == nil || err == syscall.EISCONN {
			return fd, nil
		}
		if err != syscall.EINTR && err != syscall.EALREADY {
			syscall.Close(fd)
			return -1, err
		}
	}
}

// freePort returns a loopback address that nothing listens on.
func freePort() string {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	defer ln.Close()
	return ln.Addr().String()
}
