package wsproxy

import (
	"cmp"
	"context"
	"fmt"
	"iter"
	"net/http"
	"slices"
	"strings"
	"time"
)

// This file is the list of a proxy's sessions: who is let in, and who is there.

// Sessions lists the open sessions, oldest first: those that are open when the
// listing begins. Some may have ended by the time they come up.
func (p *Proxy) Sessions() iter.Seq[*Session] {
	return func(yield func(*Session) bool) {
		for _, s := range p.listed() {
			if !yield(s) {
				return
			}
		}
	}
}

func (p *Proxy) listed() []*Session {
	p.mu.Lock()
	list := make([]*Session, 0, len(p.sessions))
	for s := range p.sessions {
		if !s.began.IsZero() {
			list = append(list, s)
		}
	}
	p.mu.Unlock()
	slices.SortFunc(list, func(a, b *Session) int { return cmp.Compare(a.id, b.id) })
	return list
}

// admit enters a session, or refuses it.
func (p *Proxy) admit(r *http.Request) (context.Context, *Session, *Error) {
	client := p.clientAddr(r)
	ctx, cancel := context.WithCancelCause(r.Context())
	key, err := p.clientKey(ctx, cancel, r, client)
	if err != nil {
		cancel(nil)
		return nil, nil, err
	}
	s := &Session{proxy: p, client: client, cancel: cancel,
		path: strings.Clone(clip(clientPath(r)))} // not with all of the request line that it is part of
	if key != "" {
		s.extra = &sessionExtra{key: key}
	}
	p.mu.Lock()
	err = p.fullLocked(key)
	if err == nil {
		p.lastID++
		s.id = p.lastID
		p.sessions[s] = struct{}{}
		if key != "" {
			p.perClient[key]++
		}
	}
	p.mu.Unlock()
	if err != nil {
		cancel(nil)
		return nil, nil, err
	}
	return ctx, s, nil
}

// fullLocked says whether there is no room for one more session of the
// client's. p.mu is held.
func (p *Proxy) fullLocked(key string) *Error {
	refuse := func(status int, err error) *Error {
		return &Error{Op: "admit", Side: Self, Status: status, Err: err}
	}
	switch {
	case p.draining:
		return &Error{Op: "admit", Side: Self, Status: http.StatusServiceUnavailable, Err: ErrShutdown}
	case p.maxSessions > 0 && len(p.sessions) >= p.maxSessions:
		return refuse(http.StatusServiceUnavailable, fmt.Errorf("%w: %d sessions", ErrLimit, p.maxSessions))
	case p.maxHandshakes > 0 && len(p.sessions)-p.opened >= p.maxHandshakes:
		return refuse(http.StatusServiceUnavailable, fmt.Errorf("%w: %d handshakes under way", ErrLimit, p.maxHandshakes))
	case key != "" && p.perClient[key] >= p.maxPerClient:
		return refuse(http.StatusTooManyRequests, fmt.Errorf("%w: %d sessions of one client", ErrLimit, p.maxPerClient))
	}
	return nil
}

// list has the session listed. That is before its 101 is sent: whoever has
// that can look it up.
func (p *Proxy) list(s *Session, upstream, subprotocol string) {
	if subprotocol != "" {
		s.mu.Lock()
		s.extraLocked().subprotocol = subprotocol
		s.mu.Unlock()
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	s.began, s.upstream = time.Now(), upstream
	p.opened++
	if p.draining { // it will be told as soon as it is open
		p.stats.drain.Total++
	}
}

// begin notes that a session's 101 was sent.
func (p *Proxy) begin(s *Session) {
	// The handshake's context is of no use to an open session, which would keep
	// it all its life, unless it is that of a hook's request as well.
	kept := s.cancel
	if len(p.onOpen) == 0 || p.detach {
		s.cancel(nil)
		kept = nil
	}
	p.mu.Lock()
	s.cancel, s.open = kept, true
	p.stats.opened++
	draining, closed, closing := p.draining, p.closed, s.closing
	removed := s.member != nil && s.member.gone && !p.keepRemoved
	if draining {
		p.stats.drain.Told++
	}
	p.mu.Unlock()
	switch { // Close or Shutdown has passed by while we were answering
	case closed:
		s.cut(causeCut, ErrShutdown)
	case closing != nil:
		s.stop(closing, nil)
	case draining:
		s.stop(p.drained, nil)
	case removed:
		s.stop(causeRemoved, nil)
	}
}

// leave ends a session's stay.
func (p *Proxy) leave(s *Session) {
	defer func() { // a hook may end its goroutine (runtime.Goexit)
		p.mu.Lock()
		defer p.mu.Unlock()
		p.leaving--
		p.emptyLocked()
	}()
	p.remove(s)
	s.decide(nil)
	if s.letIn {
		p.callOnClose(s)
	}
}

// emptyLocked tells those who wait for it that a drain is over, when it is.
// p.mu is held.
func (p *Proxy) emptyLocked() {
	if p.draining && len(p.sessions) == 0 && p.leaving == 0 {
		close(p.empty)
	}
}

// remove takes a session that is over out of the list, once; it is leaving then.
func (p *Proxy) remove(s *Session) {
	key := ""
	s.mu.Lock()
	if s.extra != nil {
		key = s.extra.key
	}
	s.mu.Unlock()
	p.mu.Lock()
	defer p.mu.Unlock()
	if _, there := p.sessions[s]; !there {
		return
	}
	if s.cancel != nil {
		s.cancel(nil)
	}
	delete(p.sessions, s)
	p.leaving++
	p.releaseLocked(s)
	if key != "" {
		if p.perClient[key]--; p.perClient[key] == 0 {
			delete(p.perClient, key)
		}
	}
	if !s.began.IsZero() {
		p.opened--
	}
	if s.open {
		p.stats.end(s)
	} else if p.draining && !s.began.IsZero() {
		p.stats.drain.Told++ // its 101 has failed
	}
}
