package wsproxy

import (
	"fmt"
	"maps"
	"slices"
	"sync/atomic"
	"time"
)

// Stats is what a proxy has done so far, and has in hand: a snapshot. Counters
// start with the proxy at 0 and only grow.
type Stats struct {
	Open       int // sessions
	Handshakes int // under way

	Opened uint64             // sessions
	Ended  map[Outcome]uint64 // sessions, by how; what hasn't happened yet is there with 0
	Failed map[Kind]uint64    // handshakes that came to nothing, by kind; the same

	FromClients, FromUpstreams Counts // of all sessions, the open ones included; LargestMessage is of any

	Durations  Histogram    // of sessions that ended
	RoundTrips [2]Histogram // of the proxy's own Pings, by [Side]

	// Sessions that ended and of which the side ignored the proxy's Pings
	// ([Session.IgnoresPings]), by [Side].
	IgnoredPings [2]uint64

	Members []MemberState // in the order of the set
	Retries uint64        // handshakes tried again with another member

	Drain DrainStats
}

// An Outcome is how a session ended, as in [SessionError].
type Outcome struct {
	By     Side
	Reason Reason
}

// String returns "lost by client", say.
func (o Outcome) String() string {
	if o.Reason == ReasonClosedByProxy { // which says by whom
		return string(o.Reason)
	}
	return fmt.Sprint(o.Reason, " by ", o.By)
}

// MarshalText returns String's text: with it, [Stats] can be had as JSON, by
// expvar for one.
func (o Outcome) MarshalText() ([]byte, error) { return []byte(o.String()), nil }

// A Histogram counts durations in buckets.
type Histogram struct {
	Bounds []time.Duration // the upper bounds, inclusive; the last bucket has none
	Counts []uint64        // of each bucket alone; one more than Bounds
	Sum    time.Duration
}

// DrainStats is how far [Proxy.Shutdown] has come.
type DrainStats struct {
	Began time.Time // zero: it hasn't
	Total int       // sessions that were open then
	Told  int       // of these, have been told to end, or ended by themselves
	Cut   int       // sessions that were cut when the time was up
}

var (
	durationBounds  = []time.Duration{time.Second, 10 * time.Second, time.Minute, 10 * time.Minute, time.Hour, 6 * time.Hour, 24 * time.Hour}
	roundTripBounds = []time.Duration{time.Millisecond, 5 * time.Millisecond, 25 * time.Millisecond, 100 * time.Millisecond, 250 * time.Millisecond, time.Second, 5 * time.Second}
)

// stats is what a Proxy counts for its Stats.
type stats struct {
	opened  uint64             // guarded by Proxy.mu
	ended   map[Outcome]uint64 // guarded by Proxy.mu
	failed  map[Kind]uint64    // guarded by Proxy.mu
	passed  [2]Counts          // guarded by Proxy.mu; of sessions that ended
	ignored [2]uint64          // guarded by Proxy.mu; IgnoredPings
	drain   DrainStats         // guarded by Proxy.mu
	retries uint64             // guarded by Proxy.mu

	durations  histogram
	roundTrips [2]histogram
}

func newStats() stats {
	ended := make(map[Outcome]uint64)
	for _, side := range []Side{Client, Upstream} {
		for _, reason := range []Reason{ReasonClosed, ReasonLost, ReasonProtocolError, ReasonLimit} {
			ended[Outcome{side, reason}] = 0
		}
	}
	for _, reason := range []Reason{ReasonIdle, ReasonAge, ReasonExpired, ReasonClosedByProxy, ReasonDrained, ReasonRemoved, ReasonDown, ReasonCancelled, ReasonCut, ReasonPanic} {
		ended[Outcome{Self, reason}] = 0
	}
	failed := make(map[Kind]uint64)
	for _, kind := range kinds {
		failed[kind] = 0
	}
	return stats{
		ended:      ended,
		failed:     failed,
		durations:  newHistogram(durationBounds),
		roundTrips: [2]histogram{newHistogram(roundTripBounds), newHistogram(roundTripBounds)},
	}
}

// end takes in a session that is over. Proxy.mu is held.
func (t *stats) end(s *Session) {
	e := &s.ending // nothing changes it any more
	if e.cause != nil {
		t.ended[Outcome{e.cause.by, e.cause.name}]++
	} else {
		t.ended[Outcome{Self, ReasonPanic}]++
	}
	for side := range t.passed {
		t.passed[side].add(s.Counts(Side(side)))
		if s.legs[side].ignoresPingsLocked() { // the same
			t.ignored[side]++
		}
	}
	t.durations.observe(s.now())
}

func (c *Counts) add(d Counts) {
	c.Frames += d.Frames
	c.Messages += d.Messages
	c.Bytes += d.Bytes
	c.Pings += d.Pings
	c.LargestMessage = max(c.LargestMessage, d.LargestMessage)
}

// Stats returns a snapshot. It costs some 100 ns for each open session, during
// which new handshakes wait; relaying doesn't.
func (p *Proxy) Stats() Stats {
	p.mu.Lock()
	defer p.mu.Unlock()
	st := Stats{
		Open:       p.opened,
		Handshakes: len(p.sessions) - p.opened,
		Opened:     p.stats.opened,
		Ended:      maps.Clone(p.stats.ended),
		Failed:     maps.Clone(p.stats.failed),
		Durations:  p.stats.durations.load(),
		RoundTrips: [2]Histogram{p.stats.roundTrips[Client].load(), p.stats.roundTrips[Upstream].load()},
		Members:    make([]MemberState, len(p.upstreams.members)),
		Retries:    p.stats.retries,
		Drain:      p.stats.drain,

		IgnoredPings: p.stats.ignored,
	}
	now := time.Since(p.upstreams.began)
	for i, m := range p.upstreams.members {
		st.Members[i] = m.state(now)
	}
	passed := p.stats.passed
	for s := range p.sessions {
		for side := range passed {
			passed[side].add(s.Counts(Side(side)))
		}
	}
	st.FromClients, st.FromUpstreams = passed[Client], passed[Upstream]
	return st
}

// A histogram is a [Histogram] that is being counted.
type histogram struct {
	bounds []time.Duration
	counts []atomic.Uint64
	sum    atomic.Int64
}

func newHistogram(bounds []time.Duration) histogram {
	return histogram{bounds: bounds, counts: make([]atomic.Uint64, len(bounds)+1)}
}

func (h *histogram) observe(d time.Duration) {
	i := 0
	for i < len(h.bounds) && d > h.bounds[i] {
		i++
	}
	h.counts[i].Add(1)
	h.sum.Add(int64(d))
}

func (h *histogram) load() Histogram {
	counts := make([]uint64, len(h.counts))
	for i := range h.counts {
		counts[i] = h.counts[i].Load()
	}
	return Histogram{slices.Clone(h.bounds), counts, time.Duration(h.sum.Load())}
}
