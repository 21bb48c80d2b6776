package wsproxy

import (
	"errors"
	"log/slog"
	"net/http"
	"slices"
	"time"

	"github.com/seed-ffb73231/wsproxy/internal/protocol"
)

// This file tracks which members are healthy, by the results of handshakes with
// them and of the checks of WithHealthCheck.

const (
	// After a failed handshake with a member, the proxy backs off from it for
	// firstRest, and for twice as long after each further failure in a row. The
	// first handshake after that is tried alone.
	firstRest   = time.Second
	longestRest = 30 * time.Second

	// The number of clients with doubtful handshakes that make a failure; see judge.
	defaultDoubts = 3
	mostDoubts    = 1000

	// The largest burst of retries; see WithRetry.
	mostRetries = 20
)

// health is a member's health. It is guarded by Proxy.mu.
type health struct {
	failed  int           // failed handshakes in a row
	doubts  []uint64      // hashes of clients with doubtful handshakes since the last good one; see judge
	restEnd time.Duration // when failed is above zero: the end of the backoff
	probe   *Session      // whose handshake is the first after the backoff, and still connecting
	tried   time.Duration // when a session was last placed with it
	down    bool          // by the health check
	streak  int           // checks in a row that contradict down
	unasked bool          // the last check could not be made

	excused   int           // failures in a row that were due to the proxy's own lateness
	excusedAt time.Duration // time of the last of them
}

// well reports whether a session may be placed with the member now.
func (h *health) well(now time.Duration) bool {
	return !h.down && (h.failed == 0 || h.mayProbe(now))
}

func (h *health) mayProbe(now time.Duration) bool { return now >= h.restEnd && h.probeFree(now) }

// probeFree reports whether the trial after a backoff is free: nobody has it,
// or somebody has had it for too long, because a user's hook may block there.
func (h *health) probeFree(now time.Duration) bool {
	return h.probe == nil || now-h.tried >= longestRest
}

// probed records that the session's handshake with the member is over, or that
// the session was placed with another one.
func (h *health) probed(s *Session) {
	if h.probe == s {
		h.probe = nil
	}
}

// leastBad returns the member to try when none is healthy: of those that are
// not full, the one that has been backed off longest.
func (u *upstreams) leastBad() (best *member) {
	for _, m := range u.members {
		if !m.full() && (best == nil || m.betterThan(best)) {
			best = m
		}
	}
	return best
}

func (h *health) betterThan(other *member) bool {
	switch {
	case h.down != other.down:
		return other.down
	case (h.probe == nil) != (other.probe == nil):
		return h.probe == nil
	}
	return h.tried < other.tried
}

// judge records the result of the session's handshake with its member, e or up.
// again reports whether another member may be tried, and free whether that does
// not use the retry budget.
//
// Only what no client can cause decides about a member: whether connecting,
// including TLS, fails by itself, and whether the peer speaks HTTP. Everything
// else depends on what one client requests or when it leaves. It raises only a
// doubt, and doubts of doubtsNeeded different clients make a failure. Answers
// raise doubts only with [WithJudgeAnswers].
//
// patient reports that the proxy has waited for the member for leastShare.
func (p *Proxy) judge(s *Session, up *upstreamConn, e *Error, patient bool) (again, free bool) {
	var failed, doubtful, well bool
	switch {
	case e == nil:
		status := http.StatusSwitchingProtocols
		if up.refusal != nil {
			status = up.refusal.resp.StatusCode
		}
		again = p.retrySent && (status == http.StatusBadGateway || status == http.StatusServiceUnavailable || status == http.StatusGatewayTimeout)
		doubtful = p.judgeAnswers && status >= 500
		well = !doubtful
	case localFault(e.Err):
		again = e.Op != "answer" || p.retrySent
		// Nothing was sent, and there may be ports towards other members.
		free = e.Op == "dial" && noPort(e.Err) && p.retryShare > 0
	case e.Side == Upstream && e.Op != "answer":
		failed, again = true, true
	case e.Side == Upstream:
		failed = errors.Is(e.Err, errNotHTTP)
		doubtful = p.judgeAnswers
		again = p.retrySent && e.Kind() != KindBadAnswer && e.Kind() != KindWantsTLS
	case e.Op == "dial" || e.Op == "tls":
		// The client has left, or its request's deadline has passed. Clients that
		// are less patient than the proxy must not keep a member in use that does
		// not answer.
		doubtful = patient && (e.Side == Client || e.Status == http.StatusGatewayTimeout)
	}
	var client uint64
	if doubtful {
		client = hashString(addressKey(s.client))
	}

	p.mu.Lock()
	m := s.member
	if m == nil { // WithRewrite chose another target
		p.mu.Unlock()
		return false, false
	}
	m.probed(s)
	before, now := m.failed, time.Since(p.upstreams.began)
	switch {
	case m.excuses(now, e):
		failed = false
	case failed:
	case doubtful:
		failed = m.doubt(client, p.doubtsNeeded)
	case well:
		m.failed, m.doubts = 0, nil
	}
	rest := time.Duration(0)
	// Handshakes that were under way at the first failure do not count again.
	if failed && now >= m.restEnd && !m.gone && len(p.upstreams.members) > 1 {
		rest = min(firstRest<<min(m.failed, 10), longestRest)
		m.failed++
		m.restEnd = now + rest
	}
	after := m.failed
	p.mu.Unlock()

	switch {
	case after > before:
		attrs := []slog.Attr{slog.Duration("rest", rest)}
		if e != nil {
			attrs = append(attrs, slog.String("kind", string(e.Kind())), errorAttr(e))
		} else {
			attrs = append(attrs, slog.String("kind", string(KindRefusal)), errorAttr(up.refusal.err(nil)))
		}
		p.logMember(slog.LevelWarn, "wsproxy: member backed off", m, attrs...)
	case after < before:
		p.logMember(slog.LevelInfo, "wsproxy: member is back", m)
	}
	return again, free
}

// excuses reports whether the failure e of a handshake or check says nothing
// about the member, because the proxy itself was not running when the time was
// over. In a process that is always late, or with a custom dialer that ignores
// deadlines, it excuses only mostGraces failures in a row. Failures within
// grace of each other count as one.
func (h *health) excuses(now time.Duration, e *Error) bool {
	switch {
	case e != nil && errors.Is(e.Err, errOverslept):
		if h.excused == 0 || now-h.excusedAt > protocol.Grace {
			h.excused++
			h.excusedAt = now
		}
		return h.excused <= protocol.MostGraces
	case e == nil || e.Side == Upstream:
		h.excused = 0
	}
	return false
}

// doubt records a client with a doubtful handshake. It reports whether the
// needed number of different clients has been reached without a good handshake
// in between; then it starts again from zero.
func (h *health) doubt(client uint64, needed int) bool {
	if !slices.Contains(h.doubts, client) {
		h.doubts = append(h.doubts, client)
	}
	if len(h.doubts) < needed {
		return false
	}
	h.doubts = nil
	return true
}

// connected records that a trial with a member has connected. Other sessions
// may now be placed with it, because what takes time from here on may be up to
// the client. The member's answer will show whether it is healthy.
func (p *Proxy) connected(s *Session, at *placement) {
	if !at.trial {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if s.member != nil {
		s.member.probed(s)
	}
}

// mayRetryLocked reports whether the budget has a retry left. If everything
// fails, retries would only add to the load. Failures after the request was
// sent, which a client can cause, cannot use up the part that is reserved for
// connecting. p.mu is held.
func (p *Proxy) mayRetryLocked(sent bool) bool {
	kept := 0.0
	if sent {
		kept = mostRetries / 2
	}
	return p.retryShare == 1 || p.retryShare > 0 && p.upstreams.retries >= kept+1
}
