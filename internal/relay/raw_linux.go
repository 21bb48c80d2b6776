//go:build linux && (amd64 || arm64)

package relay

import (
	"errors"
	"io"
	"net"
	"os"
	"runtime"
	"sync"
	"syscall"
	"time"
	"unsafe"
)

// Plain TCP and unix connections on Linux are read and written by raw system
// calls inside the callbacks of their syscall.RawConn. The descriptors do not
// block, so the calls need not notify the scheduler, which costs more than the
// call itself; a waiting session holds no buffer; and splice(2) moves the rest of a
// long frame from socket to socket.
//
// With TCP_INQ, a read from a TCP connection reports whether anything is left to
// read, including a FIN. That saves a read that would find nothing. It does not
// report a reset. If one arrived in the same poller edge as the last bytes, the
// session's timer finds it; see leg.reset.

// rawLeg is a leg's state for that.
type rawLeg struct {
	conn syscall.RawConn // nil: the leg is read and written as a net.Conn
}

// rawReader is the state of a leg's reader for that.
type rawReader struct {
	plain bool  // no splicing: the kernel refuses it
	toEnd bool  // the connection is known to be reset: TCP_INQ is ignored
	flow  uint8 // reads since the last pause, up to readsPerTurn+1
}

// writable returns the raw connection, to write to, of a connection of the net
// package, or nil for any other type: a type that wraps such a connection may count.
func writable(conn net.Conn) (raw syscall.RawConn) {
	switch c := conn.(type) {
	case *net.TCPConn:
		raw, _ = c.SyscallConn()
	case *net.UnixConn:
		raw, _ = c.SyscallConn()
	}
	return raw
}

// rawConn is writable for a connection that is also to be read and queried, which
// Multipath TCP is not made for.
func rawConn(conn net.Conn) syscall.RawConn {
	raw := writable(conn)
	if _, is := conn.(*net.TCPConn); is && raw != nil && !isTCP(raw) {
		return nil
	}
	return raw
}

// initRaw makes the leg raw if its connection can be. whole means that its session
// has a stage: then one read at a time returns (rawRead), and nothing waits in the
// callback.
func (l *leg) initRaw(whole bool) {
	if l.raw.conn = rawConn(l.conn); l.raw.conn == nil {
		return
	}
	if whole {
		return
	}
	l.raw.conn.Control(func(fd uintptr) {
		// Whoever has called Fd of the connection's File has made the socket block.
		// A splice from it would wait, and hold up the whole process.
		syscall.SetNonblock(int(fd), true)
		if inqTellsFIN() { // fails for a unix socket
			l.inq = syscall.SetsockoptInt(int(fd), syscall.IPPROTO_TCP, tcpInq, 1) == nil
		}
	})
}

// wakeIfReset makes the leg's reader read to the end of a connection that has
// been reset. Otherwise the reader might wait for a poller edge that has
// already occurred.
func (l *leg) wakeIfReset() {
	if !l.reset() {
		return
	}
	if l.ev() != nil {
		l.s.events.readToEnd(l.s)
	} else {
		l.conn.SetReadDeadline(longAgo)
	}
}

// Write writes b to a connection that does not belong to a leg yet.
func Write(conn net.Conn, b []byte) (int, error) {
	return send(nil, conn, rawLeg{conn: writable(conn)}, b)
}

// WriteNow writes what a connection accepts without waiting: nothing, if it is
// not raw.
func WriteNow(conn net.Conn, b []byte) (n int, err error) {
	raw := writable(conn)
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

// send writes b to conn, all of it unless there is an error. It records the
// progress in to, if that is not nil.
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

// A rawWrite is a write in progress.
type rawWrite struct {
	to       *leg   // nil: a handshake
	out      []byte // what is left
	err      error
	once     bool // do not wait
	writable func(fd uintptr) bool
}

var rawWrites = sync.Pool{New: func() any {
	w := new(rawWrite)
	w.writable = w.write
	return w
}}

// write writes what is left to the socket. It returns false if the socket
// accepts no more for now.
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

// A rawRead is a read in progress, for a reader that does everything else outside of
// the callback.
type rawRead struct {
	in       []byte
	n        int
	err      error
	readable func(fd uintptr) bool
}

// read reads from the leg's connection, as its Read does.
func (r *rawRead) read(l *leg, b []byte) (int, error) {
	if l.raw.conn == nil {
		return l.conn.Read(b)
	}
	if r.readable == nil {
		r.readable = r.readOnce
	}
	r.in, r.n, r.err = b, 0, nil
	err := l.raw.conn.Read(r.readable)
	if r.in = nil; r.err != nil {
		err = r.err
	}
	return r.n, err
}

// readOnce reads what there is. It returns false if that is nothing.
func (r *rawRead) readOnce(fd uintptr) (done bool) {
	for {
		n, _, errno := syscall.RawSyscall6(syscall.SYS_RECVFROM, fd,
			uintptr(unsafe.Pointer(unsafe.SliceData(r.in))), uintptr(len(r.in)), syscall.MSG_DONTWAIT, 0, 0)
		switch {
		case errno == syscall.EAGAIN:
			return false
		case errno == syscall.EINTR:
			continue
		case errno != 0:
			r.err = os.NewSyscallError("recvfrom", errno)
		case n == 0:
			r.err = io.EOF
		default:
			r.n = int(n)
		}
		return true
	}
}

// progress records that the current write makes progress.
func (l *leg) progress() { l.writing.Store(int64(l.s.now())) }

// receive reads the pump's side to its end and forwards what arrives.
func (p *pump) receive() error {
	if p.from.raw.conn == nil {
		return p.receivePlain()
	}
	p.from.reading.Store(true)
	var err error = net.ErrClosed
	if !p.from.is(legShut) {
		err = p.from.raw.conn.Read(p.readable)
	}
	if p.from.err == nil && errors.Is(err, os.ErrDeadlineExceeded) {
		err = p.receiveRest(err)
	}
	p.from.reading.Store(false)
	if p.from.is(legShut) {
		p.from.close()
	}
	if p.from.err != nil {
		err = p.from.err
	}
	return err
}

// receiveRest continues to read after wakeIfReset.
//
//go:noinline
func (p *pump) receiveRest(err error) error {
	if p.from.is(legShut) {
		return err
	}
	p.from.reader.toEnd = true
	p.from.conn.SetReadDeadline(time.Time{})
	return p.from.raw.conn.Read(p.readable) // it checks shut again
}

// readable reads until the socket has no more for now (false) or until the end
// of the stream (true). It is called again when the socket is readable.
//
// All reading happens in one call of RawConn.Read, because the poller's edge
// could occur between two calls. A sender that never pauses would keep it from
// returning.
func (p *pump) readable(fd uintptr) (done bool) {
	again := true
	for turn := 1; again && !p.from.is(legShut); turn++ {
		if turn > readsPerTurn {
			// With several processors this would only keep their queues full, and
			// then the scheduler polls other sockets only every 10 ms.
			if runtime.GOMAXPROCS(0) == 1 {
				runtime.Gosched()
			}
			turn = 1
		}
		if p.from.owns && p.mind.Left >= spliceFrom && p.to().raw.conn != nil && !p.from.reader.plain && p.from.throttle == nil {
			again, done = p.splice(fd)
			turn = 0 // the kernel does the work
		} else {
			p.setBusy(p.from.s.now())
			again, done = p.read(fd)
		}
	}
	return done || again
}

// setBusy records whether the pump reads without significant pauses. If so, its
// system calls notify the scheduler, so that other goroutines and the poller
// get the processor meanwhile. That costs a hand-off, which is negligible for a
// pump with that much traffic.
func (p *pump) setBusy(now time.Duration) {
	was := p.from.reader.busy()
	if now-time.Duration(p.from.heard.Load()) > pause {
		p.from.reader.flow = 0
	} else {
		p.from.reader.flow = min(p.from.reader.flow+1, readsPerTurn+1)
	}
	if busy := p.from.reader.busy(); busy != was {
		p.to().busy.Store(busy)
	}
}

// busy reports what setBusy has recorded.
func (r *rawReader) busy() bool { return r.flow > readsPerTurn }

func (p *pump) read(fd uintptr) (again, done bool) {
	c := chunks.Get().(*chunk)
	held := copy(c.b[:], p.held())
	talked := p.from.is(legTalks)
	if p.mind.Ended { // before the bytes are removed from the socket: see settle
		p.from.set(legTalks, true)
	}
	n, more, errno := c.raw.recv(fd, c.b[held:], p.from.inq && !p.from.reader.toEnd, p.from.reader.busy())
	if p.mind.Ended && (errno != 0 || n == 0) {
		p.from.set(legTalks, talked)
		p.from.s.settle() // concurrent calls of settle may have seen legTalks
	}
	if errno == 0 && n > 0 {
		p.dropHeld()
		if m, now := p.take(c, c.b[:held+n]); m > 0 {
			p.forward(c, c.b[:m], false, now)
		}
	}
	chunks.Put(c)
	switch {
	case errno == 0 && n > 0:
		return more || p.mind.Ended, false
	case errno == 0:
		p.from.err = io.EOF
		return false, true
	case errno == syscall.EAGAIN:
		return false, false
	case errno == syscall.EINTR:
		return true, false
	}
	p.from.err = os.NewSyscallError("recvmsg", errno)
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

// recv reads into b. more reports that there may be more to read; it is exact
// only with inq. Without inq there is no room for control messages, because the
// peer of a unix socket could send descriptors in them.
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

// readsPerTurn is the number of reads in a row that a pump makes before others
// run.
const readsPerTurn = 4

// pause is the minimum silence of a sender that is not flooding.
const pause = 500 * time.Microsecond

const (
	tcpInq    = 36 // the option, and the control message that it enables
	sendFlags = syscall.MSG_NOSIGNAL | syscall.MSG_DONTWAIT
)
