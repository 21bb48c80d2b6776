package wstest

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"slices"
	"sync"
	"time"
)

// MemBuffer is what a [MemConn] from a listener takes without being read, like
// a socket's send and receive buffers.
const MemBuffer = 64 << 10

// A memListener is a listener whose connections are MemConns.
type memListener struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func newMemListener() *memListener {
	return &memListener{conns: make(chan net.Conn), closed: make(chan struct{})}
}

func (l *memListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *memListener) Close() error   { l.once.Do(func() { close(l.closed) }); return nil }
func (l *memListener) Addr() net.Addr { return MemAddr{} }

func (l *memListener) dial(ctx context.Context) (net.Conn, error) {
	a, b := MemPair(MemBuffer)
	select {
	case l.conns <- a:
		return b, nil
	case <-l.closed:
		return nil, net.ErrClosed
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// A MemAddr is the address of listeners and connections in memory.
type MemAddr struct{}

// Network returns "memory".
func (MemAddr) Network() string { return "memory" }

// String returns an address that can be parsed.
func (MemAddr) String() string { return "127.0.0.1:1" }

// A MemConn is one end of a connection in memory that buffers, half-closes
// and keeps deadlines as TCP does. All its waiting is on a sync.Cond, so that
// time in a synctest bubble goes on.
type MemConn struct {
	in, out *memStream
}

// MemPair returns the two ends of a connection that takes so many bytes in
// either direction without being read.
func MemPair(size int) (a, b *MemConn) {
	x, y := newMemStream(size), newMemStream(size)
	return &MemConn{x, y}, &MemConn{y, x}
}

type memStream struct {
	mu              sync.Mutex
	cond            *sync.Cond
	buf             []byte
	size            int
	eof, gone       bool // the writer, the reader has closed
	readBy, writeBy deadline
}

// A deadline is a time at which a stream's waiters look again.
type deadline struct {
	at    time.Time
	timer *time.Timer // nil, or wakes them
}

func (d *deadline) past() bool { return !d.at.IsZero() && !time.Now().Before(d.at) }

func newMemStream(size int) *memStream {
	s := &memStream{size: size}
	s.cond = sync.NewCond(&s.mu)
	return s
}

// Read implements [net.Conn].
func (c *MemConn) Read(b []byte) (int, error) {
	s := c.in
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		switch {
		case s.gone:
			return 0, net.ErrClosed
		case s.readBy.past():
			return 0, os.ErrDeadlineExceeded
		case len(s.buf) > 0:
			n := copy(b, s.buf)
			s.buf = slices.Delete(s.buf, 0, n)
			s.cond.Broadcast()
			return n, nil
		case s.eof:
			return 0, io.EOF
		}
		s.cond.Wait()
	}
}

// Write implements [net.Conn].
func (c *MemConn) Write(b []byte) (n int, err error) {
	s := c.out
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		switch {
		case s.eof:
			return n, net.ErrClosed
		case s.gone:
			return n, errors.New("memory: connection reset by peer")
		case s.writeBy.past():
			return n, os.ErrDeadlineExceeded
		}
		if m := min(len(b), s.size-len(s.buf)); m > 0 {
			s.buf = append(s.buf, b[:m]...)
			b, n = b[m:], n+m
			s.cond.Broadcast()
		}
		if len(b) == 0 {
			return n, nil
		}
		s.cond.Wait()
	}
}

func (s *memStream) update(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f()
	s.cond.Broadcast()
}

// CloseWrite ends what the other end reads.
func (c *MemConn) CloseWrite() error {
	c.out.update(func() { c.out.eof = true })
	return nil
}

// Close implements [net.Conn].
func (c *MemConn) Close() error {
	c.out.update(func() { c.out.eof = true })
	c.in.update(func() { c.in.gone = true })
	return c.SetDeadline(time.Time{})
}

// SetReadDeadline implements [net.Conn].
func (c *MemConn) SetReadDeadline(t time.Time) error {
	c.in.set(&c.in.readBy, t)
	return nil
}

// SetWriteDeadline implements [net.Conn].
func (c *MemConn) SetWriteDeadline(t time.Time) error {
	c.out.set(&c.out.writeBy, t)
	return nil
}

// set sets one of the stream's deadlines. An earlier one's timer doesn't outlive
// it, nor does it keep the stream alive.
func (s *memStream) set(d *deadline, at time.Time) {
	s.update(func() {
		if d.timer != nil {
			d.timer.Stop()
			d.timer = nil
		}
		d.at = at
		if !at.IsZero() {
			d.timer = time.AfterFunc(time.Until(at), func() { s.update(func() {}) })
		}
	})
}

// SetDeadline implements [net.Conn].
func (c *MemConn) SetDeadline(t time.Time) error {
	c.SetReadDeadline(t)
	return c.SetWriteDeadline(t)
}

// LocalAddr implements [net.Conn].
func (c *MemConn) LocalAddr() net.Addr { return MemAddr{} }

// RemoteAddr implements [net.Conn].
func (c *MemConn) RemoteAddr() net.Addr { return MemAddr{} }
