package wsproxy

import (
	"cmp"
	"context"
	"crypto/tls"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/coder/websocket"

	"github.com/seed-ffb73231/wsproxy/internal/frame"
	"golang.org/x/net/http/httpguts"
)

// Defaults. The options' comments and the README repeat them.
const (
	defaultPingInterval     = 25 * time.Second
	defaultPongTimeout      = 35 * time.Second
	defaultWriteTimeout     = 60 * time.Second
	defaultHandshakeTimeout = 60 * time.Second
	defaultCloseTimeout     = 5 * time.Second
)

// An Option changes a default of [New]. If an option is given more than once
// (for the same side, if it applies to one), the last one is used; the hooks of
// [WithOnOpen], [WithOnClose], [WithOnMessage] and [WithTap] accumulate.
type Option func(*config)

// WithHandshakeTimeout limits the whole handshake with the upstream:
// connecting, TLS, and waiting for the answer, over all members that are tried.
// When it expires, the client is answered 504. The default is 60 s. It must be
// above zero.
func WithHandshakeTimeout(d time.Duration) Option {
	return func(c *config) { c.handshakeTimeout = c.positive("WithHandshakeTimeout", d) }
}

// WithRewrite calls f with each request that is about to be sent to the
// upstream, after the proxy has rewritten it, and again for each further member
// that is tried. f may change the URL of pr.Out, and so the target that is
// dialled for this request, its Host and its header. The hook has the same type
// as that of [httputil.ReverseProxy]. By default nothing more is rewritten.
//
// X-Forwarded-For and related fields are already set: SetXForwarded would add
// the client twice. The handshake's own header fields (Upgrade, Connection,
// Sec-WebSocket-Version, Sec-WebSocket-Key) are set after f returns. f must be
// safe for concurrent use. If it panics, the client is answered 500 and nothing
// is dialled.
//
// Set header fields that identify the user to the upstream here or in
// [WithOnOpen]. If middleware sets them earlier, the client can remove them,
// because it may name any field in its Connection field (RFC 9110, 7.6.1).
//
// If f takes the target from the request, anyone who can send requests chooses
// what the proxy connects to: check the target against a list.
func WithRewrite(f func(pr *httputil.ProxyRequest)) Option {
	return func(c *config) {
		if c.rewrite = f; f == nil {
			c.mistake("WithRewrite", nil, "nil function")
		}
	}
}

// WithRewriteAnswer calls f with the upstream's answer to each handshake before
// it goes to the client: the 101, or a refusal. f may change the Header of the
// answer, for example to remove or rename fields. Of the other fields of the
// [http.Response], only StatusCode and Request are set, and changes to them have
// no effect. By default answers pass as [Proxy.ServeHTTP] says.
//
// Hop-by-hop fields and, in a 101, the fields of the handshake
// (Sec-WebSocket-Accept, -Protocol and -Extensions) are not shown to f and are
// removed if f sets them. The Header of a 101 includes the cookie of
// [WithSticky]. Fields that middleware has set in the ResponseWriter are not
// part of the answer.
//
// Request is the client's request as the hooks of [WithOnOpen] left it. f must
// be safe for concurrent use. If it panics, the client is answered 500.
func WithRewriteAnswer(f func(answer *http.Response)) Option {
	return func(c *config) {
		if c.rewriteAnswer = f; f == nil {
			c.mistake("WithRewriteAnswer", nil, "nil function")
		}
	}
}

// WithHost sets the Host of requests to the upstream. The default is the Host
// that the client sent, so that an upstream can compare Origin with Host. The
// empty string means the target's host, in lower case and without the scheme's
// default port. A name with non-ASCII characters is sent as its A-label (RFC
// 5890).
func WithHost(host string) Option {
	return func(c *config) {
		c.host, c.targetsHost = host, host == ""
		if host == "" {
			return
		}
		name, port, err := readHost(host)
		if err != nil {
			c.mistake("WithHost", host, err.Error())
		} else if !httpguts.ValidHostHeader(host) || strings.HasSuffix(host, ":") {
			c.host = joinHost(name, port)
		}
	}
}

// WithTargetPath sends the target's path to the upstream and drops the
// request's path. A target without a path means "/". The two queries are joined
// as without this option. By default the request's path is appended to the
// target's: with the target http://127.0.0.1:9000/ws, a request for /websocket
// is sent as /ws/websocket.
func WithTargetPath() Option {
	return func(c *config) { c.targetPath = true }
}

// WithVia sets the name that the proxy adds to the Via field of its requests to
// the upstream (RFC 9110, 7.6.3). A request that carries the name has passed
// this proxy before: it is answered 508, and nothing is dialled for it. The
// default is a random name, which stays the same for the life of the Proxy.
//
// The name must be a token. If several proxies have the same name, a request
// can pass only one of them. If the name is empty, the proxy adds none and does
// not detect loops: then limit its sessions ([WithMaxSessions]).
func WithVia(name string) Option {
	return func(c *config) {
		if c.via = name; name != "" && !httpguts.ValidHeaderFieldName(name) { // a token
			c.mistake("WithVia", name, "not a token")
		}
	}
}

// WithOrigins allows browser pages of further origins to open a WebSocket. By
// default only pages of the same origin may: same scheme, host and port as the
// request was sent to. Requests without an Origin header, which browsers always
// send, are allowed in either case. Origins are compared in normal form:
// HTTP://Host:80/ is http://host.
//
// A pattern is "https://app.example.com", with a port if it is not the scheme's
// default. A pattern without a scheme matches both http and https pages. These
// patterns match more than one origin:
//
//   - "*.example.com" as the host: every name below it, at any depth, but not
//     example.com itself
//   - "http://localhost:*": every port
//   - "moz-extension://*": every host of a scheme other than http and https, for
//     programs and extensions with random hosts
//
// "null" and "file://" match themselves. Browsers send null for sandboxed
// frames, data: URLs and local files. Any page on the internet can contain a
// sandboxed frame: "null" protects no more than [WithInsecureAnyOrigin], and is
// for upstreams that use no cookies.
//
// A pattern that cannot match any browser's origin is a mistake.
func WithOrigins(patterns ...string) Option {
	return func(c *config) {
		c.origins = nil
		for _, p := range patterns {
			o, err := parseOriginPattern(p)
			if err != nil {
				c.mistake("WithOrigins", p, err.Error())
			}
			c.origins = append(c.origins, o)
		}
	}
}

// WithInsecureAnyOrigin allows every web page on the internet to open a
// WebSocket through the proxy, with the cookies that the visitor's browser
// holds for it. This permits cross-site WebSocket hijacking (RFC 6455, 10.2).
// It is for upstreams that check Origin themselves or use no cookies.
func WithInsecureAnyOrigin() Option {
	return func(c *config) { c.anyOrigin = true }
}

// WithTrustedProxies sets the addresses of trusted proxies in front of this
// one. The proxy trusts the forwarding header fields (X-Forwarded-*, Forwarded,
// X-Real-Ip) of requests from these addresses and forwards them, with
// X-Forwarded-For and Forwarded extended. From all other addresses it discards
// these fields and sets its own. By default no address is trusted.
//
// If a proxy in front of this one terminates TLS, name it here and have it send
// X-Forwarded-Proto; otherwise pages loaded over https do not count as the same
// origin. If it changes Host, it must send the client's Host in
// X-Forwarded-Host, and the port in X-Forwarded-Port if that host has none. If
// one of these fields is a list, the first element is used. The proxy in front
// must set these fields itself or remove those that clients send: whatever it
// forwards is trusted, too.
//
// The address of a request is that of its connection. For servers whose
// middleware replaces RemoteAddr, see [ConnContext]; for peers without an
// address, see [WithTrustedUnixSockets].
func WithTrustedProxies(prefixes ...netip.Prefix) Option {
	return func(c *config) {
		c.trusted = slices.Clone(prefixes)
		for _, p := range prefixes {
			switch {
			case !p.IsValid():
				c.mistake("WithTrustedProxies", p, "invalid prefix")
			case p.Addr().Is4In6():
				c.mistake("WithTrustedProxies", p, "IPv4-mapped prefixes never match; use an IPv4 prefix")
			}
		}
	}
}

// WithTrustedUnixSockets is [WithTrustedProxies] for all peers that connect to
// the server over a unix socket and so have no address: their forwarding header
// fields are trusted and forwarded. Nothing is added to X-Forwarded-For for the
// socket. By default no peer over a unix socket is trusted. Anyone who can
// write to the socket's file can claim to be any client: set its permissions.
func WithTrustedUnixSockets() Option {
	return func(c *config) { c.trustUnix = true }
}

// WithDialContext connects to the upstream with f in place of a [net.Dialer],
// for example through a SOCKS proxy, from a certain source address, or over a
// pipe in a test. network is "tcp" or "unix". If the target requires TLS, the
// proxy speaks it over the connection that f returns. f must return when ctx is
// done; the connection must remain usable after that, because ctx ends with the
// handshake, whether the handshake succeeds or fails.
//
// The default dialer disables TCP keep-alives where Pings replace them
// ([WithPing]). On connections of types outside the net package, the proxy
// cannot tell whether a peer that answers no Ping is gone: f should enable
// TCP's keep-alive.
func WithDialContext(f func(ctx context.Context, network, address string) (net.Conn, error)) Option {
	return func(c *config) {
		if c.dialContext = f; f == nil {
			c.mistake("WithDialContext", nil, "nil function")
		}
	}
}

// WithTLSConfig sets the TLS configuration for https and wss upstreams: RootCAs
// for a private authority, Certificates or GetClientCertificate for an upstream
// that requires a client certificate, ServerName for one that is dialled by
// address (or through [WithDialContext], or over a unix socket) and verified by
// name. t is cloned. By default the proxy verifies the upstream's certificate
// for the target's host against the system's roots.
//
// NextProtos is always http/1.1, which WebSockets require. The minimum version
// is TLS 1.2. TLS sessions are resumed only within this proxy, and never with
// client certificates or VerifyPeerCertificate. To set InsecureSkipVerify
// without another verification, use [WithInsecureSkipVerify].
func WithTLSConfig(t *tls.Config) Option {
	return func(c *config) {
		if t == nil {
			c.mistake("WithTLSConfig", nil, "nil config")
			return
		}
		c.tls = t.Clone()
		if t.InsecureSkipVerify && t.VerifyConnection == nil && t.VerifyPeerCertificate == nil {
			c.mistake("WithTLSConfig", "InsecureSkipVerify", "use WithInsecureSkipVerify to disable verification")
		}
		for _, limit := range []struct {
			name    string
			version uint16
		}{{"MinVersion", t.MinVersion}, {"MaxVersion", t.MaxVersion}} {
			if v := limit.version; v != 0 && v < tls.VersionTLS12 {
				c.mistake("WithTLSConfig", limit.name+" "+tls.VersionName(v), "must be TLS 1.2 or later")
			}
		}
	}
}

// WithInsecureSkipVerify accepts any certificate from an https or wss upstream,
// for any name. An attacker in the network can then read and change all traffic
// unnoticed. It is for tests.
func WithInsecureSkipVerify() Option {
	return func(c *config) { c.skipVerify = true }
}

// WithDetach makes ServeHTTP return as soon as the client has its 101. The
// session continues until it ends by itself, or until [Proxy.Shutdown] or
// [Proxy.Close]. By default ServeHTTP returns when the session is over, so that
// middleware sees the whole session; meanwhile net/http keeps a goroutine and
// buffers for it.
//
// A session that an event loop carries (see [Proxy]) then has no goroutine at all,
// and takes less than 4 KiB; with TLS to the client, which takes its own memory,
// about 8 KiB more. Other sessions keep two goroutines each; that saves more than
// half of the memory of an idle session, and a third with TLS to the client.
//
// A detached session does not end with the request's context and does not
// retain it: its log record has none of the values that middleware put there.
func WithDetach() Option {
	return func(c *config) { c.detach = true }
}

// WithLogger sets the logger. The proxy logs one record for each failed
// handshake and for each session that ended (info), the changes of members'
// states, and each panic in a hook (error). A failed handshake is logged as a
// warning if the upstream or the operator is at fault, and as info if any
// client can cause it. The default is the value of [slog.Default] when New is
// called. To disable logging, use slog.New(slog.DiscardHandler).
//
// The proxy logs paths. It never logs payloads, query strings or header values,
// except the client's address as a trusted proxy reports it, and a refused
// origin with what it was compared with.
func WithLogger(l *slog.Logger) Option {
	return func(c *config) {
		if c.logger = l; l == nil {
			c.mistake("WithLogger", nil, "nil logger")
		}
	}
}

// WithErrorHandler calls f to answer a client whose handshake was refused or
// failed. By default the proxy answers e.Status with a fixed phrase; f should
// not reveal more than that. The header fields that go with the status
// (Connection: close, Allow, Upgrade, Retry-After …) are already set in w. Keep
// Connection: close: bytes after the handshake must not be read as another
// request. A status of 499 means that the request's context has ended, usually
// because the client left. f is not called if the upstream itself refused; that
// answer is relayed. f must be safe for concurrent use.
func WithErrorHandler(f func(w http.ResponseWriter, r *http.Request, e *Error)) Option {
	return func(c *config) {
		if c.errorHandler = f; f == nil {
			c.mistake("WithErrorHandler", nil, "nil function")
		}
	}
}

// WithFallback passes requests that do not ask for a WebSocket to h, so that
// one route can serve both: Socket.IO's polling, SignalR's negotiation, SockJS,
// the pages of a development server. h is often an [httputil.ReverseProxy] to
// the same upstream. By default such a request is refused: 426, or 405 if its
// method is not GET.
//
// A request asks for a WebSocket if its Upgrade field names websocket, or if it
// is an extended CONNECT for websocket (RFC 8441). If such a request is
// malformed, the proxy refuses it as it does without this option. Every other
// request goes to h, whatever its method and HTTP version. The proxy does not
// log, count or limit it, does not check its origin and does not show it to
// hooks. h is also called after [Proxy.Shutdown]: the [http.Server] is
// responsible for stopping ordinary HTTP.
//
// The proxy removes the Upgrade field from requests that it passes to h; a
// server may ignore that field (RFC 9110, 7.8). A reverse proxy would forward
// it and let the client choose the protocol that is spoken with the upstream. h
// must be safe for concurrent use.
func WithFallback(h http.Handler) Option {
	return func(c *config) {
		if c.fallback = h; h == nil {
			c.mistake("WithFallback", nil, "nil handler")
		}
	}
}

// WithOnOpen calls f with each session whose handshake request is valid, before
// anything is dialled for it; the handshake may still fail. f may refuse the
// session by returning an error: an error that is, or wraps, a [*Refusal] sets
// the client's answer; any other error is answered 403 and logged. Header
// fields that f sets in r are sent to the upstream, and clients cannot remove
// them. f may associate values with the session ([Session.Set]) and make it end
// when the client's token expires ([Session.SetExpiry]).
//
// The option may be given several times. The hooks are called in order until
// one refuses. By default there are none. If f panics, the client is answered
// 500. f must be safe for concurrent use.
//
// The context of r ends when the session is over (with [WithDetach], when
// ServeHTTP returns). Before the 101 it also ends when the client leaves, and
// with [Session.Close] and [Proxy.Shutdown]. A hook that blocks should return
// when the context ends: Shutdown waits for it.
func WithOnOpen(f func(s *Session, r *http.Request) error) Option {
	return func(c *config) {
		if c.onOpen = append(c.onOpen, f); f == nil {
			c.mistake("WithOnOpen", nil, "nil function")
		}
	}
}

// WithOnClose calls f once for each session that was passed to the hooks of
// [WithOnOpen] (or would have been, if there are none), after the session is
// over: both connections are closed, or its handshake has failed. [Session.Err]
// then returns the reason.
//
// The option may be given several times. The hooks are called in order. By
// default there are none. If f panics, the panic is logged. f must be safe for
// concurrent use. [Proxy.Shutdown] waits for f, and so does ServeHTTP unless
// the session is detached. When f is called, the session is no longer listed or
// counted, and [Session.Done] is closed.
func WithOnClose(f func(s *Session)) Option {
	return func(c *config) {
		if c.onClose = append(c.onClose, f); f == nil {
			c.mistake("WithOnClose", nil, "nil function")
		}
	}
}

// WithLostCode sets the close code that a client gets when its upstream is lost:
// when it leaves without a Close frame or no longer answers. The default is 1011
// (internal error). Some clients take 1011 for a bug of the server and do not
// reconnect (graphql-ws); 1012 (service restart) and 1013 (try again later) make
// them. 1014 (bad gateway) is rejected by others (gorilla/websocket).
func WithLostCode(code websocket.StatusCode) Option {
	return func(c *config) {
		if c.relay.Policy.LostCode = frame.Code(code); !sendable(code) {
			c.mistake("WithLostCode", int(code), "close code may not be sent")
		}
	}
}

// WithDrain sets how [Proxy.Shutdown] ends sessions: the window over which it
// spreads them, and the close code that clients get; upstreams get 1001. The
// window also applies to the sessions of a member that was removed or is down.
// By default the window is 0: Shutdown then uses the time until its context's
// deadline, or less if there are few sessions. A window that exceeds that time
// is shortened to it. The default code, 0, stands for 1001 (going away). 1012
// (service restart) is also in use: some clients reconnect after only one of
// the two.
func WithDrain(window time.Duration, code websocket.StatusCode) Option {
	return func(c *config) {
		c.drainWindow, c.drainCode = window, cmp.Or(code, websocket.StatusGoingAway)
		if window < 0 {
			c.mistake("WithDrain", window, "negative")
		}
		if !sendable(c.drainCode) {
			c.mistake("WithDrain", int(code), "close code may not be sent")
		}
	}
}
