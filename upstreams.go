package wsproxy

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"sync/atomic"
	"time"

	"github.com/seed-ffb73231/wsproxy/internal/protocol"
)

// This file holds the set of upstreams and which member each session is placed
// with. balance.go chooses a member; health.go tracks which members are healthy.

// A Member is one of the upstreams that a proxy balances sessions over; see
// [WithUpstreams].
type Member struct {
	// Target is an http, https, ws or wss URL, or unix:/path/to/socket, like
	// the target of [New]. Target, without its query, and Address identify a
	// member. Both are compared in normal form (RFC 3986, 6.2.2 and 6.2.3):
	// http://h:80, http://H and http://h/ are the same member.
	Target string

	// Address is the host:port to connect to in place of the target's host. TLS
	// still verifies the target's host. If Address is "", the host is looked up
	// for each handshake.
	Address string

	// Weight is the member's share relative to the other members, at most 65535.
	// 0 stands for 1.
	Weight int

	// MaxSessions limits the member's concurrent sessions, including handshakes
	// under way. 0 is no limit.
	MaxSessions int
}

// A MemberState is a snapshot of a member's state.
type MemberState struct {
	Name        string // the target in normal form, without the query, followed by # and the Address if there is one
	Weight      int
	MaxSessions int
	Sessions    int  // including handshakes under way
	Down        bool // it gets no new sessions for now
}

// A member is a Member in use.
type member struct {
	hash uint64 // of the name

	// Guarded by Proxy.mu.
	weight   int
	share    float64 // the weight
	max      int
	sessions int     // handshakes under way included
	due      float64 // compared with u.round; see roundRobin
	health
	gone       bool // removed from the set
	stopChecks context.CancelFunc

	name    string // as in MemberState; it identifies the member
	origin  string // as in Session.Upstream
	url     atomic.Pointer[url.URL]
	address string
	token   string // of the name, for the cookie of WithSticky
}

// upstreams is the set of members. It is guarded by Proxy.mu.
type upstreams struct {
	members  []*member
	draws    []draw             // theirs, in the same order
	heaviest int                // the largest weight of a member
	byToken  map[string]*member // of WithSticky
	known    map[string]*member // by name: the members, and removed ones that still have sessions
	turn     int                // the member at which a choice between equals begins
	round    float64            // number of rounds of roundRobin so far
	began    time.Time          // the origin of the members' times
	retries  float64            // how many retries are allowed now; see mayRetryLocked
}

// A draw is what rendezvous needs of each member, contiguous in memory.
type draw struct {
	hash  uint64
	share float64
}

// use sets the members.
func (u *upstreams) use(members []*member) {
	u.members, u.draws, u.heaviest = members, make([]draw, len(members)), 0
	for i, m := range members {
		u.draws[i] = draw{m.hash, m.share}
		u.heaviest = max(u.heaviest, m.weight)
	}
}

// mostWeight is the largest weight of an SRV record.
const mostWeight = 1<<16 - 1

// newMember validates a Member.
func (c *config) newMember(m Member) (*member, error) {
	u, err := parseTarget(m.Target)
	switch {
	case err != nil:
		return nil, err
	case m.Weight < 0 || m.Weight > mostWeight:
		return nil, errors.New("weight must be from 0 to 65535")
	case m.MaxSessions < 0:
		return nil, errors.New("negative number of sessions")
	}
	n := &member{
		name:   u.Scheme + "://" + u.Host + normalPath(u.EscapedPath()),
		origin: u.Scheme + "://" + u.Host,
		weight: max(m.Weight, 1),
		max:    m.MaxSessions,
	}
	n.url.Store(u)
	if m.Address != "" {
		if n.address, err = normalAddress(m.Address); err != nil {
			return nil, err
		}
		if u.Scheme == "unix" {
			return nil, errors.New("a unix target cannot have an Address")
		}
		n.name += "#" + n.address
		n.origin += "#" + n.address
	}
	n.share, n.hash = float64(n.weight), hashString(n.name)
	if c.sticky != nil {
		n.token = c.sticky.sign(n.name)
	}
	return n, nil
}

// newMembers validates members and returns all mistakes at once.
func (c *config) newMembers(members []Member) (list []*member, mistakes []error) {
	mistake := func(m Member, reason string) {
		value := redactTarget(m.Target)
		if m.Address != "" {
			value += "#" + m.Address
		}
		mistakes = append(mistakes, &OptionError{Option: "WithUpstreams", Value: value, Reason: reason})
	}
	names := make(map[string]bool, len(members))
	for _, m := range members {
		n, err := c.newMember(m)
		switch {
		case err != nil:
			mistake(m, err.Error())
		case names[n.name]:
			mistake(m, "duplicate member")
		default:
			names[n.name] = true
			list = append(list, n)
		}
	}
	if len(members) == 0 {
		mistakes = append(mistakes, &OptionError{Option: "WithUpstreams", Value: "", Reason: "no members"})
	}
	return list, mistakes
}

// SetUpstreams replaces the members. Members that stay, identified by target
// and address, keep their sessions, counts and health; their weights and limits
// may change. Removed members get no new sessions, and their sessions are ended
// with Close 1012 (service restart), spread over the window of [WithDrain]; by
// default ten per second, within at most 30 s. With [WithKeepRemovedMembers]
// their sessions continue. SetUpstreams does not wait for sessions to end.
//
// If a member is invalid, nothing changes, and the errors are like those of
// [New].
func (p *Proxy) SetUpstreams(members ...Member) error {
	list, mistakes := p.newMembers(members)
	if len(mistakes) > 0 {
		return errors.Join(mistakes...)
	}
	if added, removed := p.setMembers(list); added > 0 || removed > 0 {
		p.log(context.Background(), slog.LevelInfo, "wsproxy: members changed",
			slog.Int("members", len(list)), slog.Int("added", added), slog.Int("removed", removed))
	}
	return nil
}

func (p *Proxy) setMembers(list []*member) (added, removed int) {
	p.mu.Lock()
	u := &p.upstreams
	stays := make(map[*member]bool, len(list))
	u.byToken = make(map[string]*member)
	for i, n := range list {
		m := u.known[n.name]
		if m == nil {
			m = n
			u.known[m.name] = m
		}
		if m.token != "" {
			u.byToken[m.token] = m
		}
		if m == n || m.gone { // m.gone: it was removed and still has sessions
			added++
			p.watchLocked(m)
		}
		stays[m] = true
		m.url.Store(n.url.Load()) // the query may have changed
		m.gone, m.weight, m.share, m.max = false, n.weight, n.share, n.max
		list[i] = m
	}
	left := make(map[*member]bool)
	for _, m := range u.members {
		if !stays[m] {
			removed++
			left[m], m.gone = true, true
			p.forgetLocked(m)
		}
	}
	u.use(list)
	p.mu.Unlock()
	if removed > 0 && !p.keepRemoved {
		p.drainMembers(causeRemoved, func(m *member) bool { return left[m] && m.gone })
	}
	return added, removed
}

// forgetLocked releases the resources of a removed member. p.mu is held.
func (p *Proxy) forgetLocked(m *member) {
	if m.stopChecks != nil {
		m.stopChecks()
		m.stopChecks = nil
	}
	m.health = health{} // if it comes back, it may be another server
	if m.sessions == 0 {
		delete(p.upstreams.known, m.name)
	}
}

func (m *member) full() bool { return m.max > 0 && m.sessions >= m.max }

// fits reports whether the session may be placed with the member now. Proxy.mu
// is held.
func (m *member) fits(now time.Duration, at *placement) bool {
	return m.well(now) && !m.full() && !slices.Contains(at.tried, m)
}

// state returns a snapshot. Proxy.mu is held.
func (m *member) state(now time.Duration) MemberState {
	return MemberState{Name: m.name, Weight: m.weight, MaxSessions: m.max, Sessions: m.sessions, Down: !m.well(now)}
}

// A placement is the state of a session's search for a member.
type placement struct {
	r     *http.Request
	hash  uint64 // of the key of [Rendezvous]; 0: none
	token string // from the cookie of WithSticky
	tried []*member
	free  bool // the next attempt does not use the retry budget
	sent  bool // the request was sent to the last member
	trial bool // the last member had failed before, and is tried alone

	several bool // there are other members, healthy or not
}

// place places the session with a member that it was not placed with before; m
// is nil if there is none. others reports whether another member may be tried
// after it.
func (p *Proxy) place(s *Session, at *placement) (m *member, others bool, e *Error) {
	var chosen *member
	if p.balance.choose != nil {
		if chosen, e = p.ask(at); e != nil {
			return nil, false, e
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	u := &p.upstreams
	now := time.Since(u.began)
	p.releaseLocked(s)
	retry := len(at.tried) > 0
	switch {
	case !retry:
		u.retries = min(u.retries+p.retryShare, mostRetries)
	case !at.free && !p.mayRetryLocked(at.sent): // the retry budget is used up
		return nil, false, nil
	}
	switch back := u.byToken[at.token]; {
	case back != nil && back.fits(now, at):
		m = back
	case chosen != nil && !chosen.gone && chosen.fits(now, at):
		m = chosen
	default:
		m = p.balance.find(u, at, now)
	}
	if m == nil && !retry && !slices.ContainsFunc(u.members, func(m *member) bool { return m.well(now) }) {
		m = u.leastBad()
	}
	if m == nil {
		return nil, false, nil
	}
	m.sessions++
	if at.trial = m.failed > 0 && m.probeFree(now); at.trial {
		m.probe = s
	}
	m.tried = now
	s.member = m
	if retry {
		p.stats.retries.Add(1)
		if !at.free {
			u.retries--
		}
	}
	at.tried, at.several = append(at.tried, m), len(u.members) > 1
	others = p.mayRetryLocked(false) && slices.ContainsFunc(u.members, func(m *member) bool { return m.fits(now, at) })
	return m, others, nil
}

// releaseLocked removes the session from its member. p.mu is held.
func (p *Proxy) releaseLocked(s *Session) {
	m := s.member
	if m == nil {
		return
	}
	s.member = nil
	m.probed(s)
	if m.sessions--; m.sessions == 0 && m.gone {
		delete(p.upstreams.known, m.name)
	}
}

// reach performs the upstream's handshake, with one member after another until
// one answers. It tries no member twice, and stays within the handshake
// timeout. It retries only if the request was not sent, unless
// [WithRetryAfterSend] allows more. to is what was dialled, in the form of
// [Session.Upstream].
func (p *Proxy) reach(ctx context.Context, s *Session, r *http.Request, asked *offer) (up *upstreamConn, to string, e *Error) {
	limit, cancel := context.WithTimeout(ctx, p.handshakeTimeout)
	defer cancel()
	if len(p.onOpen) == 0 && (p.rewrite != nil || p.balance.key != nil || p.balance.choose != nil) {
		r = r.WithContext(ctx) // for user functions; callOnOpen has already done this
	}
	at, e := p.newPlacement(s, r)
	if e != nil {
		return nil, "", e
	}
	for {
		m, others, err := p.place(s, at)
		switch {
		case err == nil && m == nil && up != nil: // the other member is no longer available
			return up, to, nil
		case up != nil:
			up.refusal.conn.Close()
		}
		switch {
		case err != nil:
			return nil, "", err
		case m == nil && e == nil:
			return nil, "", p.noMember()
		case m == nil:
			return nil, "", e
		}
		// While there are other members, reserve half of the remaining time for
		// them, within the bounds of leastShare and mostShare.
		var share time.Duration
		if deadline, _ := limit.Deadline(); others {
			share = min(max(time.Until(deadline)/2, leastShare), mostShare)
		}
		patient := func() bool { return false }
		if at.several { // otherwise the result is not used
			patient = patience()
		}
		up, to, e = p.dial(ctx, limit, s, m, at, asked, share)
		if e != nil {
			e.Upstream = to
		}
		again, free := p.judge(s, up, e, patient())
		at.sent = e == nil || e.Op == "answer"
		at.free = free && len(at.tried) < mostRetries
		if again && (others || at.free) && limit.Err() == nil {
			continue
		}
		if e == nil && up.refusal == nil && p.sticky != nil && to == m.origin {
			p.sticky.set(up.header, m, at.token)
		}
		return up, to, e
	}
}

// How long connecting to a member may take while there are others to try: at
// least leastShare, if that much time is left, and at most mostShare.
const (
	leastShare = time.Second
	mostShare  = 5 * time.Second
)

// patience starts waiting for a member. The returned function stops that and
// reports whether leastShare has passed. It reports false if the process was
// not running at that time, because the member may have answered meanwhile.
func patience() (end func() bool) {
	var over atomic.Bool
	due := time.Now().Add(leastShare)
	timer := time.AfterFunc(leastShare, func() { over.Store(time.Since(due) <= protocol.Lateness) })
	return func() bool {
		timer.Stop()
		return over.Load()
	}
}

// noMember returns the error for a session that no member could be tried for.
func (p *Proxy) noMember() *Error {
	p.mu.Lock()
	defer p.mu.Unlock()
	e := &Error{Op: "place", Side: Self, Status: http.StatusServiceUnavailable, Err: ErrNoUpstream}
	if n := len(p.upstreams.members); n > 0 {
		e.Err = fmt.Errorf("%w: %d members, those that are well are full", ErrLimit, n)
	}
	return e
}
