// Package pool knows the members that sessions are balanced over: which of them
// are in use, which are healthy, whose turn it is, and whether a failed handshake
// may be retried. It knows no protocol, dials nobody and calls no user code.
package pool

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// A Config does not change after [New].
type Config struct {
	Rule Rule

	// Retry is the share of handshakes that may be retried. 1 is no limit.
	Retry float64

	// Doubts is the number of different clients with doubtful handshakes that
	// make a failure.
	Doubts int

	// Life ends with the pool.
	Life context.Context
}

// A Spec describes a member. Names identify members.
type Spec[T any] struct {
	Name   string
	Token  string // of Search.Token; "": none. A member has always the same
	Weight int    // above 0
	Max    int    // concurrent sessions; 0: no limit
	Target *T     // what the member stands for
}

// A State is a snapshot of a member's state.
type State struct {
	Name        string
	Weight      int
	MaxSessions int
	Sessions    int  // including handshakes under way
	Down        bool // it gets no new sessions for now
}

// A Member is one of the members. What it stands for is a T.
type Member[T any] struct {
	// Set when made.
	name  string
	token string
	hash  uint64 // of the name

	target atomic.Pointer[T]

	// Guarded by the pool's lock.
	weight   int
	share    float64 // the weight
	max      int
	sessions int                // handshakes under way included
	due      float64            // compared with Pool.round; see roundRobin
	leave    context.CancelFunc // ends Addition.Life
	health[T]

	// Changed with the pool's lock held.
	gone atomic.Bool // removed from the set
	down atomic.Bool // by the health checks
}

// Name returns the member's name.
func (m *Member[T]) Name() string { return m.name }

// Token returns the member's token, or "".
func (m *Member[T]) Token() string { return m.token }

// Target returns what the member stands for.
func (m *Member[T]) Target() *T { return m.target.Load() }

// Gone reports whether the member was removed from the set.
func (m *Member[T]) Gone() bool { return m.gone.Load() }

// Down reports whether the health checks have marked the member down.
func (m *Member[T]) Down() bool { return m.down.Load() }

// A Pool is a set of members. Its methods are safe for concurrent use.
type Pool[T any] struct {
	config Config
	began  time.Time // the origin of the members' times

	mu       sync.Mutex            // guards what follows, and the members
	members  []*Member[T]          // in the order in which they were set
	draws    []draw                // theirs, in the same order
	heaviest int                   // the largest weight of a member
	byToken  map[string]*Member[T] // of those that have a token
	known    map[string]*Member[T] // by name: the members, and removed ones that still have sessions
	turn     int                   // the member at which a choice between equals begins
	round    float64               // number of rounds of roundRobin so far
	budget   float64               // how many retries are allowed now; see mayRetry
	retries  uint64                // how many have been made
}

// New returns a pool without members.
func New[T any](c Config) *Pool[T] {
	return &Pool[T]{config: c, began: time.Now(), known: make(map[string]*Member[T]), budget: MostRetries}
}

// now returns the time since the pool was made, on the monotonic clock.
func (p *Pool[T]) now() time.Duration { return time.Since(p.began) }

// An Addition is a member that was added to the set.
type Addition[T any] struct {
	Member *Member[T]
	Life   context.Context // ends when it is removed again, or with the pool
}

// Set replaces the members. Members that stay keep their sessions and health. A
// member that was removed and still has sessions is the same member if it comes
// back, but its health starts anew.
func (p *Pool[T]) Set(specs []Spec[T]) (added []Addition[T], removed []*Member[T]) {
	p.mu.Lock()
	defer p.mu.Unlock()
	members := make([]*Member[T], len(specs))
	stays := make(map[*Member[T]]bool, len(specs))
	p.byToken = make(map[string]*Member[T])
	for i, spec := range specs {
		m := p.known[spec.Name]
		if m == nil {
			m = &Member[T]{name: spec.Name, token: spec.Token, hash: Hash(spec.Name)}
			m.gone.Store(true) // not yet a member
			p.known[m.name] = m
		}
		m.weight, m.share, m.max = spec.Weight, float64(spec.Weight), spec.Max
		m.target.Store(spec.Target)
		if m.token != "" {
			p.byToken[m.token] = m
		}
		if m.gone.Load() {
			var life context.Context
			life, m.leave = context.WithCancel(p.config.Life)
			m.gone.Store(false)
			added = append(added, Addition[T]{m, life})
		}
		stays[m], members[i] = true, m
	}
	for _, m := range p.members {
		if stays[m] {
			continue
		}
		removed = append(removed, m)
		m.gone.Store(true)
		m.leave()
		m.health = health[T]{} // if it comes back, it may be another server
		m.down.Store(false)
		if m.sessions == 0 {
			delete(p.known, m.name)
		}
	}
	p.use(members)
	return added, removed
}

// use sets the members. p.mu is held.
func (p *Pool[T]) use(members []*Member[T]) {
	p.members, p.draws, p.heaviest = members, make([]draw, len(members)), 0
	for i, m := range members {
		p.draws[i] = draw{m.hash, m.share}
		p.heaviest = max(p.heaviest, m.weight)
	}
}

// Len returns the number of members.
func (p *Pool[T]) Len() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.members)
}

// Up reports whether a member is not marked down.
func (p *Pool[T]) Up() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.ContainsFunc(p.members, func(m *Member[T]) bool { return !m.Down() })
}

// States returns a snapshot of the members, and how many handshakes have been
// retried.
func (p *Pool[T]) States() (states []State, retries uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := p.now()
	states = make([]State, len(p.members))
	for i, m := range p.members {
		states[i] = m.state(now)
	}
	return states, p.retries
}

// state returns a snapshot. The pool's lock is held.
func (m *Member[T]) state(now time.Duration) State {
	return State{Name: m.name, Weight: m.weight, MaxSessions: m.max, Sessions: m.sessions, Down: !m.well(now)}
}

func (m *Member[T]) full() bool { return m.max > 0 && m.sessions >= m.max }

// fits reports whether a session may be placed with the member now. The pool's
// lock is held.
func (m *Member[T]) fits(now time.Duration, at *Search[T]) bool {
	return m.well(now) && !m.full() && !slices.Contains(at.tried, m)
}

// A Seat is a session's place at a member. Only the pool changes it, in calls
// that are made for the session one after the other.
type Seat[T any] struct{ at atomic.Pointer[Member[T]] }

// Member returns the member, or nil if the session is not placed.
func (s *Seat[T]) Member() *Member[T] { return s.at.Load() }

// A Search is the state of a session's search for a member.
type Search[T any] struct {
	Key   uint64 // of Rendezvous, a [Hash]; 0: none
	Token string // of the member to prefer; "": none

	// Free means that the next attempt does not use the retry budget, and Sent
	// that the request was sent to the last member.
	Free, Sent bool

	tried []*Member[T]
	trial bool // the last member had failed before, and is tried alone
	many  bool // there are other members, healthy or not
}

// Tried returns the number of members that were tried.
func (at *Search[T]) Tried() int { return len(at.tried) }

// Several reports whether there were other members, healthy or not, when the
// last one was placed.
func (at *Search[T]) Several() bool { return at.many }

// Candidates returns the members that a session may be placed with now, and
// their states.
func (p *Pool[T]) Candidates(at *Search[T]) (members []*Member[T], states []State) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := p.now()
	for _, m := range p.members {
		if m.fits(now, at) {
			members, states = append(members, m), append(states, m.state(now))
		}
	}
	return members, states
}

// Place places a session with a member that it was not placed with before; m is
// nil if there is none. chosen is preferred to what the rule would select; it
// may be nil. others reports whether another member may be tried after m.
func (p *Pool[T]) Place(seat *Seat[T], at *Search[T], chosen *Member[T]) (m *Member[T], others bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := p.now()
	p.release(seat)
	retry := len(at.tried) > 0
	switch {
	case !retry:
		p.budget = min(p.budget+p.config.Retry, MostRetries)
	case !at.Free && !p.mayRetry(at.Sent): // the retry budget is used up
		return nil, false
	}
	switch back := p.byToken[at.Token]; {
	case back != nil && back.fits(now, at):
		m = back
	case chosen != nil && !chosen.Gone() && chosen.fits(now, at):
		m = chosen
	default:
		m = p.find(at, now)
	}
	if m == nil && !retry && !slices.ContainsFunc(p.members, func(m *Member[T]) bool { return m.well(now) }) {
		m = p.leastBad()
	}
	if m == nil {
		return nil, false
	}
	m.sessions++
	if at.trial = m.failed > 0 && m.probeFree(now); at.trial {
		m.probe = seat
	}
	m.tried = now
	seat.at.Store(m)
	if retry {
		p.retries++
		if !at.Free {
			p.budget--
		}
	}
	at.tried, at.many = append(at.tried, m), len(p.members) > 1
	others = p.mayRetry(false) && slices.ContainsFunc(p.members, func(m *Member[T]) bool { return m.fits(now, at) })
	return m, others
}

// Release removes a session from its member, if it has one.
func (p *Pool[T]) Release(seat *Seat[T]) {
	if seat.Member() == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.release(seat)
}

// release is Release with p.mu held.
func (p *Pool[T]) release(seat *Seat[T]) {
	m := seat.Member()
	if m == nil {
		return
	}
	seat.at.Store(nil)
	m.probed(seat)
	if m.sessions--; m.sessions == 0 && m.Gone() {
		delete(p.known, m.name)
	}
}
