package protocol

import (
	"math/rand/v2"
	"testing"
	"time"
)

// The rules of keeping alive, one by one.
func TestPolicyCheck(t *testing.T) {
	const s = time.Second
	p := care{ping: 25 * s, pong: 10 * s, write: 30 * s}
	tests := []struct {
		name  string
		p     care
		now   time.Duration
		l     life
		want  Need
		again time.Duration
	}{
		{"just begun", p, 0, life{writing: -1}, NeedNothing, 15 * s},
		{"heard lately", p, 20 * s, life{heard: 15 * s, writing: -1}, NeedNothing, 35 * s},
		{"silent for long", p, 25 * s, life{writing: -1}, NeedPing, 35 * s},
		{"pinged", p, 30 * s, life{pinged: 25 * s, writing: -1}, NeedNothing, 35 * s},
		{"pinged, and not answered", p, 35 * s, life{pinged: 25 * s, writing: -1}, needEndSilent, 35 * s},
		{"pinged, and heard since", p, 35 * s, life{heard: 26 * s, pinged: 25 * s, writing: -1}, NeedNothing, 50 * s},
		{"heard and pinged in the same moment", p, 35 * s, life{heard: 25 * s, pinged: 25 * s, writing: -1}, NeedNothing, 50 * s},
		{"not answered, but a write moves", p, 35 * s, life{pinged: 25 * s, writing: 34 * s}, NeedMoreTime, 45 * s},
		{"not answered, but what is queued moves", p, 35 * s, life{pinged: 25 * s, writing: -1, taking: true}, NeedMoreTime, 45 * s},
		{"not answered, after others were", p, 35 * s, life{pinged: 25 * s, writing: -1, answers: true, present: true}, needEndSilent, 35 * s},
		{"never answers, and is there", p, 35 * s, life{pinged: 25 * s, writing: -1, present: true}, NeedNothing, 50 * s},
		{"never answers, and had no time to yet", p, 30 * s, life{pinged: 25 * s, writing: -1, present: true}, NeedNothing, 35 * s},
		{"never answers, is there, and was pinged an interval ago", p, 50 * s, life{pinged: 25 * s, writing: -1, present: true}, NeedPing, 65 * s},
		{"never answers, and its machine acknowledges nothing", p, 35 * s, life{pinged: 25 * s, writing: -1}, needEndSilent, 35 * s},
		{"the same with a time-out over the interval", care{ping: 10 * s, pong: 25 * s, write: 60 * s}, 20 * s, life{pinged: 10 * s, writing: -1}, NeedNothing, 30 * s},
		{"is there, with a time-out over the interval", care{ping: 10 * s, pong: 25 * s, write: 60 * s}, 20 * s, life{pinged: 10 * s, writing: -1, present: true}, NeedPing, 30 * s},
		{"not answered, but we were stopped", p, 60 * s, life{pinged: 25 * s, writing: -1, late: true}, NeedMoreTime, 70 * s},
		{"not answered, but bytes wait in our socket", p, 35 * s, life{pinged: 25 * s, writing: -1, answers: true, present: true, input: true}, NeedHearing, 50 * s},
		{"not answered, behind bytes that may still be on their way", p, 35 * s, life{pinged: 25 * s, writing: -1, answers: true, present: true, behind: 30 * slowest}, NeedNothing, 50 * s},
		{"not answered, and they must have arrived", p, 65 * s, life{pinged: 25 * s, writing: -1, answers: true, present: true, behind: 30 * slowest}, needEndSilent, 65 * s},
		{"not answered, behind bytes without end", p, (25 + 11*10) * s, life{pinged: 25 * s, writing: -1, answers: true, present: true, behind: 1 << 60}, needEndSilent, (25 + 11*10) * s},
		{"nobody reads it", p, 25 * s, life{writing: -1, unread: true}, NeedPing, 35 * s},
		{"nobody reads it, and it is there", p, 49 * s, life{pinged: 25 * s, writing: -1, answers: true, unread: true, input: true, present: true}, NeedNothing, 50 * s},
		{"nobody reads it, it is there, and was pinged an interval ago", p, 50 * s, life{pinged: 25 * s, writing: -1, answers: true, unread: true, input: true, present: true}, NeedPing, 65 * s},
		{"nobody reads it, and its machine acknowledges nothing", p, 35 * s, life{pinged: 25 * s, writing: -1, answers: true, unread: true, input: true}, needEndSilent, 35 * s},
		{"a write without progress", p, 40 * s, life{heard: 40 * s, writing: 10 * s}, needEndStuck, 40 * s},
		{"a write about to be stuck", p, 39 * s, life{heard: 39 * s, writing: 10 * s}, NeedNothing, 40 * s},
		{"a write begun at 0", p, 30 * s, life{heard: 30 * s, writing: 0}, needEndStuck, 30 * s},
		{"reset, and nobody at work on it", care{write: 30 * s}, 40 * s, life{heard: 39 * s, writing: -1, reset: true}, needEndReset, 40 * s},
		{"reset, and we were stopped", care{write: 30 * s}, 40 * s, life{heard: 30 * s, writing: -1, reset: true, late: true}, NeedNothing, 40*s + Lateness},
		{"reset a moment ago", care{write: 30 * s}, 40 * s, life{heard: 39500 * time.Millisecond, writing: -1, reset: true}, NeedNothing, 40500 * time.Millisecond},
		{"reset, with bytes before it that wait for the leg across", care{write: 30 * s}, 40 * s, life{writing: -1, unread: true, reset: true}, NeedNothing, 55 * s},
		{"no pings", care{write: 30 * s}, 99 * s, life{writing: -1}, NeedNothing, 114 * s},
		{"no pings, writing", care{write: 30 * s}, 99 * s, life{writing: 90 * s}, NeedNothing, 114 * s},
	}
	for _, tt := range tests {
		got, again := tt.p.check(tt.now, tt.l)
		if got != tt.want || again != tt.again {
			t.Errorf("%s: got need %v, again at %v, want %v, %v", tt.name, got, again, tt.want, tt.again)
		}
	}
	for _, tt := range []struct {
		idle, now, data time.Duration
		want            bool
	}{
		{0, 1e6 * s, 0, false},
		{60 * s, 59 * s, 0, false},
		{60 * s, 60 * s, 0, true},
		{60 * s, 60 * s, 1 * s, false},
	} {
		p := Policy{Idle: tt.idle, Write: 30 * s}
		if got, _ := p.checkIdle(tt.now, tt.data); got != tt.want {
			t.Errorf("idle %v at %v, data at %v: got %v, want %v", tt.idle, tt.now, tt.data, got, tt.want)
		}
	}
}

// C27: intervals of sessions differ, and are never longer than was asked.
func TestPolicyJitter(t *testing.T) {
	seen := make(map[time.Duration]bool)
	for range 100 {
		got := NewPace(rand.Float32()).Of(25 * time.Second)
		if got < 25*time.Second*9/10 || got > 25*time.Second {
			t.Fatalf("got %v, want 22.5 s to 25 s", got)
		}
		seen[got] = true
	}
	if len(seen) < 90 {
		t.Errorf("got %d different intervals of 100", len(seen))
	}
	if got := NewPace(rand.Float32()).Of(0); got != 0 {
		t.Errorf("pings switched off: got an interval of %v", got)
	}
}

// A leg that was reset while the rate limit holds it up is lost once the grace
// is over; being unread doesn't begin it anew.
func TestResetWhileSlowed(t *testing.T) {
	p := care{ping: 25 * time.Second, pong: 10 * time.Second, write: 30 * time.Second}
	l := life{heard: 10 * time.Second, writing: -1, unread: true, slowed: true, reset: true}
	if need, again := p.check(10*time.Second+resetGrace/2, l); need != NeedNothing || again != 10*time.Second+resetGrace {
		t.Errorf("within the grace: got need %d, again at %v", need, again)
	}
	if need, _ := p.check(10*time.Second+resetGrace, l); need != needEndReset {
		t.Errorf("after the grace: got need %d, want the end", need)
	}
}
