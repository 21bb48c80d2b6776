//go:build linux && (amd64 || arm64) && !noloop

package relay

import (
	"bytes"
	"crypto/tls"
	"errors"
	"net"
	"os"
	"reflect"
	"sync"
	"syscall"
	"unsafe"
)

// A tlsSocket is a leg's socket as its tls.Conn sees it in the event driver. Reads
// end with errAgain where they would have to wait. Writes always succeed, because a
// tls.Conn cannot continue after a failed one; what the socket does not take is
// queued.
//
// Everyone who writes to the leg may write here, and so may the loop while it
// reads, because TLS answers some of the peer's records by itself (KeyUpdate). So
// the queue has a lock of its own, below that of the tls.Conn.
type tlsSocket struct {
	// Set when made.
	conn *tls.Conn
	leg  *eventLeg

	drained bool // owned by the loop; nothing arrived since the last short read

	mu  sync.Mutex // held for a system call at most
	fd  int32      // guarded by mu; that of the leg
	out []byte     // guarded by mu; what is queued
	fin bool       // guarded by mu; a FIN follows it
}

// mostQueued is the most that is queued. A write to the leg queues a chunk at
// most; the rest is for what TLS writes by itself, which a peer that does not read
// could cause without end.
const mostQueued = 2*chunkSize + 8<<10

var errQueueFull = errors.New("the peer does not read")

// secure returns what is below TLS in a leg, and the connection that has the
// descriptor, if the event driver can have such a connection.
func (e *eventLeg) secure(conn net.Conn) net.Conn {
	secure, ok := conn.(*tls.Conn)
	if !ok {
		return conn
	}
	below, ok := secure.NetConn().(*Conn)
	if !ok {
		return conn
	}
	e.tls = &tlsSocket{conn: secure, leg: e}
	return below.Conn
}

// switchOver closes a connection whose descriptor the leg has duplicated.
func (e *eventLeg) switchOver(conn net.Conn) {
	if e.tls == nil {
		conn.Close()
		return
	}
	below := e.tls.conn.NetConn().(*Conn)
	e.tls.fd, e.ready = e.fd, true // TLS may have read ahead
	below.direct.Store(e.tls)
	below.Conn.Close()
}

// read reads from the socket what has arrived. The loop calls it through the
// tls.Conn.
func (t *tlsSocket) read(b []byte) (int, error) {
	if t.drained {
		return 0, errAgain
	}
	n, err := readNow(t.leg.fd, b)
	t.drained = n < len(b) && !t.leg.toEnd
	return n, err
}

// write writes to the socket, or to the queue.
func (t *tlsSocket) write(b []byte) (n int, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.out) == 0 && !t.fin {
		var errno syscall.Errno
		if n, errno = sendNow(t.fd, b); errno != 0 && errno != syscall.EAGAIN {
			return n, os.NewSyscallError("sendto", errno)
		}
	}
	if t.fin || len(t.out)+len(b)-n > mostQueued {
		return n, errQueueFull
	}
	t.out = append(t.out, b[n:]...)
	return len(b), nil
}

// send writes b through TLS, a chunk at a time, as long as nothing is queued.
// Unless all of it, encrypted, is in the socket then, it returns an error, EAGAIN
// if the socket is full.
func (t *tlsSocket) send(b []byte) (n int, errno syscall.Errno) {
	for {
		if errno = t.flush(); errno != 0 || n == len(b) {
			return n, errno
		}
		m, err := t.conn.Write(b[n:min(n+chunkSize, len(b))])
		if n += m; err != nil {
			return n, syscall.EPIPE
		}
	}
}

// flush writes what is queued, as far as the socket takes it.
func (t *tlsSocket) flush() syscall.Errno {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.out) == 0 {
		return 0
	}
	n, errno := sendNow(t.fd, t.out)
	if t.out = t.out[n:]; errno == syscall.EAGAIN {
		return errno
	}
	t.out = nil
	if t.fin {
		syscall.Shutdown(int(t.fd), syscall.SHUT_WR)
	}
	return errno
}

// closeNotify says that nothing more will be written (RFC 8446, 6.1).
func (t *tlsSocket) closeNotify() { t.conn.CloseWrite() }

// shutdown sends a FIN after what is queued.
func (t *tlsSocket) shutdown() {
	t.closeNotify()
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.fin = true; len(t.out) == 0 && t.fd >= 0 {
		syscall.Shutdown(int(t.fd), syscall.SHUT_WR)
	}
}

// hangUp is called when someone else closes the connection. The loop sees that as
// a hang-up.
func (t *tlsSocket) hangUp() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.fd >= 0 {
		syscall.Shutdown(int(t.fd), syscall.SHUT_RDWR)
	}
}

// forget is called before the descriptor is closed.
func (t *tlsSocket) forget() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.fd, t.out = -1, nil
}

// leastFreed is the smallest buffer that free frees. crypto/tls begins with a little
// more than 512 bytes, which are enough for small records.
const leastFreed = 1 << 10

// free frees the buffers in which the tls.Conn receives records and handshake
// messages, if they are empty. They have the size of the largest that came so far,
// 3.5 KiB after a handshake and up to 32 KiB later, and crypto/tls keeps them until
// the connection is closed. It uses nothing of an empty buffer but its capacity. Only
// who reads from the tls.Conn, the loop, may call free.
func (t *tlsSocket) free() {
	for _, offset := range tlsBuffers {
		b := (*bytes.Buffer)(unsafe.Add(unsafe.Pointer(t.conn), offset))
		if b.Len() == 0 && b.Cap() >= leastFreed {
			*b = bytes.Buffer{}
		}
	}
}

// tlsBuffers is where these buffers are in a tls.Conn. It is empty for a release of
// Go in which they are not what they were: then they are kept.
var tlsBuffers = bufferOffsets(reflect.TypeFor[tls.Conn](), "rawInput", "hand")

// bufferOffsets returns the offsets of fields of a struct, or none if one of them is
// not a bytes.Buffer.
func bufferOffsets(of reflect.Type, names ...string) (offsets []uintptr) {
	for _, name := range names {
		f, ok := of.FieldByName(name)
		if !ok || len(f.Index) != 1 || f.Type != reflect.TypeFor[bytes.Buffer]() {
			return nil
		}
		offsets = append(offsets, f.Offset)
	}
	return offsets
}
