//go:build linux && (amd64 || arm64) && !noloop

package relay

import (
	"math/rand/v2"
	"testing"
)

// Sessions leave a queue in the order in which they came, and a long queue holds
// no long array.
func TestQueue(t *testing.T) {
	all := make([]Session, 20*perTurn)
	var q queue
	in, out := 0, 0
	check := func(s *Session) {
		if s != &all[out%len(all)] {
			t.Fatalf("session %d was not the next one to be taken, of %d", out, in)
		}
		out++
	}
	for round := range 1000 {
		for range rand.IntN(2 * perTurn) {
			q.add(&all[in%len(all)])
			in++
		}
		if cap(q.last) > 2*perTurn {
			t.Fatalf("a part has room for %d sessions", cap(q.last))
		}
		if round%10 < 5 {
			for range rand.IntN(2*perTurn + 1) {
				if q.length > 0 {
					check(q.take())
				}
			}
		} else if round%10 == 9 {
			for q.length > rand.IntN(perTurn) {
				some := q.takeSome()
				if len(some) == 0 || len(some) > perTurn {
					t.Fatalf("%d sessions were taken, of %d", len(some), q.length)
				}
				for _, s := range some {
					check(s)
				}
			}
		}
		if q.length != in-out {
			t.Fatalf("the queue has %d sessions, want %d", q.length, in-out)
		}
	}
	for q.length > 0 {
		check(q.take())
	}
	if out != in || len(q.takeSome()) > 0 || q.full != nil {
		t.Errorf("%d sessions were taken, of %d", out, in)
	}
}
