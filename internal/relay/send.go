package relay

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/seed-ffb73231/wsproxy/internal/frame"
)

// This file adds messages of the program's own to a session. They wait in a queue
// of the leg until its lock is free at the end of a message: a control frame may be
// put into a fragmented message, a data frame may not (RFC 6455, 5.4). Whoever
// holds the lock then writes them, as it writes Pings.

// ErrNotOpen means that the session has begun to end, or is over.
var ErrNotOpen = errors.New("session not open")

// errSilenced: nothing was written to an upstream that is gone; there may be another.
var errSilenced = errors.New("upstream lost")

// An addition is a message of the program's own.
type addition struct {
	op    byte
	data  []byte     // the message; without a stage, its frame
	begun bool       // guarded by Session.mu; it has left the queue
	done  chan error // receives the result, and has room for it
	leg   *leg       // guarded by Session.mu; that it is for: an older one of the side has nothing to do with it
}

// Send writes a message to a side, between two relayed messages, and waits until
// it is written. It copies the data. If ctx ends before the first byte is written,
// the message is dropped; after that, the rest is still written, for half a frame
// would be the end of the session. While the session has no upstream, a message for
// it waits. The session must have been joined.
func (s *Session) Send(ctx context.Context, to frame.Side, op byte, data []byte) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	for last := (*leg)(nil); ; {
		s.mu.Lock()
		next := s.missingLocked(to, last)
		var ended <-chan struct{}
		if next != nil {
			ended = s.rare.hastened
		}
		s.mu.Unlock()
		if next == nil {
			var err error
			if last, err = s.send(ctx, to, op, data); err != errSilenced {
				return err
			}
			continue
		}
		select {
		case <-next:
		case <-ended:
			return ErrNotOpen
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// send is Send to the connection that a side has now, which it returns.
func (s *Session) send(ctx context.Context, to frame.Side, op byte, data []byte) (*leg, error) {
	m := &addition{op: op, done: make(chan error, 1)}
	if s.inlet(to) != nil { // the stage makes the frames, when it is their turn
		m.data = bytes.Clone(data)
	} else {
		b := make([]byte, 0, frame.MaxDataHeader+len(data))
		m.data = frame.AppendMessage(b, op, to == frame.Upstream, data)
	}
	s.mu.Lock()
	if s.course.Ending() {
		s.mu.Unlock()
		return nil, ErrNotOpen
	}
	x := s.rareLocked()
	x.additions[to] = append(x.additions[to], m)
	l := s.pairLocked()[to]
	m.leg = l
	s.helpers++
	s.mu.Unlock()
	l.pending.Or(sendPending)
	s.help(l.flush) // not here: a write does not end with ctx
	s.helped()
	select {
	case err := <-m.done:
		return l, err
	case <-ctx.Done():
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if !m.begun {
		x.additions[to] = slices.DeleteFunc(x.additions[to], func(other *addition) bool { return other == m })
		return l, ctx.Err()
	}
	select {
	case err := <-m.done:
		return l, err
	default:
		return l, fmt.Errorf("%w while the message was being written", ctx.Err())
	}
}

// writeAdditions writes the messages that were added, unless the last message
// that was relayed to the leg is unfinished. The lock is held.
//
//go:noinline
func (l *leg) writeAdditions() {
	l.s.mu.Lock()
	n := len(l.s.rare.additions[l.side])
	l.s.mu.Unlock()
	// Those that are added meanwhile have to wait for what the opposite side sends.
	for range n {
		m := l.nextAddition()
		if m == nil {
			return
		}
		l.writeAddition(m)
	}
}

// nextAddition returns the message to write now, or nil if there is none. lock is
// held.
func (l *leg) nextAddition() *addition {
	s := l.s
	s.mu.Lock()
	defer s.mu.Unlock()
	queue := s.rare.additions[l.side]
	first := slices.IndexFunc(queue, func(m *addition) bool { return m.leg == l })
	switch {
	case first < 0:
		return nil
	case l.inMessage && s.rare.inlets == nil: // a stage sends whole messages
		l.pending.Or(sendHeld)
		return nil
	}
	m := queue[first]
	m.begun = true
	s.rare.additions[l.side] = slices.Delete(queue, first, first+1)
	return m
}

// writeAddition writes a message, in pieces so that the progress shows. lock is
// held.
func (l *leg) writeAddition(m *addition) {
	err := l.gone()
	defer func() { // even if a custom connection panics
		if err != nil || !l.addLater(m) {
			l.added(m, err)
		}
	}()
	b := m.data
	if l.mute() {
		return
	}
	if in := l.s.inlet(l.side); in != nil {
		var failed error
		if b, failed = in.stage.Append(l.side, m.op, b, nil); failed != nil {
			err = failed
			return
		}
	}
	for begun := false; len(b) > 0; begun = true {
		piece := b[:min(len(b), chunkSize)]
		n := l.write(piece, l.s.now())
		if l.mute() { // the write failed
			if begun || n > 0 {
				err = ErrNotOpen
				l.s.torn(l)
			}
			return
		}
		b = b[len(piece):]
	}
	err = nil
}

// added tells the result of writing a message.
func (l *leg) added(m *addition, err error) {
	if err == nil {
		l.s.shared.Totals[l.s.cell][l.side].sent.Add(1)
	}
	m.done <- err
}

// gone returns the error for a message that is not written, because nothing more may
// be written to the leg.
func (l *leg) gone() error {
	l.s.mu.Lock()
	defer l.s.mu.Unlock()
	if r := l.s.resumingLocked(); r != nil && l.side == frame.Upstream && !r.trial && l.s.course.Resumes() {
		return errSilenced
	}
	return ErrNotOpen
}

// dropAdditionsLocked drops the messages that wait for a boundary. It is called
// when the session begins to end: from then on there are none. s.mu is held.
func (s *Session) dropAdditionsLocked() {
	for side, queue := range s.rare.additions {
		for _, m := range queue {
			m.begun = true
			m.done <- ErrNotOpen
		}
		s.rare.additions[side] = nil
	}
}
