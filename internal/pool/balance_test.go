package pool

import (
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// What each rule promises, over sets of members without a proxy around them.

type unit struct{}

func setOf(t testing.TB, rule Rule, weights ...int) *Pool[unit] {
	var specs []Spec[unit]
	for i, w := range weights {
		specs = append(specs, Spec[unit]{Name: "http://10.0." + strconv.Itoa(i/256) + "." + strconv.Itoa(i%256) + ":9000", Weight: max(w, 1)})
	}
	p := New[unit](Config{Rule: rule, Retry: 1, Doubts: 3, Life: t.Context()})
	p.Set(specs)
	return p
}

func ones(n int) []int { return slices.Repeat([]int{1}, n) }

var rules = map[string]Rule{
	"LeastSessions": LeastSessions,
	"RoundRobin":    RoundRobin,
	"TwoChoices":    TwoChoices,
	"Rendezvous":    Rendezvous,
}

// Every rule shares sessions out by the weights.
func TestBalanceWeights(t *testing.T) {
	for name, rule := range rules {
		for _, weights := range [][]int{{1}, {1, 1}, {1, 2, 3}, {5, 1, 1}, {1, 100}, ones(10), {3, 3, 3, 0, 7}} {
			u := setOf(t, rule, weights...)
			const n = 50_000
			for i := range n {
				u.choose(t, uint64(i)).sessions++
			}
			total := 0
			for _, m := range u.members {
				total += m.weight
			}
			for i, m := range u.members {
				want := float64(n) * float64(m.weight) / float64(total)
				// What is drawn by chance has a standard deviation.
				bound := 2.0
				switch name {
				case "Rendezvous":
					bound = 5 * math.Sqrt(want)
				case "TwoChoices":
					bound = max(0.02*want, 20)
				}
				if got := float64(m.sessions); math.Abs(got-want) > bound {
					t.Errorf("%s %v: member %d has %v sessions, want %v ± %.0f", name, weights, i, got, want, bound)
				}
			}
		}
	}
}

// choose is one choice by the pool's rule, for a key.
func (p *Pool[T]) choose(t testing.TB, key uint64, tried ...*Member[T]) *Member[T] {
	m := p.find(&Search[T]{Key: max(mix(key, 1), 1), tried: tried}, 0)
	if m == nil && len(tried) < len(p.members) {
		t.Fatal("no member found")
	}
	return m
}

// Least sessions counts sessions, not handshakes: whoever loses some gets the
// next ones.
func TestLeastSessionsEvensOut(t *testing.T) {
	u := setOf(t, LeastSessions, 1, 2, 1)
	for range 400 {
		u.choose(t, 0).sessions++
	}
	u.members[1].sessions = 0
	for range 200 {
		u.choose(t, 0).sessions++
	}
	if got := []int{u.members[0].sessions, u.members[1].sessions, u.members[2].sessions}; !slices.Equal(got, []int{100, 200, 100}) {
		t.Errorf("got %v", got)
	}
}

// A member that was left alone for long doesn't get all the turns that it has
// missed.
func TestRoundRobinAfterRest(t *testing.T) {
	u := setOf(t, RoundRobin, 1, 1, 1)
	u.members[0].down.Store(true)
	for range 1000 {
		u.choose(t, 0)
	}
	u.members[0].down.Store(false)
	turns := 0
	for range 30 {
		if u.choose(t, 0) == u.members[0] {
			turns++
		}
	}
	if turns < 10 || turns > 11 {
		t.Errorf("it had %d of 30 turns, want 10", turns)
	}
}

// A heavy member's turns are spread: between two of them the others get theirs.
func TestRoundRobinIsSmooth(t *testing.T) {
	u := setOf(t, RoundRobin, 4, 2, 1)
	var order []int
	for range 14 {
		order = append(order, slices.Index(u.members, u.choose(t, 0)))
	}
	if !slices.Equal(order[:7], order[7:]) {
		t.Errorf("the turns don't repeat: %v", order)
	}
	for i := range order[2:] {
		if order[i] == order[i+1] && order[i+1] == order[i+2] {
			t.Errorf("three turns in a row for one: %v", order)
		}
	}
}

// Two choices must not be much worse than the least of all: with n sessions on
// n members, the fullest has few (log log n), where one random choice has many.
func TestTwoChoicesSpreads(t *testing.T) {
	const n = 1000
	u := setOf(t, TwoChoices, ones(n)...)
	for range n {
		u.choose(t, 0).sessions++
	}
	most := 0
	for _, m := range u.members {
		most = max(most, m.sessions)
	}
	if most < 2 || most > 5 {
		t.Errorf("the fullest of %d has %d sessions, want 3 or 4", n, most)
	}
}

// A change of the set moves the sessions of members that went, and those that
// members that came are due, and no others; whatever the order of the set.
func TestRendezvousMovesLittle(t *testing.T) {
	const keys = 20_000
	for _, weights := range [][]int{ones(10), {1, 2, 3, 4, 5}, ones(100)} {
		u := setOf(t, Rendezvous, weights...)
		place := func(members []*Member[unit]) map[uint64]string {
			v := setOf(t, Rendezvous)
			v.use(members)
			to := make(map[uint64]string, keys)
			for key := range uint64(keys) {
				to[key] = v.choose(t, key).name
			}
			return to
		}
		all := place(u.members)
		shuffled := slices.Clone(u.members)
		rand.Shuffle(len(shuffled), func(i, j int) { shuffled[i], shuffled[j] = shuffled[j], shuffled[i] })
		if again := place(shuffled); !maps.Equal(all, again) {
			t.Errorf("%v: another order of the set, another placement", weights)
		}
		gone := u.members[len(u.members)-1]
		fewer := place(u.members[:len(u.members)-1])
		moved := 0
		heirs := make(map[string]int)
		for key, name := range all {
			switch {
			case name == gone.name:
				moved++
				heirs[fewer[key]]++
			case fewer[key] != name:
				t.Fatalf("%v: key %d moved from %s to %s when %s went", weights, key, name, fewer[key], gone.name)
			}
		}
		total := 0
		for _, w := range weights {
			total += w
		}
		want := float64(keys) * float64(gone.weight) / float64(total)
		if math.Abs(float64(moved)-want) > 5*math.Sqrt(want) {
			t.Errorf("%v: %d keys moved, want about %.0f", weights, moved, want)
		}
		// They go to all that are left, by weight, not to one neighbour.
		for _, m := range u.members[:len(u.members)-1] {
			want := float64(moved) * float64(m.weight) / float64(total-gone.weight)
			if got := float64(heirs[m.name]); math.Abs(got-want) > 5*math.Sqrt(want)+2 {
				t.Errorf("%v: %s inherits %.0f keys, want about %.0f", weights, m.name, got, want)
			}
		}
		// A heavier weight takes from the others, and they take nothing from
		// each other.
		u.members[0].weight *= 2
		u.members[0].share *= 2
		for key, name := range place(u.members) {
			if name != all[key] && name != u.members[0].name {
				t.Fatalf("%v: key %d moved from %s to %s when another one got heavier", weights, key, all[key], name)
			}
		}
	}
}

// Where a key's member doesn't fit, the next in the key's own order is the same
// as if that weren't in the set.
func TestRendezvousFallsBack(t *testing.T) {
	u := setOf(t, Rendezvous, ones(5)...)
	for key := range uint64(1000) {
		first := u.choose(t, key)
		second := u.choose(t, key, first)
		others := setOf(t, Rendezvous)
		others.use(slices.DeleteFunc(slices.Clone(u.members), func(m *Member[unit]) bool { return m == first }))
		if want := others.choose(t, key); second != want {
			t.Fatalf("key %d: %s after %s, want %s", key, second.name, first.name, want.name)
		}
	}
}

// Hashes are the same in every process, on every machine, in every release:
// proxies of different versions must agree.
func TestHashesStay(t *testing.T) {
	for s, want := range map[string]uint64{"": 0x86e7f694c96f53be, "room-1": 0xacbdf091eefcc8a7, "http://10.0.0.1:9000": 0x7d4dce263d9d6294} {
		if got := Hash(s); got != want {
			t.Errorf("%q: got %#x, want %#x", s, got, want)
		}
	}
	u := setOf(t, Rendezvous, 1, 2, 3)
	var got strings.Builder
	for i := range 20 {
		at := &Search[unit]{Key: Hash(fmt.Sprint("room-", i))}
		got.WriteString(strconv.Itoa(slices.Index(u.members, u.find(at, 0))))
	}
	if want := "22201202022222102211"; got.String() != want {
		t.Errorf("got %s, want %s", got.String(), want)
	}
}

// Whatever the rule: members that are down, full or tried get nothing, as long
// as there is another one; and there may be none.
func TestBalancePassesOver(t *testing.T) {
	for name, rule := range rules {
		u := setOf(t, rule, ones(20)...)
		at := &Search[unit]{Key: 7}
		for i, m := range u.members[1:] {
			switch i % 5 {
			case 0:
				m.down.Store(true)
			case 1:
				m.max, m.sessions = 3, 3
			case 2:
				m.failed, m.restEnd = 1, time.Second
			case 3:
				m.failed, m.probe = 1, new(Seat[unit])
			case 4:
				at.tried = append(at.tried, m)
			}
		}
		for range 100 {
			if m := u.find(at, 0); m != u.members[0] {
				t.Fatalf("%s: chose a member that doesn't fit: %+v", name, m)
			}
		}
		u.members[0].down.Store(true)
		if m := u.find(at, 0); m != nil {
			t.Errorf("%s: chose %+v of none", name, m)
		}
		if m := setOf(t, rule).find(at, 0); m != nil {
			t.Errorf("%s: chose %+v of an empty set", name, m)
		}
	}
}

// One choice among 1,000 members: under 2 µs, and nothing is allocated.
func BenchmarkFind(b *testing.B) {
	for name, rule := range rules {
		for _, n := range []int{10, 1000} {
			b.Run(fmt.Sprint(name, "/", n), func(b *testing.B) {
				weights := make([]int, n)
				for i := range weights {
					weights[i] = 1 + i%3
				}
				u := setOf(b, rule, weights...)
				at := new(Search[unit])
				b.ReportAllocs()
				for i := 0; b.Loop(); i++ {
					at.Key = mix(uint64(i), 2) | 1
					m := u.find(at, 0)
					if m.sessions++; m.sessions > 100 {
						m.sessions = 0
					}
				}
			})
		}
	}
}
