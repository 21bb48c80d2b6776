package pool

import (
	"slices"
	"time"
)

const (
	// After a failed handshake with a member, the pool backs off from it for
	// firstRest, and for twice as long after each further failure in a row. The
	// first handshake after that is tried alone.
	firstRest   = time.Second
	longestRest = 30 * time.Second

	// MostRetries is the largest burst of retries.
	MostRetries = 20

	// Of failures that are due to the lateness of the process, only mostExcused in
	// a row are excused. Those within excusedTogether count as one.
	mostExcused     = 10
	excusedTogether = time.Second
)

// health is a member's health. It is guarded by the pool's lock.
type health[T any] struct {
	failed  int           // failed handshakes in a row
	doubts  []uint64      // clients with doubtful handshakes since the last good one
	restEnd time.Duration // when failed is above zero: the end of the backoff
	probe   *Seat[T]      // whose handshake is the first after the backoff, and still connecting
	tried   time.Duration // when a session was last placed with it
	streak  int           // checks in a row that contradict down
	unasked bool          // the last check could not be made

	excused   int           // failures in a row that were due to lateness
	excusedAt time.Duration // time of the last of them
}

// well reports whether a session may be placed with the member now.
func (m *Member[T]) well(now time.Duration) bool {
	return !m.Down() && (m.failed == 0 || m.mayProbe(now))
}

func (h *health[T]) mayProbe(now time.Duration) bool { return now >= h.restEnd && h.probeFree(now) }

// probeFree reports whether the trial after a backoff is free: nobody has it,
// or somebody has had it for too long, because a user's hook may block there.
func (h *health[T]) probeFree(now time.Duration) bool {
	return h.probe == nil || now-h.tried >= longestRest
}

// probed records that the session's handshake with the member is over, or that
// the session was placed with another one.
func (h *health[T]) probed(s *Seat[T]) {
	if h.probe == s {
		h.probe = nil
	}
}

// leastBad returns the member to try when none is healthy: of those that are
// not full, the one that has been backed off longest. p.mu is held.
func (p *Pool[T]) leastBad() (best *Member[T]) {
	for _, m := range p.members {
		if !m.full() && (best == nil || m.betterThan(best)) {
			best = m
		}
	}
	return best
}

func (m *Member[T]) betterThan(other *Member[T]) bool {
	switch {
	case m.Down() != other.Down():
		return other.Down()
	case (m.probe == nil) != (other.probe == nil):
		return m.probe == nil
	}
	return m.tried < other.tried
}

// An Outcome is what a handshake or a check says about its member.
type Outcome struct {
	Failed bool // the member is at fault
	Well   bool // it answered as it should

	// Doubtful means that the member may be at fault, or the client, whose hash
	// Client is. Doubts about a member by several clients make a failure.
	Doubtful bool
	Client   uint64

	// Late means that a failure was found late because the process was not
	// running. It says nothing about the member, unless that happens all the
	// time. Asked means that the member had its chance otherwise.
	Late, Asked bool
}

// A Change is how an outcome has changed a member's state.
type Change uint8

const (
	Unchanged Change = iota
	BackedOff        // it gets no new sessions for a while
	Back             // it is no longer backed off
	WentDown         // the checks have marked it down
	CameUp           // the checks have marked it up
	Unchecked        // it could not be checked; reported once
)

// Judge records the outcome of the session's handshake with its member, which
// may have changed for rest. m is nil if the session is not placed.
func (p *Pool[T]) Judge(seat *Seat[T], o Outcome) (m *Member[T], change Change, rest time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if m = seat.Member(); m == nil {
		return nil, Unchanged, 0
	}
	m.probed(seat)
	before, now, failed := m.failed, p.now(), o.Failed
	switch {
	case m.excuses(now, o):
		failed = false
	case failed:
	case o.Doubtful:
		failed = m.doubt(o.Client, p.config.Doubts)
	case o.Well:
		m.failed, m.doubts = 0, nil
	}
	// Handshakes that were under way at the first failure do not count again.
	if failed && now >= m.restEnd && !m.Gone() && len(p.members) > 1 {
		rest = min(firstRest<<min(m.failed, 10), longestRest)
		m.failed++
		m.restEnd = now + rest
	}
	switch {
	case m.failed > before:
		return m, BackedOff, rest
	case m.failed < before:
		return m, Back, 0
	}
	return m, Unchanged, 0
}

// excuses reports whether a failure says nothing about the member, because the
// process was not running when the time was over. In a process that is always
// late, or with a custom dialer that ignores deadlines, it excuses only
// mostExcused failures in a row.
func (h *health[T]) excuses(now time.Duration, o Outcome) bool {
	switch {
	case o.Late:
		if h.excused == 0 || now-h.excusedAt > excusedTogether {
			h.excused++
			h.excusedAt = now
		}
		return h.excused <= mostExcused
	case o.Asked:
		h.excused = 0
	}
	return false
}

// doubt records a client with a doubtful handshake. It reports whether the
// needed number of different clients has been reached without a good handshake
// in between; then it starts again from zero.
func (h *health[T]) doubt(client uint64, needed int) bool {
	if !slices.Contains(h.doubts, client) {
		h.doubts = append(h.doubts, client)
	}
	if len(h.doubts) < needed {
		return false
	}
	h.doubts = nil
	return true
}

// Connected records that a session has connected to its member. If that was the
// trial after a backoff, others may now be placed there, because what takes
// time from here on may be up to the client. The member's answer will show
// whether it is healthy.
func (p *Pool[T]) Connected(seat *Seat[T], at *Search[T]) {
	if !at.trial {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if m := seat.Member(); m != nil {
		m.probed(seat)
	}
}

// Checked records the outcome of a health check. fall failures in a row mark
// the member down, and rise successes mark it up again. An outcome that is
// neither failed nor well means that this machine could not check.
func (p *Pool[T]) Checked(m *Member[T], o Outcome, fall, rise int) Change {
	p.mu.Lock()
	defer p.mu.Unlock()
	if m.excuses(p.now(), o) || !o.Failed && !o.Well {
		first := !m.unasked && !m.Gone()
		if m.unasked = true; first {
			return Unchecked
		}
		return Unchanged
	}
	m.unasked = false
	switch {
	case m.Gone():
		return Unchanged
	case m.Down() == o.Failed:
		m.streak = 0
		return Unchanged
	}
	m.streak++
	switch {
	case o.Failed && m.streak >= fall:
		m.health = health[T]{}
		m.down.Store(true)
		return WentDown
	case o.Well && m.streak >= rise:
		m.health = health[T]{}
		m.down.Store(false)
		return CameUp
	}
	return Unchanged
}

// mayRetry reports whether the budget has a retry left. If everything fails,
// retries would only add to the load. Failures after the request was sent,
// which a client can cause, cannot use up the part that is reserved for
// connecting. p.mu is held.
func (p *Pool[T]) mayRetry(sent bool) bool {
	kept := 0.0
	if sent {
		kept = MostRetries / 2
	}
	return p.config.Retry == 1 || p.config.Retry > 0 && p.budget >= kept+1
}
