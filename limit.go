package wsproxy

import (
	"math"
	"time"
)

// limits is what one side may send.
type limits struct {
	frame, message uint64 // bytes of payload; 0: no limit
	rate           RateLimit
}

// exceeded says whether a frame, or its message so far, is too big. message is
// the bytes of that or, if they are more, its empty fragments.
func (l *limits) exceeded(frame, message uint64) bool {
	return l.frame > 0 && frame > l.frame || l.message > 0 && message > l.message
}

// A RateLimit says how much may come from one side of a session
// ([WithRateLimit]). A rate of 0 is no limit.
type RateLimit struct {
	Messages float64 // a second; at least one an hour, 1.0/3600
	Bytes    float64 // a second, on the wire; at least 1

	// Frames is how many frames may come a second: Pings, Pongs and every
	// fragment of a message count. 0 stands for ten times Messages. It is at
	// least one an hour.
	Frames float64

	// Burst is how long's worth of them may come at once, after silence; one
	// message always may. 0 stands for one second. With Close, Bytes times
	// Burst should be more than the largest message, and Burst should be longer
	// than the proxy may have to pause (a CPU quota, a virtual machine that is
	// moved): what a peer has sent in a pause arrives all at once. It can't be
	// told from a burst, as the limit keeps no clock of its own while nothing
	// arrives, and a session's clock may have nothing to do for longer than the
	// pause.
	Burst time.Duration

	// Close ends a session that goes over the limit, by Close 1008. Otherwise
	// it is slowed down: what goes over is read later, so that TCP holds the
	// sender up. Pings wait with the rest. A side that leaves while it is slowed
	// down has the close timeout to get through what it has sent. Its FIN shows
	// only on Linux, on connections of the net package and TLS on them; elsewhere
	// the next Pings find out whether it has left.
	Close bool
}

// A throttle keeps a direction to its rate limit. It decides; time is an
// argument.
type throttle struct {
	messages, frames, bytes bucket
	close                   bool
}

// framesPerMessage is how many frames may come for each message, where the user
// has set no limit for them.
const framesPerMessage = 10

func newThrottle(r RateLimit) *throttle {
	burst := r.Burst.Seconds()
	if burst == 0 {
		burst = 1
	}
	fill := func(rate float64) bucket {
		size := max(rate*burst, 1)
		return bucket{rate: rate, size: size, level: size}
	}
	t := &throttle{messages: fill(r.Messages), frames: fill(r.Frames), bytes: fill(r.Bytes), close: r.Close}
	if r.Frames == 0 {
		m := t.messages
		t.frames = bucket{rate: framesPerMessage * m.rate, size: framesPerMessage * m.size, level: framesPerMessage * m.size}
	}
	return t
}

// take counts what came. It says false if the session is to end for it.
func (t *throttle) take(now time.Duration, messages, frames, bytes int) bool {
	t.messages.take(now, messages)
	t.frames.take(now, frames)
	t.bytes.take(now, bytes)
	return !t.close || t.messages.level >= 0 && t.frames.level >= 0 && t.bytes.level >= 0
}

// leastPiece is how many bytes are let through at once at least: more than a
// direction ever holds back, or it would never get on.
const leastPiece = 1 << 10

// The lowest rates. A wait is never longer than an hour, so that lower ones
// would not be kept.
const (
	leastMessages = 1.0 / 3600 // and frames
	leastBytes    = 1
)

// allows says how much of n bytes may pass now, and how many messages and frames
// in them.
func (t *throttle) allows(now time.Duration, n int) (q quota, bytes int) {
	if t.close {
		return quota{}, n
	}
	q = quota{messages: t.messages.whole(now), frames: t.frames.whole(now)}
	if t.bytes.rate > 0 {
		n = int(min(float64(n), max(t.bytes.now(now), leastPiece)))
	}
	return q, n
}

// wait says for how long nothing more is to be read.
func (t *throttle) wait(now time.Duration) time.Duration {
	if t.close {
		return 0
	}
	return max(t.messages.wait(now), t.frames.wait(now), t.bytes.wait(now))
}

// A bucket holds tokens. More can be taken than there are, for what has come
// has come (golang.org/x/time/rate would refuse a chunk that is larger than
// the bucket); then the next ones have to wait for as many.
type bucket struct {
	rate  float64 // tokens a second; 0: endless
	size  float64
	level float64
	at    time.Duration // when the level was this
}

// now returns the level.
func (b *bucket) now(now time.Duration) float64 {
	return min(b.level+b.rate*(now-b.at).Seconds(), b.size)
}

// whole returns how many tokens may be taken now, one at least; 0: any number.
func (b *bucket) whole(now time.Duration) int32 {
	if b.rate == 0 {
		return 0
	}
	return int32(max(min(b.now(now), math.MaxInt32), 1))
}

func (b *bucket) take(now time.Duration, n int) {
	if b.rate > 0 {
		b.level, b.at = b.now(now)-float64(n), now
	}
}

// wait says when there is something in it again.
func (b *bucket) wait(now time.Duration) time.Duration {
	missing := min(b.size, 1) - b.now(now)
	if b.rate == 0 || missing <= 0 {
		return 0
	}
	// As a number first: of a low rate it may be more than a Duration holds.
	return time.Duration(min(missing/b.rate*float64(time.Second)+1, float64(time.Hour)))
}
