package wsproxy

import (
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/seed-ffb73231/wsproxy/internal/frame"
	"github.com/seed-ffb73231/wsproxy/internal/relay"
)

// Stats is a snapshot of a proxy's counters and current state. Counters start
// at 0 when the proxy is created and never decrease.
type Stats struct {
	Open       int // open sessions
	Handshakes int // handshakes under way

	Opened uint64             // sessions opened so far
	Ended  map[Outcome]uint64 // sessions, by outcome; outcomes that have not occurred are present with 0
	Failed map[Kind]uint64    // failed handshakes, by kind; kinds that have not occurred are present with 0

	FromClients, FromUpstreams Counts // of all sessions, including open ones; LargestMessage is the maximum of all

	Sent [2]uint64 // messages written by [Session.Send], by the [Side] that they went to; in no other counter

	// Compressed counts the messages that the proxy has packed or unpacked itself
	// ([WithCompression]), by the [Side] to or from which they went compressed.
	Compressed [2]Compressed

	Untapped uint64 // messages that the functions of [WithTap] did not get, because too many were waiting

	Durations  Histogram    // of sessions that ended
	RoundTrips [2]Histogram // of the proxy's Pings, by [Side]

	// IgnoredPings counts the ended sessions in which the side ignored the
	// proxy's Pings ([Session.IgnoresPings]), by [Side].
	IgnoredPings [2]uint64

	Members []MemberState // in the order in which they were set
	Retries uint64        // handshakes retried with another member

	// Resumes counts how often a session has gone on with another upstream, and
	// ResumesFailed the sessions for which none was found ([WithResume]).
	Resumes, ResumesFailed uint64

	Drain DrainStats
}

// Compressed counts messages that went compressed.
type Compressed struct {
	Messages uint64
	Bytes    uint64 // on the wire, headers included
	Unpacked uint64 // of payload; what exceeds Bytes was saved
}

// An Outcome says how a session ended; see [SessionError].
type Outcome struct {
	By     Side
	Reason Reason
}

// String returns a text such as "lost by client".
func (o Outcome) String() string {
	if o.Reason == ReasonClosedByProxy { // it already names the side
		return string(o.Reason)
	}
	return fmt.Sprint(o.Reason, " by ", o.By)
}

// MarshalText returns the text of String. It makes [Stats] available as JSON,
// for example with expvar.
func (o Outcome) MarshalText() ([]byte, error) { return []byte(o.String()), nil }

// A Histogram counts durations in buckets.
type Histogram struct {
	Bounds []time.Duration // inclusive upper bounds; the last bucket has none
	Counts []uint64        // of each bucket, not cumulative; one element more than Bounds
	Sum    time.Duration
}

// DrainStats is the progress of [Proxy.Shutdown].
type DrainStats struct {
	Began time.Time // zero: not begun
	Total int       // sessions that were open at that time
	Told  int       // of these, those that were told to end, or ended by themselves
	Cut   int       // sessions that were cut when the time was over
}

var (
	durationBounds  = []time.Duration{time.Second, 10 * time.Second, time.Minute, 10 * time.Minute, time.Hour, 6 * time.Hour, 24 * time.Hour}
	roundTripBounds = []time.Duration{time.Millisecond, 5 * time.Millisecond, 25 * time.Millisecond, 100 * time.Millisecond, 250 * time.Millisecond, time.Second, 5 * time.Second}
)

// stats holds a Proxy's counters for Stats.
type stats struct {
	totals     relay.Totals // what has passed in all sessions
	durations  histogram
	roundTrips [2]histogram

	resumes, resumesFailed atomic.Uint64

	mu      sync.Mutex
	opened  uint64             // guarded by mu
	ended   map[Outcome]uint64 // guarded by mu
	failed  map[Kind]uint64    // guarded by mu
	ignored [2]uint64          // guarded by mu; IgnoredPings
}

func newStats() stats {
	ended := make(map[Outcome]uint64)
	for _, side := range []Side{Client, Upstream} {
		for _, reason := range []Reason{ReasonClosed, ReasonLost, ReasonProtocolError, ReasonLimit} {
			ended[Outcome{side, reason}] = 0
		}
	}
	for _, reason := range []Reason{ReasonIdle, ReasonAge, ReasonExpired, ReasonClosedByProxy, ReasonDrained, ReasonRemoved, ReasonDown, ReasonCancelled, ReasonCut, ReasonHook, ReasonPanic} {
		ended[Outcome{Self, reason}] = 0
	}
	failed := make(map[Kind]uint64)
	for _, kind := range kinds {
		failed[kind] = 0
	}
	return stats{
		totals:     relay.NewTotals(),
		ended:      ended,
		failed:     failed,
		durations:  newHistogram(durationBounds),
		roundTrips: [2]histogram{newHistogram(roundTripBounds), newHistogram(roundTripBounds)},
	}
}

// open counts a session whose 101 was sent.
func (t *stats) open() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.opened++
}

// fail counts a failed handshake.
func (t *stats) fail(kind Kind) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.failed[kind]++
}

// end counts a session that is over.
func (t *stats) end(s *Session) {
	outcome := Outcome{Self, ReasonPanic}
	if c, _, _ := s.relay.Result(); c != nil {
		outcome = Outcome{Side(c.By), Reason(c.Reason)}
	}
	ignores := [2]bool{s.IgnoresPings(Client), s.IgnoresPings(Upstream)}
	t.durations.observe(time.Since(s.Start()))
	t.mu.Lock()
	defer t.mu.Unlock()
	t.ended[outcome]++
	for side, ignores := range ignores {
		if ignores {
			t.ignored[side]++
		}
	}
}

// Stats returns a snapshot. Its cost does not depend on the number of sessions.
// The counters are read one after the other: a session that opens or ends
// meanwhile may be in some of them and not yet in others.
func (p *Proxy) Stats() Stats {
	now := p.registry.load()
	st := Stats{
		Open:          now.open,
		Handshakes:    now.handshakes,
		Drain:         now.drain,
		FromClients:   Counts(p.stats.totals.Counts(frame.Client)),
		FromUpstreams: Counts(p.stats.totals.Counts(frame.Upstream)),
		Sent:          [2]uint64{p.stats.totals.Sent(frame.Client), p.stats.totals.Sent(frame.Upstream)},
		Untapped:      p.tapped.missed.Load(),
		Durations:     p.stats.durations.load(),
		RoundTrips:    [2]Histogram{p.stats.roundTrips[Client].load(), p.stats.roundTrips[Upstream].load()},
	}
	for side := range st.Compressed {
		c := &st.Compressed[side]
		c.Messages, c.Bytes, c.Unpacked = p.stage.Packed[side].Load()
	}
	st.Resumes, st.ResumesFailed = p.stats.resumes.Load(), p.stats.resumesFailed.Load()
	members, retries := p.pool.States()
	st.Members, st.Retries = memberStates(members), retries
	p.stats.mu.Lock()
	defer p.stats.mu.Unlock()
	st.Opened, st.IgnoredPings = p.stats.opened, p.stats.ignored
	st.Ended, st.Failed = maps.Clone(p.stats.ended), maps.Clone(p.stats.failed)
	return st
}

// A histogram collects the data of a [Histogram].
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
