package wsproxy

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"time"

	"github.com/seed-ffb73231/wsproxy/internal/protocol"
)

// Shutdown drains the proxy. It refuses new sessions with 503, and ends the
// open ones at frame boundaries with Close 1001 to both sides ([WithDrain] sets
// another code for clients). It ends them one by one, evenly spread over a
// window with some jitter, so that their clients do not all reconnect at the
// same moment. The window is that of WithDrain; by default it is chosen so that
// at least 10 sessions per second are ended. The deadline of ctx shortens it:
// the proxy reserves the close timeout plus one second, or half of the
// remaining time if that is less, for the last sessions to end. With neither a
// window nor a deadline, all sessions are ended at once. Sessions that have
// been idle longest are ended first, so that active ones have the most time to
// end by themselves.
//
// Shutdown returns when the last session is over. If ctx ends before that, it
// cuts the remaining sessions and returns an error that wraps that of ctx and
// contains their number. If the process was not running when the deadline of
// ctx passed, the sessions get one more second. [Proxy.Stats] reports the
// progress. Handshakes under way are refused, too. Further calls wait for the
// same end; the first ctx to end cuts the sessions for all of them.
//
// Shutdown also waits for the hooks of [WithOnClose]; the error contains the
// number of those that are still running. If Shutdown is called from a hook, or
// from anything else that the proxy calls in a session's goroutines (the
// logger, a balancing rule, a custom connection), waiting would deadlock: it
// returns an error at once, and continues in the background. It cannot detect a
// hook that waits for another goroutine that calls Shutdown: in that case, pass
// a ctx that ends.
//
// Shutdown does not shut down the [http.Server] that serves the proxy. Call its
// Shutdown as well, or use [ShutdownServer] for both.
func (p *Proxy) Shutdown(ctx context.Context) error {
	sessions, first := p.drain(false)
	if calledBack() {
		go p.finish(ctx, sessions, first)
		return errCalledBack
	}
	return p.finish(ctx, sessions, first)
}

var errCalledBack = errors.New("wsproxy: called from a hook: shutting down in the background")

// finish ends the sessions, if this call is the first, and waits until they are
// over.
func (p *Proxy) finish(ctx context.Context, sessions []*Session, first bool) error {
	if first {
		p.tell(ctx, sessions)
	}
	select {
	case <-p.registry.empty:
		return nil
	default:
	}
	select {
	case <-p.registry.empty:
		return nil
	case <-ctx.Done():
	}
	if overslept(ctx) { // sessions whose peers have already answered end within moments
		late := time.NewTimer(protocol.Grace)
		defer late.Stop()
		select {
		case <-p.registry.empty:
			return nil
		case <-late.C:
		}
	}
	text := fmt.Sprintf("%d sessions cut", p.cutAll())
	left := p.registry.load()
	if left.handshakes > 0 { // all have been told to end: user code blocks them
		text += fmt.Sprintf(", %d still in a handshake", left.handshakes)
	}
	if left.leaving > 0 && len(p.onClose) > 0 { // without hooks they leave immediately
		text += fmt.Sprintf(", %d still in a hook of WithOnClose", left.leaving)
	}
	return fmt.Errorf("wsproxy: %s: %w", text, ctx.Err())
}

// drainRate is the minimum number of sessions per second that are told to end
// if no window is set: a few sessions do not justify a long wait.
const drainRate = 10

// tell ends the sessions, spread over time, until ctx ends.
func (p *Proxy) tell(ctx context.Context, sessions []*Session) {
	window := p.window(len(sessions))
	if deadline, ok := ctx.Deadline(); ok {
		left := time.Until(deadline)
		window = min(window, max(left-p.relay.Policy.Close-time.Second, left/2)) // the rest is reserved for the last ones to end
	} else if p.drainWindow == 0 {
		window = 0
	}
	p.spread(ctx, sessions, max(window, 0), func(s *Session) {
		s.relay.Stop(p.drained, nil)
		p.told(s)
	})
}

// window returns the time over which to end that many sessions if no deadline
// shortens it.
func (p *Proxy) window(sessions int) time.Duration {
	if p.drainWindow > 0 {
		return p.drainWindow
	}
	return time.Duration(sessions) * time.Second / drainRate
}

// longestMove limits the window over which sessions have to leave their member
// if WithDrain sets none.
const longestMove = 30 * time.Second

// drainMembers has the sessions of the members for which leave returns true leave
// them, in the background.
func (p *Proxy) drainMembers(c *protocol.Cause, leave func(*member) bool) {
	stays := func(s *Session) bool {
		m := s.seat.Member()
		return m == nil || !leave(m)
	}
	sessions := slices.DeleteFunc(slices.Collect(p.Sessions()), stays)
	window := p.window(len(sessions))
	if p.drainWindow == 0 {
		window = min(window, longestMove)
	}
	go p.spread(p.life, sessions, window, func(s *Session) {
		if open, _ := s.progress(); open && !stays(s) { // or the member is back
			p.move(s, c)
		}
	})
}

// toldTogether is how much earlier than planned a session may be told to end, if more
// than one is due in that time: waiting for each would cost more than to tell it.
const toldTogether = time.Millisecond

// spread calls tell for each session, evenly spread over the window, until ctx
// ends or all sessions are over.
func (p *Proxy) spread(ctx context.Context, sessions []*Session, window time.Duration, tell func(*Session)) {
	slot := window / time.Duration(max(len(sessions), 1))
	first := 0 // the session that the slots are counted from
	began := time.Now()
	type idler struct {
		*Session
		idle time.Duration // read once, because it changes
	}
	queue := make([]idler, len(sessions))
	for i, s := range sessions {
		queue[i] = idler{s, began.Sub(s.LastActivity())}
	}
	slices.SortFunc(queue, func(a, b idler) int { return cmp.Compare(b.idle, a.idle) })
	began = time.Now()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for i := range queue {
		s := queue[i].Session
		queue[i].Session = nil // the queue may outlive it by minutes
		due := time.Duration(i-first) * slot
		if slot > 0 {
			due += rand.N(slot)
		}
		if wait := due - time.Since(began); wait > toldTogether || wait > 0 && slot > toldTogether {
			timer.Reset(wait)
			select {
			case <-timer.C:
			case <-p.registry.empty:
			case <-ctx.Done():
				if !overslept(ctx) {
					return
				}
			}
			if past := time.Since(began); past-due > protocol.Lateness {
				// The process was not running. Do not end all overdue sessions at
				// once: spread them with the others over the remaining time.
				window = max(window-past, 0)
				began, first, slot = began.Add(past), i, window/time.Duration(len(queue)-i)
			}
		}
		tell(s)
	}
}

// Close refuses new sessions and cuts the open ones: it closes their
// connections without Close frames. It does not wait for running calls of
// ServeHTTP to return. It returns nil.
func (p *Proxy) Close() error {
	p.cutAll()
	return nil
}

// cutAll cuts the remaining sessions and returns their number.
func (p *Proxy) cutAll() int {
	sessions, _ := p.drain(true)
	for _, s := range sessions {
		s.relay.Cut(causeCut, ErrShutdown)
	}
	p.registry.mu.Lock()
	defer p.registry.mu.Unlock()
	p.registry.drain.Cut += len(sessions)
	return len(sessions)
}

// drain stops admitting sessions, ends the handshakes under way, and returns
// the open sessions. first reports whether this is the first call. A session
// whose handshake ends at the same time is returned, or [Proxy.begin] ends it,
// or both.
func (p *Proxy) drain(closing bool) (open []*Session, first bool) {
	first, before := p.registry.shut(closing)
	if before {
		return nil, false
	}
	if first {
		p.endLife()
	}
	for s := range p.registry.all() {
		if isOpen, cancel := s.progress(); isOpen {
			open = append(open, s)
		} else if cancel != nil {
			cancel(ErrShutdown)
		}
	}
	return open, first
}

// shut begins a drain; closing is whether [Proxy.Close] ends it. first reports
// whether it has begun, before whether it was closed before.
func (g *registry) shut(closing bool) (first, before bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed && closing {
		return false, true
	}
	g.closed = g.closed || closing
	if first = !g.draining; first {
		g.draining = true
		g.drain = DrainStats{Began: time.Now(), Total: g.listed}
		g.emptyLocked()
	}
	return first, false
}

// serverShare is the divisor for the time that [ShutdownServer] reserves for
// the server: a tenth.
const serverShare = 10

// ShutdownServer shuts down the proxies that server serves, and then server
// itself. First the proxies drain concurrently while the server still answers:
// new handshakes get 503 with Retry-After, and other requests are served. Then
// the server closes its listeners and waits for its requests. A tenth of the
// time until the deadline of ctx is reserved for the server.
// ([http.Server.RegisterOnShutdown] would not wait for the proxies.)
//
// ShutdownServer returns the errors of [Proxy.Shutdown] and
// [http.Server.Shutdown], joined. After an error of the server, its connections
// may still be open.
//
// If it is called from a hook, it returns an error at once, like
// [Proxy.Shutdown].
func ShutdownServer(ctx context.Context, server *http.Server, proxies ...*Proxy) error {
	if calledBack() {
		go shutdownServer(ctx, server, proxies)
		return errCalledBack
	}
	return shutdownServer(ctx, server, proxies)
}

func shutdownServer(ctx context.Context, server *http.Server, proxies []*Proxy) error {
	drain, cancel := ctx, context.CancelFunc(func() {})
	if deadline, ok := ctx.Deadline(); ok {
		drain, cancel = context.WithDeadline(ctx, deadline.Add(-time.Until(deadline)/serverShare))
	}
	defer cancel()
	results := make(chan error)
	for _, p := range proxies {
		go func() { results <- p.Shutdown(drain) }()
	}
	var errs []error
	for range proxies {
		errs = append(errs, <-results)
	}
	return errors.Join(append(errs, server.Shutdown(ctx))...)
}
