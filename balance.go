package wsproxy

import (
	"net/http"

	"github.com/seed-ffb73231/wsproxy/internal/pool"
)

// A Balance is a rule that selects the member for a new session; see
// [WithBalance]. All rules skip members that are down or full. If all members
// are down, the one that has been backed off longest is tried.
type Balance struct {
	rule   pool.Rule
	valid  bool                                             // false for the zero Balance
	key    func(*http.Request) string                       // of Rendezvous; nil: the client's address
	choose func(r *http.Request, members []MemberState) int // of BalanceFunc
}

// LeastSessions selects the member with the fewest sessions relative to its
// weight. It is the default.
func LeastSessions() Balance { return Balance{valid: true, rule: pool.LeastSessions} }

// RoundRobin selects the members in turn, those with a higher weight more
// often.
func RoundRobin() Balance { return Balance{valid: true, rule: pool.RoundRobin} }

// TwoChoices draws two members at random, those with a higher weight more
// often, and selects the one with fewer sessions relative to its weight. If
// there are many independent proxies, they do not all select the same member,
// as they may with [LeastSessions].
func TwoChoices() Balance { return Balance{valid: true, rule: pool.TwoChoices} }

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
	return Balance{valid: true, rule: pool.Rendezvous, key: key}
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
	return Balance{valid: true, rule: pool.LeastSessions, choose: f}
}
