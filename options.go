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

// An Option changes a default of [New]. Where an option is given twice (for the
// same side, if it is about one), the later one counts; hooks of [WithOnOpen] and
// [WithOnClose] add up.
type Option func(*config)

// WithPing sets how the peers of a session are kept alive and watched, each
// leg on its own: one that has been silent for interval is sent a Ping, and
// if nothing at all comes from it within timeout after that, it is lost and
// the other side is told so. The defaults are 25 s and 35 s.
//
// A peer is held to Pings once it has answered one. One that never has
// is not given up for its silence as long as its machine acknowledges what is
// sent to it, which can be told over TCP on Linux (amd64, arm64), TLS on it
// included. Elsewhere TCP gives up a machine that is gone, by its keep-alive or
// because it acknowledges no Ping. [Session.IgnoresPings] tells of such a peer.
//
// A proxy between, such as nginx, takes bytes at once and passes them on as slowly
// as its client takes them, and a Ping waits behind them. Where acknowledgements
// can be told, the timeout is longer by what those bytes need at 16 KiB a second,
// in all at most eleven times as long. Time in which this process itself
// did not run doesn't count against a peer.
//
// A session's interval is made up to a tenth shorter, at random, so that
// many sessions don't ping in step. Keep it below the idle limit of every
// box on the way (60 s is common, 55 s exists): equal to it fails.
//
// An interval of 0 switches pings off: the proxy injects none, and a machine
// that vanishes is found by TCP's keep-alive, after minutes; an application
// that hangs only when data for it gets stuck ([WithWriteTimeout]), or by
// [WithIdleTimeout]. The timeout must be above zero unless the interval is 0.
// Above 0, neither may be under 1 ms.
func WithPing(interval, timeout time.Duration) Option {
	return func(c *config) {
		p := c.pinging("WithPing", interval, timeout)
		c.pings = [2]pinging{p, p}
	}
}

// WithPingTo is [WithPing] for one side, [Client] or [Upstream]; the other
// side keeps what it has, by default 25 s and 35 s. An interval of 0 is for
// peers that take a Ping badly: nothing is ever injected there but a Close
// frame at the end.
//
// TCP's keep-alive then watches that side alone. It is on where the default
// dialer connects to the upstream, and where [net.Listen] or an [http.Server]
// of its default settings accepts the client; see [net.ListenConfig] and
// [net.Dialer] for others.
func WithPingTo(side Side, interval, timeout time.Duration) Option {
	return func(c *config) {
		p := c.pinging("WithPingTo", interval, timeout)
		if side != Client && side != Upstream {
			c.mistake("WithPingTo", side, "neither Client nor Upstream")
			return
		}
		c.pings[side] = p
	}
}

// WithIdleTimeout ends a session, with Close 1001 to both sides, when no
// data frame has passed in either direction for so long. Pings and Pongs are
// not data. The default, 0, is no limit: silence is the application's own
// business, and pings already find the dead.
func WithIdleTimeout(d time.Duration) Option {
	return func(c *config) {
		c.policy.idle = d
		if d < 0 {
			c.mistake("WithIdleTimeout", d, "negative")
		}
	}
}

// WithWriteTimeout gives up a peer that takes no byte of what is being
// written to it for so long, for example because it has stopped reading. The
// default is 60 s. It must be above zero.
//
// Over TCP on Linux (amd64, arm64), TLS on it included, what the peer's
// kernel takes counts. Elsewhere, and over connections that are not the net
// package's own, progress shows only once a whole chunk, of up to 32 KiB, has
// been taken by ours.
func WithWriteTimeout(d time.Duration) Option {
	return func(c *config) { c.policy.write = c.positive("WithWriteTimeout", d) }
}

// WithHandshakeTimeout limits the upstream's side of the handshake as a
// whole: connecting, TLS, and the upstream's answer, and as many members as are
// tried. The default is 60 s. It must be above zero. Past it
// the client is answered 504.
func WithHandshakeTimeout(d time.Duration) Option {
	return func(c *config) { c.handshakeTimeout = c.positive("WithHandshakeTimeout", d) }
}

// WithCloseTimeout limits how long a session may take to end once its end has
// begun: the other side's Close, what it had still sent before that, and the
// closing of the connections. The default is 5 s. It must be above zero.
//
// A slow peer that after that time still takes what was sent to it before its
// end, where that shows (see [WithWriteTimeout]), is given more time, in all as
// much more as the write timeout.
func WithCloseTimeout(d time.Duration) Option {
	return func(c *config) { c.closeTimeout = c.positive("WithCloseTimeout", d) }
}

// WithRewrite calls f with each request that is about to go to the upstream, or
// one after the other to several, after the proxy has rewritten it: f may
// change pr.Out's URL, so dialling another target for this request, its Host
// and its header. It is the hook of [httputil.ReverseProxy], with the same
// type. By default nothing more is rewritten.
//
// X-Forwarded-For and its like are set already: SetXForwarded would name the
// client twice. The handshake's own header fields (Upgrade, Connection,
// Sec-WebSocket-Version, Sec-WebSocket-Key) are set after f returns. f is
// called by many goroutines at once. If it panics, the client is answered
// 500 and nothing is dialled.
//
// Fields that tell the upstream who is there belong here, or in [WithOnOpen].
// Set before, by middleware, they can be removed by the client, which may name any field in
// its Connection field (RFC 9110, 7.6.1).
//
// Where f takes the target from the request, anyone who can send requests
// chooses what the proxy connects to: check it against a list.
func WithRewrite(f func(pr *httputil.ProxyRequest)) Option {
	return func(c *config) {
		if c.rewrite = f; f == nil {
			c.mistake("WithRewrite", nil, "nil function")
		}
	}
}

// WithHost sends host to the upstream as the request's Host. The default is
// the client's own, so that an upstream that compares Origin with Host still
// can. The empty string means the target's host, in lower case and without the
// scheme's own port. A name beyond ASCII is sent as its A-label (RFC 5890).
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

// WithTargetPath asks the upstream for the target's path, and drops the request's.
// A target without a path means "/". The queries of both are joined as without
// this option. By default the request's path follows the target's: with the
// target http://127.0.0.1:9000/ws, a request for /websocket asks for
// /ws/websocket.
func WithTargetPath() Option {
	return func(c *config) { c.targetPath = true }
}

// WithOrigins lets browser pages of further origins open a WebSocket.
// Without it only pages of the same origin can: same scheme, host and port
// as the request was sent to. Requests without an Origin header, which
// browsers always send, are let through either way. Origins are compared in
// their normal form: HTTP://Host:80/ is http://host.
//
// A pattern is "https://app.example.com", with a port if it isn't the
// scheme's own. Without a scheme, it lets in both http and https pages. These
// patterns match more than one origin:
//
//   - "*.example.com" in the host's place: every name below it, at any depth,
//     and not example.com itself
//   - "http://localhost:*": every port
//   - "moz-extension://*": every host of a scheme other than http and https,
//     for programs and extensions whose hosts are random
//
// "null" and "file://" stand for themselves. Browsers send null for sandboxed
// frames, data: URLs and local files. Any page on the internet can hold a
// sandboxed frame: "null" protects as little as [WithInsecureAnyOrigin] does,
// and is for upstreams that use no cookies.
//
// A pattern that no browser's origin can match is a mistake.
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

// WithInsecureAnyOrigin lets every web page on the internet open a WebSocket
// through the proxy, with the cookies that the visitor's browser holds for
// it: cross-site WebSocket hijacking (RFC 6455, 10.2). It is for upstreams
// that check Origin themselves or use no cookies.
func WithInsecureAnyOrigin() Option {
	return func(c *config) { c.anyOrigin = true }
}

// WithTrustedProxies names the addresses of proxies in front of this one:
// forwarding header fields (X-Forwarded-*, Forwarded, X-Real-Ip) of requests
// that come from them are believed, and go on, X-Forwarded-For and Forwarded
// extended. From everyone else, which is the default, they are thrown away and set anew.
//
// A proxy that ends TLS in front of this one must be named, and must send
// X-Forwarded-Proto, or pages loaded over https don't count as the same
// origin. If it changes Host, X-Forwarded-Host must have the client's, and
// X-Forwarded-Port the port if the host comes without. It must itself set
// these fields, or take away those that clients send: what it passes through
// is believed, too. Of a list, the first is what the client has used.
//
// A request comes from who has connected: see [ConnContext] for servers whose
// middleware replaces RemoteAddr, and [WithTrustedUnixSockets] for peers without
// an address.
func WithTrustedProxies(prefixes ...netip.Prefix) Option {
	return func(c *config) {
		c.trusted = slices.Clone(prefixes)
		for _, p := range prefixes {
			switch {
			case !p.IsValid():
				c.mistake("WithTrustedProxies", p, "not a valid prefix")
			case p.Addr().Is4In6():
				c.mistake("WithTrustedProxies", p, "IPv4 within IPv6 never matches: write it as IPv4")
			}
		}
	}
}

// WithTrustedUnixSockets is [WithTrustedProxies] for all that connect to the
// server over a unix socket, which have no address: their forwarding header
// fields are believed, and go on. Nothing is added to X-Forwarded-For for the
// socket. By default nobody over a unix socket is trusted. Whoever may write to
// the socket's file can claim to be any client: set its permissions.
func WithTrustedUnixSockets() Option {
	return func(c *config) { c.trustUnix = true }
}

// WithDialContext connects to the upstream by f instead of a [net.Dialer]:
// through a SOCKS proxy, from a certain source address, over a pipe in a
// test. network is "tcp" or "unix". TLS, where the target asks for it, is
// spoken over the connection that f returns. f must heed ctx, which ends
// when the handshake does, in whatever way; the connection must outlive it.
//
// The default dialer sends no TCP keep-alives where Pings do their work
// ([WithPing]). Of connections that are not the net package's own, the proxy
// can't tell whether a peer that answers no Ping is gone: f should have TCP's
// keep-alive on.
func WithDialContext(f func(ctx context.Context, network, address string) (net.Conn, error)) Option {
	return func(c *config) {
		if c.dialContext = f; f == nil {
			c.mistake("WithDialContext", nil, "nil function")
		}
	}
}

// WithTLSConfig sets how TLS is spoken with an https or wss upstream: RootCAs
// for a private authority, Certificates or GetClientCertificate for one that
// wants to know who we are, ServerName for one that is dialled by address
// (or through [WithDialContext], over a unix socket) and verified by name. It
// is cloned. The default verifies the upstream's certificate for the target's
// host against the system's roots.
//
// NextProtos is always http/1.1, for WebSockets need it; TLS 1.2 is the
// least. Sessions are resumed within this proxy only, and not where
// client certificates or VerifyPeerCertificate are in play. For
// InsecureSkipVerify with nothing in its place there is
// [WithInsecureSkipVerify].
func WithTLSConfig(t *tls.Config) Option {
	return func(c *config) {
		if t == nil {
			c.mistake("WithTLSConfig", nil, "nil config")
			return
		}
		c.tls = t.Clone()
		if t.InsecureSkipVerify && t.VerifyConnection == nil && t.VerifyPeerCertificate == nil {
			c.mistake("WithTLSConfig", "InsecureSkipVerify", "verifies nothing: WithInsecureSkipVerify says so")
		}
		for _, limit := range []struct {
			name    string
			version uint16
		}{{"MinVersion", t.MinVersion}, {"MaxVersion", t.MaxVersion}} {
			if v := limit.version; v != 0 && v < tls.VersionTLS12 {
				c.mistake("WithTLSConfig", limit.name+" "+tls.VersionName(v), "TLS 1.2 is the least")
			}
		}
	}
}

// WithInsecureSkipVerify takes any certificate from an https or wss upstream,
// for any name: whoever can get in between reads and changes everything,
// unnoticed. It is for tests.
func WithInsecureSkipVerify() Option {
	return func(c *config) { c.skipVerify = true }
}

// WithDetach lets ServeHTTP return as soon as the client has its 101; the
// session goes on by itself until it ends, or until [Proxy.Shutdown] or
// [Proxy.Close]. It saves more than half of an idle session's memory (with TLS to
// the client a third): by
// default ServeHTTP returns when the session is over, so that middleware
// sees its whole life, and net/http keeps a goroutine and its buffers for it.
//
// A detached session doesn't end with the request's context, nor does it keep
// that: its log record is made without what middleware has put in there.
func WithDetach() Option {
	return func(c *config) { c.detach = true }
}

// WithLogger sets where the proxy logs: one record for each handshake that
// came to nothing and for each session that ended (info), what becomes of
// members, and each panic in a hook (error). A failed handshake is a warning if
// the upstream or the operator is at fault; what any stranger can bring about is
// info. The default
// is what [slog.Default] is when New is called;
// slog.New(slog.DiscardHandler) silences it. No payload, query string or header
// value is ever logged, but for the client's address as a trusted proxy tells
// it, and a refused origin and what it was compared with; paths are.
func WithLogger(l *slog.Logger) Option {
	return func(c *config) {
		if c.logger = l; l == nil {
			c.mistake("WithLogger", nil, "nil logger")
		}
	}
}

// WithErrorHandler calls f to answer a client whose handshake was refused or
// came to nothing. The default answers e.Status with a fixed phrase; what f
// writes should tell no more. The header fields that go with the status
// (Connection: close, Allow, Upgrade, Retry-After …) are already set in w.
// Leave Connection: close there: bytes behind the handshake must not be read
// as another request. A status of 499 means that the request's context has
// ended, as a rule because the client has left. f is not called for an
// upstream's own refusal, which is relayed. It is called by many goroutines
// at once.
func WithErrorHandler(f func(w http.ResponseWriter, r *http.Request, e *Error)) Option {
	return func(c *config) {
		if c.errorHandler = f; f == nil {
			c.mistake("WithErrorHandler", nil, "nil function")
		}
	}
}

// WithOnOpen calls f with each session whose handshake is in order, before
// anything is dialled for it: the session may still come to nothing. f may
// refuse it: an error that is, or wraps, a [*Refusal] says what the client is
// answered; any other makes 403 and goes to the log. Header fields that it sets
// in r go on to the upstream, and clients can't have them removed. It may keep
// values with the session ([Session.Set]), and have it end when the client's
// token does ([Session.SetExpiry]).
//
// The option may be given several times; the hooks are called in order until
// one refuses; by default there are none. If f panics, the client is answered
// 500. It is called by many goroutines at once.
//
// r's context ends when the session is over (with [WithDetach], when ServeHTTP
// returns), and before the 101 also when the client leaves, with [Session.Close]
// and with [Proxy.Shutdown]. A hook that waits for something should wait for that
// as well: until it returns, it holds Shutdown up.
func WithOnOpen(f func(s *Session, r *http.Request) error) Option {
	return func(c *config) {
		if c.onOpen = append(c.onOpen, f); f == nil {
			c.mistake("WithOnOpen", nil, "nil function")
		}
	}
}

// WithOnClose calls f once for each session that was shown to the hooks of
// [WithOnOpen] (or would have been, were there any), when it is over: when both
// connections are closed, or when its handshake has come to nothing. By then
// [Session.Err] says why.
//
// The option may be given several times; the hooks are called in order; by
// default there are none. If f panics, that is logged. It is called by many
// goroutines at once, and holds up [Proxy.Shutdown] and, of sessions that
// aren't detached, ServeHTTP. The session is neither listed nor counted any more
// by then, and [Session.Done] is closed.
func WithOnClose(f func(s *Session)) Option {
	return func(c *config) {
		if c.onClose = append(c.onClose, f); f == nil {
			c.mistake("WithOnClose", nil, "nil function")
		}
	}
}

// WithDrain sets how [Proxy.Shutdown] ends sessions: over which window it
// spreads them, and by which close code to clients; upstreams get 1001. The
// window is also that of sessions whose member was removed, or is down. A
// window of 0, the default, is what the deadline of Shutdown's context leaves,
// or less where there are few sessions; a longer one than that is cut down to
// it. A code of 0, the default, is 1001 (going away); 1012 (service restart) is
// the other one in use: some clients reconnect at one of them only.
func WithDrain(window time.Duration, code websocket.StatusCode) Option {
	return func(c *config) {
		c.drainWindow, c.drainCode = window, cmp.Or(code, goingAway)
		if window < 0 {
			c.mistake("WithDrain", window, "negative")
		}
		if !sendableCloseCode(c.drainCode) {
			c.mistake("WithDrain", int(code), "a close code that may not be sent")
		}
	}
}
