package wsproxy

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"

	"golang.org/x/net/http/httpguts"
)

// Defaults. The options' comments and the README repeat them.
const (
	defaultPingInterval     = 25 * time.Second
	defaultPongTimeout      = 10 * time.Second
	defaultWriteTimeout     = 30 * time.Second
	defaultHandshakeTimeout = 10 * time.Second
	defaultCloseTimeout     = 5 * time.Second
)

// config is what [New] makes of its arguments. It doesn't change afterwards.
type config struct {
	target           *url.URL
	policy           policy
	handshakeTimeout time.Duration
	closeTimeout     time.Duration
	detach           bool
	host             string
	rewrite          func(*httputil.ProxyRequest)
	origins          []originPattern
	anyOrigin        bool
	trusted          []netip.Prefix
	dialContext      func(ctx context.Context, network, address string) (net.Conn, error)
	tls              *tls.Config
	skipVerify       bool
	logger           *slog.Logger
	errorHandler     func(http.ResponseWriter, *http.Request, *Error)

	mistakes []error
}

// An Option changes a default of [New]. Where an option is given twice, the
// later one counts.
type Option func(*config)

func (c *config) mistake(option string, value any, reason string) {
	c.mistakes = append(c.mistakes, &OptionError{Option: option, Value: value, Reason: reason})
}

// positive notes a duration that is not above zero as a mistake.
func (c *config) positive(option string, d time.Duration) time.Duration {
	if d <= 0 {
		c.mistake(option, d, "must be above zero: every wait has a limit")
	}
	return d
}

// WithPing sets how the peers of a session are kept alive and watched, each
// leg on its own: one that has been silent for interval is sent a Ping, and
// if nothing at all comes from it within timeout after that, it is lost and
// the other side is told so. The defaults are 25 s and 10 s.
//
// A session's interval is made up to a tenth shorter, at random, so that
// many sessions don't ping in step. Keep it below the idle limit of every
// box on the way (60 s is common, 55 s exists): equal to it fails.
//
// An interval of 0 switches pings off; a peer that vanishes without a word
// is then noticed only when data for it gets stuck ([WithWriteTimeout]), or by
// [WithIdleTimeout]. The timeout must be above zero unless the interval is 0.
func WithPing(interval, timeout time.Duration) Option {
	return func(c *config) {
		c.policy.ping, c.policy.pong = interval, timeout
		switch {
		case interval < 0:
			c.mistake("WithPing", interval, "interval is negative")
		case interval > 0 && timeout <= 0:
			c.mistake("WithPing", timeout, "timeout must be above zero")
		}
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
// default is 30 s. It must be above zero.
//
// Over TCP on Linux (amd64, arm64), TLS on it included, what the peer's
// kernel takes counts. Elsewhere, and over connections that are not the net
// package's own, progress shows only once a whole chunk, of up to 32 KiB, has
// been taken by ours.
func WithWriteTimeout(d time.Duration) Option {
	return func(c *config) { c.policy.write = c.positive("WithWriteTimeout", d) }
}

// WithHandshakeTimeout limits the upstream's side of the handshake as a
// whole: connecting, TLS, and the upstream's answer. The default is 10 s.
// It must be above zero. Past it the client is answered 504.
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

// WithRewrite calls f with each request that is about to go to the upstream,
// after the proxy has rewritten it: f may change pr.Out's URL, so dialling
// another target for this request, its Host and its header. It is the hook
// of [httputil.ReverseProxy], with the same type. By default nothing more is
// rewritten.
//
// X-Forwarded-For and its like are set already: SetXForwarded would name the
// client twice. The handshake's own header fields (Upgrade, Connection,
// Sec-WebSocket-Version, Sec-WebSocket-Key) are set after f returns. f is
// called by many goroutines at once. If it panics, the client is answered
// 500 and nothing is dialled.
//
// Fields that tell the upstream who is there belong here. Set before, by
// middleware, they can be removed by the client, which may name any field in
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
// can. The empty string means the target's host.
func WithHost(host string) Option {
	return func(c *config) {
		if c.host = host; host == "" && c.target != nil {
			c.host = targetHost(c.target)
		}
		if !httpguts.ValidHostHeader(c.host) || strings.ContainsAny(host, "/@ ") {
			c.mistake("WithHost", host, "not a host")
		}
	}
}

// WithOrigins lets browser pages of further origins open a WebSocket.
// Without it only pages of the same origin can: same scheme, host and port
// as the request was sent to. Requests without an Origin header, which
// browsers always send, are let through either way.
//
// A pattern is "https://app.example.com", with a port if it isn't the
// scheme's own. "*.example.com" in the host's place stands for every name
// below it, at any depth, and not for example.com itself. Without a scheme,
// both http and https pages are let in.
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
// forwarding header fields (X-Forwarded-For, -Host, -Proto and Forwarded) of
// requests that come from them are believed and extended. From everyone
// else, which is the default, they are thrown away and set anew.
//
// A proxy that ends TLS in front of this one must be named, and must send
// X-Forwarded-Proto, or pages loaded over https don't count as the same
// origin. If it changes Host, X-Forwarded-Host must have the client's, and
// X-Forwarded-Port the port if the host comes without. It must itself set
// these fields, or take away those that clients send: what it passes through
// is believed, too. Of a list, the first is what the client has used.
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

// WithDialContext connects to the upstream by f instead of a [net.Dialer]:
// through a SOCKS proxy, from a certain source address, over a pipe in a
// test. network is "tcp" or "unix". TLS, where the target asks for it, is
// spoken over the connection that f returns. f must heed ctx, which ends
// when the handshake does, in whatever way; the connection must outlive it.
//
// The default dialer sends no TCP keep-alives where Pings do their work.
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
		for name, v := range map[string]uint16{"MinVersion": t.MinVersion, "MaxVersion": t.MaxVersion} {
			if v != 0 && v < tls.VersionTLS12 {
				c.mistake("WithTLSConfig", name+" "+tls.VersionName(v), "TLS 1.2 is the least")
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
// [Proxy.Close]. It saves more than half of an idle session's memory: by
// default ServeHTTP returns when the session is over, so that middleware
// sees its whole life, and net/http keeps a goroutine and its buffers for it.
//
// A detached session doesn't end with the request's context, nor does it keep
// that: its log record is made without what middleware has put in there.
func WithDetach() Option {
	return func(c *config) { c.detach = true }
}

// WithLogger sets where the proxy logs: one record for each handshake that
// came to nothing (warn) and for each session that ended (info). The default
// is what [slog.Default] is when New is called;
// slog.New(slog.DiscardHandler) silences it. No query string, header value
// or payload is ever logged.
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

// newConfig checks everything and returns all mistakes at once.
func newConfig(target string, options []Option) (*config, error) {
	c := &config{
		policy: policy{
			ping:  defaultPingInterval,
			pong:  defaultPongTimeout,
			write: defaultWriteTimeout,
		},
		handshakeTimeout: defaultHandshakeTimeout,
		closeTimeout:     defaultCloseTimeout,
		tls:              new(tls.Config),
		logger:           slog.Default(),
		errorHandler:     writeError,
	}
	var err error
	if c.target, err = parseTarget(target); err != nil {
		c.mistake("target", redactTarget(target), err.Error())
	}
	for _, o := range options {
		if o == nil {
			c.mistake("Option", nil, "nil option")
			continue
		}
		o(c)
	}
	if c.dialContext == nil {
		d := new(net.Dialer)
		// TCP's own keep-alive, by Go's defaults, gives a dead peer up after
		// 15 s and nine probes 15 s apart. Pings that are no slower do better.
		if p := c.policy; p.ping > 0 && p.ping+p.pong <= 150*time.Second {
			d.KeepAlive = -1
		}
		c.dialContext = d.DialContext
	}
	c.tls = upstreamTLS(c.tls)
	c.tls.InsecureSkipVerify = c.tls.InsecureSkipVerify || c.skipVerify
	if c.anyOrigin && len(c.origins) > 0 {
		c.mistake("WithInsecureAnyOrigin", "", "makes WithOrigins meaningless: choose one")
	}
	return c, errors.Join(c.mistakes...)
}

// redactTarget cuts a target that can't be used down to what an error may
// show: no user, no password, no query. A password that should have been
// escaped may have a question mark, a slash or a number sign in it.
func redactTarget(target string) string {
	if i := strings.LastIndexByte(target, '@'); i >= 0 && !strings.HasPrefix(target, "unix:") {
		scheme, _, _ := strings.Cut(target, ":")
		target = scheme + "://…@" + target[i+1:]
	}
	if i := strings.IndexAny(target, "?#"); i >= 0 {
		target = target[:i]
	}
	return target
}

// parseTarget turns ws and wss into http and https, and a unix socket into a
// URL with the scheme "unix" and the socket's path as its host.
func parseTarget(target string) (*url.URL, error) {
	if path, ok := strings.CutPrefix(target, "unix:"); ok {
		// unix:/run/app.sock, unix:///run/app.sock, unix:app.sock, unix:@abstract
		path = strings.TrimPrefix(path, "//")
		if path == "" {
			return nil, errors.New("unix socket without a path")
		}
		return &url.URL{Scheme: "unix", Host: path}, nil
	}
	u, err := url.Parse(target)
	if err != nil {
		// The parser's own error quotes the target, or pieces of it that
		// may be a password's.
		return nil, errors.New("not a URL")
	}
	switch u.Scheme {
	case "ws":
		u.Scheme = "http"
	case "wss":
		u.Scheme = "https"
	case "http", "https":
	case "":
		return nil, errors.New("no scheme: want http, https, ws, wss or unix")
	default:
		return nil, errors.New("unknown scheme: want http, https, ws, wss or unix")
	}
	switch {
	case u.Hostname() == "":
		return nil, errors.New("no host")
	case u.User != nil:
		return nil, errors.New("user and password: set an Authorization header by WithRewrite")
	case u.Fragment != "":
		return nil, errors.New("a fragment, which is never sent")
	}
	return u, nil
}

// targetHost is the Host of a request to u that names no other.
func targetHost(u *url.URL) string {
	if u.Scheme == "unix" {
		return "localhost"
	}
	return u.Host
}
