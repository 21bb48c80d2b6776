package wsproxy

import (
	"math"
	"net/http"
	"time"

	"github.com/seed-ffb73231/wsproxy/internal/protocol"
)

// This file holds the options that limit sessions and their traffic.

// WithMaxSessions limits the number of concurrent sessions, including
// handshakes under way. Above the limit clients are answered 503 with
// Retry-After, before anything is dialled. The default, 0, is no limit.
func WithMaxSessions(n int) Option {
	return func(c *config) { c.maxSessions = c.count("WithMaxSessions", n) }
}

// WithMaxHandshakes limits the number of concurrent handshakes, from the
// client's request to its 101. If many clients reconnect at once, they are then
// admitted at the rate at which the upstream answers. Above the limit clients
// are answered 503 with Retry-After. The default, 0, is no limit.
func WithMaxHandshakes(n int) Option {
	return func(c *config) { c.maxHandshakes = c.count("WithMaxHandshakes", n) }
}

// WithMaxSessionsPerClient limits the number of concurrent sessions of one
// client, including handshakes under way. Above the limit the client is
// answered 429 with Retry-After, before anything is dialled. The default, 0, is
// no limit.
//
// Every request that reaches the proxy counts while it is being served, even
// one that will be refused as an invalid handshake. key identifies the client;
// it must be safe for concurrent use. A request for which it returns "" is not
// counted. If it panics, the client is answered 500. If key is nil, the
// client's address is used (behind [WithTrustedProxies], the address that they
// report), and of an IPv6 address the first 64 bits. Many people may share an
// address.
func WithMaxSessionsPerClient(n int, key func(*http.Request) string) Option {
	return func(c *config) {
		c.maxPerClient, c.clientKeyOf = c.count("WithMaxSessionsPerClient", n), key
	}
}

// WithMaxMessageSize limits the size of a message from a side to the given
// number of payload bytes, counted as sent, without decompression, and to as
// many empty fragments. A larger message ends the session, with Close 1009 to
// that side and 1001 to the other, as soon as a frame header exceeds the limit;
// the earlier fragments have been relayed by then. The default, 0, is no limit.
//
// If the proxy handles whole messages ([WithOnMessage], [WithCompression]), the
// limit counts what a message is unpacked to, nothing of a larger one goes on, and
// the default is 1 MiB.
func WithMaxMessageSize(from Side, bytes int) Option {
	return func(c *config) {
		c.limit("WithMaxMessageSize", from).Message = uint64(c.count("WithMaxMessageSize", bytes))
	}
}

// WithMaxFrameSize is like [WithMaxMessageSize], for each data frame. The
// default, 0, is no limit.
func WithMaxFrameSize(from Side, bytes int) Option {
	return func(c *config) {
		c.limit("WithMaxFrameSize", from).Frame = uint64(c.count("WithMaxFrameSize", bytes))
	}
}

// WithRateLimit limits the rate of messages, frames or bytes from a side of a
// session. By default there is no limit.
func WithRateLimit(from Side, r RateLimit) Option {
	return func(c *config) {
		c.limit("WithRateLimit", from).Rate = protocol.Rate(r)
		switch {
		case !(r.Messages >= 0 && r.Frames >= 0 && r.Bytes >= 0) || r.Burst < 0: // or no number
			c.mistake("WithRateLimit", r, "negative")
		case math.IsInf(r.Messages, 0) || math.IsInf(r.Frames, 0) || math.IsInf(r.Bytes, 0):
			c.mistake("WithRateLimit", r, "infinite; use 0 for no limit")
		case r.Messages == 0 && r.Frames == 0 && r.Bytes == 0:
			c.mistake("WithRateLimit", r, "sets no limit")
		case r.Messages > 0 && r.Messages < protocol.LeastMessages:
			c.mistake("WithRateLimit", r, "less than one message per hour")
		case r.Frames > 0 && r.Frames < protocol.LeastMessages:
			c.mistake("WithRateLimit", r, "less than one frame per hour")
		case r.Bytes > 0 && r.Bytes < protocol.LeastBytes:
			c.mistake("WithRateLimit", r, "less than one byte per second")
		case r.Burst > longest:
			c.mistake("WithRateLimit", r, "burst exceeds 50 years")
		default:
			c.plausible("WithRateLimit", r.Burst)
		}
	}
}

// WithMaxAge ends sessions that are older than d, with Close 1001 to both
// sides, so that their clients reconnect and are balanced again. The limit of
// each session is shortened by up to a tenth, at random. The default, 0, is no
// limit.
func WithMaxAge(d time.Duration) Option {
	return func(c *config) {
		c.relay.Policy.Age = d
		if d < 0 {
			c.mistake("WithMaxAge", d, "negative")
		}
	}
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
