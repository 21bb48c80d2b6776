package protocol

import (
	"math"
	"time"
)

// Limits is what one side may send.
type Limits struct {
	Frame, Message uint64 // bytes of payload; 0: no limit
	Rate           Rate
	Apart          bool // messages and control frames are taken one at a time; see Walk
}

// exceeded reports whether a frame, or its message so far, is too large.
// message is the number of payload bytes of the message or of its empty
// fragments, whichever is larger.
func (l *Limits) exceeded(frame, message uint64) bool {
	return l.Frame > 0 && frame > l.Frame || l.Message > 0 && message > l.Message
}

// A Rate limits how much one side may send in a time. The fields are those of
// wsproxy.RateLimit.
type Rate struct {
	Messages, Bytes, Frames float64 // per second; 0: no limit
	Burst                   time.Duration
	Close                   bool
}

// A Throttle applies the rate limit to one direction. It only decides; time is
// an argument.
type Throttle struct {
	messages, frames, bytes bucket
	close                   bool
}

// framesPerMessage is the number of frames allowed for each message if
// Rate.Frames is 0.
const framesPerMessage = 10

// NewThrottle returns a throttle that allows a burst at first.
func NewThrottle(r Rate) *Throttle {
	burst := r.Burst.Seconds()
	if burst == 0 {
		burst = 1
	}
	fill := func(perSecond float64) bucket {
		size := max(perSecond*burst, 1)
		return bucket{rate: perSecond, size: size, level: size}
	}
	t := &Throttle{messages: fill(r.Messages), frames: fill(r.Frames), bytes: fill(r.Bytes), close: r.Close}
	if r.Frames == 0 {
		m := t.messages
		t.frames = bucket{rate: framesPerMessage * m.rate, size: framesPerMessage * m.size, level: framesPerMessage * m.size}
	}
	return t
}

// Take counts what arrived. It returns false if the session must end because of
// it.
func (t *Throttle) Take(now time.Duration, messages, frames, bytes int) bool {
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
	LeastMessages = 1.0 / 3600 // and frames
	LeastBytes    = 1
)

// Allows returns how many of n bytes may pass now, and how many messages and
// frames they may contain.
func (t *Throttle) Allows(now time.Duration, n int) (q Quota, bytes int) {
	if t.close {
		return Quota{}, n
	}
	q = Quota{messages: t.messages.whole(now), frames: t.frames.whole(now)}
	if t.bytes.rate > 0 {
		n = int(min(float64(n), max(t.bytes.now(now), leastPiece)))
	}
	return q, n
}

// Wait returns how long to pause reading.
func (t *Throttle) Wait(now time.Duration) time.Duration {
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
