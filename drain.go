package wsproxy

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"time"
)

// Shutdown drains the proxy: it refuses new sessions with 503 and ends the
// running ones by Close 1001 to both sides (another code to clients by
// [WithDrain]), at frame boundaries. They are told one by one, evenly spread
// and slightly jittered, so that their clients don't all come back at the same
// instant: over the window of WithDrain, or else at 10 a second or more. ctx's
// deadline shortens that: the close timeout and a second before it, or half of
// the time before it if that is less, are left for the last ones to end. With
// neither a window nor a deadline they are told all at once. Those that have been idle for longest are told first: one in the
// middle of something gets the most time to end by itself.
//
// It returns when the last session is over; if ctx ends before that, the rest
// is cut, and an error that wraps ctx's says how many were. If the process did not
// run when ctx's deadline passed, the sessions get one more second. [Proxy.Stats]
// tells of the progress. Handshakes under way are refused, too. Further calls wait
// for the same end; the first ctx to end cuts for all of them.
//
// It waits for the hooks of [WithOnClose], too, and the error says how many are
// still running. Called by a hook, or by whatever else the proxy calls in a
// session's own goroutines (the logger, a rule, a connection of the user's), it
// would wait for itself: then it returns an error at once, and the rest goes on in
// the background.
// It can't tell that where a hook waits for another goroutine that calls it:
// give it a ctx that ends.
//
// Shutdown doesn't touch the http.Server that the proxy is mounted in: call its
// Shutdown as well, or [ShutdownServer] for both.
func (p *Proxy) Shutdown(ctx context.Context) error {
	sessions, first := p.drain(false)
	if calledBack() {
		go p.finish(ctx, sessions, first)
		return errCalledBack
	}
	return p.finish(ctx, sessions, first)
}

var errCalledBack = errors.New("wsproxy: called by a hook, which is waited for: shutting down in the background")

// finish has the sessions end, if it is the first to do so, and waits for that.
func (p *Proxy) finish(ctx context.Context, sessions []*Session, first bool) error {
	if first {
		p.tell(ctx, sessions)
	}
	select {
	case <-p.empty:
		return nil
	default:
	}
	select {
	case <-p.empty:
		return nil
	case <-ctx.Done():
	}
	if overslept(ctx) { // sessions whose peers have done their part end within moments
		late := time.NewTimer(grace)
		defer late.Stop()
		select {
		case <-p.empty:
			return nil
		case <-late.C:
		}
	}
	text := fmt.Sprintf("%d sessions cut", p.cutAll())
	p.mu.Lock()
	defer p.mu.Unlock()
	if n := len(p.sessions) - p.opened; n > 0 { // all have been told to end: something of the user's holds them
		text += fmt.Sprintf(", %d still in a handshake", n)
	}
	if p.leaving > 0 && len(p.onClose) > 0 { // without hooks they are about to have left
		text += fmt.Sprintf(", %d still in a hook of WithOnClose", p.leaving)
	}
	return fmt.Errorf("wsproxy: %s: %w", text, ctx.Err())
}

// drainRate is how many sessions a second are told at least, where no window
// is set: few sessions aren't worth a long wait.
const drainRate = 10

// tell has the sessions end, spread over time, until ctx ends.
func (p *Proxy) tell(ctx context.Context, sessions []*Session) {
	window := p.window(len(sessions))
	if deadline, ok := ctx.Deadline(); ok {
		left := time.Until(deadline)
		window = min(window, max(left-p.closeTimeout-time.Second, left/2)) // the rest is for the last ones to end
	} else if p.drainWindow == 0 {
		window = 0
	}
	p.spread(ctx, sessions, max(window, 0), func(s *Session) {
		s.stop(p.drained, nil)
		p.mu.Lock()
		p.stats.drain.Told++
		p.mu.Unlock()
	})
}

// window is how long it takes to tell so many sessions, if there is time.
func (p *Proxy) window(sessions int) time.Duration {
	if p.drainWindow > 0 {
		return p.drainWindow
	}
	return time.Duration(sessions) * time.Second / drainRate
}

// longestMove is the window in which sessions are told to end that have to
// leave their member, where the user has set none.
const longestMove = 30 * time.Second

// drainMembers has the sessions end whose members are to be left, in the
// background.
func (p *Proxy) drainMembers(c *cause, leave func(*member) bool) {
	stays := func(s *Session) bool { return s.member == nil || !leave(s.member) }
	sessions := p.listed()
	p.mu.Lock()
	sessions = slices.DeleteFunc(sessions, stays)
	p.mu.Unlock()
	window := p.window(len(sessions))
	if p.drainWindow == 0 {
		window = min(window, longestMove)
	}
	go p.spread(p.life, sessions, window, func(s *Session) {
		p.mu.Lock()
		changed := !s.open || stays(s) // or the member is back
		p.mu.Unlock()
		if !changed {
			s.stop(c, nil)
		}
	})
}

// spread calls tell for each of the sessions, evenly spread over the window,
// until ctx ends or all sessions are over.
func (p *Proxy) spread(ctx context.Context, sessions []*Session, window time.Duration, tell func(*Session)) {
	slot := window / time.Duration(max(len(sessions), 1))
	first := 0                                            // the session that the slots are counted from
	active := make(map[*Session]time.Time, len(sessions)) // it changes
	for _, s := range sessions {
		active[s] = s.LastActivity()
	}
	slices.SortFunc(sessions, func(a, b *Session) int { return active[a].Compare(active[b]) })
	began := time.Now()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for i, s := range sessions {
		due := time.Duration(i-first) * slot
		if slot > 0 {
			due += rand.N(slot)
		}
		if wait := due - time.Since(began); wait > 0 {
			timer.Reset(wait)
			select {
			case <-timer.C:
			case <-p.empty:
			case <-ctx.Done():
				if !overslept(ctx) {
					return
				}
			}
			if past := time.Since(began); past-due > lateness {
				// The process hasn't run. Whose turn it would have been is not
				// told all at once, but with the others in the time that is left,
				// if any is.
				window = max(window-past, 0)
				began, first, slot = began.Add(past), i, window/time.Duration(len(sessions)-i)
			}
		}
		tell(s)
	}
}

// Close refuses new sessions and cuts the running ones: their connections
// are closed with no Close frames. It doesn't wait for ServeHTTP to return
// where it is running, and returns nil.
func (p *Proxy) Close() error {
	p.cutAll()
	return nil
}

// cutAll cuts what is left, and returns how many sessions that was.
func (p *Proxy) cutAll() int {
	sessions, _ := p.drain(true)
	for _, s := range sessions {
		s.cut(causeCut, ErrShutdown)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.stats.drain.Cut += len(sessions)
	return len(sessions)
}

// drain lets no more sessions in, ends the handshakes under way, and returns
// the open sessions. first says that nobody has called it before.
func (p *Proxy) drain(closing bool) (open []*Session, first bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed && closing {
		return nil, false
	}
	p.closed = p.closed || closing
	if first = !p.draining; first {
		p.draining = true
		p.endLife()
		p.stats.drain = DrainStats{Began: time.Now(), Total: p.opened}
		p.emptyLocked()
	}
	for s := range p.sessions {
		if s.open {
			open = append(open, s)
		} else if s.cancel != nil {
			s.cancel(ErrShutdown)
		}
	}
	return open, first
}

// serverShare is the part of the time that [ShutdownServer] keeps for the
// server.
const serverShare = 10

// ShutdownServer shuts a server down and the proxies that are mounted in it, in
// the order that loses least: first the proxies drain, all at the same time,
// while the server still answers (new handshakes get 503 and Retry-After, and
// other requests are served), and then the server closes its listeners and
// waits for its requests. [http.Server.RegisterOnShutdown] wouldn't wait for
// the proxies. A tenth of the time that ctx leaves is kept for the server.
//
// The errors are joined: those of [Proxy.Shutdown] and [http.Server.Shutdown].
// After an error of the server's, its connections may still be open.
//
// Called by a hook, it returns an error at once, as [Proxy.Shutdown] does.
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
