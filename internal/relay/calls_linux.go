//go:build linux && (amd64 || arm64) && !wsproxy_simulated

package relay

import (
	"encoding/binary"
	"net"
	"os"
	"syscall"
	"time"
	"unsafe"

	"github.com/seed-ffb73231/wsproxy/internal/protocol"
)

// This file holds the system calls that an event loop makes, and what it asks the
// kernel of a connection. With the build tag wsproxy_simulated, simulated_linux.go takes
// its place. Long frames (splice_linux.go) and TLS (loop_tls.go) make calls of their
// own, which the simulation does not need.

// epollCreate makes an epoll instance.
func epollCreate() (epoll int, err error) { return syscall.EpollCreate1(syscall.EPOLL_CLOEXEC) }

// eventCreate makes an eventfd.
func eventCreate() (fd int, errno syscall.Errno) {
	n, _, errno := syscall.Syscall(syscall.SYS_EVENTFD2, 0, syscall.O_CLOEXEC|syscall.O_NONBLOCK, 0)
	return int(n), errno
}

// eventSignal makes an eventfd readable.
func eventSignal(fd int) {
	one := uint64(1)
	syscall.RawSyscall(syscall.SYS_WRITE, uintptr(fd), uintptr(unsafe.Pointer(&one)), unsafe.Sizeof(one))
}

// epollAdd has an epoll instance report events of a descriptor.
func epollAdd(epoll, fd int, e *syscall.EpollEvent) error {
	return syscall.EpollCtl(epoll, syscall.EPOLL_CTL_ADD, fd, e)
}

// epollRemove ends that.
func epollRemove(epoll, fd int) { syscall.EpollCtl(epoll, syscall.EPOLL_CTL_DEL, fd, nil) }

// epollNow returns the number of events that are ready, and fills in that many.
func epollNow(epoll int, ready []syscall.EpollEvent) int {
	n, _, errno := syscall.RawSyscall6(syscall.SYS_EPOLL_PWAIT, uintptr(epoll),
		uintptr(unsafe.Pointer(&ready[0])), uintptr(len(ready)), 0, 0, 0)
	if errno != 0 { // EINTR
		return 0
	}
	return int(n)
}

// A poller waits for the events of an epoll instance in the runtime's own poller,
// together with those of the program's other connections. A system call that waits
// would keep a processor, and the runtime's monitor awake that may have to take it
// away: that costs more than all else when sessions come and go.
type poller struct {
	file  *os.File // the epoll instance
	raw   syscall.RawConn
	ready func(uintptr) bool
	until time.Time // the file's deadline
}

// newPoller returns a poller, which owns the epoll instance, and whether it can
// wait. ready returns whether events are ready, or there is something else to do.
func newPoller(epoll int, ready func() bool) (p *poller, ok bool) {
	_ = syscall.SetNonblock(epoll, true) // NewFile gives only such descriptors to the runtime's poller
	p = &poller{file: os.NewFile(uintptr(epoll), "epoll"), ready: func(uintptr) bool { return ready() }}
	p.raw, _ = p.file.SyscallConn() // of a file that is open
	return p, p.file.SetReadDeadline(time.Time{}) == nil
}

// wait waits until ready returns true, or until a time; zero: without end.
func (p *poller) wait(until time.Time) {
	if until != p.until {
		p.until = until
		_ = p.file.SetReadDeadline(until)
	}
	_ = p.raw.Read(p.ready) // the error says that it is time
}

// close closes the epoll instance.
func (p *poller) close() { p.file.Close() }

// duplicate duplicates the descriptor of a connection of the net package, unless
// to close it may take long. Even if it is not ok, it may return one, which is to be
// closed.
func duplicate(conn net.Conn) (fd int32, tcp, ok bool) {
	raw := rawConn(conn)
	if raw == nil {
		return 0, false, false
	}
	_, tcp = conn.(*net.TCPConn)
	var n uintptr
	raw.Control(func(old uintptr) {
		if tcp && lingers(old) {
			return
		}
		if made, _, errno := syscall.RawSyscall(syscall.SYS_FCNTL, old, syscall.F_DUPFD_CLOEXEC, 3); errno == 0 {
			n = made
		}
	})
	return int32(n), tcp, n > 0 && syscall.SetNonblock(int(n), true) == nil // for splice; see initRaw
}

// lingers reports whether closing a connection waits until the peer has what was
// written to it (SO_LINGER). It does also if the descriptor does not block.
func lingers(fd uintptr) bool {
	l := syscall.Linger{}
	size := uint32(unsafe.Sizeof(l))
	_, _, errno := syscall.RawSyscall6(syscall.SYS_GETSOCKOPT, fd, syscall.SOL_SOCKET, syscall.SO_LINGER,
		uintptr(unsafe.Pointer(&l)), uintptr(unsafe.Pointer(&size)), 0)
	return errno == 0 && l.Onoff != 0 && l.Linger > 0
}

func closeDescriptor(fd int) { syscall.Close(fd) }

// sendFIN ends what is written to a connection.
func sendFIN(fd int) { syscall.Shutdown(fd, syscall.SHUT_WR) }

// sendOnce writes what the socket takes of b.
func sendOnce(fd int32, b []byte) (n int, errno syscall.Errno) {
	r, _, errno := syscall.RawSyscall6(syscall.SYS_SENDTO, uintptr(fd),
		uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)), sendFlags, 0, 0)
	return int(r), errno
}

// receiveNow reads what has arrived. Descriptors that the peer of a unix socket
// has sent are discarded.
func receiveNow(fd int32, b []byte) (n int, errno syscall.Errno) {
	m, _, errno := syscall.RawSyscall6(syscall.SYS_RECVFROM, uintptr(fd),
		uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)), syscall.MSG_DONTWAIT, 0, 0)
	if errno != 0 {
		return -1, errno
	}
	return int(m), 0
}

// tcpState is the first byte of struct tcp_info, the state of a connection.
func tcpState(fd uintptr) byte {
	info, _ := syscall.GetsockoptInt(int(fd), syscall.IPPROTO_TCP, syscall.TCP_INFO)
	return byte(info)
}

func socketInputWaits(fd uintptr) bool {
	n := int32(0)
	// FIONREAD is TIOCINQ. If it fails, n stays 0.
	syscall.RawSyscall(syscall.SYS_IOCTL, fd, syscall.TIOCINQ, uintptr(unsafe.Pointer(&n)))
	return n > 0
}

func socketAcks(fd uintptr) (a protocol.Acks) {
	// struct tcp_info of linux/tcp.h, up to tcpi_bytes_acked (Linux 4.1),
	// and SIOCOUTQ, which is TIOCOUTQ.
	const lastAckRecv, bytesAcked = 56, 120
	var info [bytesAcked + 8]byte
	size, out := uint32(len(info)), int32(0)
	_, _, errno := syscall.RawSyscall6(syscall.SYS_GETSOCKOPT, fd, syscall.IPPROTO_TCP, syscall.TCP_INFO,
		uintptr(unsafe.Pointer(&info)), uintptr(unsafe.Pointer(&size)), 0)
	_, _, errno2 := syscall.RawSyscall(syscall.SYS_IOCTL, fd, syscall.TIOCOUTQ, uintptr(unsafe.Pointer(&out)))
	a.Known = errno == 0 && errno2 == 0 && int(size) == len(info)
	a.Acked, a.Queued = binary.NativeEndian.Uint64(info[bytesAcked:]), uint64(out)
	a.Age = time.Duration(binary.NativeEndian.Uint32(info[lastAckRecv:])) * time.Millisecond
	return a
}
