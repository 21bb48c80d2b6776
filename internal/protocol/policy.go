package protocol

import (
	"math"
	"time"

	"github.com/seed-ffb73231/wsproxy/internal/frame"
)

// A Policy limits how long the peers of a session may be silent, and how long the
// session lasts. A zero duration disables a rule; Write and Close are never zero.
type Policy struct {
	Pings [2]Pinging    // by the side that is pinged
	Idle  time.Duration // a session without a data frame in either direction for this long ends
	Write time.Duration // a leg that accepts no byte for this long is lost
	Age   time.Duration // a session of this age ends
	Close time.Duration // how long the end of a session may take

	// LostCode is the close code for a client whose upstream was lost; 0: 1011.
	LostCode frame.Code

	// Resume is set, and the Policy is that of one session, if the session may
	// outlive its upstream.
	Resume *Resume
}

// A Pinging is how one side is pinged.
type Pinging struct {
	Interval time.Duration // a leg that has been silent for this long is sent a Ping
	Timeout  time.Duration // and may be lost if nothing arrives within this time after it
}

// A care is a Policy for one leg of a session. It only decides: it has no timer,
// and time is an argument, a duration since the start of the session.
type care struct {
	ping, pong, write time.Duration
}

// A life is what is known about the liveness of one leg.
type life struct {
	heard      time.Duration // when bytes last arrived from it
	pinged     time.Duration // when our last Ping was sent; before heard: answered
	writing    time.Duration // when the current write last made progress; negative: no write
	input      bool          // bytes from it wait in our socket
	late       bool          // the proxy was not running for a time that would count against it
	behind     uint64        // bytes up to our last Ping that are acknowledged, but may not have reached it
	unread     bool          // its reader waits for the opposite leg to accept bytes, or for the rate limit
	slowed     bool          // its reader waits for the rate limit, which may take long
	taking     bool          // the data that our kernel holds for it is moving
	unmeasured bool          // whether that is so during the current write is to be measured yet
	reset      bool          // it was reset; its reader may not have noticed
	answers    bool          // it has answered a Ping of ours before
	present    bool          // its kernel has acknowledged something since our last Ping, or this is unknown
}

// resetGrace is how long an active reader may take to find a reset itself,
// after the bytes that arrived before it.
const resetGrace = time.Second

// Elapsed time proves nothing while the proxy itself is not running: stopped,
// starved of CPU time, or in a virtual machine that is. What peers sent meanwhile
// waits in its sockets, and what they accepted becomes visible only later. So a
// timer that fires more than Lateness after it was due ends nothing: readers and
// writers first get Grace to run. In a process that is always late, this applies
// to at most MostGraces checks in a row.
const (
	Lateness   = 100 * time.Millisecond
	Grace      = time.Second
	MostGraces = 10
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

// ackSlack exceeds the resolution of the clock that measures Acks.Age.
const ackSlack = 20 * time.Millisecond

// toAnswer returns the time in which a Ping must be answered that has the given
// number of bytes before it.
func (p care) toAnswer(behind uint64) time.Duration {
	seconds := min(float64(behind)/slowest, mostBehind*p.pong.Seconds())
	return p.pong + time.Duration(seconds*float64(time.Second))
}

// A Need is what a leg needs next.
type Need uint8

const (
	NeedNothing Need = iota
	NeedPing
	NeedMoreTime // an unanswered Ping is behind bytes that still move, or was our fault: restart its time
	NeedHearing  // bytes from it wait to be read: treat it as heard
	needEndSilent
	needEndStuck
	needEndReset
)

// check returns what the leg needs at now, and when to check again.
//
// Any byte from a peer proves it alive, not only a Pong: RFC 6455, 5.5.3 allows
// a peer to answer only the latest of several Pings, and a peer in the middle
// of a long frame cannot answer at all.
func (p care) check(now time.Duration, l life) (Need, time.Duration) {
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
		again = min(again, max(l.heard+resetGrace, now+Lateness))
		if l.slowed {
			return NeedNothing, again // no Ping: let the grace end
		}
	}
	if p.ping == 0 {
		return NeedNothing, again
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
				return NeedNothing, min(again, next)
			}
			return NeedPing, min(again, now+p.ping)
		}
		if due := l.pinged + p.toAnswer(l.behind); now < due {
			return NeedNothing, min(again, due, now+p.ping)
		}
		if l.input && !l.unread {
			return NeedHearing, min(again, now+p.ping)
		}
		if l.writing >= 0 || l.taking || l.late {
			return NeedMoreTime, min(again, now+p.pong)
		}
		return needEndSilent, now
	}
	if now-l.heard < p.ping {
		return NeedNothing, min(again, l.heard+p.ping)
	}
	return NeedPing, min(again, now+p.pong, now+p.ping)
}

// checkIdle reports whether a session whose last data frame moved at data is
// idle, and when to check again. Control frames are not data: pings, ours or an
// application's, do not keep a session from being idle.
func (p *Policy) checkIdle(now, data time.Duration) (idle bool, again time.Duration) {
	if p.Idle == 0 {
		return false, now + p.Write
	}
	return now-data >= p.Idle, data + p.Idle
}

// never is the due time of an event that does not happen.
const never time.Duration = math.MaxInt64

// A Pace is the fraction of the ping intervals and of the maximum age that applies
// to one session: nine tenths or more, at random, so that sessions that began
// together neither ping in step nor all end at once.
type Pace float32

// NewPace returns the pace for a random number from 0 to 1.
func NewPace(random float32) Pace { return Pace(1 - random/10) }

// Of returns the part of d that applies.
func (f Pace) Of(d time.Duration) time.Duration { return time.Duration(float64(d) * float64(f)) }
