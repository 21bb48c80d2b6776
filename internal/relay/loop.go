//go:build linux && (amd64 || arm64) && !noloop

package relay

import (
	"os"
	"runtime"
	"sync"
	"syscall"
	"time"
)

// The event driver: one goroutine, a loop, carries many sessions. It waits for the
// kernel's events of all their connections (epoll), and then reads, asks what to
// do, and writes. A session that rests costs it nothing but memory.
//
// Only the loop reads from its sessions' connections, closes them, and asks a
// Direction. Others may write to a connection, as in the goroutine driver, and ask
// the Course. Neither the loop nor they ever wait for a socket: what it does not
// take is kept, and the loop writes it later (loop_kept.go). What else others want
// of the loop they leave in the session, and call the loop to look at it.
//
// Whatever is the user's runs elsewhere (loop_over.go).

// HasEvents reports that there is an event driver.
const HasEvents = true

// A loop is a goroutine that drives sessions.
type loop struct {
	// Set when made.
	epoll  int       // the descriptor of the epoll instance
	poller *poller   // with the epoll instance
	signal int       // an eventfd, to end the wait for events
	base   time.Time // when the wheel's time starts

	// Owned by the loop.
	legs   []*leg // by their descriptors
	tag    int32  // of the last leg that was registered
	wheel  wheel
	spent  []*leg // legs with more to read, whose turn is over
	budget int    // the bytes that a leg may relay in this turn
	chunk  *chunk
	ready  [128]syscall.EpollEvent
	events int           // how many of ready have been filled
	began  time.Duration // when it began to wait; -1: it does not

	mu     sync.Mutex
	calls  queue // guarded by mu; sessions to look at
	asleep bool  // guarded by mu; it waits for events
	ended  bool  // guarded by mu; its descriptors are closed

	share share // see loop_share.go

	sessions int // guarded by loops

	// Owned by the loop.
	alone   bool          // there is one processor
	empty   bool          // it had no session at emptyAt
	emptyAt time.Duration // since base
	last    bool          // it ends
}

func newLoop() *loop {
	epoll, err := epollCreate()
	if err != nil {
		return nil
	}
	signal, errno := eventCreate()
	if errno != 0 {
		closeDescriptor(epoll)
		return nil
	}
	expectOvers(1)
	l := &loop{epoll: epoll, signal: signal, base: time.Now(), chunk: new(chunk), alone: runtime.GOMAXPROCS(0) == 1}
	ok := false
	l.poller, ok = newPoller(epoll, l.poll)
	if !ok || l.register(l.signal, syscall.EPOLLIN|epollET, 0) != nil {
		l.close()
		return nil
	}
	return l
}

func (l *loop) close() {
	l.mu.Lock()
	l.ended = true
	l.poller.close()
	closeDescriptor(l.signal)
	l.mu.Unlock()
	l.countStrays()
	expectOvers(-1)
	for calls := l.takeCalls(); len(calls) > 0; calls = l.takeCalls() {
		for _, s := range calls {
			l.forward(s)
		}
	}
}

// register has the kernel report events of a descriptor. The tag comes with them.
func (l *loop) register(fd int, events uint32, tag int32) error {
	return os.NewSyscallError("epoll_ctl", epollAdd(l.epoll, fd,
		&syscall.EpollEvent{Events: events, Fd: int32(fd), Pad: tag}))
}

// run drives the loop's sessions until the last one is over.
func (l *loop) run() {
	defer l.close()
	for !l.last {
		l.turn()
		if l.alone {
			runtime.Gosched() // its system calls do not let others run
		}
	}
}

// turn handles what has happened, and waits until something does.
func (l *loop) turn() {
	n := l.wait()
	l.budget = turnBytes
	if n+len(l.spent) > fewLegs {
		l.budget = turnBytes / 4
	}
	for i := range l.ready[:n] {
		l.handle(&l.ready[i])
	}
	for range len(l.spent) {
		leg := l.spent[0]
		l.spent[0] = nil // the array may outlive the session
		l.spent = l.spent[1:]
		if leg.s.events.loop.Load() == l {
			l.visit(leg.s, leg, 0)
		}
	}
	now := time.Since(l.base)
	l.wheel.advance(l.ticks(now), perTurn, l.fire)
	for _, s := range l.takeCalls() {
		if !l.forward(s) {
			l.look(s)
		}
	}
	if l.empty {
		l.endIfEmpty(now)
	}
	if !l.last {
		l.measure(now)
	}
}

// wait returns the number of events that are ready, and waits for them if there is
// nothing else to do.
func (l *loop) wait() int {
	until := time.Time{} // never
	if l.empty {         // there are no timers
		until = l.base.Add(l.emptyAt + linger)
	} else if _, _, at, ok := l.wheel.first(); ok {
		if at <= l.ticks(time.Since(l.base)) { // the poller would not look for events
			return epollNow(l.epoll, l.ready[:])
		}
		until = l.base.Add(time.Duration(at) * tick)
	}
	l.events, l.began = 0, -1
	l.poller.wait(until)
	if l.began >= 0 {
		l.share.slept += time.Since(l.base) - l.began
		l.mu.Lock()
		l.asleep = false
		l.mu.Unlock()
	}
	return l.events
}

// poll takes the events that are ready. It returns false if the loop is to wait for
// them.
func (l *loop) poll() bool {
	l.events = epollNow(l.epoll, l.ready[:])
	if l.events > 0 || len(l.spent) > 0 || !l.sleep() {
		return true
	}
	if l.began < 0 {
		l.began = time.Since(l.base)
	}
	return false
}

// sleep records that the loop is about to wait for events, unless it is called.
func (l *loop) sleep() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.asleep = l.calls.length == 0
	return l.asleep
}

// call has the loop look at a session. It returns false if the loop has ended.
func (l *loop) call(s *Session) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ended {
		return false
	}
	l.calls.add(s)
	if l.asleep {
		l.asleep = false
		l.wake()
	}
	return true
}

// wake ends the loop's wait for events, or the next one.
func (l *loop) wake() { eventSignal(l.signal) }

// takeCalls returns sessions to look at, some of those that there are.
func (l *loop) takeCalls() []*Session {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.calls.takeSome()
}

// ticks converts a time since the loop's base to the wheel's ticks.
func (l *loop) ticks(d time.Duration) int64 { return int64(d / tick) }

// tickOf converts a time since the start of a session to a tick that is not before
// it.
func (l *loop) tickOf(s *Session, due time.Duration) int64 {
	return int64((s.began.Sub(l.base) + min(due, wheelEnd*tick) + tick - 1) / tick)
}

// handle handles an event. An event may be out of date: an earlier one of the same
// batch may have closed its descriptor, and the number may be in use again.
func (l *loop) handle(e *syscall.EpollEvent) {
	if int(e.Fd) >= len(l.legs) {
		return
	}
	if leg := l.legs[e.Fd]; leg != nil && leg.ev().tag == e.Pad {
		l.visit(leg.s, leg, e.Events)
	}
}

// visit handles events of a leg, or, with none, continues to read from it.
func (l *loop) visit(s *Session, leg *leg, events uint32) {
	defer l.guard(s)
	e := leg.ev()
	if events == 0 {
		e.spent = false
	}
	if events&^syscall.EPOLLOUT != 0 {
		e.arrived()
		// After a hang-up, or with urgent data, a short read does not mean that
		// nothing is left.
		e.toEnd = e.toEnd || events&(syscall.EPOLLRDHUP|syscall.EPOLLHUP|syscall.EPOLLERR|syscall.EPOLLPRI) != 0
	}
	if events&syscall.EPOLLOUT != 0 && e.tls != nil {
		e.tls.flush()
	}
	if events&(syscall.EPOLLOUT|syscall.EPOLLHUP|syscall.EPOLLERR) != 0 && leg.is(legKeeps) && leg.writeKept() {
		l.pass(&s.pumps[leg.side^1])
	}
	l.pass(&s.pumps[leg.side])
	if !l.finish(s) {
		l.shareSession(s)
	}
}

// guard is Session.guard for the loop: no more is read for the session.
func (l *loop) guard(s *Session) {
	if v := recover(); v != nil {
		s.panicked(v)
		for side := range s.legs {
			s.legs[side].over = true
		}
		l.finish(s)
	}
}

// look does what others have left to do for a session, and carries on its timer.
func (l *loop) look(s *Session) {
	defer l.guard(s)
	e := &s.events
	wants := e.wants.And(wantTimer) // first: who comes later calls again
	if e.over {
		return
	}
	if !e.registered {
		l.begin(s)
	}
	for side := range s.legs {
		leg := &s.legs[side]
		if wants&wantEnd != 0 {
			leg.arrived()
			leg.toEnd = true
		}
		if leg.is(legShut) {
			l.hangUp(leg)
		}
	}
	for side := range s.pumps {
		l.pass(&s.pumps[side])
	}
	if !l.finish(s) && e.wants.And(^uint32(wantTimer))&wantTimer != 0 {
		s.mu.Lock()
		due := s.course.Due()
		s.mu.Unlock()
		l.wheel.set(s, l.tickOf(s, due))
	}
}

// begin registers a session's connections. What has arrived before is reported
// then.
func (l *loop) begin(s *Session) {
	s.events.registered = true
	for side := range s.legs {
		leg, e := &s.legs[side], &s.legs[side].eventLeg
		if e.fd < 0 {
			continue
		}
		l.tag++
		e.tag = l.tag
		for len(l.legs) <= int(e.fd) {
			l.legs = append(l.legs, nil)
		}
		l.legs[e.fd] = leg
		if e.tls != nil {
			e.tls.free()
		}
		if err := l.register(int(e.fd), legEvents, e.tag); err != nil { // the kernel is out of memory
			s.lose(leg, err)
		}
	}
}

// fire looks at a session whose timer is due.
func (l *loop) fire(s *Session) {
	defer l.guard(s)
	for side := range s.legs {
		if tls := s.legs[side].tls; tls != nil {
			tls.free()
		}
	}
	s.events.wants.Or(wantLook) // it need not call the loop to set the next timer
	s.tick()
	l.look(s)
}

// hangUp closes a leg's connection.
func (l *loop) hangUp(leg *leg) {
	e := leg.ev()
	if e.fd < 0 {
		return
	}
	l.legs[e.fd] = nil
	leg.s.events.mu.Lock()
	if e.tls != nil {
		e.tls.forget()
	}
	closeDescriptor(int(e.fd))
	e.fd = -1
	leg.s.events.mu.Unlock()
	if leg.is(legKeeps) {
		leg.writeKept() // which fails
	}
}

// finish ends the session if nothing more is to be read or written, and reports
// whether it has ended.
func (l *loop) finish(s *Session) bool {
	e := &s.events
	if e.over {
		return true
	}
	for side := range s.legs {
		leg := &s.legs[side]
		if !leg.over || leg.is(legKeeps) && !leg.is(legShut) {
			return false
		}
	}
	e.over = true
	s.mu.Lock()
	s.finished = true
	s.helpers++
	s.mu.Unlock()
	l.wheel.remove(s)
	for side := range s.legs {
		leg := &s.legs[side]
		if t := leg.tls; t != nil && !leg.is(legShut) {
			t.closeNotify()
		}
		leg.set(legShut, true)
		l.hangUp(leg)
	}
	l.leave()
	s.helped()
	return true
}

const (
	turnBytes = 1 << 20 // how much a leg may relay in one turn, if few others have something to relay
	fewLegs   = 8

	// perTurn is how many timers fire in a turn, apart from those of the same tick,
	// and how many calls are answered. Otherwise those of very many sessions could keep
	// events waiting, of which a turn takes as many as fit into loop.ready: the answers
	// to Pings would come late, and that would make more work.
	perTurn = 128

	epollET   = 1 << 31
	legEvents = syscall.EPOLLIN | syscall.EPOLLOUT | syscall.EPOLLRDHUP | syscall.EPOLLPRI | epollET
)
