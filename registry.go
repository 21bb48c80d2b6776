package wsproxy

import (
	"context"
	"fmt"
	"iter"
	"math"
	"net/http"
	"slices"
	"sync"
	"time"
	"unique"

	"github.com/seed-ffb73231/wsproxy/internal/protocol"
)

// This file holds the registry of a proxy's sessions and admits new ones.

// A registry holds the sessions of a proxy, from their admission until they are
// over.
type registry struct {
	maxSessions, maxHandshakes, maxPerClient int // set when made; 0: no limit

	empty chan struct{} // closed when draining, and no session is left or leaving

	mu             sync.Mutex
	oldest, newest *Session       // guarded by mu; the ends of the list of sessions, in the order of their IDs
	cursors        []*cursor      // guarded by mu; of the listings under way
	count          int            // guarded by mu; length of the list, which includes handshakes under way
	listed         int            // guarded by mu; number of them for which list was called
	perClient      map[string]int // guarded by mu; number of them by client
	leaving        int            // guarded by mu; sessions that are over except for their log records and hooks
	lastID         uint64         // guarded by mu
	draining       bool           // guarded by mu
	closed         bool           // guarded by mu
	drain          DrainStats     // guarded by mu
}

func newRegistry(c *config) registry {
	return registry{
		maxSessions:   c.maxSessions,
		maxHandshakes: c.maxHandshakes,
		maxPerClient:  c.maxPerClient,
		perClient:     make(map[string]int),
		empty:         make(chan struct{}),
	}
}

// neighbors is a session's place in the list.
type neighbors struct{ older, newer *Session }

// A cursor is the place of a listing in the list.
type cursor struct {
	at   *Session // the next one; nil: the end
	last uint64   // the ID of the last one to visit
}

// Sessions returns an iterator over the sessions that are open when the
// iteration starts, oldest first. Sessions that end during the iteration may be
// left out; the others may have ended by the time they are yielded. However
// many sessions there are, the iteration delays no handshake.
func (p *Proxy) Sessions() iter.Seq[*Session] {
	return func(yield func(*Session) bool) {
		now := time.Now()
		for s := range p.registry.all() {
			if began := s.Start(); !began.IsZero() && !began.After(now) && !yield(s) {
				return
			}
		}
	}
}

// listedAtOnce is the number of sessions that a listing takes while it holds
// the registry's lock.
const listedAtOnce = 64

// all returns an iterator over the sessions that are registered when the
// iteration starts, including handshakes under way, oldest first. It leaves out
// sessions that are over before it reaches them.
func (g *registry) all() iter.Seq[*Session] {
	return func(yield func(*Session) bool) {
		var c cursor
		g.mu.Lock()
		c.at, c.last = g.oldest, g.lastID
		g.cursors = append(g.cursors, &c)
		g.mu.Unlock()
		defer func() {
			g.mu.Lock()
			defer g.mu.Unlock()
			g.cursors = slices.DeleteFunc(g.cursors, func(other *cursor) bool { return other == &c })
		}()
		for {
			var taken [listedAtOnce]*Session
			n := g.take(&c, taken[:])
			if n == 0 {
				return
			}
			for _, s := range taken[:n] {
				if !yield(s) {
					return
				}
			}
		}
	}
}

// take moves the cursor forward, and returns how many sessions it has put into
// taken.
func (g *registry) take(c *cursor, taken []*Session) (n int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for n < len(taken) && c.at != nil && c.at.id <= c.last {
		taken[n] = c.at
		n++
		c.at = c.at.newer
	}
	return n
}

// add registers a session and gives it its ID, unless there is no room for
// another session of the client with this key; "": the client is not counted.
func (g *registry) add(s *Session, key string) *Error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if err := g.fullLocked(key); err != nil {
		return err
	}
	g.lastID++
	s.id = g.lastID
	s.older = g.newest
	if g.newest != nil {
		g.newest.newer = s
	} else {
		g.oldest = s
	}
	g.newest = s
	g.count++
	if key != "" {
		g.perClient[key]++
	}
	return nil
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
	client = client[:min(len(client), math.MaxUint16)] // middleware may set it to anything
	s := &Session{proxy: p, cancel: cancel, about: client + clip(clientPath(r)), client: uint16(len(client))}
	if key != "" {
		s.extra = &sessionExtra{key: key}
	}
	if err := p.registry.add(s, key); err != nil {
		cancel(nil)
		return nil, nil, err
	}
	return ctx, s, nil
}

// fullLocked returns an error if there is no room for another session of the
// client. g.mu is held.
func (g *registry) fullLocked(key string) *Error {
	refuse := func(status int, err error) *Error {
		return &Error{Op: "admit", Side: Self, Status: status, Err: err}
	}
	switch {
	case g.draining:
		return refuse(http.StatusServiceUnavailable, ErrShutdown)
	case g.maxSessions > 0 && g.count >= g.maxSessions:
		return refuse(http.StatusServiceUnavailable, fmt.Errorf("%w: %d sessions", ErrLimit, g.maxSessions))
	case g.maxHandshakes > 0 && g.count-g.listed >= g.maxHandshakes:
		return refuse(http.StatusServiceUnavailable, fmt.Errorf("%w: %d handshakes under way", ErrLimit, g.maxHandshakes))
	case key != "" && g.perClient[key] >= g.maxPerClient:
		return refuse(http.StatusTooManyRequests, fmt.Errorf("%w: %d sessions of one client", ErrLimit, g.maxPerClient))
	}
	return nil
}

// list adds the session to the list that users see, before its 101 is sent:
// a client that has its 101 finds it listed.
func (p *Proxy) list(s *Session, upstream, subprotocol string) {
	s.mu.Lock()
	s.upstream = unique.Make(upstream)
	if subprotocol != "" {
		s.extraLocked().subprotocol = subprotocol
	}
	s.mu.Unlock()
	s.relay.Begin(time.Now()) // last: from here on Sessions yields it
	g := &p.registry
	g.mu.Lock()
	defer g.mu.Unlock()
	g.listed++
	if g.draining { // it will be told as soon as it is open
		g.drain.Total++
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
	s.mu.Lock()
	s.cancel, s.open = kept, true
	var closing *protocol.Cause
	if s.extra != nil {
		closing = s.extra.closing
	}
	s.mu.Unlock()
	p.stats.open()
	// From here on, this session counts as open when sessions are ended. What began before
	// shows now.
	draining, closed := p.registry.ends()
	if draining {
		p.told(s)
	}
	at := s.seat.Member()
	removed := at != nil && at.Gone() && !p.keepRemoved
	switch { // Close or Shutdown was called while the 101 was being sent
	case closed:
		s.relay.Cut(causeCut, ErrShutdown)
	case closing != nil:
		s.relay.Stop(closing, nil)
	case draining:
		s.relay.Stop(p.drained, nil)
	case removed:
		p.move(s, causeRemoved)
	}
}

// ends reports whether Shutdown or Close was called.
func (g *registry) ends() (draining, closed bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.draining, g.closed
}

// registryState is a snapshot of a registry.
type registryState struct {
	open, handshakes, leaving int
	drain                     DrainStats
}

func (g *registry) load() registryState {
	g.mu.Lock()
	defer g.mu.Unlock()
	return registryState{g.listed, g.count - g.listed, g.leaving, g.drain}
}

// told counts a session that was told to end by a drain, or has ended by
// itself, once.
func (p *Proxy) told(s *Session) {
	if s.toldNow() {
		p.registry.mu.Lock()
		defer p.registry.mu.Unlock()
		p.registry.drain.Told++
	}
}

// toldNow reports whether it is called for the first time.
func (s *Session) toldNow() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	first := !s.told
	s.told = true
	return first
}

// leave removes a session and then calls the hooks of WithOnClose.
func (p *Proxy) leave(s *Session) {
	defer p.registry.left() // a hook may end its goroutine (runtime.Goexit)
	p.remove(s)
	s.decide(nil)
	s.closeTap()
	if s.letIn {
		p.callOnClose(s)
	}
}

// left records that a session that was leaving has left.
func (g *registry) left() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.leaving--
	g.emptyLocked()
}

// emptyLocked closes g.empty when a drain is complete. g.mu is held.
func (g *registry) emptyLocked() {
	if g.draining && g.count == 0 && g.leaving == 0 {
		close(g.empty)
	}
}

// remove removes a session that is over, once; it is leaving then.
func (p *Proxy) remove(s *Session) {
	if s.removed {
		return
	}
	s.removed = true
	key := ""
	s.mu.Lock()
	cancel, open := s.cancel, s.open
	if s.extra != nil {
		key = s.extra.key
	}
	s.mu.Unlock()
	if cancel != nil {
		cancel(nil)
	}
	p.pool.Release(&s.seat)
	if open { // first, so that Stats never misses it
		p.stats.end(s)
	}
	listed := !s.Start().IsZero()
	c, _, _ := s.relay.Result()
	p.registry.remove(s, key, listed, listed && c != causeCut && s.toldNow())
}

// remove removes a session from the list. told is whether a drain counts it as
// told to end.
func (g *registry) remove(s *Session, key string, listed, told bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, c := range g.cursors {
		if c.at == s {
			c.at = s.newer
		}
	}
	if s.older != nil {
		s.older.newer = s.newer
	} else {
		g.oldest = s.newer
	}
	if s.newer != nil {
		s.newer.older = s.older
	} else {
		g.newest = s.older
	}
	s.neighbors = neighbors{} // a reference to this session must not retain others
	g.count--
	g.leaving++
	if key != "" {
		if g.perClient[key]--; g.perClient[key] == 0 {
			delete(g.perClient, key)
		}
	}
	if listed {
		g.listed--
	}
	if told && g.draining {
		g.drain.Told++
	}
}
