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
	"time"

	"github.com/seed-ffb73231/wsproxy/internal/frame"
	"github.com/seed-ffb73231/wsproxy/internal/pool"
	"github.com/seed-ffb73231/wsproxy/internal/relay"
	"golang.org/x/net/http/httpguts"
)

// This file checks the health of members actively ([WithHealthCheck]).

// A HealthCheck configures active health checks of the members; see
// [WithHealthCheck]. A check that times out while the process is not running
// (stopped, suspended, starved of CPU) is not counted, unless that happens more
// than ten times in a row.
type HealthCheck struct {
	// Path is requested with GET; it may have a query. Any 2xx or 3xx answer is
	// a success. If Path is "", the check opens a WebSocket at the member's
	// target and expects a Ping to be answered.
	Path string

	// Header is sent with the request, for example Authorization. A Host in it
	// replaces the target's.
	Header http.Header

	Interval time.Duration // between two checks of a member, up to a tenth shorter at random; 0: 10 s
	Timeout  time.Duration // of each; 0: 5 s
	Fall     int           // failures in a row that mark a member down; 0: 3
	Rise     int           // successes in a row that mark it up; 0: 2

	// Close ends the sessions of a member that is marked down, with Close 1012
	// (service restart), spread as by [Proxy.SetUpstreams]; with [WithResume] they
	// move. Otherwise they continue.
	Close bool
}

// watch starts checking a member, until ctx ends.
func (p *Proxy) watch(ctx context.Context, m *member) {
	if p.check == nil {
		return
	}
	go func() {
		tenth := p.check.Interval / 10
		timer := time.NewTimer(rand.N(tenth)) // otherwise all would be checked in step
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

// examine checks a member once.
func (c *config) examine(ctx context.Context, m *member) *Error {
	limit, cancel := context.WithTimeout(ctx, c.check.Timeout)
	defer cancel()
	if op, err := c.exchange(limit, m); err != nil {
		return dialError(ctx, limit, op, err)
	}
	return nil
}

// exchange connects as for a session, sends the check and reads the answer.
func (c *config) exchange(ctx context.Context, m *member) (op string, err error) {
	to := m.Target()
	target := to.url
	conn, op, err := c.connect(ctx, target, to.address)
	if err != nil {
		return op, err
	}
	defer func() { // a custom connection may panic
		if v := recover(); v != nil {
			err = newPanic("connection", v)
		}
	}()
	defer closeAt(ctx, conn)() // runs after conn.Close, which may block with TLS
	defer conn.Close()

	u := *target
	u.Scheme, u.Host = "http", targetHost(target) // connect has already done TLS
	if c.check.Path != "" {
		path, err := url.ParseRequestURI(c.check.Path)
		if err != nil {
			return "check", err
		}
		u.Path, u.RawPath, u.RawQuery = path.Path, path.RawPath, path.RawQuery
	}
	req := &request{url: &u, host: u.Host, target: cmp.Or(escapeOnce(rawPath(&u)), "/") + rawQuery(&u)}
	h := http.Header{}
	if c.check.Header != nil {
		h = c.check.Header.Clone()
		req.host = cmp.Or(h.Get("Host"), req.host)
		h.Del("Host")
		stripHopByHop(h)
	}
	if !validTarget(req.target) || !httpguts.ValidHostHeader(req.host) {
		return "check", errors.New("invalid path or host")
	}
	if _, ok := h["User-Agent"]; !ok {
		h["User-Agent"] = []string{"Go-http-client/1.1"}
	}
	if c.check.Path == "" {
		sent, err := takeOffer(h)
		if err != nil {
			return "check", err
		}
		req.addAll(h)
		return "check", pinged(ctx, conn, req, sent)
	}
	h["Connection"] = []string{"close"}
	req.addAll(h)
	var b bytes.Buffer
	req.write(&b)
	if _, err := relay.Write(conn, b.Bytes()); err != nil {
		return "check", err
	}
	resp, err := readAnswer(bufio.NewReader(io.LimitReader(conn, maxHandshakeHeader)))
	if err == nil && (resp.StatusCode < 200 || resp.StatusCode > 399) {
		err = ErrRefused
	}
	return "check", err
}

// pinged opens a WebSocket with an upstream, waits for the Pong to a Ping,
// which may follow other frames, and closes it.
func pinged(ctx context.Context, conn net.Conn, req *request, sent *offer) error {
	up, err := handshake(conn, req, sent, sent)
	switch {
	case err != nil:
		return err
	case up.refusal != nil:
		return ErrRefused
	}
	const body = "health check"
	if _, err := relay.Write(conn, frame.AppendControl(nil, frame.OpPing, true, []byte(body))); err != nil {
		return err
	}
	br := bufio.NewReader(io.LimitReader(io.MultiReader(bytes.NewReader(up.early), conn), mostGreeting))
	scan := frame.Scanner{RSVMessage: up.rsvMessage, RSVAny: up.rsvAny}
	if err := awaitControl(br, &scan, frame.OpPong, body); err != nil {
		return err
	}
	// The result of the closing handshake does not matter.
	bye, cancel := context.WithTimeout(ctx, checkGoodbye)
	defer cancel()
	defer closeAt(bye, conn)()
	if _, err := relay.Write(conn, frame.AppendClose(nil, true, frame.NormalClosure, "")); err == nil {
		_ = awaitControl(br, &scan, frame.OpClose, "")
	}
	return nil
}

// awaitControl reads frames until one has the opcode and a payload that begins
// with body.
func awaitControl(br *bufio.Reader, scan *frame.Scanner, op byte, body string) error {
	for {
		h, err := nextHeader(br, scan)
		if err != nil {
			return err
		}
		if h.Opcode() == op && h.Length >= uint64(len(body)) {
			payload, err := br.Peek(len(body))
			if err != nil {
				return err
			}
			if string(payload) == body {
				_, err = br.Discard(int(h.Length)) // small: a control frame
				return err
			}
		}
		if h.Opcode() == frame.OpClose {
			return io.EOF
		}
		if _, err := io.CopyN(io.Discard, br, int64(h.Length)); err != nil {
			return err
		}
	}
}

// nextHeader reads a frame's header.
func nextHeader(br *bufio.Reader, scan *frame.Scanner) (h frame.Header, err error) {
	for n := 2; h.Size == 0; n++ {
		p, err := br.Peek(n)
		if err != nil {
			return h, err
		}
		if h, err = scan.Next(p); err != nil {
			return h, fmt.Errorf("%w: %w", ErrBadAnswer, err)
		}
	}
	_, err = br.Discard(h.Size)
	return h, err
}

// closeAt closes conn abruptly when ctx ends, unless stop is called first. It
// is needed because some custom connections do not implement deadlines.
func closeAt(ctx context.Context, conn net.Conn) (stop func() bool) {
	return context.AfterFunc(ctx, func() {
		defer func() { _ = recover() }()
		closeNow(conn)
	})
}

// closeNow closes conn without a TLS close_notify.
func closeNow(conn net.Conn) {
	if c, ok := conn.(*tls.Conn); ok {
		conn = c.NetConn()
	}
	conn.Close()
}

// checked records the result of a check.
func (p *Proxy) checked(m *member, err *Error) {
	outcome := outcomeOf(err)
	outcome.Failed, outcome.Well = err != nil && err.blames(), err == nil // neither: this machine could not check
	switch p.pool.Checked(m, outcome, p.check.Fall, p.check.Rise) {
	case pool.Unchecked:
		p.logMember(slog.LevelWarn, "wsproxy: member not checked", m, slog.String("kind", string(err.Kind())), errorAttr(err))
		p.logPanic(0, err.Err)
	case pool.WentDown:
		p.logMember(slog.LevelWarn, "wsproxy: member down", m, slog.String("kind", string(err.Kind())), errorAttr(err))
		if p.check.Close {
			p.drainMembers(causeDown, func(x *member) bool { return x == m && m.Down() })
		}
	case pool.CameUp:
		p.logMember(slog.LevelInfo, "wsproxy: member up", m)
	}
}

const (
	checkGoodbye = time.Second // how long a checked upstream may take to answer our Close
	mostGreeting = 16 << 20    // how many bytes it may send before that
)
