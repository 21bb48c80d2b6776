// Package wsproxy implements a WebSocket reverse proxy as an [http.Handler]:
// mount it on a route of an existing server.
//
//	proxy, err := wsproxy.New("http://127.0.0.1:9000")
//	if err != nil {
//		log.Fatal(err)
//	}
//	mux := http.NewServeMux()
//	mux.Handle("/websocket", proxy)
//	log.Fatal(http.ListenAndServe(":8080", mux))
//
// The proxy performs the opening handshake with both sides and then relays
// frames. It accepts handshakes with harmless irregularities and forwards them
// in normal form; it refuses those that could do harm. It reads frame headers
// and leaves payloads untouched: whatever client and upstream negotiate
// (subprotocols, compression, fragmentation, their own pings) passes unchanged.
//
// # Keep-alive
//
// A peer that has been silent for 25 s is sent a Ping, on either side, and is
// dropped 35 s later if it sends nothing; the other side then receives a Close
// frame that says so ([WithPing]). A peer that has never answered a Ping is
// dropped only if its machine also stops acknowledging data. The proxy does not
// forward the Pongs that answer its own Pings; it relays the pings of the
// applications. Application silence ends a session only if [WithIdleTimeout] is
// set.
//
// # Ordinary HTTP
//
// A request that does not ask for a WebSocket is refused, or goes to another
// handler on the same route ([WithFallback]).
//
// # Close codes
//
// The proxy relays a Close frame unchanged, with its code and reason. If a
// session ends otherwise, the proxy sends the Close frames itself, between two
// relayed frames:
//
//	                                client gets    upstream gets
//	upstream lost                   1011 or other  -
//	client lost                     -              1001
//	client breaks the protocol      1002           1001
//	upstream breaks the protocol    1011           1002
//	idle, max age, context ended    1001           1001
//	Shutdown                        1001 or other  1001
//	upstream removed or down        1012           1001
//	panic in a connection or hook   1011           1001
//	Session.Close, SetExpiry        as given       1001
//	client over size, rate limit    1009, 1008     1001
//	upstream over size, rate limit  1001           1009, 1008
//	client's text is not UTF-8      1007           1001
//	upstream's text is not UTF-8    1011           1007
//	hook refuses a client's message 1008           1001
//	hook refuses an upstream's      1001           1008
//	CloseError of a hook            as given       1001
//
// If the rest of a partly written frame never arrives, the proxy cannot send a
// Close frame and closes the connection without one.
//
// # Shutdown
//
// [http.Server.Shutdown] neither closes WebSockets nor waits for them.
// [Proxy.Shutdown] refuses new sessions and ends the open ones, spread over
// time ([WithDrain]). [ShutdownServer] does both.
//
// # Several upstreams
//
// [WithUpstreams] balances sessions over several upstreams, by their number of
// sessions or another rule ([WithBalance]). The proxy backs off from upstreams
// whose handshakes fail. If a handshake fails before the request was sent, the
// proxy retries it with another upstream. The set can be changed at any time
// ([Proxy.SetUpstreams], [WithSource]). With [WithResume], a client stays
// connected when its upstream is lost or restarts, and goes on with another one.
//
// # Sessions
//
// [Proxy.Sessions] lists the open sessions. [WithOnOpen] and [WithOnClose] set
// hooks for the start and the end of a session. [Proxy.Stats] returns counters.
// A [Session] can be ended at any time or given an expiry ([Session.Close],
// [Session.SetExpiry]).
//
// # Whole messages
//
// By default the proxy does not look into messages. [WithOnMessage] shows them,
// whole and without compression, to hooks that may change them, drop them, or end the
// session. [WithCompression] has the proxy negotiate compression with each side on
// its own. Only then it checks that text is valid UTF-8, masks messages anew, and
// holds whole messages in memory.
//
// # Security
//
// Only pages of the same origin may open a WebSocket, unless [WithOrigins]
// allows more. The proxy trusts forwarding header fields only from
// [WithTrustedProxies] and [WithTrustedUnixSockets]; behind middleware that
// replaces a request's RemoteAddr, set [ConnContext]. The target comes from
// [New], never from the request. Logs and errors contain no query strings and
// no header values except a refused origin; log records contain the request's
// path.
//
// Header fields that identify the user to the upstream must be set in
// [WithRewrite] or [WithOnOpen]; if middleware sets them earlier, clients can
// remove them. Of the fields that clients can forge, the proxy replaces
// X-Forwarded-*, Forwarded and X-Real-Ip; it does not replace others that an
// upstream may trust (X-Client-Ip, True-Client-Ip).
//
// Unless it handles whole messages, the proxy forwards a client's frames with the
// masking keys that the client chose, and does not check that text is valid UTF-8. Both are between the
// client and the upstream.
//
// # Limits
//
// WebSockets over HTTP/2 and HTTP/3 (RFC 8441, RFC 9220) are not supported; the
// proxy answers 405 or 501. By default there is no limit on the number and age
// of sessions, or on the size and rate of messages. To set limits, use
// [WithMaxSessions], [WithMaxSessionsPerClient], [WithMaxHandshakes],
// [WithMaxAge], [WithMaxMessageSize], [WithMaxFrameSize] and [WithRateLimit].
// The [http.Server] limits how long a client may take to send its handshake
// (ReadHeaderTimeout). A session takes two file descriptors, and on Linux two
// more for each direction in which a long frame is stuck. While a rate limit
// slows a session down, the session holds a buffer of 32 KiB.
package wsproxy

import (
	"context"
	"net"
	"net/http"

	"github.com/seed-ffb73231/wsproxy/internal/frame"
	"github.com/seed-ffb73231/wsproxy/internal/message"
	"github.com/seed-ffb73231/wsproxy/internal/pool"
	"github.com/seed-ffb73231/wsproxy/internal/protocol"
	"github.com/seed-ffb73231/wsproxy/internal/relay"
)

// A Proxy relays WebSockets to an upstream. It is an [http.Handler]. Create one
// with [New]. Its methods are safe for concurrent use.
//
// The goroutine that calls ServeHTTP owns the session: when ServeHTTP returns,
// both connections are closed and everything it started has ended. With
// [WithDetach] the same holds when the session is over.
//
// On Linux (amd64, arm64), one event loop carries the sessions whose connections, to
// the client and to the upstream, are of the net package's own types (TCP or unix
// sockets), unless they have messages ([WithOnMessage], for example) or a rate limit,
// closing a connection may wait ([net.TCPConn.SetLinger]), or they are in a
// [testing/synctest] bubble. It takes less CPU for small messages than two goroutines
// for each session, which all others have. The proxy takes these connections over:
// what else holds such a [net.Conn], for example [http.Server.ConnContext] or the
// function of [WithDialContext], finds it closed. TLS to the client needs the listener
// of [NewListener] for that. No hook, logger or other user code runs in the loop.
type Proxy struct {
	*config

	drained *protocol.Cause // the cause for sessions that Shutdown ends
	life    context.Context // ends with Shutdown or Close
	endLife context.CancelFunc

	registry registry
	stats    stats
	tapped   tapped

	pool     *pool.Pool[endpoint]
	memories *memories     // the source's earlier answers
	resuming chan struct{} // has an element for each session that dials again, if their number is limited
}

// New returns a proxy for the upstream at target: an http, https, ws or wss
// URL, or unix:/path/to/socket. The target is "" if [WithUpstreams] or
// [WithSource] names the upstreams. A host name with non-ASCII characters is
// resolved, verified and sent as its A-label (RFC 5890).
//
// The target's path and query are put before those of each request. The proxy
// sends the request's path and query byte for byte as the client sent them, or
// as middleware left them; it escapes only "#". It joins two paths with one
// slash; an empty path, which [http.StripPrefix] may leave, adds nothing. The
// target's path does not confine clients: dot segments in a request's path are
// not removed.
//
// New reports all mistakes in its arguments at once. Each is an [*OptionError];
// they are joined by [errors.Join].
func New(target string, options ...Option) (*Proxy, error) {
	c, err := newConfig(target, options)
	if err != nil {
		return nil, err
	}
	p := &Proxy{
		config:   c,
		drained:  protocol.CauseFor(string(ReasonDrained), frame.Code(c.drainCode), "shutting down"),
		registry: newRegistry(c),
		memories: &memories{sources: make(map[*byte]map[memberKey]memory)},
		stats:    newStats(),
	}
	p.relay.Totals = p.stats.totals
	if c.maxHandshakes > 0 {
		p.resuming = make(chan struct{}, c.maxHandshakes)
	}
	p.life, p.endLife = context.WithCancel(context.Background())
	p.pool = pool.New[endpoint](pool.Config{Rule: c.balance.rule, Retry: c.retryShare, Doubts: c.doubtsNeeded, Life: p.life})
	if len(c.first) > 0 {
		p.setMembers(c.first)
		c.first = nil
	}
	if c.source != nil {
		if err := p.firstMembers(); err != nil {
			p.endLife()
			return nil, err
		}
		go p.follow()
	}
	return p, nil
}

// ServeHTTP performs the handshake with the upstream and then with the client,
// and relays the session until it ends. With [WithDetach] it returns after the
// 101, and the session continues in the background.
//
// A request that does not ask for a WebSocket goes to the handler of
// [WithFallback], if there is one. If any other request does not become a
// session, the proxy answers the client and then closes the connection:
//
//   - 400, 405, 417, 426, 431: the request is not a valid WebSocket handshake
//   - 403: the page's origin is not allowed, or a hook of [WithOnOpen] refused and
//     gave no other status
//   - 429, 503: a limit on the number of sessions or handshakes is reached
//   - 499, 504: the request's context was cancelled, or its deadline passed
//   - 500: a hook panicked
//   - 501: the connection cannot be hijacked
//   - 502: the upstream cannot be reached, or its answer is invalid
//   - 503: the proxy is shutting down, no member has room, or this machine is out
//     of descriptors or ports
//   - 504: the upstream did not answer in time
//   - 508: the request has passed this proxy before ([WithVia])
//
// The proxy does not dial for a request that it refuses itself. If the upstream
// gives an answer other than 101, the proxy relays it unchanged, with a body of
// up to 64 KiB and for up to 10 s.
func (p *Proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if p.fallback != nil && !asksForWebSocket(r) {
		p.fallback.ServeHTTP(w, withoutUpgrade(r))
		return
	}
	p.serve(w, r)
}

// serve is ServeHTTP for a request that is to become a session: it admits the
// session, opens it, relays it, and reports how it ended.
func (p *Proxy) serve(w http.ResponseWriter, r *http.Request) {
	ctx, s, err := p.admit(r)
	if err != nil {
		p.fail(w, r, err)
		return
	}
	detached := false
	defer func() {
		if !detached {
			p.leave(s)
		}
	}()
	over, err := p.open(ctx, s, w, r)
	if err != nil {
		err.id = s.id
		s.decide(err)
		p.fail(w, r, err)
		return
	}
	requested := r.Context()
	// The session runs even if the logger or a hook ends this goroutine
	// (runtime.Goexit).
	if p.detach {
		detached = true
		defer s.relay.Detach()
		p.logOpened(requested, s)
		return
	}
	cancelled := context.AfterFunc(requested, func() { s.relay.Stop(causeCancelled, context.Cause(requested)) })
	defer cancelled()
	defer func() {
		<-over
		p.end(requested, s)
	}()
	defer s.relay.Run()
	p.logOpened(requested, s)
}

// open performs the handshake: it checks the client's request, dials a member,
// and accepts the client. over is closed when the session is over; nil: detached.
func (p *Proxy) open(ctx context.Context, s *Session, w http.ResponseWriter, r *http.Request) (over chan struct{}, e *Error) {
	asked, err := checkHandshake(w, r)
	if err != nil {
		return nil, err
	}
	if err := p.checkLoop(r); err != nil {
		return nil, err
	}
	if err := p.checkOrigin(r); err != nil {
		return nil, err
	}
	stop := func() bool { return true }
	if len(p.onOpen) > 0 { // hooks may retain the session and wait for its end
		stop = context.AfterFunc(ctx, func() { s.decide(handshakeEnded(ctx)) })
		defer stop()
	}
	shown, err := p.callOnOpen(ctx, s, r)
	if err != nil {
		return nil, err
	}
	up, to, err := p.reach(ctx, p.handshakeTimeout, s, shown, asked)
	if err != nil {
		return nil, err
	}
	if err := p.callRewriteAnswer(shown, up); err != nil {
		return nil, err
	}
	if up.refusal != nil {
		err := p.relayRefusal(ctx, w, up.refusal)
		err.Upstream = to
		return nil, err
	}
	if !stop() {
		up.conn.Close()
		return nil, handshakeEnded(ctx)
	}
	p.list(s, to, up.subprotocol)
	about := context.Background() // the request's context would be retained
	if !p.detach {
		about = r.Context()
	}
	stage, rsvMessage := p.stageFor(about, s, asked, up)
	client, early, err := p.accept(ctx, w, asked.key, up)
	if err != nil {
		return nil, err
	}
	var host relay.Host = (*sessionHost)(s)
	if !p.detach {
		over = make(chan struct{})
		host = waitingHost{(*sessionHost)(s), over}
	}
	if p.resume != nil {
		s.keepHandshake(shown, asked, stage.(*message.Stage))
	}
	s.relay.Join(&p.relay, host, s.id, [2]net.Conn{client, up.conn}, [2][]byte{early, up.early}, rsvMessage, [2]byte{up.rsvAny, up.rsvAny}, stage)
	p.begin(s)
	return over, nil
}

// end records that a session is over. The log record and the hooks come after
// that, so that user code finds the session gone and cannot wait for it.
func (p *Proxy) end(ctx context.Context, s *Session) {
	p.remove(s)
	s.decide(nil)
	p.logEnded(ctx, s)
}

// endDetached is end for a detached session.
func (p *Proxy) endDetached(s *Session) {
	defer p.leave(s)
	p.end(context.Background(), s) // the request's context would retain half a kilobyte
}

// fail reports a failed handshake and answers the client, unless the upstream's
// refusal was its answer.
func (p *Proxy) fail(w http.ResponseWriter, r *http.Request, e *Error) {
	p.report(r, e)
	switch e.relayed {
	case relayedNot:
		p.refuse(w, r, e)
	case relayedPart: // abort the connection, so that the client notices
		panic(http.ErrAbortHandler)
	}
}
