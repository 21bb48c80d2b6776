//go:build linux && (amd64 || arm64) && wsproxy_simulated

package relay

import (
	"math/bits"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"github.com/seed-ffb73231/wsproxy/internal/frame"
)

// With the build tag wsproxy_simulated, this file and simulated_sockets_linux.go take the
// place of calls_linux.go. They simulate the kernel for the event loops, and a peer
// at the other end of each connection, so that one machine can have a million sessions: descriptors, ports
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
