package wsproxy

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"time"

	"github.com/coder/websocket"
)

// This file knows which members are well: by what comes of the handshakes with
// them, and, with WithHealthCheck, by asking them.

const (
	// A member with which a handshake failed is left alone for firstRest, and
	// after each further failure in a row for twice as long. The first
	// handshake after that goes alone.
	firstRest   = time.Second
	longestRest = 30 * time.Second

	// So many answers of 5xx in a row are a failure.
	mostErrors = 3

	// How many retries there may be at once, however few handshakes there are;
	// see WithRetry.
	mostRetries = 20
)

// health is what is known of a member's. It is guarded by Proxy.mu.
type health struct {
	failed  int           // handshakes in a row
	errors  int           // answers of 5xx in a row
	restEnd time.Duration // when failed is above zero: until when it is left alone
	probing bool          // the first handshake after that is under way
	down    bool          // says the health check
	streak  int           // checks in a row that say otherwise than down
}

// well says whether a member may be given a session now, or has failed.
func (h *health) well(now time.Duration) bool {
	return !h.down && (h.failed == 0 || now >= h.restEnd && !h.probing)
}

// leastBad returns a member to try when none is well: of those that aren't
// full, the one that has been left alone for longest.
func (u *upstreams) leastBad() (best *member) {
	for _, m := range u.members {
		if m.full() {
			continue
		}
		if best == nil || best.down && !m.down || best.down == m.down && m.restEnd < best.restEnd {
			best = m
		}
	}
	return best
}

// judge takes in what came of a handshake with the session's member, and says
// whether another one may be tried for it.
func (p *Proxy) judge(s *Session, up *upstreamConn, e *Error) (again bool) {
	status, kind := 0, ""
	switch {
	case e != nil:
		kind = e.Kind()
	case up.refusal != nil:
		status, kind = up.refusal.resp.StatusCode, "5xx"
	}
	local := kind == "local" // a fault of this machine's blames nobody
	failed := e != nil && e.Side == Upstream && !local
	switch {
	case e == nil:
		again = p.retrySent && (status == http.StatusBadGateway || status == http.StatusServiceUnavailable || status == http.StatusGatewayTimeout)
	case failed || local: // "answer": the request was sent
		again = e.Op != "answer" || p.retrySent
	}

	p.mu.Lock()
	m := s.member
	if m == nil { // it was dialled elsewhere
		p.mu.Unlock()
		return false
	}
	m.probing = false
	before := m.failed
	switch {
	case status >= 500:
		if m.errors++; m.errors == mostErrors {
			m.errors, failed = 0, true
		}
	case e == nil:
		m.failed, m.errors = 0, 0
	}
	rest := time.Duration(0)
	// Those that were under way at its first failure aren't further ones.
	if now := time.Since(p.upstreams.began); failed && now >= m.restEnd && len(p.upstreams.members) > 1 {
		rest = min(firstRest<<min(m.failed, 10), longestRest)
		m.failed++
		m.restEnd = now + rest
	}
	after := m.failed
	p.mu.Unlock()

	switch {
	case after > before:
		p.logMember(slog.LevelWarn, "wsproxy: member left alone", m, slog.String("kind", kind), slog.Duration("rest", rest))
	case after < before:
		p.logMember(slog.LevelInfo, "wsproxy: member is back", m)
	}
	return again
}

// mayRetry takes a retry out of the budget. When everything fails, retries
// would only add to the load.
func (p *Proxy) mayRetry() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.retryShare == 0 || p.upstreams.retries < 1 {
		return false
	}
	p.upstreams.retries--
	p.stats.retries++
	return true
}

// A HealthCheck asks each member at an interval whether it is well; see
// [WithHealthCheck].
type HealthCheck struct {
	// Path is asked for by GET, and any answer of 2xx or 3xx is good. "": a
	// WebSocket is opened at the member's target, and a Ping must be answered.
	Path string

	// Header is sent along: Authorization, say. A Host in it stands in place of
	// the target's.
	Header http.Header

	Interval time.Duration // between two checks of a member, up to a tenth shorter at random; 0: 10 s
	Timeout  time.Duration // of each; 0: 5 s
	Fall     int           // failures in a row that mark a member down; 0: 3
	Rise     int           // successes in a row that mark it up; 0: 2

	// Close ends the sessions of a member that is marked down, by Close 1012
	// (service restart), spread as by [Proxy.SetUpstreams]. Otherwise they go
	// on for as long as they can.
	Close bool
}

// watchLocked begins to ask a member, until it is removed. p.mu is held.
func (p *Proxy) watchLocked(m *member) {
	if p.check == nil {
		return
	}
	ctx, stop := context.WithCancel(p.life)
	m.stopChecks = stop
	go func() {
		timer := time.NewTimer(rand.N(p.check.Interval / 10)) // or all are asked in step
		defer timer.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-timer.C:
			}
			err := p.examine(ctx, m)
			if ctx.Err() != nil {
				return
			}
			p.checked(m, err)
			timer.Reset(p.check.Interval - rand.N(p.check.Interval/10))
		}
	}()
}

// examine asks a member once.
func (c *config) examine(ctx context.Context, m *member) *Error {
	limit, cancel := context.WithTimeout(ctx, c.check.Timeout)
	defer cancel()
	if err := c.exchange(limit, m); err != nil {
		return dialError(ctx, limit, "check", err)
	}
	return nil
}

// exchange connects as for a session, and wants an answer.
func (c *config) exchange(ctx context.Context, m *member) error {
	client := &http.Client{
		Transport: &http.Transport{
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				conn, _, err := c.connect(ctx, m.url, m.address)
				return conn, err
			},
			DisableKeepAlives:      true,
			MaxResponseHeaderBytes: maxHandshakeHeader,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	u := *m.url
	u.Scheme, u.Host = "http", targetHost(m.url) // TLS is connect's
	header := c.check.Header.Clone()
	host := header.Get("Host")
	header.Del("Host")
	if c.check.Path == "" {
		conn, resp, err := websocket.Dial(ctx, u.String(), &websocket.DialOptions{HTTPClient: client, HTTPHeader: header, Host: host})
		if err != nil {
			if resp != nil && resp.StatusCode != http.StatusSwitchingProtocols {
				return ErrRefused
			}
			return err
		}
		defer conn.CloseNow()
		conn.CloseRead(ctx) // reads the Pong
		if err := conn.Ping(ctx); err != nil {
			return err
		}
		// The answer to this is of no interest.
		_ = conn.Close(websocket.StatusNormalClosure, "")
		return nil
	}
	u.Path, u.RawPath, u.RawQuery = c.check.Path, "", ""
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return err
	}
	req.Host = host
	if header != nil {
		req.Header = header
	}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	resp.Body.Close()
	if resp.StatusCode < 200 || resp.StatusCode > 399 {
		return ErrRefused
	}
	return nil
}

// checked takes in what a member has answered.
func (p *Proxy) checked(m *member, err *Error) {
	p.mu.Lock()
	changed := false
	switch {
	case m.gone:
	case m.down == (err != nil):
		m.streak = 0
	default:
		m.streak++
		needed := p.check.Rise
		if err != nil {
			needed = p.check.Fall
		}
		if changed = m.streak >= needed; changed {
			m.health = health{down: err != nil}
		}
	}
	down := m.down
	p.mu.Unlock()
	switch {
	case !changed:
	case down:
		p.logMember(slog.LevelWarn, "wsproxy: member down", m, slog.String("kind", err.Kind()))
		if p.check.Close {
			p.drainMembers(causeDown, func(m *member) bool { return m.down })
		}
	default:
		p.logMember(slog.LevelInfo, "wsproxy: member up", m)
	}
}

// logMember logs what has become of a member. The record has no request's
// context: it is about all of them.
func (p *Proxy) logMember(level slog.Level, what string, m *member, attrs ...slog.Attr) {
	guarded("the logger", func() {
		p.logger.LogAttrs(context.Background(), level, what, append([]slog.Attr{slog.String("member", m.name)}, attrs...)...)
	})
}
