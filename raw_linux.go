//go:build linux && (amd64 || arm64)

package wsproxy

import (
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"
	"unsafe"
)

// Plain TCP and unix connections on Linux are read and written by raw system
// calls inside the callbacks of their syscall.RawConn. The descriptors do
// not block, so the scheduler need not be told of each call, which costs
// more than the call; a session that waits holds no buffer; and what is left
// of a long frame goes from socket to socket by splice(2).
//
// A read from a TCP connection tells by TCP_INQ whether anything is left to
// read, a FIN included: that saves the read that finds nothing. It doesn't tell
// of a reset. One that came along with the last bytes, in one edge, is found
// by the session's timer; see leg.reset.

// rawLeg is what a leg has for that.
type rawLeg struct {
	conn syscall.RawConn // nil: the leg is read and written as a net.Conn
	inq  bool            // reads tell what is left to read
}

// rawPump is what a pump has for that.
type rawPump struct {
	err   error // that reading ended with
	plain bool  // no splicing: the kernel won't
	toEnd bool  // the connection is known to be reset: TCP_INQ counts for nothing
	busy  bool  // see setBusy
}

// rawConn returns the raw connection below one of the net package's own; nil
// for any other: one that wraps such a connection may read ahead, or count.
func rawConn(conn net.Conn) (raw syscall.RawConn) {
	var err error
	switch c := conn.(type) {
	case *net.TCPConn:
		if raw, err = c.SyscallConn(); err == nil && !isTCP(raw) {
			return nil
		}
	case *net.UnixConn:
		raw, err = c.SyscallConn()
	}
	if err != nil {
		return nil
	}
	return raw
}

// isTCP reports whether a connection of type [net.TCPConn] is TCP and nothing
// else. Go's listeners accept Multipath TCP (RFC 8684): TCP_INFO of such a
// socket is that of its first subflow, which may be gone while others live, and
// a hot path of splice and TCP_INQ is known to work for TCP only.
func isTCP(raw syscall.RawConn) (is bool) {
	raw.Control(func(fd uintptr) {
		protocol, err := syscall.GetsockoptInt(int(fd), syscall.SOL_SOCKET, soProtocol)
		is = err == nil && protocol == syscall.IPPROTO_TCP
	})
	return is
}

// initRaw makes the leg raw if its connection can be.
func (l *leg) initRaw() {
	if l.raw.conn = rawConn(l.conn); l.raw.conn == nil {
		return
	}
	if !inqTellsFIN() {
		return
	}
	l.raw.conn.Control(func(fd uintptr) { // a unix socket doesn't know it
		l.raw.inq = syscall.SetsockoptInt(int(fd), syscall.IPPROTO_TCP, tcpInq, 1) == nil
	})
}

// reset says whether the connection has been reset, perhaps without its reader
// having been told.
func (l *leg) reset() (reset bool) {
	if l.raw.inq {
		l.raw.conn.Control(func(fd uintptr) { reset = tcpState(fd) == tcpClose })
	}
	return reset
}

// wakeIfReset has the leg's reader read to the end of a connection that has been
// reset. Without, it might wait for an edge that has been.
func (l *leg) wakeIfReset() {
	if l.reset() {
		l.conn.SetReadDeadline(longAgo)
	}
}

// tcpState is the first byte of struct tcp_info, the state of a connection.
func tcpState(fd uintptr) byte {
	info, _ := syscall.GetsockoptInt(int(fd), syscall.IPPROTO_TCP, syscall.TCP_INFO)
	return byte(info)
}

const tcpClose = 7 // of linux/tcp_states.h

// inqTellsFIN says whether TCP_INQ counts a FIN as something left to read:
// where it doesn't, the end of a stream could go unnoticed.
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

// kernelInqTellsFIN: Linux does since 5.1. gVisor, which calls itself 4.4 or by
// its name, is not known to.
func kernelInqTellsFIN(release string) bool {
	var major, minor int
	fmt.Sscanf(release, "%d.%d", &major, &minor)
	return (major > 5 || major == 5 && minor >= 1) && !strings.Contains(strings.ToLower(release), "gvisor")
}

// writeConn writes b to a connection that is no leg yet.
func writeConn(conn net.Conn, b []byte) (int, error) {
	return send(nil, conn, rawLeg{conn: rawConn(conn)}, b)
}

// writeNow writes what a connection takes without waiting: nothing, if it isn't
// raw.
func writeNow(conn net.Conn, b []byte) (n int, err error) {
	raw := rawConn(conn)
	if raw == nil {
		return 0, nil
	}
	w := rawWrites.Get().(*rawWrite)
	w.out, w.err, w.once = b, nil, true
	if err = raw.Write(w.writable); w.err != nil {
		err = w.err
	}
	n = len(b) - len(w.out)
	w.out, w.once = nil, false
	rawWrites.Put(w)
	return n, err
}

// send writes b to conn, all of it unless there is an error. to, if not nil,
// is told of its progress.
func send(to *leg, conn net.Conn, raw rawLeg, b []byte) (n int, err error) {
	if raw.conn == nil {
		return conn.Write(b)
	}
	w := rawWrites.Get().(*rawWrite)
	w.to, w.out, w.err = to, b, nil
	if err = raw.conn.Write(w.writable); w.err != nil {
		err = w.err
	}
	n = len(b) - len(w.out)
	w.to, w.out = nil, nil
	rawWrites.Put(w)
	return n, err
}

// A rawWrite is a write under way.
type rawWrite struct {
	to       *leg   // nil: a handshake
	out      []byte // what is left
	err      error
	once     bool // it doesn't wait
	writable func(fd uintptr) bool
}

var rawWrites = sync.Pool{New: func() any {
	w := new(rawWrite)
	w.writable = w.write
	return w
}}

// write writes what is left to the socket; false where it takes no more for
// now.
func (w *rawWrite) write(fd uintptr) (done bool) {
	for {
		var n uintptr
		var errno syscall.Errno
		if w.to != nil && w.to.busy.Load() {
			n, _, errno = syscall.Syscall6(syscall.SYS_SENDTO, fd,
				uintptr(unsafe.Pointer(unsafe.SliceData(w.out))), uintptr(len(w.out)), sendFlags, 0, 0)
		} else {
			n, _, errno = syscall.RawSyscall6(syscall.SYS_SENDTO, fd,
				uintptr(unsafe.Pointer(unsafe.SliceData(w.out))), uintptr(len(w.out)), sendFlags, 0, 0)
		}
		switch {
		case errno == 0:
			if w.out = w.out[n:]; len(w.out) == 0 {
				return true
			}
			if w.to != nil {
				w.to.progress()
			}
		case errno == syscall.EAGAIN:
			return w.once
		case errno != syscall.EINTR:
			w.err = os.NewSyscallError("sendto", errno)
			return true
		}
	}
}

// progress notes that the write under way moves.
func (l *leg) progress() { l.writing.Store(int64(l.s.now())) }

// receive reads the pump's side to its end and passes on what comes.
func (p *pump) receive() error {
	if p.from.raw.conn == nil {
		return p.receivePlain()
	}
	p.from.reading.Store(true)
	var err error = net.ErrClosed
	if !p.from.shut.Load() {
		err = p.from.raw.conn.Read(p.readable)
	}
	if p.raw.err == nil && errors.Is(err, os.ErrDeadlineExceeded) {
		err = p.receiveRest(err)
	}
	p.from.reading.Store(false)
	if p.from.shut.Load() {
		p.from.close()
	}
	if p.raw.err != nil {
		err = p.raw.err
	}
	return err
}

// receiveRest reads on after wakeIfReset.
//
//go:noinline
func (p *pump) receiveRest(err error) error {
	if p.from.shut.Load() {
		return err
	}
	p.raw.toEnd = true
	p.from.conn.SetReadDeadline(time.Time{})
	return p.from.raw.conn.Read(p.readable) // which looks at shut again
}

// readable reads until the socket has no more for now (false) or the
// stream's end (true). It is called again when the socket is readable.
//
// All reading happens in one call of RawConn.Read: the poller's edge could
// come between two. A sender that never pauses would keep it from returning.
func (p *pump) readable(fd uintptr) (done bool) {
	again := true
	for turn := 1; again && !p.from.shut.Load(); turn++ {
		if turn%readsPerTurn == 0 {
			p.setBusy(true)
			runtime.Gosched()
		}
		if p.owns && p.mind.left >= spliceFrom && p.to.raw.conn != nil && !p.raw.plain && p.throttle == nil {
			again, done = p.splice(fd)
		} else {
			again, done = p.read(fd)
		}
	}
	p.setBusy(false)
	return done || again
}

// setBusy notes whether the pump has been at work for a turn or more. Then its
// system calls tell the scheduler: others, and the poller, get its processor
// meanwhile. It costs a hand-off, which is nothing to who has that much to do.
func (p *pump) setBusy(busy bool) {
	if p.raw.busy != busy {
		p.raw.busy = busy
		p.to.busy.Store(busy)
	}
}

func (p *pump) read(fd uintptr) (again, done bool) {
	c := chunks.Get().(*chunk)
	held := copy(c.b[:], p.held)
	n, more, errno := c.raw.recv(fd, c.b[held:], p.from.raw.inq && !p.raw.toEnd, p.raw.busy)
	if errno == 0 && n > 0 {
		p.held = p.held[:0]
		if m, now := p.take(c, c.b[:held+n]); m > 0 {
			p.forward(c, c.b[:m], false, now)
		}
	}
	chunks.Put(c)
	switch {
	case errno == 0 && n > 0:
		return more || p.mind.ended, false
	case errno == 0:
		p.raw.err = io.EOF
		return false, true
	case errno == syscall.EAGAIN:
		return false, false
	case errno == syscall.EINTR:
		return true, false
	}
	p.raw.err = os.NewSyscallError("recvmsg", errno)
	return false, true
}

// A rawChunk is what the system call that fills a chunk needs.
type rawChunk struct {
	msg     syscall.Msghdr
	iov     syscall.Iovec
	control struct {
		header syscall.Cmsghdr
		value  int32
		_      int32 // a control message's size is a multiple of 8
	}
}

// recv reads into b. more says that there may be more to read; it is sure only
// with inq. Without, there is no room for control messages: a unix socket's
// peer could send descriptors in them.
func (c *rawChunk) recv(fd uintptr, b []byte, inq, busy bool) (n int, more bool, errno syscall.Errno) {
	c.iov.Base, c.iov.Len = unsafe.SliceData(b), uint64(len(b))
	c.msg.Iov, c.msg.Iovlen = &c.iov, 1
	c.msg.Control, c.msg.Controllen = nil, 0
	if inq {
		c.msg.Control, c.msg.Controllen = (*byte)(unsafe.Pointer(&c.control)), uint64(unsafe.Sizeof(c.control))
		c.control.header.Type = 0
	}
	var m uintptr
	if busy {
		m, _, errno = syscall.Syscall(syscall.SYS_RECVMSG, fd, uintptr(unsafe.Pointer(&c.msg)), syscall.MSG_DONTWAIT)
	} else {
		m, _, errno = syscall.RawSyscall(syscall.SYS_RECVMSG, fd, uintptr(unsafe.Pointer(&c.msg)), syscall.MSG_DONTWAIT)
	}
	h := &c.control.header
	more = !inq || h.Level != syscall.IPPROTO_TCP || h.Type != tcpInq || c.control.value != 0
	return int(m), more, errno
}

// readsPerTurn is how many reads or splices a pump makes before others run.
const readsPerTurn = 4

const (
	spliceFrom = 16 << 10 // a frame's rest that is worth a pipe
	spliceSize = 1 << 20  // what a pipe is asked to hold
)

// splice moves what the socket has of the frame under way to the leg across.
// A pipe is held only while there are bytes in it.
func (p *pump) splice(fd uintptr) (again, done bool) {
	pipe := getPipe()
	if pipe == nil { // no descriptor to be had
		return p.read(fd)
	}
	n, errno := splice(int(fd), pipe.w, int(min(p.mind.left, spliceSize)))
	if n <= 0 {
		pipe.release()
		switch {
		case errno == syscall.EAGAIN:
			return false, false
		case errno == syscall.EINTR:
			return true, false
		case errno == syscall.EINVAL, errno == syscall.ENOSYS, errno == syscall.EPERM:
			p.raw.plain = true // a sandbox forbids it, say
			return true, false
		case errno == 0:
			p.raw.err = io.EOF
		default:
			p.raw.err = os.NewSyscallError("splice", errno)
		}
		return false, true
	}
	now := p.from.s.now()
	p.from.heard.Store(int64(now))
	if p.mind.data {
		p.data.Store(int64(now))
	}
	frames, messages := p.mind.skip(n)

	to := p.to
	pipe.to, pipe.held, pipe.err = to, int(n), nil
	to.writing.Store(int64(now))
	p.waits.Store(true)
	err := to.raw.conn.Write(pipe.drain)
	p.waits.Store(false)
	to.writing.Store(-1)
	if err != nil || pipe.err != nil {
		to.fail()
		frames, messages = 0, 0
	}
	p.count.add(frames, messages, int(n)-pipe.held)
	if pipe.to = nil; pipe.held == 0 {
		pipe.release()
	} else {
		pipe.close()
	}
	if p.mind.left == 0 || to.mute() {
		p.owns = false
		to.release()
	}
	return true, false
}

// polled returns what of events holds for conn now, and whether it was reset or
// closed.
func polled(conn net.Conn, events int16) (now int16) {
	if c, ok := conn.(*tls.Conn); ok {
		conn = c.NetConn()
	}
	if raw := rawConn(conn); raw != nil {
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

// takesAtOnce says whether a short write to conn is sure not to wait.
func takesAtOnce(conn net.Conn) bool { return polled(conn, pollOut) != 0 }

// hungUp says whether the peer's FIN, or a reset, has come, without reading what
// came before it.
func hungUp(conn net.Conn) (fin, reset bool) {
	now := polled(conn, pollRDHUP)
	return now&pollRDHUP != 0, now&pollERR != 0
}

// inputWaits says whether bytes of the peer's wait to be read from conn.
func inputWaits(conn net.Conn) bool {
	if c, ok := conn.(*tls.Conn); ok {
		conn = c.NetConn()
	}
	n := int32(0)
	if raw := rawConn(conn); raw != nil {
		raw.Control(func(fd uintptr) {
			// FIONREAD, which is TIOCINQ. Where it fails, n stays 0.
			syscall.RawSyscall(syscall.SYS_IOCTL, fd, syscall.TIOCINQ, uintptr(unsafe.Pointer(&n)))
		})
	}
	return n > 0
}

// acksTell: peerAcks works on this system.
const acksTell = true

// peerAcks returns what the peer's kernel has acknowledged; not ok where conn
// isn't TCP, or TLS on it.
func peerAcks(conn net.Conn) (a acks, ok bool) {
	if c, is := conn.(*tls.Conn); is {
		conn = c.NetConn()
	}
	c, is := conn.(*net.TCPConn)
	if !is {
		return a, false
	}
	raw, err := c.SyscallConn()
	if err != nil || !isTCP(raw) {
		return a, false
	}
	raw.Control(func(fd uintptr) {
		// struct tcp_info of linux/tcp.h, up to tcpi_bytes_acked (Linux 4.1),
		// and SIOCOUTQ, which is TIOCOUTQ.
		const lastAckRecv, bytesAcked = 56, 120
		var info [bytesAcked + 8]byte
		size, out := uint32(len(info)), int32(0)
		_, _, errno := syscall.RawSyscall6(syscall.SYS_GETSOCKOPT, fd, syscall.IPPROTO_TCP, syscall.TCP_INFO,
			uintptr(unsafe.Pointer(&info)), uintptr(unsafe.Pointer(&size)), 0)
		_, _, errno2 := syscall.RawSyscall(syscall.SYS_IOCTL, fd, syscall.TIOCOUTQ, uintptr(unsafe.Pointer(&out)))
		ok = errno == 0 && errno2 == 0 && int(size) == len(info)
		a.acked, a.queued = binary.NativeEndian.Uint64(info[bytesAcked:]), uint64(out)
		a.age = time.Duration(binary.NativeEndian.Uint32(info[lastAckRecv:])) * time.Millisecond
	})
	return a, ok
}

// A pipe is what splice needs between two sockets.
type pipe struct {
	r, w  int
	to    *leg
	held  int // bytes in it
	err   error
	drain func(fd uintptr) bool
}

// empty moves what the pipe holds into the socket; false where that takes no
// more for now.
func (p *pipe) empty(fd uintptr) (done bool) {
	for p.held > 0 {
		n, errno := splice(p.r, int(fd), p.held)
		switch {
		case n > 0:
			if p.held -= int(n); p.held > 0 {
				p.to.progress()
			}
		case errno == syscall.EAGAIN:
			return false
		case errno != syscall.EINTR:
			p.err = os.NewSyscallError("splice", errno)
			return true
		}
	}
	return true
}

// idlePipes keeps empty pipes for the next long frames: one for each processor
// at most, since a pump holds on to one only while its leg across is stuck.
var idlePipes struct {
	sync.Mutex
	list []*pipe
}

var mostIdlePipes = runtime.NumCPU()

// getPipe returns an empty pipe; nil if there is no descriptor for one.
func getPipe() *pipe {
	idlePipes.Lock()
	if last := len(idlePipes.list) - 1; last >= 0 {
		p := idlePipes.list[last]
		idlePipes.list = idlePipes.list[:last]
		idlePipes.Unlock()
		return p
	}
	idlePipes.Unlock()
	var fds [2]int
	if syscall.Pipe2(fds[:], syscall.O_CLOEXEC|syscall.O_NONBLOCK) != nil {
		return nil
	}
	syscall.Syscall(syscall.SYS_FCNTL, uintptr(fds[0]), f_SETPIPE_SZ, spliceSize) // a wish
	p := &pipe{r: fds[0], w: fds[1]}
	p.drain = p.empty
	return p
}

// release gives an empty pipe back.
func (p *pipe) release() {
	idlePipes.Lock()
	keep := len(idlePipes.list) < mostIdlePipes
	if keep {
		idlePipes.list = append(idlePipes.list, p)
	}
	idlePipes.Unlock()
	if !keep {
		p.close()
	}
}

func (p *pipe) close() {
	syscall.Close(p.r)
	syscall.Close(p.w)
}

// freeDescriptors closes what is kept for later, and reports whether there was
// anything.
func freeDescriptors() bool {
	idlePipes.Lock()
	list := idlePipes.list
	idlePipes.list = nil
	idlePipes.Unlock()
	for _, p := range list {
		p.close()
	}
	return len(list) > 0
}

const (
	pollOut        = 4
	pollERR        = 8
	pollRDHUP      = 0x2000
	soProtocol     = 38
	tcpInq         = 36 // as an option, and as the control message that it brings
	f_SETPIPE_SZ   = 1031
	spliceMove     = 1
	spliceNonblock = 2
	sendFlags      = syscall.MSG_NOSIGNAL | syscall.MSG_DONTWAIT
)

func splice(from, to, n int) (int64, syscall.Errno) {
	m, _, errno := syscall.RawSyscall6(syscall.SYS_SPLICE, uintptr(from), 0,
		uintptr(to), 0, uintptr(n), spliceMove|spliceNonblock)
	return int64(m), errno
}
