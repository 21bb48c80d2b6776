package wsproxy

import (
	"math"
	"net/http"
	"time"
)

// The options that limit sessions, and what comes through them.

// WithMaxSessions limits how many sessions there are at once, handshakes under
// way included. Past it clients are answered 503 and Retry-After, before
// anything is dialled. The default, 0, is no limit.
func WithMaxSessions(n int) Option {
	return func(c *config) { c.maxSessions = c.count("WithMaxSessions", n) }
}

// WithMaxHandshakes limits how many handshakes are under way at once, from the
// client's request to its 101: a crowd that comes back all at once is then let
// in at the speed at which the upstream answers. Past it clients are answered
// 503 and Retry-After. The default, 0, is no limit.
func WithMaxHandshakes(n int) Option {
	return func(c *config) { c.maxHandshakes = c.count("WithMaxHandshakes", n) }
}

// WithMaxSessionsPerClient limits how many sessions one client has at once,
// handshakes under way included. Past it the client is answered 429 and
// Retry-After, before anything is dialled. The default, 0, is no limit.
//
// Every request that reaches the proxy counts while it is there, also one that
// will be refused as no handshake. Clients are told apart by key, which is
// called by many goroutines at once; a
// request for which it returns "" isn't counted, and if it panics, the client
// is answered 500. A nil key stands for the client's address (behind
// [WithTrustedProxies], the one that they tell of), of IPv6 the first 64 bits.
// Many people may share an address.
func WithMaxSessionsPerClient(n int, key func(*http.Request) string) Option {
	return func(c *config) {
		c.maxPerClient, c.clientKeyOf = c.count("WithMaxSessionsPerClient", n), key
	}
}

// WithMaxMessageSize limits the messages from a side to so many bytes of
// payload, compressed as they are, and to as many empty fragments. A longer one
// ends the session, by Close 1009 to that side and 1001 to the other, as soon as
// a frame's header shows it; what came before has passed by then. The default,
// 0, is no limit.
func WithMaxMessageSize(from Side, bytes int) Option {
	return func(c *config) {
		c.limit("WithMaxMessageSize", from).message = uint64(c.count("WithMaxMessageSize", bytes))
	}
}

// WithMaxFrameSize is [WithMaxMessageSize] for each data frame. The default, 0,
// is no limit.
func WithMaxFrameSize(from Side, bytes int) Option {
	return func(c *config) {
		c.limit("WithMaxFrameSize", from).frame = uint64(c.count("WithMaxFrameSize", bytes))
	}
}

// WithRateLimit limits how much comes from a side of a session. By default
// there is no limit.
func WithRateLimit(from Side, r RateLimit) Option {
	return func(c *config) {
		c.limit("WithRateLimit", from).rate = r
		switch {
		case !(r.Messages >= 0 && r.Frames >= 0 && r.Bytes >= 0) || r.Burst < 0: // or no number
			c.mistake("WithRateLimit", r, "negative")
		case math.IsInf(r.Messages, 0) || math.IsInf(r.Frames, 0) || math.IsInf(r.Bytes, 0):
			c.mistake("WithRateLimit", r, "infinite: 0 is no limit")
		case r.Messages == 0 && r.Frames == 0 && r.Bytes == 0:
			c.mistake("WithRateLimit", r, "limits neither messages nor frames nor bytes")
		case r.Messages > 0 && r.Messages < leastMessages:
			c.mistake("WithRateLimit", r, "under one message an hour")
		case r.Frames > 0 && r.Frames < leastMessages:
			c.mistake("WithRateLimit", r, "under one frame an hour")
		case r.Bytes > 0 && r.Bytes < leastBytes:
			c.mistake("WithRateLimit", r, "under one byte a second")
		case r.Burst > longest:
			c.mistake("WithRateLimit", r, "burst over 50 years")
		default:
			c.plausible("WithRateLimit", r.Burst)
		}
	}
}

// WithMaxAge ends sessions that are so old, by Close 1001 to both sides, so
// that their clients come back and are spread anew. A session's own maximum is
// up to a tenth shorter, at random. The default, 0, is no limit.
func WithMaxAge(d time.Duration) Option {
	return func(c *config) {
		c.policy.age = d
		if d < 0 {
			c.mistake("WithMaxAge", d, "negative")
		}
	}
}
