package wsproxy

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"slices"
	"time"

	"github.com/coder/websocket"
	"golang.org/x/net/http/httpguts"
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
func (p *Proxy) judge(s *Session, up *upstreamConn, e *Error, took time.Duration) (again, free bool) {
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
		doubtful = took >= leastShare && (e.Side == Client || e.Status == http.StatusGatewayTimeout)
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
	before := m.failed
	switch {
	case failed:
	case doubtful:
		failed = m.doubt(client, p.doubtsNeeded)
	case well:
		m.failed, m.doubts = 0, nil
	}
	rest := time.Duration(0)
	// Those that were under way at its first failure aren't further ones.
	if now := time.Since(p.upstreams.began); failed && now >= m.restEnd && !m.gone && len(p.upstreams.members) > 1 {
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

// A HealthCheck asks each member at an interval whether it is well; see
// [WithHealthCheck].
type HealthCheck struct {
	// Path, which may have a query, is asked for by GET, and any answer of 2xx or
	// 3xx is good. "": a WebSocket is opened at the member's target, and a Ping
	// must be answered.
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
	if op, err := c.exchange(limit, m); err != nil {
		return dialError(ctx, limit, op, err)
	}
	return nil
}

// exchange connects as for a session, and wants an answer.
func (c *config) exchange(ctx context.Context, m *member) (op string, err error) {
	target := m.url.Load()
	conn, op, err := c.connect(ctx, target, m.address)
	if err != nil {
		return op, err
	}
	defer func() { // a connection of the user's may panic
		if v := recover(); v != nil {
			err = newPanic("connection", v)
		}
	}()
	defer closeAt(ctx, conn)() // when that is closed: with TLS, it may take a while
	defer conn.Close()

	u := *target
	u.Scheme, u.Host = "http", targetHost(target) // TLS was connect's
	if c.check.Path != "" {
		path, err := url.ParseRequestURI(c.check.Path)
		if err != nil {
			return "check", err
		}
		u.Path, u.RawPath, u.RawQuery = path.Path, path.RawPath, path.RawQuery
	}
	req := &http.Request{Method: http.MethodGet, URL: &u, Host: u.Host, Header: http.Header{}}
	req.RequestURI = cmp.Or(escapeOnce(rawPath(&u)), "/") + rawQuery(&u)
	if c.check.Header != nil {
		req.Header = c.check.Header.Clone()
		req.Host = cmp.Or(req.Header.Get("Host"), req.Host)
		req.Header.Del("Host")
		stripHopByHop(req.Header)
	}
	if !validTarget(req.RequestURI) || !httpguts.ValidHostHeader(req.Host) {
		return "check", errors.New("path or host is not valid")
	}
	if _, ok := req.Header["User-Agent"]; !ok {
		req.Header["User-Agent"] = []string{"Go-http-client/1.1"}
	}
	if c.check.Path == "" {
		return "check", pinged(ctx, conn, req)
	}
	req.Header["Connection"] = []string{"close"}
	var b bytes.Buffer
	writeRequest(&b, req)
	if _, err := writeConn(conn, b.Bytes()); err != nil {
		return "check", err
	}
	resp, err := readAnswer(bufio.NewReader(io.LimitReader(conn, maxHandshakeHeader)))
	if err == nil && (resp.StatusCode < 200 || resp.StatusCode > 399) {
		err = ErrRefused
	}
	return "check", err
}

// pinged opens a WebSocket with an upstream, wants a Pong from it, which may
// come behind other things, and takes leave.
func pinged(ctx context.Context, conn net.Conn, req *http.Request) error {
	sent, err := takeOffer(req.Header)
	if err != nil {
		return err
	}
	up, err := handshake(conn, req, sent, sent)
	switch {
	case err != nil:
		return err
	case up.refusal != nil:
		return ErrRefused
	}
	const body = "health check"
	if _, err := writeConn(conn, appendControl(nil, opPing, true, []byte(body))); err != nil {
		return err
	}
	br := bufio.NewReader(io.LimitReader(io.MultiReader(bytes.NewReader(up.early), conn), mostGreeting))
	scan := scanner{rsvMessage: up.rsvMessage, rsvAny: up.rsvAny}
	if err := awaitControl(br, &scan, opPong, body); err != nil {
		return err
	}
	// What comes of the rest is of no interest.
	bye, cancel := context.WithTimeout(ctx, checkGoodbye)
	defer cancel()
	defer closeAt(bye, conn)()
	if _, err := writeConn(conn, appendClose(nil, true, websocket.StatusNormalClosure, "")); err == nil {
		_ = awaitControl(br, &scan, opClose, "")
	}
	return nil
}

// awaitControl reads frames until one with that opcode comes whose payload begins
// so.
func awaitControl(br *bufio.Reader, scan *scanner, op byte, body string) error {
	for {
		h, err := nextHeader(br, scan)
		if err != nil {
			return err
		}
		if h.opcode() == op && h.length >= uint64(len(body)) {
			payload, err := br.Peek(len(body))
			if err != nil {
				return err
			}
			if string(payload) == body {
				_, err = br.Discard(int(h.length)) // of a control frame: not much
				return err
			}
		}
		if h.opcode() == opClose {
			return io.EOF
		}
		if _, err := io.CopyN(io.Discard, br, int64(h.length)); err != nil {
			return err
		}
	}
}

// nextHeader reads a frame's header.
func nextHeader(br *bufio.Reader, scan *scanner) (h header, err error) {
	for n := 2; h.size == 0; n++ {
		p, err := br.Peek(n)
		if err != nil {
			return h, err
		}
		if h, err = scan.next(p); err != nil {
			return h, fmt.Errorf("%w: %w", ErrBadAnswer, err)
		}
	}
	_, err = br.Discard(h.size)
	return h, err
}

const (
	checkGoodbye = time.Second // how long a checked upstream has to answer our Close
	mostGreeting = 16 << 20    // how much it may say before that
)

// closeAt closes conn, with no goodbye, once ctx has ended, until stop is called.
// It is for what is not needed afterwards: not every connection of a user's
// heeds deadlines.
func closeAt(ctx context.Context, conn net.Conn) (stop func() bool) {
	return context.AfterFunc(ctx, func() {
		defer func() { _ = recover() }()
		closeNow(conn)
	})
}

// closeNow closes conn with no goodbye.
func closeNow(conn net.Conn) {
	if c, ok := conn.(*tls.Conn); ok {
		conn = c.NetConn()
	}
	conn.Close()
}

// checked takes in what a member has answered.
func (p *Proxy) checked(m *member, err *Error) {
	if err != nil && !err.blames() { // this machine couldn't ask
		p.mu.Lock()
		first := !m.unasked && !m.gone
		m.unasked = true
		p.mu.Unlock()
		if first {
			p.logMember(slog.LevelWarn, "wsproxy: member not checked", m, slog.String("kind", string(err.Kind())), errorAttr(err))
			p.logPanic(0, err.Err)
		}
		return
	}
	p.mu.Lock()
	m.unasked = false
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
		p.logMember(slog.LevelWarn, "wsproxy: member down", m, slog.String("kind", string(err.Kind())), errorAttr(err))
		if p.check.Close {
			p.drainMembers(causeDown, func(x *member) bool { return x == m && m.down })
		}
	default:
		p.logMember(slog.LevelInfo, "wsproxy: member up", m)
	}
}
