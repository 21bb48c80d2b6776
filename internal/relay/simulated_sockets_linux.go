//go:build linux && (amd64 || arm64) && wsproxy_simulated

package relay

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"syscall"
	"time"

	"github.com/seed-ffb73231/wsproxy/internal/frame"
	"github.com/seed-ffb73231/wsproxy/internal/protocol"
)

// This file simulates sockets, and the peers at their other ends.

func closeDescriptor(fd int) {
	simulated.calls[simClose].Add(1)
	s := &simulated.sockets[fd]
	s.mu.Lock()
	s.number++
	s.epoll, s.queued, s.events, s.fin, s.closed, s.n, s.taken = 0, false, 0, false, false, 0, 0
	s.mu.Unlock()
	simulated.free(fd)
}

// sendFIN ends what is written to a connection. A peer answers with its own FIN.
func sendFIN(fd int) {
	simulated.calls[simClose].Add(1)
	s := &simulated.sockets[fd]
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fin = true
	s.post(fd, s.ready())
}

func sendOnce(fd int32, b []byte) (n int, errno syscall.Errno) {
	simulated.calls[simSend].Add(1)
	s := &simulated.sockets[fd]
	s.mu.Lock()
	defer s.mu.Unlock()
	s.taken += uint64(len(b))
	if s.answer(b) {
		s.post(int(fd), s.ready())
	}
	return len(b), 0
}

// answer has the peer answer whole frames, and reports whether it does. s.mu is
// held.
func (s *simSocket) answer(b []byte) (answers bool) {
	for len(b) >= 2 {
		op, size, masked, at := b[0]&15, uint64(b[1]&127), b[1]&128 != 0, 2
		switch {
		case size == 126 && len(b) >= 4:
			size, at = uint64(binary.BigEndian.Uint16(b[2:])), 4
		case size == 127 && len(b) >= 10:
			size, at = binary.BigEndian.Uint64(b[2:]), 10
		}
		var mask [4]byte
		if masked {
			at += copy(mask[:], b[at:])
		}
		if size > uint64(len(b)-at) {
			break
		}
		payload := b[at : at+int(size)]
		b = b[at+int(size):]
		switch op {
		case frame.OpPing:
			s.arrive(frame.OpPong, payload, mask)
			answers = true
		case frame.OpClose:
			if !s.closed {
				s.arrive(frame.OpClose, payload[:min(2, len(payload))], mask)
				s.closed = true
			}
			s.fin = s.fin || s.side == frame.Upstream
			answers = true
		}
	}
	return answers
}

// arrive has a control frame arrive, with the unmasked payload. If there is no room,
// it is lost, as if the peer had not sent it. s.mu is held.
func (s *simSocket) arrive(op byte, payload []byte, mask [4]byte) {
	at := int(s.n)
	size := 2 + len(payload)
	if s.side == frame.Client {
		size += 4
	}
	if at+size > len(s.in) || s.closed {
		return
	}
	s.in[at], s.in[at+1] = 0x80|op, byte(len(payload))
	at += 2
	if s.side == frame.Client {
		s.in[at-1] |= 0x80
		at += copy(s.in[at:], "\x00\x00\x00\x00")
	}
	for i, c := range payload {
		s.in[at+i] = c ^ mask[i%4]
	}
	s.n += uint8(size)
}

func receiveNow(fd int32, b []byte) (n int, errno syscall.Errno) {
	simulated.calls[simReceive].Add(1)
	s := &simulated.sockets[fd]
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.n > 0:
		n = copy(b, s.in[:s.n])
		copy(s.in[:], s.in[n:s.n])
		s.n -= uint8(n)
		return n, 0
	case s.fin:
		return 0, 0
	}
	return -1, syscall.EAGAIN
}

func tcpState(uintptr) byte {
	simulated.calls[simAsk].Add(1)
	return 1 // established
}

func socketInputWaits(fd uintptr) bool {
	simulated.calls[simAsk].Add(1)
	s := &simulated.sockets[fd]
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.n > 0
}

func socketAcks(fd uintptr) protocol.Acks {
	simulated.calls[simAsk].Add(2)
	s := &simulated.sockets[fd]
	s.mu.Lock()
	defer s.mu.Unlock()
	return protocol.Acks{Known: true, Acked: s.taken}
}

// duplicate takes a [Simulated]. Its descriptor changes, as that of a connection
// does.
func duplicate(conn net.Conn) (fd int32, tcp, ok bool) {
	c, is := conn.(interface{ simulated() *Simulated })
	if !is {
		return 0, false, false
	}
	simulated.calls[simDuplicate].Add(1)
	n := simulated.take()
	if n < 0 {
		return 0, false, false
	}
	old := c.simulated()
	from, to := &simulated.sockets[old.fd], &simulated.sockets[n]
	from.mu.Lock()
	to.side, to.n, to.in, to.fin = from.side, from.n, from.in, from.fin
	from.mu.Unlock()
	to.mu.Lock()
	old.Peer = SimulatedPeer{int32(n), to.number}
	to.mu.Unlock()
	return int32(n), true, true
}

// A Simulated is a connection that an event loop can take over. What is written to
// it before is dropped, and nothing can be read.
type Simulated struct {
	Peer SimulatedPeer // once a session has the connection

	fd     int
	closed bool
}

// NewSimulated returns a connection to a peer of the side.
func NewSimulated(side frame.Side) (*Simulated, error) {
	fd := simulated.take()
	if fd < 0 {
		return nil, syscall.EMFILE
	}
	simulated.sockets[fd].side = side
	return &Simulated{fd: fd}, nil
}

func (c *Simulated) simulated() *Simulated { return c }

func (c *Simulated) Read([]byte) (int, error)    { return 0, io.EOF }
func (c *Simulated) Write(b []byte) (int, error) { return len(b), nil }

func (c *Simulated) Close() error {
	if c.closed {
		return net.ErrClosed
	}
	c.closed = true
	closeDescriptor(c.fd)
	return nil
}

func (c *Simulated) LocalAddr() net.Addr              { return &net.TCPAddr{} }
func (c *Simulated) RemoteAddr() net.Addr             { return &net.TCPAddr{} }
func (c *Simulated) SetDeadline(time.Time) error      { return nil }
func (c *Simulated) SetReadDeadline(time.Time) error  { return nil }
func (c *Simulated) SetWriteDeadline(time.Time) error { return nil }

// A SimulatedPeer is the peer of a connection that a session has.
type SimulatedPeer struct {
	fd     int32
	number uint32
}

var errPeerGone = errors.New("the connection is closed")

// Leave has the peer send a Close with code 1000.
func (p SimulatedPeer) Leave() error {
	s := &simulated.sockets[p.fd]
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.number != p.number || s.closed {
		return fmt.Errorf("leave: %w", errPeerGone)
	}
	s.arrive(frame.OpClose, []byte{1000 >> 8, 1000 & 0xff}, [4]byte{})
	s.closed = true
	s.post(int(p.fd), s.ready())
	return nil
}
