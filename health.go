package wsproxy

import (
	"context"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
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

	// So many answers of 5xx, or bad ones, in a row are a failure.
	mostErrors = 3

	// How many retries there may be in a row; see WithRetry.
	mostRetries = 20
)

// health is what is known of a member's. It is guarded by Proxy.mu.
type health struct {
	failed  int           // handshakes in a row
	errors  int           // answers of 5xx, and bad ones, in a row
	restEnd time.Duration // when failed is above zero: until when it is left alone
	probe   *Session      // whose handshake is the first after that, and under way
	tried   time.Duration // when it was given a session
	down    bool          // says the health check
	streak  int           // checks in a row that say otherwise than down
}

// well says whether a member may be given a session now, or has failed.
func (h *health) well(now time.Duration) bool {
	return !h.down && (h.failed == 0 || h.mayProbe(now))
}

func (h *health) mayProbe(now time.Duration) bool { return now >= h.restEnd && h.probe == nil }

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
	local := kind == "local"
	failed := e != nil && e.blames()
	wrong := status >= 500 || kind == "bad answer" // which clients may bring about
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
	m.probed(s)
	before := m.failed
	switch {
	case wrong:
		m.errors++
		if failed = m.errors == mostErrors; failed {
			m.errors = 0
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

// mayRetryLocked says whether the budget has a retry left. When everything
// fails, retries would only add to the load. p.mu is held.
func (p *Proxy) mayRetryLocked() bool {
	return p.retryShare == 1 || p.retryShare > 0 && p.upstreams.retries >= 1
}

// spendRetry takes one out of the budget, if there is one.
func (p *Proxy) spendRetry() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.mayRetryLocked() {
		return false
	}
	p.upstreams.retries--
	return true
}

// A HealthCheck asks each member at an interval whether it is well; see
// [WithHealthCheck].
type HealthCheck struct {
	// Path, which may have a query, is asked for by GET, and any answer of 2xx or
	// 3xx is good. "": a WebSocket is opened at the member's target, and a Ping must be answered.
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
		tenth := p.check.Interval / 10
		timer := time.NewTimer(rand.N(tenth)) // or all are asked in step
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
			timer.Reset(p.check.Interval - rand.N(tenth))
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
	target := m.url.Load()
	client := &http.Client{
		Transport: &http.Transport{
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				conn, _, err := c.connect(ctx, target, m.address)
				return conn, err
			},
			DisableKeepAlives:      true,
			MaxResponseHeaderBytes: maxHandshakeHeader,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	u := *target
	u.Scheme, u.Host = "http", targetHost(target) // TLS is connect's
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
		return pinged(ctx, conn)
	}
	path, err := url.ParseRequestURI(c.check.Path)
	if err != nil {
		return err
	}
	u.Path, u.RawPath, u.RawQuery = path.Path, path.RawPath, path.RawQuery
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

// pinged wants a Pong from an upstream, which may greet first, and takes leave.
func pinged(ctx context.Context, conn *websocket.Conn) error {
	conn.SetReadLimit(-1)
	done := make(chan struct{})
	go func() { // until conn is closed
		defer close(done)
		for {
			_, r, err := conn.Reader(ctx)
			if err != nil {
				return
			}
			io.Copy(io.Discard, r) // its error comes again
		}
	}()
	err := conn.Ping(ctx)
	if err == nil {
		cut := time.AfterFunc(checkGoodbye, func() { conn.CloseNow() })
		defer cut.Stop()
		_ = conn.Close(websocket.StatusNormalClosure, "") // what comes of it is of no interest
	}
	conn.CloseNow()
	<-done
	return err
}

// checkGoodbye is how long a checked upstream has to answer our Close.
const checkGoodbye = time.Second

// checked takes in what a member has answered.
func (p *Proxy) checked(m *member, err *Error) {
	if err != nil && !err.blames() {
		return // this machine couldn't ask
	}
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
			p.drainMembers(causeDown, func(x *member) bool { return x == m && m.down })
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
