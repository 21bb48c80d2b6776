package wsproxy

import (
	"errors"
	"log/slog"
	"net/http"
	"slices"
	"time"
)

// This file knows which members are well: by what comes of the handshakes with
// them, and, with WithHealthCheck, by asking them.

const (
	// A member with which a handshake failed is left alone for firstRest, and
	// after each further failure in a row for twice as long. The first
	// handshake after that goes alone.
	firstRest   = time.Second
	longestRest = 30 * time.Second

	// How many clients must have had doubtful handshakes; see judge.
	defaultDoubts = 3
	mostDoubts    = 1000

	// How many retries there may be in a row; see WithRetry.
	mostRetries = 20
)

// health is what is known of a member's. It is guarded by Proxy.mu.
type health struct {
	failed  int           // handshakes in a row
	doubts  []uint64      // clients, hashed, that had doubtful handshakes since the last good one; see judge
	restEnd time.Duration // when failed is above zero: until when it is left alone
	probe   *Session      // whose handshake is the first after that, and still connecting
	tried   time.Duration // when it was given a session
	down    bool          // says the health check
	streak  int           // checks in a row that say otherwise than down
	unasked bool          // the last check couldn't be made

	excused   int           // times in a row that what failed was the proxy's own lateness
	excusedAt time.Duration // the last of them
}

// well says whether a member may be given a session now, or has failed.
func (h *health) well(now time.Duration) bool {
	return !h.down && (h.failed == 0 || h.mayProbe(now))
}

func (h *health) mayProbe(now time.Duration) bool { return now >= h.restEnd && h.probeFree(now) }

// probeFree says whether nobody has the trial, or somebody for too long: a hook
// of the user's may block there.
func (h *health) probeFree(now time.Duration) bool {
	return h.probe == nil || now-h.tried >= longestRest
}

// probed notes that the session's handshake with the member is over, or it has
// been given to another one.
func (h *health) probed(s *Session) {
	if h.probe == s {
		h.probe = nil
	}
}

// leastBad returns a member to try when none is well: of those that aren't
// full, the one that has been left alone for longest.
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

// judge takes in what came of the session's handshake with its member, e or up.
// It says whether another one may be tried, and whether that is free: not out of
// the budget for retries.
//
// What decides about a member is what no client can bring about: whether
// connecting, TLS included, fails by itself, and whether what answers speaks HTTP.
// All else depends on what one client asks for, or on when it leaves. That is no
// more than a doubt, and only as many clients as doubtsNeeded make a failure of
// it. Answers are doubtful only with [WithJudgeAnswers].
//
// patient says that the proxy has been waiting for the member for leastShare.
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
		// Nothing has left this machine, and towards others it may have ports.
		free = e.Op == "dial" && noPort(e.Err) && p.retryShare > 0
	case e.Side == Upstream && e.Op != "answer":
		failed, again = true, true
	case e.Side == Upstream:
		failed = errors.Is(e.Err, errNotHTTP)
		doubtful = p.judgeAnswers
		again = p.retrySent && e.Kind() != KindBadAnswer && e.Kind() != KindWantsTLS
	case e.Op == "dial" || e.Op == "tls":
		// The client has left, or its request's time was up. Clients that are
		// less patient than the proxy must not keep a member going that doesn't
		// answer.
		doubtful = patient && (e.Side == Client || e.Status == http.StatusGatewayTimeout)
	}
	var client uint64
	if doubtful {
		client = hashString(addressKey(s.client))
	}

	p.mu.Lock()
	m := s.member
	if m == nil { // it was dialled elsewhere
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
	// Those that were under way at its first failure aren't further ones.
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
		p.logMember(slog.LevelWarn, "wsproxy: member left alone", m, attrs...)
	case after < before:
		p.logMember(slog.LevelInfo, "wsproxy: member is back", m)
	}
	return again, free
}

// excuses says whether the handshake or check that has failed by e tells nothing
// of the member, for the proxy itself did not run when its time was up. In a
// process that is always late, and with a dialer of the user's that keeps to no
// deadline, that goes for mostGraces times in a row only. What fails within grace
// of another is of the same time.
func (h *health) excuses(now time.Duration, e *Error) bool {
	switch {
	case e != nil && errors.Is(e.Err, errOverslept):
		if h.excused == 0 || now-h.excusedAt > grace {
			h.excused++
			h.excusedAt = now
		}
		return h.excused <= mostGraces
	case e == nil || e.Side == Upstream:
		h.excused = 0
	}
	return false
}

// doubt notes a client that has had a doubtful handshake. It says whether so many
// have had one, and none a good one in between; then it begins anew.
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

// connected notes that a trial with a member has connected: others may be given
// to it, for what takes time from here on may be the client's doing. Whether the
// member is well, its answer will show.
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

// mayRetryLocked says whether the budget has a retry left. When everything
// fails, retries would only add to the load. What failed after the request was
// sent, which a client can bring about, can't use up what is kept for
// connecting. p.mu is held.
func (p *Proxy) mayRetryLocked(sent bool) bool {
	kept := 0.0
	if sent {
		kept = mostRetries / 2
	}
	return p.retryShare == 1 || p.retryShare > 0 && p.upstreams.retries >= kept+1
}
