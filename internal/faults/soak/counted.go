//go:build linux

package main

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"sync"

	"github.com/seed-ffb73231/wsproxy"
)

// A counted is a proxy whose counts are compared with what its hooks and its
// log report.
type counted struct {
	proxy    *wsproxy.Proxy
	problems *problems

	mu      sync.Mutex
	shown   map[*wsproxy.Session]bool  // guarded by mu; to a hook of WithOnOpen, and not over
	hooked  uint64                     // guarded by mu; how many ever were
	ended   map[wsproxy.Outcome]uint64 // guarded by mu; by what WithOnClose is told
	refused map[string]uint64          // guarded by mu; the same, and what the fates expect
	bytes   [2]uint64                  // guarded by mu; of sessions that ended
	logged  map[string]uint64          // guarded by mu; records of the log
}

func newCounted(p *problems) *counted {
	return &counted{
		problems: p,
		shown:    make(map[*wsproxy.Session]bool),
		ended:    make(map[wsproxy.Outcome]uint64),
		refused:  make(map[string]uint64),
		logged:   make(map[string]uint64),
	}
}

func (c *counted) opened(s *wsproxy.Session) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.shown[s] {
		c.problems.add("session %d was shown twice", s.ID())
	}
	c.shown[s] = true
	c.hooked++
}

func (c *counted) closed(s *wsproxy.Session) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.shown[s] {
		c.problems.add("session %d is over twice, or was never shown", s.ID())
	}
	delete(c.shown, s)
	select {
	case <-s.Done():
	default:
		c.problems.add("session %d isn't over where WithOnClose is told so", s.ID())
	}
	err := s.Err()
	if end, ok := errors.AsType[*wsproxy.SessionError](err); ok {
		c.ended[wsproxy.Outcome{By: end.By, Reason: end.Reason}]++
		c.bytes[wsproxy.Client] += s.Counts(wsproxy.Client).Bytes
		c.bytes[wsproxy.Upstream] += s.Counts(wsproxy.Upstream).Bytes
		return
	}
	if refused, ok := errors.AsType[*wsproxy.Error](err); ok {
		c.refused[string(refused.Kind())]++
		return
	}
	c.problems.add("session %d is over with %v", s.ID(), err)
}

// refuse records a refusal that no hook is told about.
func (c *counted) refuse(kind string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.refused[kind]++
}

// Enabled, Handle, WithAttrs and WithGroup make it a slog.Handler that counts.
func (c *counted) Enabled(context.Context, slog.Level) bool { return true }

func (c *counted) Handle(_ context.Context, r slog.Record) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.logged[r.Message]++
	if r.Level >= slog.LevelError {
		c.problems.add("log: %s", r.Message)
	}
	return nil
}

func (c *counted) WithAttrs([]slog.Attr) slog.Handler { return c }
func (c *counted) WithGroup(string) slog.Handler      { return c }

// check compares all of it, while only the given sessions are open.
func (c *counted) check(name string, open int) {
	st := c.proxy.Stats()
	c.mu.Lock()
	defer c.mu.Unlock()
	bad := func(what string, got, want any) { c.problems.add("%s: %s: got %v, want %v", name, what, got, want) }
	var ended, refused uint64
	for _, n := range st.Ended {
		ended += n
	}
	for kind, n := range st.Failed {
		if refused += n; n != c.refused[string(kind)] {
			bad("Stats.Failed of "+string(kind), n, c.refused[string(kind)])
		}
	}
	if st.Open != open {
		bad("Stats.Open", st.Open, open)
	}
	if st.Opened-ended != uint64(open) {
		bad("Opened - Ended", st.Opened-ended, open)
	}
	if st.Handshakes != 0 {
		bad("Stats.Handshakes", st.Handshakes, 0)
	}
	if len(c.shown) != open {
		bad("sessions between the hooks", len(c.shown), open)
	}
	maps.DeleteFunc(st.Ended, func(_ wsproxy.Outcome, n uint64) bool { return n == 0 })
	if !maps.Equal(st.Ended, c.ended) {
		bad("Stats.Ended", st.Ended, c.ended)
	}
	if n := c.logged["wsproxy: session ended"]; n != ended {
		bad("records of ends", n, ended)
	}
	if n := c.logged["wsproxy: session opened"]; n != st.Opened {
		bad("records of openings", n, st.Opened)
	}
	if n := c.logged["wsproxy: handshake failed"]; n != refused {
		bad("records of refusals", n, refused)
	}
	var listed int
	bytes := c.bytes
	for s := range c.proxy.Sessions() {
		listed++
		bytes[wsproxy.Client] += s.Counts(wsproxy.Client).Bytes
		bytes[wsproxy.Upstream] += s.Counts(wsproxy.Upstream).Bytes
	}
	if listed != open {
		bad("listed by Sessions", listed, open)
	}
	if open == 0 && (st.FromClients.Bytes != bytes[wsproxy.Client] || st.FromUpstreams.Bytes != bytes[wsproxy.Upstream]) {
		bad("bytes of all sessions", [2]uint64{st.FromClients.Bytes, st.FromUpstreams.Bytes}, bytes)
	}
	if n := c.logged["wsproxy: member backed off"]; n > 0 {
		bad("members backed off", n, 0)
	}
	var durations uint64
	for _, n := range st.Durations.Counts {
		durations += n
	}
	if durations != ended {
		bad("Stats.Durations", durations, ended)
	}
}
