// Package wsproxy is a reverse proxy for WebSockets that is an
// [http.Handler]: mount it on a route of a server you already have.
//
//	proxy, err := wsproxy.New("http://127.0.0.1:9000")
//	if err != nil {
//		log.Fatal(err)
//	}
//	mux := http.NewServeMux()
//	mux.Handle("/websocket", proxy)
//	log.Fatal(http.ListenAndServe(":8080", mux))
//
// It does the opening handshake with both sides, as strictly as RFC 6455 has
// it, and then relays frames. It reads the frames' headers and never touches
// their payloads: what a client and an upstream have agreed on (subprotocols,
// compression, fragmentation, pings of their own) passes as it is.
//
// # Keep-alive
//
// A peer that has been silent for 25 s is sent a Ping, on either side, and is
// given up 10 s later if nothing comes from it; the other side then gets a
// Close frame that says so ([WithPing]). Pongs to these Pings stay in the
// proxy; pings between the applications pass through. Silence of the
// application itself ends a session only if [WithIdleTimeout] is set.
//
// # Close codes
//
// A Close frame passes as it is, code and reason. Where a side goes without
// one, the proxy writes it, between two frames of what it relays:
//
//	                               client gets    upstream gets
//	upstream lost                  1011           -
//	client lost                    -              1001
//	client breaks the protocol     1002           1001
//	upstream breaks the protocol   1011           1002
//	idle, Shutdown, context ended  1001           1001
//
// If a frame is only part-written and its rest doesn't come, no Close frame
// is possible and the connection is closed without.
//
// # Shutdown
//
// [http.Server.Shutdown] knows nothing of WebSockets. Call [Proxy.Shutdown]
// as well: it refuses new sessions and ends the running ones, all at once.
//
// # Security
//
// Only pages of the same origin may open a WebSocket, unless [WithOrigins]
// names more. Forwarding header fields are believed from
// [WithTrustedProxies] only. The target comes from [New], never from the
// request. Logs and errors hold no query strings and no header values; log
// records name the request's path.
//
// Fields by which middleware tells the upstream who is there are safe from
// the client only if they are set in [WithRewrite]. Of the fields that
// clients can forge, X-Forwarded-*, Forwarded and X-Real-Ip are replaced;
// others that an upstream may believe (X-Client-Ip, True-Client-Ip) are not.
//
// A client's frames go on to the upstream with the masking keys that the
// client chose, and text is not checked for being UTF-8: both are between
// the client and the upstream.
//
// # Limits
//
// WebSockets over HTTP/2 and HTTP/3 (RFC 8441, RFC 9220) are not supported:
// they are answered 405 or 501. Sessions, message sizes and message rates
// are not limited. How long a client may take to send its handshake is the
// http.Server's to limit (ReadHeaderTimeout). A session takes two file
// descriptors, and on Linux two more for each direction in which a long
// frame is stuck.
package wsproxy

import (
	"cmp"
	"context"
	"log"
	"log/slog"
	"net"
	"net/http"
	"runtime/debug"
	"strings"
	"sync"
	"time"
)

// A Proxy relays WebSockets to an upstream. It is an [http.Handler]; make it
// with [New]. Its methods may be called by many goroutines at once.
//
// The goroutine in which ServeHTTP is called owns the session: when ServeHTTP
// returns, both connections are closed and nothing that it started still
// runs. With [WithDetach] that holds when the session is over.
type Proxy struct {
	*config

	mu       sync.Mutex
	visits   map[*visit]struct{} // guarded by mu
	draining bool                // guarded by mu
	closed   bool                // guarded by mu
	empty    chan struct{}       // closed when draining and visits is empty
}

// A visit is one client, from the check of its handshake to the end of its
// session.
type visit struct {
	cancel  context.CancelCauseFunc // ends the handshake; nil after the 101
	session *session                // guarded by Proxy.mu; nil before the 101
}

// New makes a proxy for the upstream at target: an http, https, ws or wss
// URL, or unix:/path/to/socket. The target's path and query go before those
// of each request, as with [httputil.ProxyRequest.SetURL].
//
// All mistakes in the arguments are returned at once: each an [*OptionError],
// joined by [errors.Join].
func New(target string, options ...Option) (*Proxy, error) {
	c, err := newConfig(target, options)
	if err != nil {
		return nil, err
	}
	return &Proxy{config: c, visits: make(map[*visit]struct{}), empty: make(chan struct{})}, nil
}

// ServeHTTP does the handshake with the upstream and then with the client,
// and relays the session to its end (with [WithDetach], in the background).
//
// A request that is no WebSocket handshake is refused, and nothing is
// dialled for it: 405, 426, 431 or 400 by what is wrong with it, 403 for a
// forbidden origin, 501 where the connection can't be taken over, 503 after
// [Proxy.Shutdown]. An upstream that can't be reached or answers nonsense
// makes 502, one that doesn't answer in time 504; this machine's want of
// descriptors or ports makes 503, a hook that panics 500, and a request
// context that ends 504 or, if it is cancelled, 499. An answer other than 101
// is relayed, its body up to 64 KiB and for up to 10 s. In every such case
// the client's connection is closed after the answer.
func (p *Proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	ctx, v, err := p.admit(r)
	if err != nil {
		p.fail(w, r, err)
		return
	}
	detached := false
	defer func() {
		if !detached {
			p.leave(v)
		}
	}()
	if err := checkHandshake(w, r); err != nil {
		p.fail(w, r, err)
		return
	}
	if err := p.checkOrigin(r); err != nil {
		p.fail(w, r, err)
		return
	}
	up, to, err := p.dial(ctx, r)
	if err != nil {
		p.fail(w, r, err)
		return
	}
	if up.refusal != nil {
		p.logRefusal(r, up.refusal)
		p.relayRefusal(w, up.refusal)
		return
	}
	client, early, err := p.accept(w, r, up)
	if err != nil {
		p.fail(w, r, err)
		return
	}
	s := newSession([2]net.Conn{client, up.conn}, [2][]byte{early, up.early}, up.rsvMessage, up.rsvAny, p.policy.jittered(), p.closeTimeout)
	p.begin(v, s)
	id := identity{ctx: r.Context(), client: p.clientAddr(r), upstream: to.Scheme + "://" + to.Host,
		path: strings.Clone(clip(r.URL.Path))} // not with all of the request line that it is part of
	if p.detach {
		detached = true
		id.ctx = context.Background() // a request's holds on to half a kilobyte
		s.detach(func() { p.reportDetached(v, s, id) })
		return
	}
	stop := context.AfterFunc(r.Context(), func() { s.stop(causeCancelled, context.Cause(r.Context())) })
	defer stop()
	s.run()
	p.report(s, id)
}

// reportDetached ends a visit outside of ServeHTTP, where nobody else would
// catch a panic of the logger's.
func (p *Proxy) reportDetached(v *visit, s *session, id identity) {
	defer p.leave(v)
	defer func() {
		if v := recover(); v != nil {
			log.Printf("wsproxy: panic in the logger: %v\n%s", v, debug.Stack())
		}
	}()
	p.report(s, id)
}

// Shutdown refuses new sessions with 503 and ends the running ones, with
// Close 1001 to both sides, at frame boundaries. It returns when the last
// one is over: within the close timeout, or later where a slow peer is given
// more time ([WithCloseTimeout]). If ctx ends first, the rest is cut and
// ctx's error returned. Handshakes under way are refused, too.
//
// Shutdown doesn't touch the http.Server that the proxy is mounted in; call
// its Shutdown as well.
func (p *Proxy) Shutdown(ctx context.Context) error {
	for _, v := range p.drain(false) {
		if v.session != nil {
			v.session.stop(causeDrained, nil)
		}
	}
	select {
	case <-p.empty:
		return nil
	case <-ctx.Done():
		p.Close()
		return ctx.Err()
	}
}

// Close refuses new sessions and cuts the running ones: their connections
// are closed with no Close frames. It doesn't wait for ServeHTTP to return
// where it is running, and returns nil.
func (p *Proxy) Close() error {
	for _, v := range p.drain(true) {
		if v.session != nil {
			v.session.cut(causeCut, ErrShutdown)
		}
	}
	return nil
}

// admit enters a visit, or refuses it.
func (p *Proxy) admit(r *http.Request) (context.Context, *visit, *Error) {
	ctx, cancel := context.WithCancelCause(r.Context())
	v := &visit{cancel: cancel}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.draining {
		cancel(nil)
		return nil, nil, &Error{Op: "handshake", Side: neither, Status: http.StatusServiceUnavailable, Err: ErrShutdown}
	}
	p.visits[v] = struct{}{}
	return ctx, v, nil
}

// begin notes that a visit's session has begun.
func (p *Proxy) begin(v *visit, s *session) {
	v.cancel(nil) // of no use to a session, which would keep it all its life
	p.mu.Lock()
	v.session, v.cancel = s, nil
	draining, closed := p.draining, p.closed
	p.mu.Unlock()
	switch { // Close or Shutdown has passed by while we were answering
	case closed:
		s.cut(causeCut, ErrShutdown)
	case draining:
		s.stop(causeDrained, nil)
	}
}

// leave ends a visit.
func (p *Proxy) leave(v *visit) {
	if v.cancel != nil {
		v.cancel(nil)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.visits, v)
	if p.draining && len(p.visits) == 0 {
		close(p.empty)
	}
}

// drain lets no more visits in, ends the handshakes under way, and returns
// a copy of all visits.
func (p *Proxy) drain(closing bool) []visit {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = p.closed || closing
	if !p.draining {
		p.draining = true
		if len(p.visits) == 0 {
			close(p.empty)
		}
	}
	visits := make([]visit, 0, len(p.visits))
	for v := range p.visits {
		visits = append(visits, *v)
		if v.session == nil {
			v.cancel(ErrShutdown)
		}
	}
	return visits
}

// fail logs a handshake that came to nothing, and answers the client.
func (p *Proxy) fail(w http.ResponseWriter, r *http.Request, e *Error) {
	p.logger.LogAttrs(r.Context(), slog.LevelWarn, "wsproxy: handshake failed",
		slog.String("client", p.clientAddr(r)),
		slog.String("path", clip(r.URL.Path)),
		slog.Int("status", cmp.Or(e.Status, statusClientLeft)),
		slog.String("side", e.Side.String()),
		slog.String("op", e.Op),
		slog.String("kind", e.Kind()),
		slog.String("error", e.Err.Error()))
	p.refuse(w, r, e)
}

// clip keeps a path, which may be a megabyte long, from filling logs.
func clip(path string) string {
	const most = 200
	if len(path) > most {
		return path[:most] + "…"
	}
	return path
}

func (p *Proxy) logRefusal(r *http.Request, f *upstreamRefusal) {
	attrs := []slog.Attr{
		slog.String("client", p.clientAddr(r)),
		slog.String("path", clip(r.URL.Path)),
		slog.Int("status", f.status),
		slog.String("side", Upstream.String()),
		slog.String("op", "answer"),
	}
	if f.cut != nil {
		attrs = append(attrs, slog.String("error", "body cut short: "+f.cut.Error()))
	}
	p.logger.LogAttrs(r.Context(), slog.LevelWarn, "wsproxy: handshake refused by the upstream", attrs...)
}

// An identity is what a session's log record says of who took part. The
// request itself isn't kept for it: a detached session would hold it all.
type identity struct {
	ctx                    context.Context
	client, upstream, path string
}

// report logs a session that is over.
func (p *Proxy) report(s *session, id identity) {
	e := &s.ending
	attrs := []slog.Attr{
		slog.String("client", id.client),
		slog.String("upstream", id.upstream),
		slog.String("path", id.path),
		slog.Duration("duration", s.now().Round(time.Millisecond)),
		slog.String("by", e.cause.by.String()),
		slog.String("reason", e.cause.name),
		slog.Int("code", int(e.code)),
		countsAttr("from_client", &s.pumps[Client].count),
		countsAttr("from_upstream", &s.pumps[Upstream].count),
	}
	if e.err != nil {
		attrs = append(attrs, slog.String("error", e.err.Error()))
	}
	p.logger.LogAttrs(id.ctx, slog.LevelInfo, "wsproxy: session ended", attrs...)
}

func countsAttr(key string, c *counts) slog.Attr {
	return slog.GroupAttrs(key, slog.Uint64("frames", c.frames), slog.Uint64("messages", c.messages), slog.Uint64("bytes", c.bytes))
}
