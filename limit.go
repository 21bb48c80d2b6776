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

// exceeded reports whether a frame, or its message so far, is too large.
// message is the number of payload bytes of the message or of its empty
// fragments, whichever is larger.
func (l *limits) exceeded(frame, message uint64) bool {
	return l.frame > 0 && frame > l.frame || l.message > 0 && message > l.message
}

// A RateLimit limits the rate at which a side of a session may send
// ([WithRateLimit]). A rate of 0 is no limit.
type RateLimit struct {
	Messages float64 // per second; at least one per hour, 1.0/3600
	Bytes    float64 // per second, on the wire; at least 1

	// Frames is the number of frames per second. Pings, Pongs and every
	// fragment of a message count. 0 stands for ten times Messages. The minimum
	// is one per hour.
	Frames float64

	// Burst is the time's worth of traffic that may arrive at once after
	// silence; one message always may. 0 stands for one second. With Close,
	// Bytes times Burst should exceed the largest message, and Burst should be
	// longer than the proxy may be paused (a CPU quota, a virtual machine that
	// is moved): whatever a peer sent during a pause arrives at once. The proxy
	// cannot tell that from a burst, because the limit has no clock of its own
	// while nothing arrives, and a session may have no timer that fires during
	// the pause.
	Burst time.Duration

	// Close ends a session that exceeds the limit, with Close 1008. Otherwise
	// the session is slowed down: the excess is read later, so that TCP's flow
	// control stops the sender. Pings are delayed as well. If a side leaves
	// while it is slowed down, what it has sent is relayed for at most the
	// close timeout. Its FIN is detected only on Linux, on connections of the
	// net package, with or without TLS. Elsewhere the next Pings detect whether
	// it has left.
	Close bool
}

// A throttle applies the rate limit to one direction. It only decides; time is
// an argument.
type throttle struct {
	messages, frames, bytes bucket
	close                   bool
}

// framesPerMessage is the number of frames allowed for each message if
// RateLimit.Frames is 0.
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

// take counts what arrived. It returns false if the session must end because of
// it.
func (t *throttle) take(now time.Duration, messages, frames, bytes int) bool {
	t.messages.take(now, messages)
	t.frames.take(now, frames)
	t.bytes.take(now, bytes)
	return !t.close || t.messages.level >= 0 && t.frames.level >= 0 && t.bytes.level >= 0
}

// leastPiece is the minimum number of bytes that may pass at once. It is more
// than a direction ever holds back; otherwise the direction could stall.
const leastPiece = 1 << 10

// The lowest rates. A wait never exceeds an hour, so lower rates could not be
// enforced.
const (
	leastMessages = 1.0 / 3600 // and frames
	leastBytes    = 1
)

// allows returns how many of n bytes may pass now, and how many messages and
// frames they may contain.
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

// wait returns how long to pause reading.
func (t *throttle) wait(now time.Duration) time.Duration {
	if t.close {
		return 0
	}
	return max(t.messages.wait(now), t.frames.wait(now), t.bytes.wait(now))
}

// A bucket holds tokens. More tokens can be taken than it holds, because the
// data has already arrived (golang.org/x/time/rate would refuse a chunk that is
// larger than the bucket); later data then waits for the deficit.
type bucket struct {
	rate  float64 // tokens per second; 0: unlimited
	size  float64
	level float64
	at    time.Duration // the time of level
}

// now returns the level at the given time.
func (b *bucket) now(now time.Duration) float64 {
	return min(b.level+b.rate*(now-b.at).Seconds(), b.size)
}

// whole returns how many tokens may be taken now, at least one; 0 means any
// number.
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

// wait returns how long it takes until the bucket has tokens again.
func (b *bucket) wait(now time.Duration) time.Duration {
	missing := min(b.size, 1) - b.now(now)
	if b.rate == 0 || missing <= 0 {
		return 0
	}
	// Compute in floating point first: at a low rate the wait may overflow a Duration.
	return time.Duration(min(missing/b.rate*float64(time.Second)+1, float64(time.Hour)))
}
