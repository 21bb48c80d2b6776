package pool

import (
	"testing"
	"testing/synctest"
	"time"
)

// pair returns a pool of the members a and b.
func pair(t *testing.T, c Config) (p *Pool[unit], a, b *Member[unit]) {
	c.Life = t.Context()
	c.Doubts = max(c.Doubts, 3)
	p = New[unit](c)
	added, _ := p.Set([]Spec[unit]{spec("a"), spec("b")})
	return p, added[0].Member, added[1].Member
}

// outcome records an outcome of a new session with the member, and returns how
// it has changed the member, and for how long.
func (p *Pool[T]) outcome(t *testing.T, m *Member[T], o Outcome) (Change, time.Duration) {
	t.Helper()
	var seat Seat[T]
	seat.at.Store(m)
	p.mu.Lock()
	m.sessions++
	p.mu.Unlock()
	defer p.Release(&seat)
	_, change, rest := p.Judge(&seat, o)
	return change, rest
}

// Each failure after a backoff doubles it, up to a limit; those during it do not
// count.
func TestBackoff(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p, a, _ := pair(t, Config{})
		bad := Outcome{Failed: true}
		for i, want := range []time.Duration{1, 2, 4, 8, 16, 30, 30, 30, 30, 30, 30, 30, 30} {
			if change, rest := p.outcome(t, a, bad); change != BackedOff || rest != want*time.Second {
				t.Errorf("failure %d: %v for %v, want %v s", i, change, rest, want)
			}
			if change, rest := p.outcome(t, a, bad); change != Unchanged || rest != 0 {
				t.Errorf("another one during the backoff: %v for %v", change, rest)
			}
			time.Sleep(want * time.Second)
		}
		if change, _ := p.outcome(t, a, Outcome{Well: true}); change != Back {
			t.Errorf("it is well: %v", change)
		}
		if change, rest := p.outcome(t, a, bad); change != BackedOff || rest != firstRest {
			t.Errorf("failed again: %v for %v", change, rest)
		}
	})
}

// Neither a member that is the only one is backed off, nor one that was removed.
func TestNoBackoff(t *testing.T) {
	t.Parallel()
	p, a, b := pair(t, Config{})
	var seat Seat[unit]
	p.Place(&seat, new(Search[unit]), a)
	p.Set([]Spec[unit]{spec("b"), spec("c")})
	if _, change, _ := p.Judge(&seat, Outcome{Failed: true}); change != Unchanged {
		t.Errorf("removed: %v", change)
	}
	p.Set([]Spec[unit]{spec("b")})
	if change, _ := p.outcome(t, b, Outcome{Failed: true}); change != Unchanged {
		t.Errorf("the only one: %v", change)
	}
	p.Release(&seat)
	if m, change, rest := p.Judge(&seat, Outcome{Failed: true}); m != nil || change != Unchanged || rest != 0 {
		t.Errorf("of a session that has no place: %v, %v, %v", m, change, rest)
	}
}

// Doubts of different clients make a failure, unless all is well in between.
func TestDoubts(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p, a, _ := pair(t, Config{Doubts: 3})
		for i, step := range []struct {
			Outcome
			want Change
		}{
			{Outcome{Doubtful: true, Client: 1}, Unchanged}, {Outcome{Doubtful: true, Client: 1}, Unchanged},
			{Outcome{Doubtful: true, Client: 1}, Unchanged}, {Outcome{Doubtful: true, Client: 2}, Unchanged},
			{Outcome{Well: true}, Unchanged},
			{Outcome{Doubtful: true, Client: 3}, Unchanged}, {Outcome{Doubtful: true, Client: 4}, Unchanged},
			{Outcome{}, Unchanged}, // says nothing
			{Outcome{Doubtful: true, Client: 5}, BackedOff},
		} {
			if change, _ := p.outcome(t, a, step.Outcome); change != step.want {
				t.Errorf("step %d: %v, want %v", i, change, step.want)
			}
		}
		time.Sleep(firstRest)
		if change, _ := p.outcome(t, a, Outcome{Doubtful: true, Client: 6}); change != Unchanged {
			t.Errorf("one doubt after a failure: %v, want it to count from zero", change)
		}
	})
}

// Failures that were found late are excused, together if they come together; not
// if all are, for too long.
func TestExcuses(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p, a, _ := pair(t, Config{})
		late := Outcome{Failed: true, Late: true, Asked: true}
		excused := func(n int) {
			t.Helper()
			for i := range n {
				for range 5 { // together
					if change, _ := p.outcome(t, a, late); change != Unchanged {
						t.Fatalf("late for the %d. time: %v", i+1, change)
					}
				}
				time.Sleep(excusedTogether + 1)
			}
		}
		excused(mostExcused)
		if change, _ := p.outcome(t, a, Outcome{Asked: true}); change != Unchanged {
			t.Fatalf("asked in time: %v", change)
		}
		excused(mostExcused)
		if change, _ := p.outcome(t, a, Outcome{}); change != Unchanged { // was not asked: changes nothing
			t.Fatalf("not asked: %v", change)
		}
		if change, _ := p.outcome(t, a, late); change != BackedOff {
			t.Errorf("always late: %v, want it backed off", change)
		}
	})
}

// If no member is well, the first try of a session goes to the one that is the
// least bad: not full, not down, nobody's trial, not tried for longest.
func TestLeastBad(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct{ a, b func(*Member[unit]) }{
		"full":  {func(m *Member[unit]) { m.max, m.sessions = 1, 1 }, func(m *Member[unit]) { m.tried = 9 }},
		"down":  {func(m *Member[unit]) { m.down.Store(true) }, func(m *Member[unit]) { m.tried, m.probe = 9, new(Seat[unit]) }},
		"trial": {func(m *Member[unit]) { m.probe = new(Seat[unit]) }, func(m *Member[unit]) { m.tried = 9 }},
		"tried": {func(m *Member[unit]) { m.tried = 9 }, func(m *Member[unit]) { m.tried = 8 }},
	} {
		for _, first := range []bool{true, false} {
			p, a, b := pair(t, Config{Retry: 1})
			worse, better := a, b
			if !first {
				worse, better = b, a
			}
			for _, m := range p.members {
				m.failed, m.restEnd = 1, time.Hour
			}
			tt.a(worse)
			tt.b(better)
			var seat Seat[unit]
			at := new(Search[unit])
			if m, _ := p.Place(&seat, at, nil); m != better {
				t.Errorf("%s: placed with %v", name, m)
			}
			worse.max = 0
			if m, _ := p.Place(&seat, at, nil); m != nil {
				t.Errorf("%s: a retry is placed with %v, which is not well", name, m)
			}
		}
	}
}

// A trial that takes too long makes room for another one.
func TestLongTrial(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p, a, _ := pair(t, Config{})
		p.outcome(t, a, Outcome{Failed: true})
		time.Sleep(firstRest)
		var first, second, third Seat[unit]
		if m, _ := p.Place(&first, new(Search[unit]), a); m != a {
			t.Fatal("no trial after the backoff")
		}
		time.Sleep(longestRest - 1)
		if m, _ := p.Place(&second, new(Search[unit]), a); m == a {
			t.Fatal("a second session joins the trial")
		}
		time.Sleep(time.Nanosecond)
		if m, _ := p.Place(&second, new(Search[unit]), a); m != a {
			t.Fatal("the trial takes too long, and others are still kept away")
		}
		if m, _ := p.Place(&third, new(Search[unit]), a); m == a {
			t.Fatal("a third session joins the second trial")
		}
		p.Release(&second) // gives up
		if m, _ := p.Place(&third, new(Search[unit]), a); m != a {
			t.Fatal("the second trial was given up, and others are still kept away")
		}
	})
}

// Who goes back to a member, or was sent there by a choice, does so only if the
// member fits.
func TestPlacePrefers(t *testing.T) {
	t.Parallel()
	full := func(m *Member[unit]) { m.max, m.sessions = 1, 1 }
	for _, tt := range []struct {
		name   string
		token  string
		chosen bool // a is the choice; otherwise b is
		change func(p *Pool[unit], a *Member[unit])
		want   bool // placed with a
	}{
		{"its token", "token a", false, nil, true},
		{"its token, full", "token a", false, func(_ *Pool[unit], a *Member[unit]) { full(a) }, false},
		{"chosen", "", true, nil, true},
		{"chosen, full", "", true, func(_ *Pool[unit], a *Member[unit]) { full(a) }, false},
		{"chosen, removed", "", true, func(p *Pool[unit], _ *Member[unit]) { p.Set([]Spec[unit]{spec("b")}) }, false},
		{"an unknown token", "token x", false, nil, false},
	} {
		p := New[unit](Config{Doubts: 3, Life: t.Context()})
		added, _ := p.Set([]Spec[unit]{{Name: "a", Token: "token a", Weight: 1}, spec("b")})
		a, b := added[0].Member, added[1].Member
		chosen := b
		if tt.chosen {
			chosen = a
		}
		if tt.change != nil {
			tt.change(p, a)
		}
		var seat Seat[unit]
		m, _ := p.Place(&seat, &Search[unit]{Token: tt.token}, chosen)
		if m != a && m != b || (m == a) != tt.want {
			t.Errorf("%s: placed with %v", tt.name, m)
		}
	}
}

// A member that has left the set is forgotten with the last session that it has,
// and not before.
func TestForgets(t *testing.T) {
	t.Parallel()
	p, a, _ := pair(t, Config{})
	var one, two Seat[unit]
	p.Place(&one, new(Search[unit]), a)
	p.Place(&two, new(Search[unit]), a)
	p.Checked(a, Outcome{Failed: true}, 1, 1)
	p.Set([]Spec[unit]{spec("b")})
	if a.Down() {
		t.Error("removed, and still down")
	}
	if change := p.Checked(a, Outcome{Failed: true}, 1, 1); change != Unchanged || a.Down() {
		t.Errorf("checked after its removal: %v", change)
	}
	if change := p.Checked(a, Outcome{}, 1, 1); change != Unchanged {
		t.Errorf("could not be checked after its removal: %v", change)
	}
	p.Release(&one)
	p.Release(&one) // has left
	if p.known["a"] != a {
		t.Error("forgotten with a session left")
	}
	if p.Release(&two); p.known["a"] != nil {
		t.Error("remembered without a session")
	}
}

// The budget allows a burst of retries, and then a share of the sessions. Half of
// it is kept for those that were not sent. What is free does not use it up.
func TestBudget(t *testing.T) {
	t.Parallel()
	// retries returns how many of n sessions are placed a second time.
	retries := func(p *Pool[unit], n int, free, sent bool) (count int) {
		for range n {
			var seat Seat[unit]
			at := new(Search[unit])
			p.Place(&seat, at, nil)
			at.Free, at.Sent = free, sent
			if m, _ := p.Place(&seat, at, nil); m != nil {
				count++
			}
			p.Release(&seat)
		}
		return count
	}
	for _, tt := range []struct {
		name        string
		retry       float64
		before      int // sessions without a retry
		free, sent  bool
		want, after int // of 100 sessions; and after that, of 10 that were not sent
	}{
		{"none", 0, 0, false, false, 0, 0},
		{"a burst, and a quarter", 0.25, 0, false, false, MostRetries + 24, 3},
		{"a burst does not grow", 0.25, 1000, false, false, MostRetries + 24, 3},
		{"those that were sent leave half", 0.25, 0, false, true, MostRetries/2 + 24, 10},
		{"free ones", 0.25, 0, true, false, 100, 10},
	} {
		p, _, _ := pair(t, Config{Retry: tt.retry})
		for range tt.before {
			var seat Seat[unit]
			p.Place(&seat, new(Search[unit]), nil)
			p.Release(&seat)
		}
		if got := retries(p, 100, tt.free, tt.sent); got != tt.want {
			t.Errorf("%s: %d retries, want %d", tt.name, got, tt.want)
		}
		if got := retries(p, 10, false, false); got != tt.after {
			t.Errorf("%s: then %d retries, want %d", tt.name, got, tt.after)
		}
	}
	p, _, _ := pair(t, Config{Retry: 0.25})
	var seat Seat[unit]
	if _, others := p.Place(&seat, new(Search[unit]), nil); !others {
		t.Error("another member may be tried, and that is not said")
	}
	p.budget = 0
	if _, others := p.Place(&seat, new(Search[unit]), nil); others {
		t.Error("the budget is used up, and that is not said")
	}
	p.budget = 0
	if got := retries(p, 1, true, false); got != 1 {
		t.Error("the budget is used up, and a free retry is refused")
	}
}

// If all handshakes may be retried, each session may try all members.
func TestNoBudget(t *testing.T) {
	t.Parallel()
	p := New[unit](Config{Retry: 1, Doubts: 3, Life: t.Context()})
	p.Set([]Spec[unit]{spec("a"), spec("b"), spec("c"), spec("d")})
	for n := range 2 * MostRetries {
		var seat Seat[unit]
		at := &Search[unit]{Sent: true}
		for i := range 4 {
			m, others := p.Place(&seat, at, nil)
			if m == nil || others != (i < 3) || at.Tried() != i+1 || !at.Several() {
				t.Fatalf("session %d, try %d: %v, others %v", n, i, m, others)
			}
		}
		p.Release(&seat)
	}
}
