package protocol

import (
	"math/rand/v2"
	"testing"
	"time"
)

// The rules of keeping alive, one by one.
func TestPolicyCheck(t *testing.T) {
	const s = time.Second
	p := Policy{Ping: 25 * s, Pong: 10 * s, Write: 30 * s}
	tests := []struct {
		name  string
		p     Policy
		now   time.Duration
		l     Life
		want  Need
		again time.Duration
	}{
		{"just begun", p, 0, Life{Writing: -1}, NeedNothing, 15 * s},
		{"heard lately", p, 20 * s, Life{Heard: 15 * s, Writing: -1}, NeedNothing, 35 * s},
		{"silent for long", p, 25 * s, Life{Writing: -1}, NeedPing, 35 * s},
		{"pinged", p, 30 * s, Life{Pinged: 25 * s, Writing: -1}, NeedNothing, 35 * s},
		{"pinged, and not answered", p, 35 * s, Life{Pinged: 25 * s, Writing: -1}, NeedEndSilent, 35 * s},
		{"pinged, and heard since", p, 35 * s, Life{Heard: 26 * s, Pinged: 25 * s, Writing: -1}, NeedNothing, 50 * s},
		{"heard and pinged in the same moment", p, 35 * s, Life{Heard: 25 * s, Pinged: 25 * s, Writing: -1}, NeedNothing, 50 * s},
		{"not answered, but a write moves", p, 35 * s, Life{Pinged: 25 * s, Writing: 34 * s}, NeedMoreTime, 45 * s},
		{"not answered, but what is queued moves", p, 35 * s, Life{Pinged: 25 * s, Writing: -1, Taking: true}, NeedMoreTime, 45 * s},
		{"not answered, after others were", p, 35 * s, Life{Pinged: 25 * s, Writing: -1, Answers: true, Present: true}, NeedEndSilent, 35 * s},
		{"never answers, and is there", p, 35 * s, Life{Pinged: 25 * s, Writing: -1, Present: true}, NeedNothing, 50 * s},
		{"never answers, and had no time to yet", p, 30 * s, Life{Pinged: 25 * s, Writing: -1, Present: true}, NeedNothing, 35 * s},
		{"never answers, is there, and was pinged an interval ago", p, 50 * s, Life{Pinged: 25 * s, Writing: -1, Present: true}, NeedPing, 65 * s},
		{"never answers, and its machine acknowledges nothing", p, 35 * s, Life{Pinged: 25 * s, Writing: -1}, NeedEndSilent, 35 * s},
		{"the same with a time-out over the interval", Policy{Ping: 10 * s, Pong: 25 * s, Write: 60 * s}, 20 * s, Life{Pinged: 10 * s, Writing: -1}, NeedNothing, 30 * s},
		{"is there, with a time-out over the interval", Policy{Ping: 10 * s, Pong: 25 * s, Write: 60 * s}, 20 * s, Life{Pinged: 10 * s, Writing: -1, Present: true}, NeedPing, 30 * s},
		{"not answered, but we were stopped", p, 60 * s, Life{Pinged: 25 * s, Writing: -1, Late: true}, NeedMoreTime, 70 * s},
		{"not answered, but bytes wait in our socket", p, 35 * s, Life{Pinged: 25 * s, Writing: -1, Answers: true, Present: true, Input: true}, NeedHearing, 50 * s},
		{"not answered, behind bytes that may still be on their way", p, 35 * s, Life{Pinged: 25 * s, Writing: -1, Answers: true, Present: true, Behind: 30 * slowest}, NeedNothing, 50 * s},
		{"not answered, and they must have arrived", p, 65 * s, Life{Pinged: 25 * s, Writing: -1, Answers: true, Present: true, Behind: 30 * slowest}, NeedEndSilent, 65 * s},
		{"not answered, behind bytes without end", p, (25 + 11*10) * s, Life{Pinged: 25 * s, Writing: -1, Answers: true, Present: true, Behind: 1 << 60}, NeedEndSilent, (25 + 11*10) * s},
		{"nobody reads it", p, 25 * s, Life{Writing: -1, Unread: true}, NeedPing, 35 * s},
		{"nobody reads it, and it is there", p, 49 * s, Life{Pinged: 25 * s, Writing: -1, Answers: true, Unread: true, Input: true, Present: true}, NeedNothing, 50 * s},
		{"nobody reads it, it is there, and was pinged an interval ago", p, 50 * s, Life{Pinged: 25 * s, Writing: -1, Answers: true, Unread: true, Input: true, Present: true}, NeedPing, 65 * s},
		{"nobody reads it, and its machine acknowledges nothing", p, 35 * s, Life{Pinged: 25 * s, Writing: -1, Answers: true, Unread: true, Input: true}, NeedEndSilent, 35 * s},
		{"a write without progress", p, 40 * s, Life{Heard: 40 * s, Writing: 10 * s}, NeedEndStuck, 40 * s},
		{"a write about to be stuck", p, 39 * s, Life{Heard: 39 * s, Writing: 10 * s}, NeedNothing, 40 * s},
		{"a write begun at 0", p, 30 * s, Life{Heard: 30 * s, Writing: 0}, NeedEndStuck, 30 * s},
		{"reset, and nobody at work on it", Policy{Write: 30 * s}, 40 * s, Life{Heard: 39 * s, Writing: -1, Reset: true}, NeedEndReset, 40 * s},
		{"reset, and we were stopped", Policy{Write: 30 * s}, 40 * s, Life{Heard: 30 * s, Writing: -1, Reset: true, Late: true}, NeedNothing, 40*s + Lateness},
		{"reset a moment ago", Policy{Write: 30 * s}, 40 * s, Life{Heard: 39500 * time.Millisecond, Writing: -1, Reset: true}, NeedNothing, 40500 * time.Millisecond},
		{"reset, with bytes before it that wait for the leg across", Policy{Write: 30 * s}, 40 * s, Life{Writing: -1, Unread: true, Reset: true}, NeedNothing, 55 * s},
		{"no pings", Policy{Write: 30 * s}, 99 * s, Life{Writing: -1}, NeedNothing, 114 * s},
		{"no pings, writing", Policy{Write: 30 * s}, 99 * s, Life{Writing: 90 * s}, NeedNothing, 114 * s},
	}
	for _, tt := range tests {
		got, again := tt.p.Check(tt.now, tt.l)
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
		if got, _ := p.CheckIdle(tt.now, tt.data); got != tt.want {
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
	p := Policy{Ping: 25 * time.Second, Pong: 10 * time.Second, Write: 30 * time.Second}
	l := Life{Heard: 10 * time.Second, Writing: -1, Unread: true, Slowed: true, Reset: true}
	if need, again := p.Check(10*time.Second+ResetGrace/2, l); need != NeedNothing || again != 10*time.Second+ResetGrace {
		t.Errorf("within the grace: got need %d, again at %v", need, again)
	}
	if need, _ := p.Check(10*time.Second+ResetGrace, l); need != NeedEndReset {
		t.Errorf("after the grace: got need %d, want the end", need)
	}
}
