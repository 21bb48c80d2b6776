//go:build linux && (amd64 || arm64) && simulated

package relay

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/bits"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"github.com/seed-ffb73231/wsproxy/internal/frame"
	"github.com/seed-ffb73231/wsproxy/internal/protocol"
)

// This file takes the place of calls_linux.go with the build tag simulated. It
// simulates the kernel for the event loops, and a peer at the other end of each
// connection, so that one machine can have a million sessions: descriptors, ports
// and the memory of sockets are what it would run out of. All above the system calls
// is the real thing.
//
// Descriptors are the lowest free numbers, events are edge-triggered and fetched in
// order, and a connection that is registered reports what has arrived before. Peers
// answer Pings and Closes at once, a server closes its connection after a Close, and a
// client waits for the proxy's end. Sockets are never full. Connections of the
// net package don't work in such a build.

// A simulated kernel has sockets, which are not in the Go heap, so that the memory of
// sessions can be told from that of the simulation.
type simulation struct {
	sockets []simSocket // by their descriptors
	calls   [simKinds]atomic.Uint64
	delay   atomic.Int64 // see SimulatedDelay

	mu     sync.Mutex
	used   []uint64 // guarded by mu; a bit for each descriptor
	full   []uint64 // guarded by mu; a bit for each element of used
	open   int      // guarded by mu
	epolls [256]atomic.Pointer[simEpoll]
}

var simulated simulation

// A simCall is a kind of system call.
type simCall int

const (
	simSend simCall = iota
	simReceive
	simPoll
	simWait // for the runtime's poller
	simAsk  // getsockopt, ioctl
	simRegister
	simClose // close, shutdown
	simDuplicate
	simSignal
	simKinds
)

func (k simCall) String() string {
	return [simKinds]string{"send", "receive", "epoll_pwait", "wait in the runtime's poller", "ask of a socket", "epoll_ctl", "close or shutdown", "duplicate", "eventfd"}[k]
}

// A simSocket is a connection, and the peer at its other end.
type simSocket struct {
	mu     sync.Mutex
	number uint32 // guarded by mu; which connection has had the descriptor
	epoll  int32  // guarded by mu; the instance that it is registered with; 0: none
	tag    int32  // guarded by mu; that of the registration
	events uint32 // guarded by mu; that were not fetched
	side   frame.Side
	queued bool // guarded by mu; it is in the instance's queue
	fin    bool // guarded by mu; the peer's FIN follows what has arrived
	closed bool // guarded by mu; the peer has sent a Close
	n      uint8
	in     [40]byte // guarded by mu; the first n bytes have arrived
	taken  uint64   // guarded by mu; bytes that the peer has received
}

// A simEpoll is an epoll instance.
type simEpoll struct {
	wake chan struct{}

	mu      sync.Mutex
	queue   []int32   // guarded by mu; descriptors with events
	since   time.Time // guarded by mu; when the first of them was queued, or the one before it fetched
	waiting bool      // guarded by mu
}

// SimulatedDelay returns the longest time that a loop has let events wait since the
// last call.
func SimulatedDelay() time.Duration { return time.Duration(simulated.delay.Swap(0)) }

// Simulate makes room for so many connections. It is to be called once.
func Simulate(connections int) error {
	n := (connections + 4096) / 4096 * 4096
	b, err := syscall.Mmap(-1, 0, n*int(unsafe.Sizeof(simSocket{})), syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_ANON|syscall.MAP_PRIVATE)
	if err != nil {
		return os.NewSyscallError("mmap", err)
	}
	k := &simulated
	k.sockets = unsafe.Slice((*simSocket)(unsafe.Pointer(&b[0])), n)
	k.used, k.full = make([]uint64, n/64), make([]uint64, n/4096)
	for range 8 { // the process's files
		k.take()
	}
	return nil
}

// SimulatedSize is the memory of a connection in the simulation.
const SimulatedSize = int(unsafe.Sizeof(simSocket{}))

// SimulatedOpen returns the number of open descriptors.
func SimulatedOpen() int {
	k := &simulated
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.open - 8
}

// SimulatedCalls returns how many system calls were made, by their names.
func SimulatedCalls() map[string]uint64 {
	calls := make(map[string]uint64)
	for kind := range simKinds {
		calls[kind.String()] = simulated.calls[kind].Load()
	}
	return calls
}

// take returns the lowest free descriptor, or -1.
func (k *simulation) take() int {
	k.mu.Lock()
	defer k.mu.Unlock()
	for i, full := range k.full {
		if full == ^uint64(0) {
			continue
		}
		word := i*64 + bits.TrailingZeros64(^full)
		bit := bits.TrailingZeros64(^k.used[word])
		if k.used[word] |= 1 << bit; k.used[word] == ^uint64(0) {
			k.full[i] |= 1 << (word % 64)
		}
		k.open++
		return word*64 + bit
	}
	return -1
}

func (k *simulation) free(fd int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.used[fd/64] &^= 1 << (fd % 64)
	k.full[fd/4096] &^= 1 << (fd / 64 % 64)
	k.open--
}

func epollCreate() (epoll int, err error) {
	for i := 1; i < len(simulated.epolls); i++ {
		if simulated.epolls[i].CompareAndSwap(nil, &simEpoll{wake: make(chan struct{}, 1)}) {
			return -i, nil // apart from the other descriptors
		}
	}
	return 0, syscall.EMFILE
}

func eventCreate() (fd int, errno syscall.Errno) {
	if fd = simulated.take(); fd < 0 {
		return fd, syscall.EMFILE
	}
	return fd, 0
}

func eventSignal(fd int) {
	simulated.calls[simSignal].Add(1)
	s := &simulated.sockets[fd]
	s.mu.Lock()
	defer s.mu.Unlock()
	s.post(fd, syscall.EPOLLIN)
}

// post reports events. s.mu is held.
func (s *simSocket) post(fd int, events uint32) {
	if s.epoll == 0 {
		return
	}
	s.events |= events
	if s.queued {
		return
	}
	s.queued = true
	e := simulated.epolls[s.epoll].Load()
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.queue = append(e.queue, int32(fd)); len(e.queue) == 1 {
		e.since = time.Now()
	}
	if e.waiting {
		e.waiting = false
		e.wake <- struct{}{}
	}
}

func epollAdd(epoll, fd int, event *syscall.EpollEvent) error {
	simulated.calls[simRegister].Add(1)
	s := &simulated.sockets[fd]
	s.mu.Lock()
	defer s.mu.Unlock()
	s.epoll, s.tag, s.queued, s.events = int32(-epoll), event.Pad, false, 0
	if event.Events&syscall.EPOLLOUT != 0 {
		s.post(fd, s.ready())
	}
	return nil
}

// ready returns the events that hold now. s.mu is held.
func (s *simSocket) ready() (events uint32) {
	events = syscall.EPOLLOUT
	if s.n > 0 || s.fin {
		events |= syscall.EPOLLIN
	}
	if s.fin {
		events |= syscall.EPOLLRDHUP
	}
	return events
}

func epollRemove(_, fd int) {
	simulated.calls[simRegister].Add(1)
	s := &simulated.sockets[fd]
	s.mu.Lock()
	defer s.mu.Unlock()
	s.epoll = 0
}

func epollNow(epoll int, ready []syscall.EpollEvent) int {
	simulated.calls[simPoll].Add(1)
	return simulated.epolls[-epoll].Load().fetch(int32(-epoll), ready)
}

// fetch returns the number of events that are ready.
func (e *simEpoll) fetch(number int32, ready []syscall.EpollEvent) (n int) {
	e.mu.Lock()
	for n < len(ready) && n < len(e.queue) {
		ready[n].Fd = e.queue[n]
		n++
	}
	if e.queue = e.queue[n:]; len(e.queue) == 0 {
		e.queue = nil
	}
	if n > 0 {
		now := time.Now()
		simulated.delay.Store(max(simulated.delay.Load(), int64(now.Sub(e.since))))
		e.since = now
	}
	e.mu.Unlock()
	left := 0
	for i := range n {
		fd := ready[i].Fd
		s := &simulated.sockets[fd]
		s.mu.Lock()
		if s.epoll == number && s.queued {
			ready[left] = syscall.EpollEvent{Events: s.events, Fd: fd, Pad: s.tag}
			left++
			s.queued, s.events = false, 0
		}
		s.mu.Unlock()
	}
	return left
}

// A poller waits for the events of an epoll instance.
type poller struct {
	epoll int
	e     *simEpoll
	ready func() bool
}

func newPoller(epoll int, ready func() bool) (p *poller, ok bool) {
	return &poller{epoll, simulated.epolls[-epoll].Load(), ready}, true
}

// wait waits until ready returns true, or until a time; zero: without end.
func (p *poller) wait(until time.Time) {
	var late <-chan time.Time
	if !until.IsZero() {
		d := time.Until(until)
		if d <= 0 {
			return
		}
		timer := time.NewTimer(d)
		defer timer.Stop()
		late = timer.C
	}
	for !p.ready() && p.sleep(late) {
	}
}

// sleep waits until there are events. It returns false if it is too late.
func (p *poller) sleep(late <-chan time.Time) bool {
	simulated.calls[simWait].Add(1)
	e := p.e
	e.mu.Lock()
	e.waiting = len(e.queue) == 0
	waits := e.waiting
	e.mu.Unlock()
	if !waits {
		return true
	}
	select {
	case <-e.wake:
		return true
	case <-late:
		e.mu.Lock()
		defer e.mu.Unlock()
		if !e.waiting { // it is being woken
			<-e.wake
		}
		e.waiting = false
		return false
	}
}

func (p *poller) close() { simulated.epolls[-p.epoll].Store(nil) }

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
