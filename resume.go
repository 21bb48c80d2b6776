package wsproxy

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"time"

	"github.com/seed-ffb73231/wsproxy/internal/frame"
	"github.com/seed-ffb73231/wsproxy/internal/message"
	"github.com/seed-ffb73231/wsproxy/internal/protocol"
)

// This file finds another upstream for a session that has lost its own
// ([WithResume]).

// A Resume configures what happens when a session's upstream is lost; see
// [WithResume].
type Resume struct {
	// Window is the time in which another upstream must be found and OnResume must
	// be done. 0 stands for 30 s.
	Window time.Duration

	// OnResume, if not nil, is called when the session has another upstream, before
	// anything of the client's goes on to it. It may send to the upstream what a
	// client sends at the start ([Session.Send]): authenticate, subscribe. It
	// cannot see what the upstream answers: that goes on to the client after
	// OnResume has returned.
	//
	// attempt counts the upstreams that were tried since the last one was lost,
	// from 1. ctx ends with the Window and with the session. If OnResume returns an
	// error, the upstream's connection is closed and the next one is tried; if it
	// panics, the session ends with Close 1011. It must be safe for concurrent use.
	OnResume func(ctx context.Context, s *Session, attempt int) error
}

const defaultWindow = 30 * time.Second

// WithResume keeps a client while its upstream restarts. By default a session
// ends with its upstream. With this option the client stays connected when the
// upstream is lost (its connection ends without a Close frame, it answers no
// Pings, or a write to it fails), or when it closes with 1001 (going away), 1012
// (service restart) or 1013 (try again later). The proxy then finds another
// upstream, as for a new session, with the header fields, path and query of the
// client's handshake: it selects a member, dials, and calls the hooks of
// [WithRewrite]. If that fails it tries again, after a growing time with some
// randomness, until r.Window is over. No more sessions than [WithMaxHandshakes]
// says do that at the same time. Then the client is told what it would
// have been told at first: Close 1011, or the code of the upstream.
//
// Meanwhile the proxy goes on pinging the client, and answers its Pings. It
// stops reading the client's messages, so that TCP's flow control stops the
// client; it holds at most one. Everything that ends a session also ends one
// that waits: its expiry, its age, [WithIdleTimeout], [Session.Close],
// [Proxy.Shutdown].
//
// A message is never sent twice, and a client or an upstream never gets a part
// of one. A message may be lost: what the old upstream's kernel had accepted,
// and the upstream had not read or not answered. If the old upstream got only
// the beginning of a message, the session ends with 1011. It also ends so if the
// new upstream selects another subprotocol. All other close codes are final, and
// are passed on.
//
// Sessions also move, instead of being ended with 1012, when [Proxy.SetUpstreams]
// or [WithSource] removes their member, or [HealthCheck].Close ends them: the old
// upstream is sent Close 1001, what it sends before its own Close is relayed, and
// then another upstream is found.
//
// The option makes all sessions message sessions, with the memory, the limit of
// message sizes and the handling of compression that are described at
// [WithOnMessage]. It retains the client's handshake for the life of the session,
// with its cookies and tokens, in memory only.
func WithResume(r Resume) Option {
	return func(c *config) {
		if r.Window == 0 {
			r.Window = defaultWindow
		}
		c.resume = &r
		c.plausible("WithResume", c.positive("WithResume", r.Window))
	}
}

// A resumption is what a session keeps so that it can resume.
type resumption struct {
	request *http.Request // as the hooks of WithOnOpen left it
	asked   *offer
	stage   *message.Stage
	resumes int // guarded by the session's mu; how often it has resumed

	// Owned by resumeSession.
	since    time.Time // when it has resumed last
	messages uint64    // what had come from upstreams then
	useless  int       // how many upstreams in a row have left at once, without a message
}

// keepHandshake makes it possible to resume a session whose handshake is done, and
// whose messages go through stage.
func (s *Session) keepHandshake(shown *http.Request, asked *offer, stage *message.Stage) {
	kept := *asked
	kept.from = detached(asked.from)
	kept.from.Header = nil // it is in the other request
	request := detached(shown)
	request.Header = shown.Header.Clone()
	s.mu.Lock()
	s.extraLocked().resumption = &resumption{request: request, asked: &kept, stage: stage}
	s.mu.Unlock()
	s.relay.Outlive((*sessionHost)(s))
}

// detached returns a copy of r that does not end with the client's handshake, and
// keeps the values of its context.
func detached(r *http.Request) *http.Request {
	r = r.WithContext(context.WithoutCancel(r.Context()))
	r.Body = http.NoBody
	return r
}

// Resumes returns how often the session has gone on with another upstream
// ([WithResume]).
func (s *Session) Resumes() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.extra == nil || s.extra.resumption == nil {
		return 0
	}
	return s.extra.resumption.resumes
}

// Pauses before the attempts of a resume. The first one is short, for most
// upstreams that are lost leave others, and random: thousands of sessions may have
// lost the same one. It doubles with each attempt.
const (
	firstPause   = 100 * time.Millisecond
	longestPause = 5 * time.Second
)

// pauseBefore returns the pause before an attempt, a random part of the longest.
// Only the first may be close to 0.
func pauseBefore(attempt int) time.Duration {
	if attempt == 1 {
		return rand.N(firstPause)
	}
	most := min(firstPause<<min(attempt-1, 10), longestPause)
	return most/2 + rand.N(most/2)
}

// An upstream that accepts sessions and leaves within atOnce, without a message, is of
// no use, and may be overloaded. After a few of them in a row, they count as attempts
// that have failed: pauses grow.
const (
	atOnce     = time.Second
	fewUseless = 10
)

// longestAttempt limits one attempt, so that a machine that is gone does not use
// up the window.
const longestAttempt = 10 * time.Second

// errOtherSubprotocol ends a session: its client would not understand.
var errOtherSubprotocol = errors.New("the next upstream selected another subprotocol")

// Resume implements [relay.Resumer].
func (h *sessionHost) Resume(ended <-chan struct{}) error {
	return h.proxy.resumeSession((*Session)(h), ended)
}

// resumeSession finds another upstream for a session that is held. It returns when the
// session has gone on, has ended, or gets none: with an error if that is another
// reason for its end than the loss itself.
func (p *Proxy) resumeSession(s *Session, ended <-chan struct{}) (final error) {
	began := time.Now()
	p.pool.Release(&s.seat) // others may have its place meanwhile
	s.mu.Lock()
	kept := s.extra.resumption // set before it was open
	s.mu.Unlock()
	ctx, cancel := context.WithTimeout(kept.request.Context(), p.resume.Window)
	watch := make(chan struct{})
	go func() {
		defer close(watch)
		select {
		case <-ended:
			cancel()
		case <-ctx.Done():
		}
	}()
	defer func() {
		cancel()
		<-watch
	}()
	from := s.Upstream()
	if kept.useless++; began.Sub(kept.since) >= atOnce || s.Counts(Upstream).Messages > kept.messages {
		kept.useless = 0
	}
	var last error
	for attempt := 1; ; attempt++ {
		if !pause(ctx, pauseBefore(attempt+max(0, kept.useless-fewUseless))) {
			p.notResumed(ctx, s, attempt-1, last)
			return nil
		}
		last = p.attempt(ctx, s, kept, attempt)
		switch {
		case last == nil:
			if s.relay.Resumed() {
				p.resumed(s, kept, from, attempt, time.Since(began))
			}
			return nil
		case errors.Is(last, errPanic):
			s.relay.Stop(protocol.CausePanic, last)
			return nil
		case errors.Is(last, errOtherSubprotocol):
			p.notResumed(ctx, s, attempt, last)
			return last
		}
		p.pool.Release(&s.seat) // until the next attempt
	}
}

// pause waits, and returns false if ctx ended first.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// attempt connects a held session to an upstream.
func (p *Proxy) attempt(ctx context.Context, s *Session, kept *resumption, attempt int) error {
	up, to, e := p.reachAgain(ctx, s, kept)
	if e != nil {
		return e
	}
	if up.refusal != nil {
		up.refusal.conn.Close()
		return up.refusal.err(nil)
	}
	if up.subprotocol != s.Subprotocol() {
		up.conn.Close()
		return errOtherSubprotocol
	}
	s.setUpstream(to)
	kept.stage.Renew(up.deflate)
	rsvMessage := byte(0)
	if up.deflate.On() {
		rsvMessage = frame.RSV1Bit // RFC 7692, 6
	}
	s.relay.Replace(up.conn, up.early, rsvMessage, up.rsvAny)
	err := p.callOnResume(ctx, s, attempt)
	if err == nil {
		err = ctx.Err() // the hook may have returned because of that
	}
	if err != nil {
		s.relay.Withdraw()
	}
	return err
}

// reachAgain is reach for a session that had an upstream before.
func (p *Proxy) reachAgain(ctx context.Context, s *Session, kept *resumption) (up *upstreamConn, to string, e *Error) {
	if p.resuming != nil {
		select {
		case p.resuming <- struct{}{}:
			defer func() { <-p.resuming }()
		case <-ctx.Done():
			return nil, "", dialError(ctx, ctx, "place", ctx.Err())
		}
	}
	return p.reach(ctx, min(p.handshakeTimeout, longestAttempt), s, kept.request.WithContext(ctx), kept.asked)
}

// callOnResume calls the user's hook.
func (p *Proxy) callOnResume(ctx context.Context, s *Session, attempt int) (err error) {
	if p.resume.OnResume == nil {
		return nil
	}
	returned := false
	defer func() {
		if v := recover(); v != nil {
			err = newPanic("WithResume", v)
		} else if !returned { // runtime.Goexit: the session has lost a goroutine
			s.relay.Stop(protocol.CausePanic, newPanic("WithResume", "runtime.Goexit"))
		}
	}()
	err = p.resume.OnResume(ctx, s, attempt)
	if returned = true; err != nil {
		return fmt.Errorf("%w: %w", errHook, err)
	}
	return nil
}

// resumed records that a session goes on.
func (p *Proxy) resumed(s *Session, kept *resumption, from string, attempts int, after time.Duration) {
	s.mu.Lock()
	kept.resumes++
	s.mu.Unlock()
	kept.since, kept.messages = time.Now(), s.Counts(Upstream).Messages
	p.stats.resumes.Add(1)
	p.log(kept.request.Context(), slog.LevelInfo, "wsproxy: session resumed",
		slog.Uint64("id", s.id),
		slog.String("client", s.Client()),
		slog.String("upstream", s.Upstream()),
		slog.String("path", s.Path()),
		slog.String("from", from),
		slog.Int("attempts", attempts),
		slog.Duration("after", after))
	// While the member was dialled, it may have been removed or marked down. If no
	// other one is up either, the session stays.
	switch m := s.seat.Member(); {
	case m == nil:
	case m.Gone() && !p.keepRemoved:
		p.move(s, causeRemoved)
	case m.Down() && p.check != nil && p.check.Close && p.pool.Up():
		p.move(s, causeDown)
	}
}

// notResumed records that no upstream was found for a session, unless it was not
// needed any more.
func (p *Proxy) notResumed(ctx context.Context, s *Session, attempts int, last error) {
	if errors.Is(ctx.Err(), context.Canceled) {
		return
	}
	p.stats.resumesFailed.Add(1)
	attrs := []slog.Attr{
		slog.Uint64("id", s.id),
		slog.String("client", s.Client()),
		slog.String("path", s.Path()),
		slog.Int("attempts", attempts),
	}
	if e, ok := errors.AsType[*Error](last); ok {
		attrs = append(attrs, slog.String("upstream", e.Upstream), slog.String("kind", string(e.Kind())), errorAttr(e))
	} else if last != nil {
		attrs = append(attrs, slog.String("error", last.Error()))
	}
	p.log(ctx, slog.LevelWarn, "wsproxy: session not resumed", attrs...)
}

// move has a session leave its member: for another upstream if it can resume, and
// otherwise it ends.
func (p *Proxy) move(s *Session, c *protocol.Cause) {
	if !s.relay.Move(c) {
		s.relay.Stop(c, nil)
	}
}
