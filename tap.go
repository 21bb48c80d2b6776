package wsproxy

import (
	"bytes"
	"sync"
	"sync/atomic"
)

// This file shows messages to functions that have no part in the session: they get
// copies, later.

// WithTap calls f with a copy of each whole message that goes on, from either side,
// after the hooks of [WithOnMessage]: for audits and metering. f cannot change or
// refuse messages, and a slow f does not slow them down: it is called later, in a
// goroutine that the session has only while messages wait for f.
//
// What waits is limited, to 256 messages and 1 MiB for a session, and to 64 MiB for
// all sessions of the proxy. Messages beyond that are not shown to f; Stats.Untapped
// counts them. A message that is larger is shown if no other waits. Messages that the program has
// added ([Session.Send]) are not shown.
//
// The calls for one session come one at a time, in the order in which the messages
// arrived on each side; those of different sessions are concurrent, so f must be safe
// for concurrent use. f may keep m.Data, but not change it if there are several taps.
// The hooks of [WithOnClose] are called after the last call for their session: so f
// must return in the end. If f panics, that is logged, and the session goes on.
//
// The option may be given several times; each f gets all messages. By default there
// are none. The option makes all sessions message sessions, with the memory, the
// limit of message sizes and the handling of compression that are described at
// [WithOnMessage].
func WithTap(f func(s *Session, m Message)) Option {
	return func(c *config) {
		if c.taps = append(c.taps, f); f == nil {
			c.mistake("WithTap", nil, "nil function")
		}
	}
}

// Limits for what waits for the functions of [WithTap].
const (
	mostTapped      = 256      // messages of a session
	mostTappedBytes = 1 << 20  // of a session
	mostTappedTotal = 64 << 20 // bytes of all sessions of a proxy
)

// tapped counts what concerns the taps of all sessions.
type tapped struct {
	bytes  atomic.Int64  // of messages that wait
	missed atomic.Uint64 // messages for which there was no room
}

// A tap has the messages of a session that wait for the functions of [WithTap].
type tap struct {
	s     *Session
	calls sync.WaitGroup // the goroutine, if it runs

	mu      sync.Mutex
	waiting []Message // guarded by mu
	bytes   int       // guarded by mu; of these, and of the message of the current call
	running bool      // guarded by mu
}

// openTap gives the session a tap.
func (s *Session) openTap() *tap {
	s.mu.Lock()
	defer s.mu.Unlock()
	x := s.extraLocked()
	x.tap = &tap{s: s}
	return x.tap
}

// closeTap waits until the functions have had all messages of a session that is over.
func (s *Session) closeTap() {
	s.mu.Lock()
	x := s.extra
	s.mu.Unlock()
	if x != nil && x.tap != nil {
		x.tap.calls.Wait()
	}
}

// put adds a copy of a message, if there is room for it.
func (t *tap) put(m Message) {
	t.mu.Lock()
	defer t.mu.Unlock()
	all, n := &t.s.proxy.tapped, len(m.Data)
	if len(t.waiting) >= mostTapped || t.bytes > 0 && t.bytes+n > mostTappedBytes {
		all.missed.Add(1)
		return
	}
	if sum := all.bytes.Add(int64(n)); sum > mostTappedTotal && sum > int64(n) {
		all.bytes.Add(int64(-n))
		all.missed.Add(1)
		return
	}
	m.Data = bytes.Clone(m.Data)
	t.waiting = append(t.waiting, m)
	t.bytes += n
	if !t.running {
		t.running = true
		t.calls.Go(t.run)
	}
}

// run calls the functions with the messages that wait, until there are none.
func (t *tap) run() {
	over := false
	defer func() {
		if !over { // a function has ended the goroutine (runtime.Goexit)
			t.calls.Go(t.run)
		}
	}()
	for t.callNext() {
	}
	over = true
}

// callNext calls the functions with the next message. It returns false if there is
// none.
func (t *tap) callNext() bool {
	t.mu.Lock()
	if len(t.waiting) == 0 {
		t.waiting, t.running = nil, false
		t.mu.Unlock()
		return false
	}
	m := t.waiting[0]
	t.waiting[0] = Message{}
	t.waiting = t.waiting[1:]
	t.mu.Unlock()
	defer t.forget(len(m.Data))
	t.s.proxy.callTaps(t.s, m)
	return true
}

// forget makes room when the functions have had a message of n bytes.
func (t *tap) forget(n int) {
	t.s.proxy.tapped.bytes.Add(int64(-n))
	t.mu.Lock()
	defer t.mu.Unlock()
	t.bytes -= n
}
