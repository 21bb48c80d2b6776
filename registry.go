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

// This file holds the registry of a proxy's sessions and admits new ones.

// Sessions returns an iterator over the sessions that are open when the
// iteration starts, oldest first. Some may have ended by the time they are
// yielded.
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

// admit registers a session, or refuses it.
func (p *Proxy) admit(r *http.Request) (context.Context, *Session, *Error) {
	client := p.clientAddr(r)
	ctx, cancel := context.WithCancelCause(r.Context())
	key, err := p.clientKey(ctx, cancel, r, client)
	if err != nil {
		cancel(nil)
		return nil, nil, err
	}
	s := &Session{proxy: p, client: client, cancel: cancel,
		path: strings.Clone(clip(clientPath(r)))} // a copy, so that it does not retain the whole request line
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

// fullLocked returns an error if there is no room for another session of the
// client. p.mu is held.
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

// list adds the session to the list, before its 101 is sent: whoever receives
// the 101 can look it up.
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

// begin records that a session's 101 was sent.
func (p *Proxy) begin(s *Session) {
	// An open session does not need the handshake's context and would retain it
	// for life, unless it is also the context of a hook's request.
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
	switch { // Close or Shutdown was called while the 101 was being sent
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

// leave removes a session and then calls the hooks of WithOnClose.
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

// emptyLocked closes p.empty when a drain is complete. p.mu is held.
func (p *Proxy) emptyLocked() {
	if p.draining && len(p.sessions) == 0 && p.leaving == 0 {
		close(p.empty)
	}
}

// remove removes a session that is over from the list, once; it is leaving
// then.
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
