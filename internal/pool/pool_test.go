package pool

import (
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func spec(name string) Spec[unit] { return Spec[unit]{Name: name, Weight: 1} }

// A member that was removed and still has sessions is the same member if it
// comes back; its health starts anew.
func TestSetKeepsMembers(t *testing.T) {
	t.Parallel()
	p := New[unit](Config{Doubts: 3, Life: t.Context()})
	added, _ := p.Set([]Spec[unit]{spec("a"), spec("b")})
	if len(added) != 2 {
		t.Fatalf("%d added, want 2", len(added))
	}
	a := added[0].Member
	var seat Seat[unit]
	if m, others := p.Place(&seat, new(Search[unit]), a); m != a || others {
		t.Fatalf("placed with %v, others %v", m, others)
	}
	if _, change, rest := p.Judge(&seat, Outcome{Failed: true}); change != BackedOff || rest != firstRest {
		t.Fatalf("%v for %v", change, rest)
	}
	_, removed := p.Set([]Spec[unit]{spec("b")})
	if len(removed) != 1 || removed[0] != a || !a.Gone() || added[0].Life.Err() == nil || added[1].Life.Err() != nil {
		t.Fatalf("removed %v; gone %v; lives %v, %v", removed, a.Gone(), added[0].Life.Err(), added[1].Life.Err())
	}
	again, _ := p.Set([]Spec[unit]{spec("a"), spec("b")})
	if len(again) != 1 || again[0].Member != a || a.Gone() || again[0].Life.Err() != nil {
		t.Fatalf("added %v", again)
	}
	if states, _ := p.States(); states[0] != (State{Name: "a", Weight: 1, Sessions: 1}) {
		t.Errorf("its state is %+v", states[0])
	}
	p.Set([]Spec[unit]{spec("b")})
	p.Release(&seat)
	if again, _ := p.Set([]Spec[unit]{spec("a")}); again[0].Member == a {
		t.Error("a member without sessions was remembered after its removal")
	}
}

// After a backoff one session alone tries the member, until it has connected.
func TestTrial(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := New[unit](Config{Retry: 1, Doubts: 3, Life: t.Context()})
		added, _ := p.Set([]Spec[unit]{spec("a"), spec("b")})
		a := added[0].Member
		var first, second Seat[unit]
		p.Place(&first, new(Search[unit]), a)
		p.Judge(&first, Outcome{Failed: true})
		p.Release(&first)
		if m, _ := p.Place(&first, new(Search[unit]), a); m == a {
			t.Fatal("placed with a member that is backed off")
		}
		time.Sleep(firstRest)
		at := new(Search[unit])
		if m, _ := p.Place(&first, at, a); m != a {
			t.Fatal("no trial after the backoff")
		}
		if m, _ := p.Place(&second, new(Search[unit]), a); m == a {
			t.Fatal("a second session joins the trial")
		}
		p.Connected(&first, at)
		if m, _ := p.Place(&second, new(Search[unit]), a); m != a {
			t.Fatal("the trial has connected, and others are still kept away")
		}
		if _, change, _ := p.Judge(&first, Outcome{Well: true}); change != Back {
			t.Fatalf("the trial succeeded: %v", change)
		}
	})
}

// Checks mark a member after fall failures or rise successes in a row. What this
// machine could not check counts as neither, and is reported once.
func TestChecked(t *testing.T) {
	t.Parallel()
	p := New[unit](Config{Doubts: 3, Life: t.Context()})
	added, _ := p.Set([]Spec[unit]{spec("a")})
	m := added[0].Member
	bad, good, none := Outcome{Failed: true}, Outcome{Well: true}, Outcome{}
	for i, step := range []struct {
		Outcome
		want Change
	}{
		{bad, Unchanged}, {good, Unchanged}, {bad, Unchanged}, {none, Unchecked}, {none, Unchanged}, {bad, WentDown},
		{bad, Unchanged}, {good, Unchanged}, {bad, Unchanged}, {good, Unchanged}, {none, Unchecked}, {good, CameUp},
		{good, Unchanged}, {Outcome{Failed: true, Late: true}, Unchecked}, {bad, Unchanged}, {bad, WentDown},
	} {
		if got := p.Checked(m, step.Outcome, 2, 2); got != step.want {
			t.Errorf("step %d: %v, want %v", i, got, step.want)
		}
		if wantDown := step.want == WentDown || step.want != CameUp && m.Down(); m.Down() != wantDown {
			t.Errorf("step %d: down is %v", i, m.Down())
		}
	}
}

// Everything at the same time: nothing races, and when all sessions have left,
// no member has one.
func TestConcurrentUse(t *testing.T) {
	t.Parallel()
	for name, rule := range rules {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := New[unit](Config{Rule: rule, Retry: 0.2, Doubts: 3, Life: t.Context()})
			set := func(n int) {
				var specs []Spec[unit]
				for i := range 3 {
					s := spec(fmt.Sprint("member ", (n+i)%5))
					s.Token = "token of " + s.Name
					specs = append(specs, s)
				}
				added, removed := p.Set(specs)
				for _, a := range added {
					p.Checked(a.Member, Outcome{Failed: n%2 == 0}, 1, 1)
				}
				for _, m := range removed {
					p.Checked(m, Outcome{Well: true}, 1, 1)
				}
			}
			set(0)
			var all sync.WaitGroup
			for g := range 8 {
				all.Go(func() {
					for n := range 300 {
						var seat Seat[unit]
						at := &Search[unit]{Key: uint64(g*1000 + n + 1)}
						p.Candidates(at)
						for m, others := p.Place(&seat, at, nil); m != nil; m, others = p.Place(&seat, at, nil) {
							p.Connected(&seat, at)
							at.Token = m.Token()
							p.Judge(&seat, Outcome{Failed: n%3 == 0, Well: n%3 == 1, Doubtful: n%3 == 2, Client: uint64(g + 1)})
							if !others {
								break
							}
						}
						p.Release(&seat)
						if n%20 == g {
							set(n)
						}
						p.States()
					}
				})
			}
			all.Wait()
			states, _ := p.States()
			for _, s := range states {
				if s.Sessions != 0 {
					t.Errorf("%s has %d sessions left", s.Name, s.Sessions)
				}
			}
			if len(p.known) != len(states) {
				t.Errorf("%d members are known, want %d", len(p.known), len(states))
			}
		})
	}
}
