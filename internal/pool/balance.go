package pool

import (
	"math"
	"math/bits"
	"math/rand/v2"
	"time"
)

// A Rule selects the member for a new session. All rules skip members that are
// down or full.
type Rule uint8

const (
	// LeastSessions selects the member with the fewest sessions relative to its
	// weight.
	LeastSessions Rule = iota
	// RoundRobin selects the members in turn, those with a higher weight more
	// often.
	RoundRobin
	// TwoChoices draws two members and selects the one with fewer sessions.
	TwoChoices
	// Rendezvous selects by the hash of the session's key, or as LeastSessions
	// if it has none.
	Rendezvous
)

// find selects a member by the pool's rule, or returns nil if none fits. p.mu
// is held.
func (p *Pool[T]) find(at *Search[T], now time.Duration) *Member[T] {
	switch p.config.Rule {
	case RoundRobin:
		return p.roundRobin(at, now)
	case TwoChoices:
		return p.twoChoices(at, now)
	case Rendezvous:
		return p.rendezvous(at, now)
	}
	return p.least(at, now)
}

// lighter reports whether m, given one more session, has fewer sessions
// relative to its weight than the other member, given one more.
func (m *Member[T]) lighter(than *Member[T]) bool {
	return int64(m.sessions+1)*int64(than.weight) < int64(than.sessions+1)*int64(m.weight)
}

func (p *Pool[T]) least(at *Search[T], now time.Duration) (best *Member[T]) {
	if len(p.members) == 0 {
		return nil
	}
	p.turn = (p.turn + 1) % len(p.members) // otherwise the first of equal members would get all
	for _, half := range [2][]*Member[T]{p.members[p.turn:], p.members[:p.turn]} {
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
func (p *Pool[T]) roundRobin(at *Search[T], now time.Duration) (best *Member[T]) {
	first := math.Inf(1)
	for _, m := range p.members {
		if due := max(m.due, p.round); due < first && m.fits(now, at) {
			best, first = m, due
		}
	}
	if best != nil {
		p.round, best.due = first, first+1/best.share
	}
	return best
}

func (p *Pool[T]) twoChoices(at *Search[T], now time.Duration) *Member[T] {
	var first *Member[T]
	for range 64 { // most members usually fit
		if len(p.members) < 2 {
			break
		}
		m := p.members[rand.IntN(len(p.members))]
		switch {
		case m == first || !m.fits(now, at) || rand.IntN(p.heaviest) >= m.weight:
		case first == nil:
			first = m
		case m.lighter(first):
			return m
		default:
			return first
		}
	}
	return p.least(at, now)
}

// A draw is what rendezvous needs of each member, contiguous in memory.
type draw struct {
	hash  uint64
	share float64
}

// rendezvous finds the member with the highest random weight for the key. If u
// is the member's random number between 0 and 1, the member with the lowest
// -log(u)/weight wins with a probability proportional to its weight. As -log(u)
// > 1-u, few logarithms are computed.
func (p *Pool[T]) rendezvous(at *Search[T], now time.Duration) (best *Member[T]) {
	if at.Key == 0 {
		return p.least(at, now)
	}
	lowest := math.Inf(1)
	for i, d := range p.draws {
		rest := float64(int64(mix(at.Key, d.hash)>>11)) * (1.0 / (1 << 53)) // 1-u
		if rest >= lowest*d.share || !p.members[i].fits(now, at) {
			continue
		}
		if score := -math.Log1p(-rest) / d.share; score < lowest {
			best, lowest = p.members[i], score
		}
	}
	return best
}

// Hash returns a hash of s, above zero. It is FNV-1a with a final mix, the same
// in every process and on every machine.
func Hash(s string) uint64 {
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
