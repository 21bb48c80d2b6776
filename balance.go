package wsproxy

import (
	"math"
	"math/bits"
	"math/rand/v2"
	"net/http"
	"time"
)

// A Balance is a rule that selects the member for a new session; see
// [WithBalance]. All rules skip members that are down or full. If all members
// are down, the one that has been backed off longest is tried.
type Balance struct {
	find   func(u *upstreams, at *placement, now time.Duration) *member
	hashed bool
	key    func(*http.Request) string                       // of Rendezvous; nil: the client's address
	choose func(r *http.Request, members []MemberState) int // of BalanceFunc
}

// LeastSessions selects the member with the fewest sessions relative to its
// weight. It is the default.
func LeastSessions() Balance { return Balance{find: (*upstreams).least} }

// RoundRobin selects the members in turn, those with a higher weight more
// often.
func RoundRobin() Balance { return Balance{find: (*upstreams).roundRobin} }

// TwoChoices draws two members at random, those with a higher weight more
// often, and selects the one with fewer sessions relative to its weight. If
// there are many independent proxies, they do not all select the same member,
// as they may with [LeastSessions].
func TwoChoices() Balance { return Balance{find: (*upstreams).twoChoices} }

// Rendezvous selects the same member for sessions with the same key, in
// proportion to the weights, by rendezvous hashing. All proxies with the same
// members, in any order, agree on the selection. A change of the set moves only
// the keys of removed members, and to each added member its share. If the key's
// member is down or full, the next one in the key's own order takes its place;
// all proxies agree on it.
//
// The key may be the name of a room, from the path, the query, a header field
// or a cookie. key must be safe for concurrent use. If it panics, the client is
// answered 500. A session for which it returns "" is placed as by
// [LeastSessions]. If key is nil, the client's address is used (behind
// [WithTrustedProxies], the address that they report), and of an IPv6 address
// the first 64 bits.
func Rendezvous(key func(*http.Request) string) Balance {
	return Balance{find: (*upstreams).rendezvous, hashed: true, key: key}
}

// BalanceFunc selects the member by calling f, which returns an index into
// members. These are the members that are available and have not been tried for
// this session; there is at least one. If the result is not a valid index,
// [LeastSessions] decides. f must be safe for concurrent use, and is called
// again for each retry. If it panics, the client is answered 500.
func BalanceFunc(f func(r *http.Request, members []MemberState) int) Balance {
	if f == nil {
		return Balance{} // WithBalance rejects it
	}
	return Balance{find: (*upstreams).least, choose: f}
}

// ask calls the user's BalanceFunc.
func (p *Proxy) ask(at *placement) (m *member, e *Error) {
	p.mu.Lock()
	u := &p.upstreams
	now := time.Since(u.began)
	var members []*member
	var states []MemberState
	for _, m := range u.members {
		if m.fits(now, at) {
			members, states = append(members, m), append(states, m.state(now))
		}
	}
	p.mu.Unlock()
	if len(members) == 0 {
		return nil, nil
	}
	defer hookPanic("place", "WithBalance", &e)
	if i := p.balance.choose(at.r, states); i >= 0 && i < len(members) {
		return members[i], nil
	}
	return nil, nil
}

// newPlacement starts the search for a member.
func (p *Proxy) newPlacement(s *Session, r *http.Request) (at *placement, e *Error) {
	at = &placement{r: r}
	if p.sticky != nil {
		at.token = p.sticky.token(r)
	}
	if !p.balance.hashed {
		return at, nil
	}
	defer hookPanic("place", "WithBalance", &e)
	key := ""
	if p.balance.key != nil {
		key = p.balance.key(r)
	} else {
		key = addressKey(s.client)
	}
	if key != "" {
		at.hash = hashString(key)
	}
	return at, nil
}

// lighter reports whether m, given one more session, has fewer sessions
// relative to its weight than the other member, given one more.
func (m *member) lighter(than *member) bool {
	return int64(m.sessions+1)*int64(than.weight) < int64(than.sessions+1)*int64(m.weight)
}

func (u *upstreams) least(at *placement, now time.Duration) (best *member) {
	if len(u.members) == 0 {
		return nil
	}
	u.turn = (u.turn + 1) % len(u.members) // otherwise the first of equal members would get all
	for _, half := range [2][]*member{u.members[u.turn:], u.members[:u.turn]} {
		for _, m := range half {
			if (best == nil || m.lighter(best)) && m.fits(now, at) {
				best = m
			}
		}
	}
	return best
}

// roundRobin selects the member that is due first. A member with a higher
// weight is due again sooner. A member that was unavailable does not make up
// for missed turns.
func (u *upstreams) roundRobin(at *placement, now time.Duration) (best *member) {
	first := math.Inf(1)
	for _, m := range u.members {
		if due := max(m.due, u.round); due < first && m.fits(now, at) {
			best, first = m, due
		}
	}
	if best != nil {
		u.round, best.due = first, first+1/best.share
	}
	return best
}

func (u *upstreams) twoChoices(at *placement, now time.Duration) *member {
	var first *member
	for range 64 { // most members usually fit
		if len(u.members) < 2 {
			break
		}
		m := u.members[rand.IntN(len(u.members))]
		switch {
		case m == first || !m.fits(now, at) || rand.IntN(u.heaviest) >= m.weight:
		case first == nil:
			first = m
		case m.lighter(first):
			return m
		default:
			return first
		}
	}
	return u.least(at, now)
}

// rendezvous finds the member with the highest random weight for the key. If u
// is the member's random number between 0 and 1, the member with the lowest
// -log(u)/weight wins with a probability proportional to its weight. As -log(u)
// > 1-u, few logarithms are computed.
func (u *upstreams) rendezvous(at *placement, now time.Duration) (best *member) {
	if at.hash == 0 {
		return u.least(at, now)
	}
	lowest := math.Inf(1)
	for i, d := range u.draws {
		rest := float64(int64(mix(at.hash, d.hash)>>11)) * (1.0 / (1 << 53)) // 1-u
		if rest >= lowest*d.share || !u.members[i].fits(now, at) {
			continue
		}
		if score := -math.Log1p(-rest) / d.share; score < lowest {
			best, lowest = u.members[i], score
		}
	}
	return best
}

// hashString is FNV-1a with a final mix. It is the same in every process and on
// every machine.
func hashString(s string) uint64 {
	h := uint64(14695981039346656037)
	for i := range len(s) {
		h = (h ^ uint64(s[i])) * 1099511628211
	}
	return max(mix(h, h), 1) // 0 stands for none
}

// mix combines two numbers by folding the halves of their product. The
// constants are arbitrary odd numbers with as many ones as zeros.
func mix(a, b uint64) uint64 {
	high, low := bits.Mul64(a^0x9e3779b97f4a7c15, b^0xd1b54a32d192ed03)
	return high ^ low
}
