package wsproxy

import (
	"math"
	"math/bits"
	"math/rand/v2"
	"net/http"
	"time"
)

// A Balance says which member gets a new session: see [WithBalance]. Members
// that are down, or full, are passed over by all of them; when all are down, the
// one that has been left alone for longest is tried.
type Balance struct {
	find   func(u *upstreams, at *placement, now time.Duration) *member
	hashed bool
	key    func(*http.Request) string                       // of Rendezvous; nil: the client's address
	choose func(r *http.Request, members []MemberState) int // of BalanceFunc
}

// LeastSessions gives a new session to the member with the fewest, in
// proportion to their weights. It is the default.
func LeastSessions() Balance { return Balance{find: (*upstreams).least} }

// RoundRobin gives each member its turn, the heavier ones more often.
func RoundRobin() Balance { return Balance{find: (*upstreams).roundRobin} }

// TwoChoices draws two members, the heavier ones more often, and gives the
// session to the one that has fewer, in proportion to their weights: many
// proxies that don't know of each other don't all take the same one, as they
// may with [LeastSessions].
func TwoChoices() Balance { return Balance{find: (*upstreams).twoChoices} }

// Rendezvous gives sessions with the same key to the same member, in proportion
// to the weights, by rendezvous hashing. Any number of proxies with the same
// members, in whatever order, agree on it; and a change of the set moves only
// the keys of members that went, and to members that came their share. Where
// the key's member is down or full, the next one in the key's own order takes
// its place, and is the same for all.
//
// The key is a room's name, say, from the path, the query, a header field or a
// cookie. It is called by many goroutines at once; if it panics, the client is
// answered 500. A session for which it returns "" goes to the member with the
// fewest. A nil key stands for the client's address (behind
// [WithTrustedProxies], the one that they tell of), of IPv6 the first 64 bits.
func Rendezvous(key func(*http.Request) string) Balance {
	return Balance{find: (*upstreams).rendezvous, hashed: true, key: key}
}

// BalanceFunc has f choose: it returns the index of one of members, which are those
// that may be given a session, and haven't been for this one; there is at least
// one. Any other number leaves it to [LeastSessions]. It is called by many
// goroutines at once, and anew for each retry; if it panics, the client is
// answered 500.
func BalanceFunc(f func(r *http.Request, members []MemberState) int) Balance {
	if f == nil {
		return Balance{} // which WithBalance doesn't take
	}
	return Balance{find: (*upstreams).least, choose: f}
}

// ask asks the user's own function.
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

// newPlacement begins the search for a member.
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

// lighter says whether m has fewer sessions than another, by their weights,
// when it gets one more.
func (m *member) lighter(than *member) bool {
	return int64(m.sessions+1)*int64(than.weight) < int64(than.sessions+1)*int64(m.weight)
}

func (u *upstreams) least(at *placement, now time.Duration) (best *member) {
	if len(u.members) == 0 {
		return nil
	}
	u.turn = (u.turn + 1) % len(u.members) // or the first of those that are equal would get all
	for _, half := range [2][]*member{u.members[u.turn:], u.members[:u.turn]} {
		for _, m := range half {
			if (best == nil || m.lighter(best)) && m.fits(now, at) {
				best = m
			}
		}
	}
	return best
}

// roundRobin gives the turn to whoever is due first; a heavy member is due again
// sooner. One that didn't fit for a while has no claim to the turns it missed.
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
	for range 64 { // most of them fit, as a rule
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

// rendezvous finds the member with the highest random weight for the key. With
// u the member's random number between 0 and 1, the one with the lowest
// -log(u)/weight wins with a probability of its share. As -log(u) > 1-u, few
// logarithms have to be taken.
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

// hashString is FNV-1a, mixed: the same in every process and on every machine.
func hashString(s string) uint64 {
	h := uint64(14695981039346656037)
	for i := range len(s) {
		h = (h ^ uint64(s[i])) * 1099511628211
	}
	return max(mix(h, h), 1) // 0 stands for none
}

// mix makes one number of two: the halves of their product, folded. The
// constants are arbitrary, odd, and have as many ones as zeros.
func mix(a, b uint64) uint64 {
	high, low := bits.Mul64(a^0x9e3779b97f4a7c15, b^0xd1b54a32d192ed03)
	return high ^ low
}
