package wsproxy

import (
	"math"
	"math/rand/v2"
	"time"
)

// A policy says how long a session's peers may be silent. It decides; it
// holds no timer, and time is an argument: a duration since the session
// began. A zero duration switches a rule off; write is never zero.
type policy struct {
	ping  time.Duration // a leg that was silent for so long is sent a Ping
	pong  time.Duration // and is lost when nothing came from it so long after
	idle  time.Duration // with no data frame either way for so long, the session ends
	write time.Duration // a leg that takes no byte for so long is lost
	age   time.Duration // a session that is so old ends
}

// A life is what the relay knows of one leg's liveness.
type life struct {
	heard   time.Duration // when bytes last came from it
	pinged  time.Duration // when our last Ping went out; before heard: answered
	writing time.Duration // when the write under way last made progress; negative: none is
	unread  bool          // its reader waits for the leg across to take bytes, or for the rate limit
	slowed  bool          // for the latter, which may take long
	taking  bool          // what our kernel holds for it is moving
	reset   bool          // it was reset; its reader may not know
}

// resetGrace is how long a reader that is at work has to find a reset itself,
// behind the bytes that came before it.
const resetGrace = time.Second

// A need is what a leg needs now.
type need uint8

const (
	needNothing need = iota
	needPing
	needMoreTime // an unanswered Ping is behind bytes that still move: count anew
	needHearing  // nobody is reading it: its silence proves nothing, count it as heard
	needEndSilent
	needEndStuck
	needEndReset
)

// check says what the leg needs at now, and when to look again.
//
// Any byte from a peer proves it alive, not only a Pong: RFC 6455, 5.5.3
// lets a peer answer just the latest of several Pings, and one that is in
// the middle of a long frame can't answer at all.
func (p *policy) check(now time.Duration, l life) (need, time.Duration) {
	if l.writing >= 0 && now-l.writing >= p.write {
		return needEndStuck, now
	}
	again := now + p.write/2 // to be there when half of it is over
	if l.writing >= 0 {
		again = min(again, l.writing+p.write)
	}
	if l.reset && (!l.unread || l.slowed) {
		if now-l.heard >= resetGrace {
			return needEndReset, now
		}
		again = min(again, l.heard+resetGrace)
		if l.slowed {
			return needNothing, again // and not needHearing: the grace is to come to its end
		}
	}
	if p.ping == 0 {
		return needNothing, again
	}
	if l.unread {
		return needHearing, min(again, now+p.ping)
	}
	if l.pinged > l.heard { // a Ping is unanswered
		if now-l.pinged < p.pong {
			return needNothing, min(again, l.pinged+p.pong, now+p.ping)
		}
		if l.writing >= 0 || l.taking {
			return needMoreTime, min(again, now+p.pong)
		}
		return needEndSilent, now
	}
	if now-l.heard < p.ping {
		return needNothing, min(again, l.heard+p.ping)
	}
	return needPing, min(again, now+p.pong, now+p.ping)
}

// checkIdle says whether a session whose last data frame moved at data is
// idle, and when to look again. Control frames are not data: pings, ours or
// an application's, don't keep a session from being idle.
func (p *policy) checkIdle(now, data time.Duration) (idle bool, again time.Duration) {
	if p.idle == 0 {
		return false, now + p.write
	}
	return now-data >= p.idle, data + p.idle
}

// never is when what doesn't happen is due.
const never time.Duration = math.MaxInt64

// jittered returns the policy for one session: with a ping interval and a
// maximum age up to a tenth shorter, so that sessions that began together
// neither ping in step nor end all at once.
func (p policy) jittered() policy {
	if p.ping > 0 {
		p.ping -= rand.N(p.ping/10 + 1)
	}
	if p.age > 0 {
		p.age -= rand.N(p.age/10 + 1)
	}
	return p
}
