package wsproxy

import (
	"math"
	"math/rand/v2"
	"time"
)

// A policy limits how long a session's peers may be silent. It only decides: it
// has no timer, and time is an argument, a duration since the start of the
// session. A zero duration disables a rule; write is never zero. ping and pong
// are those of one side ([WithPingTo]).
type policy struct {
	ping  time.Duration // a leg that has been silent for this long is sent a Ping
	pong  time.Duration // and may be lost if nothing arrives within this time after it
	idle  time.Duration // a session without a data frame in either direction for this long ends
	write time.Duration // a leg that accepts no byte for this long is lost
	age   time.Duration // a session of this age ends
}

// A life is what is known about the liveness of one leg.
type life struct {
	heard   time.Duration // when bytes last arrived from it
	pinged  time.Duration // when our last Ping was sent; before heard: answered
	writing time.Duration // when the current write last made progress; negative: no write
	input   bool          // bytes from it wait in our socket
	late    bool          // the proxy was not running for a time that would count against it
	behind  uint64        // bytes up to our last Ping that are acknowledged, but may not have reached it
	unread  bool          // its reader waits for the opposite leg to accept bytes, or for the rate limit
	slowed  bool          // its reader waits for the rate limit, which may take long
	taking  bool          // the data that our kernel holds for it is moving
	reset   bool          // it was reset; its reader may not have noticed
	answers bool          // it has answered a Ping of ours before
	present bool          // its kernel has acknowledged something since our last Ping, or this is unknown
}

// resetGrace is how long an active reader may take to find a reset itself,
// after the bytes that arrived before it.
const resetGrace = time.Second

// Elapsed time proves nothing while the proxy itself is not running: stopped,
// starved of CPU time, or in a virtual machine that is. What peers sent meanwhile
// waits in its sockets, and what they accepted becomes visible only later. So a
// timer that fires more than lateness after it was due ends nothing: readers and
// writers first get grace to run. In a process that is always late, this applies
// to at most mostGraces checks in a row.
const (
	lateness   = 100 * time.Millisecond
	grace      = time.Second
	mostGraces = 10
)

// slowest is the minimum rate, in bytes per second, at which data is assumed to
// reach a peer. An intermediate proxy, such as nginx, accepts bytes at once and
// forwards them only as fast as the peer reads them; a Ping waits behind all of
// them. mostBehind limits the time that is added for that, as a multiple of the
// time to answer.
const (
	slowest    = 16 << 10
	mostBehind = 10
)

// toAnswer returns the time in which a Ping must be answered that has the given
// number of bytes before it.
func (p *policy) toAnswer(behind uint64) time.Duration {
	seconds := min(float64(behind)/slowest, mostBehind*p.pong.Seconds())
	return p.pong + time.Duration(seconds*float64(time.Second))
}

// A need is what a leg needs next.
type need uint8

const (
	needNothing need = iota
	needPing
	needMoreTime // an unanswered Ping is behind bytes that still move, or was our fault: restart its time
	needHearing  // bytes from it wait to be read: treat it as heard
	needEndSilent
	needEndStuck
	needEndReset
)

// check returns what the leg needs at now, and when to check again.
//
// Any byte from a peer proves it alive, not only a Pong: RFC 6455, 5.5.3 allows
// a peer to answer only the latest of several Pings, and a peer in the middle
// of a long frame cannot answer at all.
func (p *policy) check(now time.Duration, l life) (need, time.Duration) {
	if l.writing >= 0 && now-l.writing >= p.write {
		return needEndStuck, now
	}
	again := now + p.write/2 // check again when half of it is over
	if l.writing >= 0 {
		again = min(again, l.writing+p.write)
	}
	if l.reset && (!l.unread || l.slowed) {
		if now-l.heard >= resetGrace && !l.late {
			return needEndReset, now
		}
		again = min(again, max(l.heard+resetGrace, now+lateness))
		if l.slowed {
			return needNothing, again // no Ping: let the grace end
		}
	}
	if p.ping == 0 {
		return needNothing, again
	}
	if l.pinged > l.heard { // a Ping is unanswered
		if l.present && (!l.answers || l.unread) {
			// Some applications answer no Ping, in violation of RFC 6455, 5.5.2,
			// and otherwise work; and an answer is not seen while the leg is not
			// being read. So silence counts only against a peer that has
			// answered before and is being read. Pings continue at their
			// interval: they keep NAT and load balancers from dropping the
			// connection, and the peer's kernel acknowledges each one, or resets
			// the connection if its program has left.
			if next := l.pinged + p.ping; now < next {
				if now < l.pinged+p.pong {
					next = min(next, l.pinged+p.pong) // to record that it had the time
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

// checkIdle reports whether a session whose last data frame moved at data is
// idle, and when to check again. Control frames are not data: pings, ours or an
// application's, do not keep a session from being idle.
func (p *policy) checkIdle(now, data time.Duration) (idle bool, again time.Duration) {
	if p.idle == 0 {
		return false, now + p.write
	}
	return now-data >= p.idle, data + p.idle
}

// never is the due time of an event that does not happen.
const never time.Duration = math.MaxInt64

// A pace is the fraction of the ping intervals and of the maximum age that applies
// to one session: nine tenths or more, at random, so that sessions that began
// together neither ping in step nor all end at once.
type pace float32

func newPace() pace { return pace(1 - rand.Float32()/10) }

func (f pace) of(d time.Duration) time.Duration { return time.Duration(float64(d) * float64(f)) }

// pinging is the setting of [WithPingTo] for a side.
type pinging struct {
	interval, timeout time.Duration
}
