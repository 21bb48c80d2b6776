package wsproxy

import (
	"math"
	"math/rand/v2"
	"time"
)

// A policy says how long a session's peers may be silent. It decides; it
// holds no timer, and time is an argument: a duration since the session
// began. A zero duration switches a rule off; write is never zero. ping and
// pong are those of one side ([WithPingTo]).
type policy struct {
	ping  time.Duration // a leg that was silent for so long is sent a Ping
	pong  time.Duration // and may be lost when nothing came from it so long after
	idle  time.Duration // with no data frame either way for so long, the session ends
	write time.Duration // a leg that takes no byte for so long is lost
	age   time.Duration // a session that is so old ends
}

// A life is what the relay knows of one leg's liveness.
type life struct {
	heard   time.Duration // when bytes last came from it
	pinged  time.Duration // when our last Ping went out; before heard: answered
	writing time.Duration // when the write under way last made progress; negative: none is
	input   bool          // bytes of it wait in our socket
	late    bool          // the proxy hasn't run for a time that counted against it
	behind  uint64        // bytes up to our last Ping that it hasn't been shown to have, all acknowledged
	unread  bool          // its reader waits for the leg across to take bytes, or for the rate limit
	slowed  bool          // for the latter, which may take long
	taking  bool          // what our kernel holds for it is moving
	reset   bool          // it was reset; its reader may not know
	answers bool          // it has answered a Ping of ours before
	present bool          // its kernel has acknowledged something since our last Ping, or can't be asked
}

// resetGrace is how long a reader that is at work has to find a reset itself,
// behind the bytes that came before it.
const resetGrace = time.Second

// A clock proves nothing while the proxy itself doesn't run: stopped, starved
// of CPU time, or in a virtual machine that is. What peers have sent meanwhile
// lies in its sockets, and what they have taken shows only later. So a timer
// that fires more than lateness after it was due ends nothing: readers and
// writers get grace to run first. In a process that is always late, that goes
// for mostGraces looks in a row only.
const (
	lateness   = 100 * time.Millisecond
	grace      = time.Second
	mostGraces = 10
)

// slowest is the rate, in bytes a second, at which what was written to a peer
// is thought to arrive at least. A proxy between, such as nginx, takes bytes at
// once and passes them on as slowly as the peer takes them; a Ping waits behind
// all of them. mostBehind, as a multiple of the time to answer, is the most
// that is added to it for that.
const (
	slowest    = 16 << 10
	mostBehind = 10
)

// toAnswer is the time in which a Ping has to be answered that has so many bytes
// before it.
func (p *policy) toAnswer(behind uint64) time.Duration {
	seconds := min(float64(behind)/slowest, mostBehind*p.pong.Seconds())
	return p.pong + time.Duration(seconds*float64(time.Second))
}

// A need is what a leg needs now.
type need uint8

const (
	needNothing need = iota
	needPing
	needMoreTime // an unanswered Ping is behind bytes that still move, or was our fault: count anew
	needHearing  // bytes of it wait to be read: count it as heard
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
		if now-l.heard >= resetGrace && !l.late {
			return needEndReset, now
		}
		again = min(again, max(l.heard+resetGrace, now+lateness))
		if l.slowed {
			return needNothing, again // no Ping: the grace is to come to its end
		}
	}
	if p.ping == 0 {
		return needNothing, again
	}
	if l.pinged > l.heard { // a Ping is unanswered
		if l.present && (!l.answers || l.unread) {
			// Some applications answer no Ping, against RFC 6455, 5.5.2, and
			// work well otherwise; and an answer that nobody reads can't be
			// heard. Only a peer that has answered before, and that is read, is
			// judged by its silence. The Pings go on at their interval: they
			// keep what is on the way (NAT, load balancers) from forgetting
			// the connection, and the peer's kernel acknowledges each one, or
			// resets the connection if its program has left.
			if next := l.pinged + p.ping; now < next {
				if now < l.pinged+p.pong {
					next = min(next, l.pinged+p.pong) // to note that it had the time
				}
				return needNothing, min(again, next)
			}
			return needPing, min(again, now+p.ping)
		}
		if due := l.pinged + p.toAnswer(l.behind); now < due {
			return needNothing, min(again, due, now+p.ping)
		}
		if l.input && !l.unread {
			return needHearing, min(again, now+p.ping)
		}
		if l.writing >= 0 || l.taking || l.late {
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

// A pace is the part of ping intervals and of the maximum age that counts for
// one session: nine tenths or more, at random, so that sessions that began
// together neither ping in step nor end all at once.
type pace float64

func newPace() pace { return pace(1 - rand.Float64()/10) }

func (f pace) of(d time.Duration) time.Duration { return time.Duration(float64(d) * float64(f)) }

// pinging is what [WithPingTo] sets for a side.
type pinging struct {
	interval, timeout time.Duration
}
