package wsproxy

import (
	"time"

	"github.com/seed-ffb73231/wsproxy/internal/protocol"
)

// This file holds the options of pings and timeouts: what a session's
// protocol.Policy is made of.

// WithPing sets how the proxy keeps the two peers of a session alive and
// detects lost ones. Each peer is watched separately: the proxy sends a Ping to
// a peer that has been silent for interval. If the peer then sends nothing at
// all within timeout, it is lost, and the proxy closes the other side. The
// defaults are 25 s and 35 s.
//
// The timeout applies to peers that have answered at least one Ping. A peer
// that never has is not dropped for its silence as long as its machine
// acknowledges what is sent to it. The proxy can see acknowledgements over TCP,
// with or without TLS, on Linux (amd64, arm64). Elsewhere TCP detects a machine
// that is gone, by its keep-alive or because a Ping is not acknowledged.
// [Session.IgnoresPings] reports such a peer.
//
// An intermediate proxy, such as nginx, may accept bytes at once and forward
// them only as fast as its own client reads them, so that a Ping waits behind
// them. Where the proxy can see acknowledgements, it extends the timeout by the
// time those bytes take at 16 KiB/s, to at most eleven times the timeout in
// total. Time during which this process did not run does not count against a
// peer.
//
// The interval of each session is shortened by up to a tenth, at random, so
// that many sessions do not ping in step. Keep it below the idle timeout of
// every intermediary (60 s is common, 55 s exists): an equal interval fails.
//
// An interval of 0 disables pings. Then only TCP's keep-alive detects a machine
// that vanishes, after minutes, and an application that hangs is detected only
// when data for it gets stuck ([WithWriteTimeout]) or by [WithIdleTimeout]. The
// timeout must be above 0 unless the interval is 0. Values above 0 must be at
// least 1 ms.
func WithPing(interval, timeout time.Duration) Option {
	return func(c *config) {
		p := c.pinging("WithPing", interval, timeout)
		c.relay.Policy.Pings = [2]protocol.Pinging{p, p}
	}
}

// WithPingTo is [WithPing] for one side, [Client] or [Upstream]. The other side
// keeps its setting, by default 25 s and 35 s. Use an interval of 0 for peers
// that cannot handle a Ping: the proxy then injects no frame on that side
// except a Close frame at the end.
//
// With an interval of 0, only TCP's keep-alive watches that side. It is enabled
// if the default dialer connects to the upstream, and if the client is accepted
// by [net.Listen] or by an [http.Server] with default settings. For other cases
// see [net.ListenConfig] and [net.Dialer].
func WithPingTo(side Side, interval, timeout time.Duration) Option {
	return func(c *config) {
		p := c.pinging("WithPingTo", interval, timeout)
		if side != Client && side != Upstream {
			c.mistake("WithPingTo", side, "must be Client or Upstream")
			return
		}
		c.relay.Policy.Pings[side] = p
	}
}

// WithIdleTimeout ends a session, with Close 1001 to both sides, when no data
// frame has passed in either direction for d. Pings and Pongs are not data. What
// the kernel holds for a slow peer counts as passing while the peer accepts it,
// where that can be seen: over TCP on Linux. The default, 0, is no limit:
// applications may be silent, and pings already detect lost peers.
func WithIdleTimeout(d time.Duration) Option {
	return func(c *config) {
		c.relay.Policy.Idle = d
		if d < 0 {
			c.mistake("WithIdleTimeout", d, "negative")
		}
	}
}

// WithWriteTimeout drops a peer when a write to it makes no progress for d, for
// example because the peer has stopped reading. The default is 60 s. It must be
// above zero.
//
// Over TCP, with or without TLS, on Linux (amd64, arm64), progress is what the
// peer's kernel acknowledges. Elsewhere, and over connections of types outside
// the net package, the proxy sees progress only when the local kernel has
// accepted a whole chunk of up to 32 KiB.
func WithWriteTimeout(d time.Duration) Option {
	return func(c *config) { c.relay.Policy.Write = c.positive("WithWriteTimeout", d) }
}

// WithCloseTimeout limits how long a session may take to end once its end has
// begun: delivering what was sent before the end, waiting for the other side's
// Close, and closing the connections. The default is 5 s. It must be above
// zero.
//
// A slow peer that is still reading what was sent to it before the end gets
// additional time, at most the write timeout, if the proxy can see its progress
// (see [WithWriteTimeout]).
func WithCloseTimeout(d time.Duration) Option {
	return func(c *config) { c.relay.Policy.Close = c.positive("WithCloseTimeout", d) }
}

// pinging validates the durations of WithPing.
func (c *config) pinging(option string, interval, timeout time.Duration) protocol.Pinging {
	switch {
	case interval < 0:
		c.mistake(option, interval, "negative interval")
	case interval > 0 && timeout <= 0:
		c.mistake(option, timeout, "timeout must be positive")
	case interval > 0:
		c.plausible(option, interval, timeout)
	}
	return protocol.Pinging{Interval: interval, Timeout: timeout}
}
