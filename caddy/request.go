package wscaddy

import (
	"bufio"
	"context"
	"maps"
	"net"
	"net/http"
	"net/http/httputil"
	"net/netip"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/seed-ffb73231/wsproxy"
)

// This file fits one request of Caddy to the proxy, which serves the requests
// of all configurations alike.

// A call is one request, from Caddy's ServeHTTP to the hooks of the proxy. They
// find it in the request's context.
type call struct {
	w    http.ResponseWriter
	r    *http.Request
	next caddyhttp.Handler
	err  error // for Caddy

	trusted bool     // Caddy trusts the peer
	forFor  []string // the X-Forwarded-For of a trusted peer
}

type callKey struct{}

func callOf(r *http.Request) *call { return r.Context().Value(callKey{}).(*call) }

// request returns the request for the proxy. The proxy is told to trust every
// peer: here is decided whom Caddy trusts, and from others the forwarding
// fields are removed. X-Forwarded-For becomes the client's address alone, so
// that it is Caddy's {client_ip} for the proxy, too. rewrite puts it back.
func (c *call) request() *http.Request {
	r := c.r.WithContext(context.WithValue(c.r.Context(), callKey{}, c))
	c.trusted, _ = caddyhttp.GetVar(r.Context(), caddyhttp.TrustedProxyVarKey).(bool)
	c.forFor = r.Header["X-Forwarded-For"]
	foreign := func(name string) bool {
		switch {
		case !c.trusted:
			return strings.HasPrefix(name, "X-Forwarded-") || name == "Forwarded" || name == "X-Real-Ip"
		default:
			return name == "X-Forwarded-For"
		}
	}
	for name := range r.Header {
		if foreign(name) {
			r.Header = maps.Clone(r.Header)
			maps.DeleteFunc(r.Header, func(name string, _ []string) bool { return foreign(name) })
			break
		}
	}
	if client, _ := caddyhttp.GetVar(r.Context(), caddyhttp.ClientIPVarKey).(string); c.trusted && client != peer(r) {
		if _, err := netip.ParseAddr(client); err == nil {
			r.Header = maps.Clone(r.Header)
			r.Header["X-Forwarded-For"] = []string{client}
		}
	}
	return r
}

// peer returns the address of the request's connection, or "" if it has none.
func peer(r *http.Request) string {
	at, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return "" // a unix socket
	}
	return at.Addr().Unmap().WithZone("").String()
}

// fallback passes a request that does not ask for a WebSocket to the next
// handler, as Caddy made it: {placeholders} belong to that very request.
func fallback(_ http.ResponseWriter, r *http.Request) {
	c := callOf(r)
	c.err = c.next.ServeHTTP(c.w, c.r)
}

// refuse leaves the answer to Caddy, with its handle_errors. The fields that go
// with the status are already set.
func refuse(_ http.ResponseWriter, r *http.Request, e *wsproxy.Error) {
	callOf(r).err = caddyhttp.Error(e.Status, e)
}

// rewrite changes the header of the upstream's request.
func (h *Handler) rewrite(pr *httputil.ProxyRequest) {
	c := callOf(pr.In)
	if c.trusted {
		hops := slices.DeleteFunc(append(slices.Clone(c.forFor), peer(c.r)), func(hop string) bool { return hop == "" })
		delete(pr.Out.Header, "X-Forwarded-For")
		if len(hops) > 0 {
			pr.Out.Header["X-Forwarded-For"] = []string{strings.Join(hops, ", ")}
		}
	}
	repl := pr.In.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
	hostport := pr.Out.URL.Host
	repl.Set("http.wsproxy.upstream.hostport", hostport)
	repl.Set("http.wsproxy.upstream.host", pr.Out.URL.Hostname())
	repl.Set("http.wsproxy.upstream.port", pr.Out.URL.Port())
	repl.Set("http.reverse_proxy.upstream.hostport", hostport) // {upstream_hostport}
	if h.Headers != nil && h.Headers.Request != nil {
		h.Headers.Request.ApplyToRequest(pr.Out)
	}
}

// rewriteAnswer changes the header of the upstream's answer.
func (h *Handler) rewriteAnswer(answer *http.Response) {
	ops := h.Headers.Response
	if ops.Require == nil || ops.Require.Match(answer.StatusCode, answer.Header) {
		ops.ApplyTo(answer.Header, answer.Request.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer))
	}
}

// connKey is the context key of a request's connection.
type connKey struct{}

// connContext stores a connection in the context of its requests. Each handler
// of a server registers it.
func connContext(ctx context.Context, conn net.Conn) context.Context {
	if ctx.Value(connKey{}) != nil {
		return ctx
	}
	return context.WithValue(ctx, connKey{}, conn)
}

// A writer hijacks the client's connection for the proxy.
type writer struct {
	http.ResponseWriter
	r *http.Request
}

// Unwrap is for [http.ResponseController].
func (w *writer) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// Hijack implements [http.Hijacker]. For its access log Caddy wraps the
// connection to count bytes, and thereby hides what the proxy needs of it: to
// close it in one direction, to ask the kernel whether the peer is alive, to
// wait for data without a buffer. So all writers are told that it is hijacked,
// and the proxy gets the connection itself.
func (w *writer) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, buf, err := http.NewResponseController(w.ResponseWriter).Hijack()
	if err != nil {
		return nil, nil, err
	}
	if own, ok := w.r.Context().Value(connKey{}).(net.Conn); ok {
		conn = own
	}
	// The access log has the status from here. The http.Server writes nothing,
	// for it no longer has the connection; it says so at Caddy's debug level.
	w.ResponseWriter.WriteHeader(http.StatusSwitchingProtocols)
	return conn, buf, nil
}
