package wsproxy

import (
	"context"
	"errors"
	"log/slog"
	"net/url"
	"slices"

	"github.com/seed-ffb73231/wsproxy/internal/pool"
)

// This file holds the set of upstreams. Package pool tracks which members are
// healthy and chooses among them, place.go places sessions with them.

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

// An endpoint is what a member stands for.
type endpoint struct {
	origin  string   // as in Session.Upstream
	url     *url.URL // the target
	address string   // to connect to, if not ""
}

// mostWeight is the largest weight of an SRV record.
const mostWeight = 1<<16 - 1

// newMember validates a Member.
func (c *config) newMember(m Member) (n pool.Spec[endpoint], err error) {
	u, err := parseTarget(m.Target)
	switch {
	case err != nil:
		return n, err
	case m.Weight < 0 || m.Weight > mostWeight:
		return n, errors.New("weight must be from 0 to 65535")
	case m.MaxSessions < 0:
		return n, errors.New("negative session limit")
	}
	to := &endpoint{url: u, origin: u.Scheme + "://" + u.Host}
	n = pool.Spec[endpoint]{Name: to.origin + normalPath(u.EscapedPath()), Weight: max(m.Weight, 1), Max: m.MaxSessions, Target: to}
	if m.Address != "" {
		if to.address, err = normalAddress(m.Address); err != nil {
			return n, err
		}
		if u.Scheme == "unix" {
			return n, errors.New("a unix target cannot have an Address")
		}
		n.Name += "#" + to.address
		to.origin += "#" + to.address
	}
	if c.sticky != nil {
		n.Token = c.sticky.sign(n.Name)
	}
	return n, nil
}

// newMembers validates members and returns all mistakes at once.
func (c *config) newMembers(members []Member) (list []pool.Spec[endpoint], mistakes []error) {
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
		case names[n.Name]:
			mistake(m, "duplicate member")
		default:
			names[n.Name] = true
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
// default ten per second, within at most 30 s. With [WithResume] they move to other
// members instead. With [WithKeepRemovedMembers] they continue. SetUpstreams does not wait for sessions to end.
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

func (p *Proxy) setMembers(list []pool.Spec[endpoint]) (added, removed int) {
	news, gone := p.pool.Set(list)
	for _, a := range news {
		p.watch(a.Life, a.Member)
	}
	if len(gone) > 0 && !p.keepRemoved {
		p.drainMembers(causeRemoved, func(m *member) bool { return m.Gone() && slices.Contains(gone, m) })
	}
	return len(news), len(gone)
}

// memberStates returns the states as users see them.
func memberStates(states []pool.State) []MemberState {
	list := make([]MemberState, len(states))
	for i, s := range states {
		list[i] = MemberState(s)
	}
	return list
}
