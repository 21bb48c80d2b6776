package protocol

import (
	"math"
	"testing"
	"time"

	"github.com/seed-ffb73231/wsproxy/internal/frame"
)

// What a look makes of what the kernel says about a leg. It is 100 s; the peer
// was last heard at 50 s. Up to the last Ping, 20 bytes were sent to it.
func TestLookLife(t *testing.T) {
	t.Parallel()
	const now = 100 * sec
	acks := func(acked, queued uint64, age time.Duration) Acks { return Acks{true, acked, queued, age} }
	for _, tt := range []struct {
		name            string
		pinged, writing time.Duration
		acked           uint32        // when the kernel was last asked
		at              time.Duration // that time
		acks            Acks
		late            bool
		want            life // in addition to the above
		moves           bool
	}{
		{"nothing is under way", 40 * sec, -1, 0, 0, acks(20, 0, 0), false, life{writing: -1}, false},
		{"nobody knows", 60 * sec, -1, 0, 0, Acks{}, false, life{writing: -1, present: true}, false},
		{"all is acknowledged, long ago", 60 * sec, -1, 20, 0, acks(10, 0, 90*sec), false, life{writing: -1, present: true}, false},
		{"the Ping is acknowledged, long ago", 60 * sec, -1, 20, 0, acks(20, 5, 90*sec), false, life{writing: -1, present: true, behind: 15}, false},
		{"a probe is acknowledged", 60 * sec, -1, 10, 0, acks(10, 5, 39*sec), false, life{writing: -1, present: true}, false},
		{"nothing since the Ping", 60 * sec, -1, 10, 0, acks(10, 5, 40*sec), false, life{writing: -1}, false},
		{"takes what is before the Ping", 60 * sec, -1, 5, 70 * sec, acks(10, 5, 40*sec), false, life{writing: -1, taking: true}, false},
		{"has taken it before it was heard", 60 * sec, -1, 5, 49 * sec, acks(10, 5, 40*sec), false, life{writing: -1}, false},
		{"takes what is after the Ping", 60 * sec, -1, 15, 70 * sec, acks(25, 5, 0), false, life{writing: -1, present: true, behind: 15}, false},
		{"takes what is written", 40 * sec, 60 * sec, 30, 70 * sec, acks(35, 5, 0), false, life{writing: now, present: true, behind: 15}, true},
		{"takes nothing of what is written", 40 * sec, 60 * sec, 35, 70 * sec, acks(35, 5, 0), false, life{writing: 60 * sec, present: true, behind: 15}, false},
		{"has taken it before the write", 40 * sec, 60 * sec, 30, 59 * sec, acks(35, 5, 0), false, life{writing: 60 * sec, present: true, behind: 15, unmeasured: true}, false},
		{"a write, and the proxy did not run", 40 * sec, 60 * sec, 35, 70 * sec, acks(35, 5, 0), true, life{writing: now, present: true, behind: 15, late: true}, true},
	} {
		for _, input := range []bool{false, true} {
			c := began(policy)
			c.legs[C] = courseLeg{acked: tt.acked, ackedAt: tt.at, pingEnd: 20, behind: 15}
			want := tt.want
			want.heard, want.pinged, want.input = 50*sec, tt.pinged, input && tt.pinged > 50*sec
			var o Orders
			f := Facts{Heard: 50 * sec, Pinged: tt.pinged, Writing: tt.writing, Acks: tt.acks, Input: input}
			if got := c.life(int(C), now, &f, tt.late, &o); got != want {
				t.Errorf("%s: got %+v, want %+v", tt.name, got, want)
			}
			if o.Legs[C].Moves != tt.moves || o.Legs[U].Moves {
				t.Errorf("%s: got %+v, want moves=%v", tt.name, o.Legs, tt.moves)
			}
		}
	}
}

// The kernel is asked only where the answer matters.
func TestLookAsks(t *testing.T) {
	t.Parallel()
	idle := *policy
	idle.Idle = 5 * sec
	ends := func(c *Course) { c.Stop(10*sec, CauseIdle, nil) }
	for _, tt := range []struct {
		name   string
		policy *Policy
		before func(*Course)
		facts  Facts
		now    time.Duration
		want   Ask
	}{
		{"at rest", policy, nil, Facts{Writing: -1}, 20 * sec, Ask{}},
		{"a Ping is answered", policy, nil, Facts{Writing: -1, Pinged: sec, Heard: 2 * sec}, 20 * sec, Ask{}},
		{"a Ping is unanswered", policy, nil, Facts{Writing: -1, Pinged: 2 * sec, Heard: sec}, 20 * sec, Ask{Input: true, Acks: true}},
		{"a write", policy, nil, Facts{Writing: sec}, 20 * sec, Ask{Acks: true}},
		{"idle", &idle, nil, Facts{Writing: -1}, 20 * sec, Ask{Input: true}},
		{"not idle", &idle, nil, Facts{Writing: -1, Data: 16 * sec}, 20 * sec, Ask{}},
		{"ends, never measured", policy, ends, Facts{Writing: -1}, 11 * sec, Ask{Acks: true}},
		{"ends, measured", policy, func(c *Course) { ends(c); c.legs[C].ackedAt = 10 * sec }, Facts{Writing: -1}, 11 * sec, Ask{}},
		{"ends, measured, late", policy, func(c *Course) { ends(c); c.legs[C].ackedAt = 10 * sec }, Facts{Writing: -1}, 12 * sec, Ask{Acks: true}},
		{"ends, measured, at the deadline", policy, func(c *Course) { ends(c); c.legs[C].ackedAt, c.due = 10*sec, 14*sec }, Facts{Writing: -1}, 14 * sec, Ask{Acks: true}},
	} {
		c := began(tt.policy)
		if tt.before != nil {
			tt.before(c)
		}
		l := atRest(tt.now)
		l.Legs[C] = tt.facts
		if got := c.Asks(l)[C]; got != tt.want {
			t.Errorf("%s: got %+v, want %+v", tt.name, got, tt.want)
		}
	}
}

// The next look is at what is due first, and not at once.
func TestLookAgain(t *testing.T) {
	t.Parallel()
	p := *policy
	p.Write = 100 * sec // half of it is the longest time without a look
	aged, idle := p, p
	aged.Age, idle.Idle = 12*sec, 13*sec
	for _, tt := range []struct {
		name   string
		policy *Policy
		change func(*Look)
		want   time.Duration
	}{
		{"a Ping to the client", &p, func(l *Look) { l.Legs[U].Heard = 9 * sec }, 25 * sec},
		{"a Ping to the upstream", &p, func(l *Look) { l.Legs[C].Heard = 9 * sec }, 25 * sec},
		{"the end of its patience", &p, func(l *Look) { l.Legs[C].Pinged = 5 * sec; l.Legs[U].Heard = 9 * sec }, 15 * sec},
		{"expiry", &p, func(l *Look) { l.Expiry = Expiry{11 * sec, CauseIdle} }, 11 * sec},
		{"age", &aged, func(*Look) {}, 12 * sec},
		{"idle", &idle, func(*Look) {}, 13 * sec},
		{"in a moment", &p, func(l *Look) { l.Expiry = Expiry{10*sec + 1, CauseIdle} }, 10*sec + time.Millisecond},
	} {
		c, l := began(tt.policy), atRest(10*sec)
		tt.change(l)
		if o := c.Look(l); !o.Arm || o.Again != tt.want || c.due != tt.want || o.Began {
			t.Errorf("%s: looks again at %v, want %v; %+v", tt.name, o.Again, tt.want, o)
		}
	}
}

// Data that is being written or that the rate limit holds back keeps a session
// from being idle.
func TestLookData(t *testing.T) {
	t.Parallel()
	for _, side := range []frame.Side{C, U} {
		for name, tt := range map[string]struct {
			change func(*Facts)
			want   time.Duration
		}{
			"none":     {func(*Facts) {}, 0},
			"passed":   {func(f *Facts) { f.Data = 5 * sec }, 5 * sec},
			"written":  {func(f *Facts) { f.Writing = 6 * sec }, 6 * sec},
			"slowed":   {func(f *Facts) { f.Slowed = true }, 10 * sec},
			"only met": {func(f *Facts) { f.Heard, f.Pinged = 7*sec, 8*sec }, 0},
		} {
			l := atRest(10 * sec)
			tt.change(&l.Legs[side])
			if got := l.data(); got != tt.want {
				t.Errorf("%s by %d: got %v, want %v", name, side, got, tt.want)
			}
		}
	}
}

// A session that starts is looked at when something is due; one that has begun to
// end before, when that is.
func TestStart(t *testing.T) {
	t.Parallel()
	hasty := *policy
	hasty.Close = sec
	for _, tt := range []struct {
		name   string
		policy *Policy
		ends   bool
		want   time.Duration
	}{
		{"half the write timeout", policy, false, 17 * sec},
		{"its end", policy, true, 3 * sec},
		{"a hasty end", &hasty, true, 2*sec + sec/2},
	} {
		c := NewCourse(tt.policy, 1)
		if tt.ends {
			c.Stop(sec, CauseIdle, nil)
		}
		if at := c.Start(2*sec, Expiry{}); at != tt.want || c.due != at {
			t.Errorf("%s: first look at %v, due at %v, want %v", tt.name, at, c.due, tt.want)
		}
	}
	c := NewCourse(policy, 1)
	if at := c.Start(2*sec, Expiry{At: -time.Minute, Cause: CauseIdle}); at != 2*sec {
		t.Errorf("it has expired before: first look at %v, want now", at)
	}
}

// Looks that are late in a row are counted; one in time ends the row.
func TestLookGraces(t *testing.T) {
	t.Parallel()
	p := *policy
	p.Idle = 5 * sec
	c := began(&p)
	for range MostGraces {
		c.Look(atRest(c.due + time.Minute))
	}
	l := atRest(c.due)
	l.Legs[U].Data = l.Now
	c.Look(l)
	if o := c.Look(atRest(c.due + time.Minute)); o.Began || o.Again != c.due {
		t.Errorf("late again: got %+v, want it excused", o)
	}
}

// While a session ends, its readers are made to notice resets, and what a peer
// takes is measured from the first look on. A look that is late postpones the
// deadline, and starts to measure anew.
func TestLookAfterEnd(t *testing.T) {
	t.Parallel()
	look := func(c *Course, now time.Duration, acked uint64) Orders {
		l := atRest(now)
		l.Legs[C].Acks = Acks{Known: true, Acked: acked, Queued: 1}
		return c.Look(l)
	}
	c := began(policy)
	c.Stop(10*sec, CauseIdle, nil)
	if o := look(c, 11*sec, 5); o != (Orders{Wake: true, Arm: true, Again: 12 * sec}) {
		t.Errorf("the first look: got %+v, want readers woken and the next one after 1s", o)
	}
	if look(c, 12*sec, 6); c.legs[C].acked != 5 || c.legs[C].ackedAt != 11*sec {
		t.Errorf("measured %d at %v, want the first look to count", c.legs[C].acked, c.legs[C].ackedAt)
	}
	if o := look(c, 13*sec+sec/2, 7); !o.Wake || o.Again != 14*sec+sec/2 {
		t.Errorf("half a second late: got %+v", o)
	}
	if c.legs[C].acked != 7 || c.legs[C].ackedAt != 13*sec+sec/2 {
		t.Errorf("half a second late: measured %d at %v, want it anew", c.legs[C].acked, c.legs[C].ackedAt)
	}
	if c.end.deadline != 14*sec+sec/2 || c.end.latest != 44*sec+sec/2 {
		t.Errorf("half a second late: ends at %v, at the latest %v, want half a second more for both", c.end.deadline, c.end.latest)
	}
}

// Who is still taking something after its end.
func TestLingers(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name          string
		acks          Acks
		closed, ended bool // a Close was written to it; nothing more comes from the other side
		want          bool
	}{
		{"takes its Close", Acks{true, 7, 1, 0}, true, false, true},
		{"takes the rest of what the other side sent", Acks{true, 7, 1, 0}, false, true, true},
		{"may get more", Acks{true, 7, 1, 0}, false, false, false},
		{"has taken all", Acks{true, 7, 0, 0}, true, true, false},
		{"takes nothing", Acks{true, 5, 1, 0}, true, true, false},
		{"nobody knows", Acks{}, true, true, false},
	} {
		c, l := began(policy), atRest(14*sec)
		c.legs[C].acked, c.legs[U].ended = 5, tt.ended
		l.Legs[C].Acks, l.Legs[C].Closed = tt.acks, tt.closed
		if got := c.lingers(C, l); got != tt.want {
			t.Errorf("%s: got %v", tt.name, got)
		}
	}
}

// Who has had the time to answer a Ping, and has answered none.
func TestIgnoresPings(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name   string
		pings  uint32
		pinged time.Duration
		now    time.Duration
		want   bool
	}{
		{"no Ping is unanswered", 0, 25 * sec, 50 * sec, false},
		{"has time yet", 1, 25 * sec, 34 * sec, false},
		{"had the time", 1, 25 * sec, 35 * sec, true},
		{"had the time after the first of two", 2, 50 * sec, 51 * sec, true},
	} {
		c, l := began(policy), atRest(tt.now)
		l.Legs[C].Pings, l.Legs[C].Pinged = tt.pings, tt.pinged
		l.Legs[U].Heard = tt.now
		c.due = tt.now
		if c.Look(l); c.IgnoresPings(C) != tt.want || c.IgnoresPings(U) {
			t.Errorf("%s: got %v by the client, %v by the upstream", tt.name, c.IgnoresPings(C), c.IgnoresPings(U))
		}
		if c.Answered(C, false); c.IgnoresPings(C) {
			t.Errorf("%s: ignores them although it has answered", tt.name)
		}
	}
}

// Who is never pinged ignores nothing.
func TestIgnoresNoPings(t *testing.T) {
	t.Parallel()
	c := began(&Policy{Write: 30 * sec, Close: 4 * sec})
	if c.Look(atRest(c.due)); c.IgnoresPings(C) || c.IgnoresPings(U) {
		t.Error("a side that was never pinged ignores Pings")
	}
}

// Only an answer to the last Ping proves that what was before it has arrived.
func TestAnswered(t *testing.T) {
	t.Parallel()
	c := began(policy)
	c.Pinged(sec, C, Acks{Known: true, Acked: 10, Queued: 5})
	c.Pinged(2*sec, C, Acks{}) // unknown: nothing changes
	l := &c.legs[C]
	if l.pingEnd != 15 || l.acked != 10 || l.ackedAt != sec {
		t.Errorf("the Ping ends at %d, %d were acknowledged at %v", l.pingEnd, l.acked, l.ackedAt)
	}
	if c.Answered(C, false); l.behind != 15 || !l.answers {
		t.Errorf("an earlier Ping was answered: %d bytes are behind it, answers=%v", l.behind, l.answers)
	}
	if c.Answered(C, true); l.behind != 0 {
		t.Errorf("the last Ping was answered: %d bytes are behind it, want none", l.behind)
	}
	for _, tt := range []struct {
		end    uint64 // of the next Ping
		behind uint32
	}{{20, 5}, {30, 15}, {1<<32 + 14, math.MaxUint32}, {1<<32 + 15, math.MaxUint32}, {1 << 40, math.MaxUint32}} {
		if c.Pinged(3*sec, C, Acks{Known: true, Acked: 20, Queued: tt.end - 20}); l.behind != tt.behind || l.pingEnd != tt.end {
			t.Errorf("the next Ping ends at %d: got %d bytes up to %d, want %d", tt.end, l.behind, l.pingEnd, tt.behind)
		}
	}
	c.Answered(C, true)
	if c.Pinged(4*sec, C, Acks{Known: true, Acked: 20, Queued: 1<<40 - 20 + 7}); l.behind != 7 {
		t.Errorf("the one after that: got %d bytes, want 7", l.behind)
	}
}
