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
// It does the opening handshake with both sides, and then relays frames. What
// is only untidy in a handshake is accepted and passed on tidy; what could do harm
// is refused. The proxy reads the frames' headers and never touches
// their payloads: what a client and an upstream have agreed on (subprotocols,
// compression, fragmentation, pings of their own) passes as it is.
//
// # Keep-alive
//
// A peer that has been silent for 25 s is sent a Ping, on either side, and is
// given up 35 s later if nothing comes from it; the other side then gets a
// Close frame that says so ([WithPing]). A peer that has never answered a Ping
// is given up only if its machine acknowledges nothing either. Pongs to these
// Pings stay in the proxy; pings between the applications pass through. Silence
// of the application itself ends a session only if [WithIdleTimeout] is set.
//
// # Ordinary HTTP
//
// A request that does not ask for a WebSocket is refused, or goes to another
// handler on the same route ([WithFallback]).
//
// # Close codes
//
// A Close frame passes as it is, code and reason. Where a side goes without
// one, the proxy writes it, between two frames of what it relays:
//
//	                                client gets    upstream gets
//	upstream lost                   1011           -
//	client lost                     -              1001
//	client breaks the protocol      1002           1001
//	upstream breaks the protocol    1011           1002
//	idle, too old, context ended    1001           1001
//	Shutdown                        1001 or other  1001
//	its upstream removed, or down   1012           1001
//	a panic in a connection         1011           1001
//	ended by the user (Session)     as given       1001
//	too big, too fast: client       1009, 1008     1001
//	too big, too fast: upstream     1001           1009, 1008
//
// If a frame is only part-written and its rest doesn't come, no Close frame
// is possible and the connection is closed without.
//
// # Shutdown
//
// [http.Server.Shutdown] knows nothing of WebSockets. [Proxy.Shutdown] refuses
// new sessions and ends the running ones, spread over time ([WithDrain]);
// [ShutdownServer] does both.
//
// # Several upstreams
//
// [WithUpstreams] balances over several, by the number of their sessions or
// another rule ([WithBalance]), and leaves alone those with which handshakes
// fail; what fails before an upstream was asked is tried with another. The set
// can be changed at any time ([Proxy.SetUpstreams], [WithSource]).
//
// # Sessions
//
// [Proxy.Sessions] lists what is open, [WithOnOpen] and [WithOnClose] hook into
// a session's begin and end, and [Proxy.Stats] counts. A [Session] can be ended
// at any time, or given an end ([Session.Close], [Session.SetExpiry]).
//
// # Security
//
// Only pages of the same origin may open a WebSocket, unless [WithOrigins]
// names more. Forwarding header fields are believed from
// [WithTrustedProxies] and [WithTrustedUnixSockets] only; behind middleware that
// replaces a request's RemoteAddr, set [ConnContext]. The target comes from
// [New], never from the request. Logs and errors hold no query strings and no
// header values but a refused origin; log records name the request's path.
//
// Fields by which middleware tells the upstream who is there are safe from
// the client only if they are set in [WithRewrite] or [WithOnOpen]. Of the fields that
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
// they are answered 405 or 501. Nothing limits how many sessions there are,
// how long they last, and how large or many their messages are, unless an
// option does: [WithMaxSessions], [WithMaxSessionsPerClient],
// [WithMaxHandshakes], [WithMaxAge], [WithMaxMessageSize], [WithMaxFrameSize],
// [WithRateLimit]. How long a client may take to send its handshake is the
// http.Server's to limit (ReadHeaderTimeout). A session takes two file
// descriptors, and on Linux two more for each direction in which a long
// frame is stuck. One that is slowed down by a rate limit keeps a buffer of
// 32 KiB for as long.
package wsproxy

import (
	"context"
	"net"
	"net/http"
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

	drained *cause          // what ends sessions in a Shutdown
	life    context.Context // ends with Shutdown or Close
	endLife context.CancelFunc

	mu        sync.Mutex
	sessions  map[*Session]struct{} // guarded by mu; handshakes under way included
	perClient map[string]int        // guarded by mu; how many of them each client has
	opened    int                   // guarded by mu; how many of them are listed
	leaving   int                   // guarded by mu; sessions that are over but for their records and hooks
	lastID    uint64                // guarded by mu
	draining  bool                  // guarded by mu
	closed    bool                  // guarded by mu
	upstreams upstreams             // guarded by mu
	empty     chan struct{}         // closed when draining, sessions is empty and nobody is leaving
	memories  *memories             // set when made; of the source's answers
	stats     stats
}

// New makes a proxy for the upstream at target: an http, https, ws or wss
// URL, or unix:/path/to/socket; "" where [WithUpstreams] or [WithSource] names
// the upstreams. A host beyond ASCII is looked up, verified and sent as its
// A-label (RFC 5890).
//
// The target's path and query go before those of each request. The request's
// path and query are sent as the bytes that the client has sent, or that
// middleware has left of them; only a "#" is escaped. Two paths are joined by
// one slash; an empty path, which [http.StripPrefix] may leave, adds nothing. The
// target's path is no fence: dot segments in a request's path pass as they are.
//
// All mistakes in the arguments are returned at once: each an [*OptionError],
// joined by [errors.Join].
func New(target string, options ...Option) (*Proxy, error) {
	c, err := newConfig(target, options)
	if err != nil {
		return nil, err
	}
	p := &Proxy{
		config:    c,
		drained:   causeFor(ReasonDrained, c.drainCode, "shutting down"),
		sessions:  make(map[*Session]struct{}),
		perClient: make(map[string]int),
		empty:     make(chan struct{}),
		upstreams: upstreams{known: make(map[string]*member), began: time.Now(), retries: mostRetries},
		memories:  &memories{sources: make(map[*byte]map[memberKey]memory)},
		stats:     newStats(),
	}
	p.life, p.endLife = context.WithCancel(context.Background())
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

// ServeHTTP does the handshake with the upstream and then with the client, and
// relays the session to its end. With [WithDetach] it returns after the 101, and
// the session goes on in the background.
//
// A request that does not ask for a WebSocket goes to the handler of
// [WithFallback], if there is one. In all other cases without a session, the
// client is answered, and its connection is closed after that:
//
//   - 400, 405, 417, 426, 431: the request is no good WebSocket handshake
//   - 403: the page's origin is not allowed, or a hook of [WithOnOpen] refuses and
//     names no other status
//   - 429, 503: there are as many sessions as may be
//   - 499, 504: the request's context was cancelled, or its time is up
//   - 500: a hook panics
//   - 501: the connection can't be taken over
//   - 502: the upstream can't be reached, or its answer is bad
//   - 503: the proxy is shutting down, no member has room, or this machine is out
//     of descriptors or ports
//   - 504: the upstream does not answer in time
//   - 508: the request has passed this proxy before ([WithVia])
//
// Nothing is dialled for a request that the proxy itself refuses. An answer of
// the upstream's other than 101 is relayed as it comes, its body up to 64 KiB and
// for up to 10 s.
func (p *Proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if p.fallback != nil && !asksForWebSocket(r) {
		p.fallback.ServeHTTP(w, withoutUpgrade(r))
		return
	}
	p.serve(w, r)
}

// serve is ServeHTTP of a request that is to become a session.
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
	fail := func(err *Error) {
		err.id = s.id
		s.decide(err)
		p.fail(w, r, err)
	}
	asked, err := checkHandshake(w, r)
	if err != nil {
		fail(err)
		return
	}
	if err := p.checkLoop(r); err != nil {
		fail(err)
		return
	}
	if err := p.checkOrigin(r); err != nil {
		fail(err)
		return
	}
	stop := func() bool { return true }
	if len(p.onOpen) > 0 { // which may keep the session, and wait for its end
		stop = context.AfterFunc(ctx, func() { s.decide(handshakeEnded(ctx)) })
		defer stop()
	}
	shown, err := p.callOnOpen(ctx, s, r)
	if err != nil {
		fail(err)
		return
	}
	up, to, err := p.reach(ctx, s, shown, asked)
	if err != nil {
		fail(err)
		return
	}
	if up.refusal != nil {
		err, cut := p.relayRefusal(ctx, w, up.refusal)
		err.id, err.Upstream = s.id, to
		s.decide(err)
		p.report(r, err)
		if cut {
			panic(http.ErrAbortHandler)
		}
		return
	}
	if !stop() {
		up.conn.Close()
		fail(handshakeEnded(ctx))
		return
	}
	p.list(s, to, up.subprotocol)
	client, early, err := p.accept(ctx, w, asked.key, up)
	if err != nil {
		fail(err)
		return
	}
	s.join([2]net.Conn{client, up.conn}, [2][]byte{early, up.early}, up.rsvMessage, up.rsvAny)
	p.begin(s)
	// net/http keeps the client's request; what the hooks were shown goes now.
	requested := r.Context()
	p.logOpened(requested, s)
	if p.detach {
		detached = true
		s.detach(func() { p.endDetached(s) })
		return
	}
	cancelled := context.AfterFunc(requested, func() { s.stop(causeCancelled, context.Cause(requested)) })
	defer cancelled()
	s.run()
	p.end(requested, s)
}

// end takes in that a session is over. The record of it and the hooks come
// after that: what is the user's finds the session gone, and can't wait for it.
func (p *Proxy) end(ctx context.Context, s *Session) {
	p.remove(s)
	s.decide(nil)
	p.logEnded(ctx, s)
}

// endDetached is end outside of ServeHTTP.
func (p *Proxy) endDetached(s *Session) {
	defer p.leave(s)
	p.end(context.Background(), s) // a request's holds on to half a kilobyte
}

// fail reports a handshake that came to nothing, and answers the client.
func (p *Proxy) fail(w http.ResponseWriter, r *http.Request, e *Error) {
	p.report(r, e)
	p.refuse(w, r, e)
}
