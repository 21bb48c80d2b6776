package wsproxy

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/seed-ffb73231/wsproxy/internal/pool"
	"github.com/seed-ffb73231/wsproxy/internal/protocol"
)

// This file tries members for a session until one answers.

type (
	member = pool.Member[endpoint]
	search = pool.Search[endpoint]
)

// reach performs the upstream's handshake, with one member after another until
// one answers. It tries no member twice, and stays within the timeout. It
// retries only if the request was not sent, unless [WithRetryAfterSend] allows
// more. to is what was dialled, in the form of [Session.Upstream].
func (p *Proxy) reach(ctx context.Context, timeout time.Duration, s *Session, r *http.Request, asked *offer) (up *upstreamConn, to string, e *Error) {
	limit, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	if len(p.onOpen) == 0 && (p.rewrite != nil || p.balance.key != nil || p.balance.choose != nil) {
		r = r.WithContext(ctx) // for user functions; callOnOpen has already done this
	}
	at, e := p.newSearch(s, r)
	if e != nil {
		return nil, "", e
	}
	for {
		m, others, err := p.place(s, r, at)
		switch {
		case err == nil && m == nil && up != nil: // the other member is no longer available
			return up, to, nil
		case up != nil:
			up.refusal.conn.Close()
		}
		switch {
		case err != nil:
			return nil, "", err
		case m == nil && e == nil:
			return nil, "", p.noMember()
		case m == nil:
			return nil, "", e
		}
		// While there are other members, reserve half of the remaining time for
		// them, within the bounds of leastShare and mostShare.
		var share time.Duration
		if deadline, _ := limit.Deadline(); others {
			share = min(max(time.Until(deadline)/2, leastShare), mostShare)
		}
		patient := func() bool { return false }
		if at.Several() { // otherwise the result is not used
			patient = patience()
		}
		up, to, e = p.dial(ctx, limit, s, m, at, r, asked, share)
		if e != nil {
			e.Upstream = to
		}
		again, free := p.judge(s, up, e, patient())
		at.Sent = e == nil || e.Op == "answer"
		at.Free = free && at.Tried() < pool.MostRetries
		if again && (others || at.Free) && limit.Err() == nil {
			continue
		}
		if e == nil && up.refusal == nil && p.sticky != nil && to == m.Target().origin {
			p.sticky.set(up.header, m.Token(), at.Token)
		}
		return up, to, e
	}
}

// How long connecting to a member may take while there are others to try: at
// least leastShare, if that much time is left, and at most mostShare.
const (
	leastShare = time.Second
	mostShare  = 5 * time.Second
)

// patience starts waiting for a member. The returned function stops that and
// reports whether leastShare has passed. It reports false if the process was
// not running at that time, because the member may have answered meanwhile.
func patience() (end func() bool) {
	var over atomic.Bool
	due := time.Now().Add(leastShare)
	timer := time.AfterFunc(leastShare, func() { over.Store(time.Since(due) <= protocol.Lateness) })
	return func() bool {
		timer.Stop()
		return over.Load()
	}
}

// newSearch starts the search for a member.
func (p *Proxy) newSearch(s *Session, r *http.Request) (at *search, e *Error) {
	at = new(search)
	if p.sticky != nil {
		at.Token = p.sticky.token(r)
	}
	if p.balance.rule != pool.Rendezvous {
		return at, nil
	}
	defer hookPanic("place", "WithBalance", &e)
	key := ""
	if p.balance.key != nil {
		key = p.balance.key(r)
	} else {
		key = addressKey(s.Client())
	}
	if key != "" {
		at.Key = pool.Hash(key)
	}
	return at, nil
}

// place places the session with a member that it was not placed with before; m
// is nil if there is none. others reports whether another member may be tried
// after it.
func (p *Proxy) place(s *Session, r *http.Request, at *search) (m *member, others bool, e *Error) {
	var chosen *member
	if p.balance.choose != nil {
		if chosen, e = p.ask(r, at); e != nil {
			return nil, false, e
		}
	}
	m, others = p.pool.Place(&s.seat, at, chosen)
	return m, others, nil
}

// ask calls the user's BalanceFunc.
func (p *Proxy) ask(r *http.Request, at *search) (m *member, e *Error) {
	members, states := p.pool.Candidates(at)
	if len(members) == 0 {
		return nil, nil
	}
	defer hookPanic("place", "WithBalance", &e)
	if i := p.balance.choose(r, memberStates(states)); i >= 0 && i < len(members) {
		return members[i], nil
	}
	return nil, nil
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
	outcome := outcomeOf(e)
	outcome.Failed, outcome.Doubtful, outcome.Well = failed, doubtful, well
	if doubtful {
		outcome.Client = pool.Hash(addressKey(s.Client()))
	}
	m, change, backoff := p.pool.Judge(&s.seat, outcome)
	switch {
	case m == nil: // WithRewrite chose another target
		return false, false
	case change == pool.BackedOff:
		attrs := []slog.Attr{slog.Duration("backoff", backoff)}
		if e != nil {
			attrs = append(attrs, slog.String("kind", string(e.Kind())), errorAttr(e))
		} else {
			attrs = append(attrs, slog.String("kind", string(KindRefusal)), errorAttr(up.refusal.err(nil)))
		}
		p.logMember(slog.LevelWarn, "wsproxy: member backed off", m, attrs...)
	case change == pool.Back:
		p.logMember(slog.LevelInfo, "wsproxy: member recovered", m)
	}
	return again, free
}

// outcomeOf returns what can be said of a handshake or check that failed with
// e, or succeeded if e is nil, without knowing more about it.
func outcomeOf(e *Error) pool.Outcome {
	return pool.Outcome{
		Late:  e != nil && errors.Is(e.Err, errOverslept),
		Asked: e == nil || e.Side == Upstream,
	}
}

// noMember returns the error for a session that no member could be tried for.
func (p *Proxy) noMember() *Error {
	e := &Error{Op: "place", Side: Self, Status: http.StatusServiceUnavailable, Err: ErrNoUpstream}
	if n := p.pool.Len(); n > 0 {
		e.Err = fmt.Errorf("%w: no healthy member of %d has room", ErrLimit, n)
	}
	return e
}
