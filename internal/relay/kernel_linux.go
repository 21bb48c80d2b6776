//go:build linux && (amd64 || arm64)

package relay

import (
	"crypto/tls"
	"fmt"
	"net"
	"strings"
	"sync"
	"syscall"
	"unsafe"

	"github.com/seed-ffb73231/wsproxy/internal/protocol"
)

// This file queries the kernel about a connection: what the peer has acknowledged,
// whether input waits to be read, and whether the peer has left.

// isTCP reports whether a connection of type [net.TCPConn] is TCP and nothing
// else. Go's listeners accept Multipath TCP (RFC 8684): TCP_INFO of such a
// socket is that of its first subflow, which may be gone while others live, and
// a hot path of splice and TCP_INQ is known to work for TCP only.
func isTCP(raw syscall.RawConn) (is bool) {
	raw.Control(func(fd uintptr) {
		number, err := syscall.GetsockoptInt(int(fd), syscall.SOL_SOCKET, soProtocol)
		is = err == nil && number == syscall.IPPROTO_TCP
	})
	return is
}

// reset reports whether the connection has been reset, even if its reader has
// not noticed.
func (l *leg) reset() (reset bool) {
	if l.ev() != nil {
		l.control(func(fd uintptr) { reset = l.is(legTCP) && tcpState(fd) == tcpClose })
	} else if l.inq {
		l.raw.conn.Control(func(fd uintptr) { reset = tcpState(fd) == tcpClose })
	}
	return reset
}

const tcpClose = 7 // of linux/tcp_states.h

// inqTellsFIN reports whether TCP_INQ counts a FIN as something left to read.
// If it does not, the end of a stream could go unnoticed.
var inqTellsFIN = sync.OnceValue(func() bool {
	var u syscall.Utsname
	if syscall.Uname(&u) != nil {
		return false
	}
	var release []byte
	for _, c := range u.Release {
		release = append(release, byte(c))
	}
	return kernelInqTellsFIN(string(release))
})

// kernelInqTellsFIN reports whether the kernel release does that. Linux does
// since 5.1. gVisor, which reports 4.4 or its own name, is not known to.
func kernelInqTellsFIN(release string) bool {
	var major, minor int
	fmt.Sscanf(release, "%d.%d", &major, &minor)
	return (major > 5 || major == 5 && minor >= 1) && !strings.Contains(strings.ToLower(release), "gvisor")
}

// socket returns the raw connection to query for a connection of the net
// package, or for TLS on one, including Multipath TCP; nil for any other.
func socket(conn net.Conn) (raw syscall.RawConn) {
	if c, ok := conn.(*tls.Conn); ok {
		conn = Below(c.NetConn())
	}
	switch c := conn.(type) {
	case *net.TCPConn:
		raw, _ = c.SyscallConn()
	case *net.UnixConn:
		raw, _ = c.SyscallConn()
	}
	return raw
}

// polled returns which of events hold for conn now, and whether it was reset or
// closed.
func polled(conn net.Conn, events int16) (now int16) {
	if raw := socket(conn); raw != nil {
		raw.Control(func(fd uintptr) {
			poll := struct {
				fd              int32
				events, revents int16
			}{fd: int32(fd), events: events}
			var atOnce syscall.Timespec
			syscall.RawSyscall6(syscall.SYS_PPOLL, uintptr(unsafe.Pointer(&poll)), 1, uintptr(unsafe.Pointer(&atOnce)), 0, 0, 0)
			now = poll.revents
		})
	}
	return now
}

// takesAtOnce reports whether a short write to conn is certain not to wait.
func takesAtOnce(conn net.Conn) bool { return polled(conn, pollOut) != 0 }

// hungUp reports whether the peer's FIN, or a reset, has arrived, without
// reading the data before it.
func hungUp(conn net.Conn) (fin, reset bool) {
	now := polled(conn, pollRDHUP)
	return now&pollRDHUP != 0, now&pollERR != 0
}

// inputWaits reports whether bytes from the peer wait to be read from conn.
func inputWaits(conn net.Conn) (waits bool) {
	if raw := socket(conn); raw != nil {
		raw.Control(func(fd uintptr) { waits = socketInputWaits(fd) })
	}
	return waits
}

func (l *leg) inputWaits() (waits bool) {
	if l.ev() != nil {
		l.control(func(fd uintptr) { waits = socketInputWaits(fd) })
		return waits
	}
	return inputWaits(l.conn)
}

// AcksTell reports that peerAcks works on this system.
const AcksTell = true

// peerAcks returns what the peer's kernel has acknowledged. That is unknown if
// conn is not TCP, or TLS on it.
func peerAcks(conn net.Conn) (a protocol.Acks) {
	if c, is := conn.(*tls.Conn); is {
		conn = Below(c.NetConn())
	}
	c, is := conn.(*net.TCPConn)
	if !is {
		return a
	}
	raw, err := c.SyscallConn()
	if err != nil || !isTCP(raw) {
		return a
	}
	raw.Control(func(fd uintptr) { a = socketAcks(fd) })
	return a
}

func (l *leg) acks() (a protocol.Acks) {
	if l.ev() != nil {
		if l.is(legTCP) {
			l.control(func(fd uintptr) { a = socketAcks(fd) })
		}
		return a
	}
	return peerAcks(l.conn)
}

const (
	pollOut    = 4
	pollERR    = 8
	pollRDHUP  = 0x2000
	soProtocol = 38
)
