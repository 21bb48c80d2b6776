package wsproxy

import (
	"context"
	"net"
	"net/http"
	"net/netip"
	"net/textproto"
	"net/url"
	"strings"
)

// This file determines the client's address and the origin that it sent its
// request to, and which peers are trusted to report them.

// ConnContext stores a connection's own address in the context of its requests.
// Set it as the ConnContext field of an [http.Server] if middleware replaces a
// request's RemoteAddr with a value from header fields. Then
// [WithTrustedProxies], the client's address in logs and in X-Forwarded-For,
// and the limit per client use the address of the actual connection. A server
// with its own ConnContext function can call this one from it.
func ConnContext(ctx context.Context, conn net.Conn) context.Context {
	return context.WithValue(ctx, connKey{}, conn)
}

// connKey is the context key of a request's connection. The context holds the
// connection and not its address, because determining the address can block if
// the connection begins with the PROXY protocol.
type connKey struct{}

// remoteAddr returns the address that a request came from: that of its
// connection, if [ConnContext] stored it, or else the RemoteAddr that the
// server or middleware set.
func remoteAddr(r *http.Request) string {
	if conn, ok := r.Context().Value(connKey{}).(net.Conn); ok {
		return conn.RemoteAddr().String()
	}
	return r.RemoteAddr
}

// overUnix reports whether a request came over a unix socket. It does not use
// RemoteAddr, which middleware may have replaced.
func overUnix(r *http.Request) bool {
	local, ok := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
	return ok && local.Network() == "unix"
}

// peerAddr returns the address of a request's connection, or the zero Addr if
// it has none.
func peerAddr(r *http.Request) netip.Addr {
	ap, err := netip.ParseAddrPort(remoteAddr(r))
	if err != nil {
		return netip.Addr{}
	}
	return ap.Addr().Unmap().WithZone("")
}

// parseAddr parses an address with an optional port. It returns the zero Addr
// for an invalid one.
func parseAddr(s string) netip.Addr {
	a, err := netip.ParseAddr(s)
	if err != nil {
		ap, err := netip.ParseAddrPort(s)
		if err != nil {
			return netip.Addr{}
		}
		a = ap.Addr()
	}
	return a.Unmap().WithZone("")
}

func (c *config) trusts(a netip.Addr) bool {
	for _, p := range c.trusted {
		if p.Contains(a) {
			return true
		}
	}
	return false
}

// trustedPeer reports whether a request's forwarding fields are trusted.
func (c *config) trustedPeer(r *http.Request) bool {
	if c.trustUnix && overUnix(r) {
		return true
	}
	return len(c.trusted) > 0 && c.trusts(peerAddr(r))
}

// clientAddr returns the client's address: that of the peer or, behind trusted
// proxies, the last one in X-Forwarded-For that is not one of theirs.
func (c *config) clientAddr(r *http.Request) string {
	addr := clip(remoteAddr(r)) // middleware may have put anything there
	if !c.trustedPeer(r) {
		return addr
	}
	hops := strings.Join(r.Header["X-Forwarded-For"], ",")
	for i := len(hops); i >= 0; { // from the right; there may be thousands of commas
		hops = hops[:i]
		i = strings.LastIndexByte(hops, ',')
		a := parseAddr(strings.TrimSpace(hops[i+1:])) // some proxies add the port
		if !a.IsValid() {
			break
		}
		if addr = a.String(); !c.trusts(a) {
			break
		}
	}
	return addr
}

// clientScheme returns the scheme that the client used with this proxy. A
// server leaves the scheme of a request for a path empty; if middleware sets
// it, it knows it from a proxy in front. In absolute form, the client itself
// wrote it.
func clientScheme(r *http.Request) string {
	if r.TLS != nil || strings.EqualFold(r.URL.Scheme, "https") && strings.HasPrefix(r.RequestURI, "/") {
		return "https"
	}
	return "http"
}

// clientPath returns the path that the client requested, without the query.
// Middleware may have shortened the request's own path, as http.StripPrefix
// does.
func clientPath(r *http.Request) string {
	path, _, _ := strings.Cut(r.RequestURI, "?")
	if !strings.HasPrefix(path, "/") { // absolute form (RFC 9112, 3.2.2), or neither form
		_, rest, ok := strings.Cut(path, "://")
		if !ok {
			return r.URL.Path
		}
		_, path, ok = strings.Cut(rest, "/")
		if !ok {
			return ""
		}
		path = "/" + path
	}
	if plain, err := url.PathUnescape(path); err == nil {
		return plain
	}
	return path
}

// publicOrigin returns the scheme and host that the client sent its request to,
// as far as this proxy or a trusted one in front can tell. A proxy in front may
// have removed the port from the host and sent it in a field of its own.
func (c *config) publicOrigin(r *http.Request) (scheme, host, port string) {
	if !c.trustedPeer(r) {
		return clientScheme(r), r.Host, ""
	}
	return forwardedOrigin(r)
}

// forwardedOrigin is publicOrigin according to the forwarding fields, no matter
// who set them.
func forwardedOrigin(r *http.Request) (scheme, host, port string) {
	scheme, host = clientScheme(r), r.Host
	// Several proxies in a row may have turned these into lists.
	first := func(name string) string {
		v, _, _ := strings.Cut(r.Header.Get(name), ",")
		return textproto.TrimString(v)
	}
	if v := first("X-Forwarded-Proto"); v != "" {
		scheme = strings.ToLower(v)
		switch scheme {
		case "ws":
			scheme = "http"
		case "wss":
			scheme = "https"
		}
	}
	if v := first("X-Forwarded-Host"); v != "" {
		host = v
	}
	return scheme, host, first("X-Forwarded-Port")
}

// trustAdvice returns what to do if a page is refused that would be allowed if
// the forwarding fields were present or trusted. when describes the case.
func (c *config) trustAdvice(r *http.Request, when string) string {
	switch {
	case c.trustedPeer(r):
		return "the trusted proxy in front must send X-Forwarded-Proto: https"
	case overUnix(r):
		return when + ", trust it with WithTrustedUnixSockets"
	case !peerAddr(r).IsValid():
		return when + ", trust it with WithTrustedProxies; middleware has replaced RemoteAddr, so also set ConnContext in the http.Server"
	case len(c.trusted) > 0 && r.Context().Value(connKey{}) == nil:
		return when + ", trust it with WithTrustedProxies; if middleware replaces RemoteAddr, set ConnContext in the http.Server"
	}
	return when + ", trust it with WithTrustedProxies"
}

// clientKey returns the key that a client's sessions are counted by, or "" if
// they are not counted. The user's key function gets a request whose context,
// ctx, also ends with the proxy, because Shutdown cannot end a session that
// does not exist yet.
func (p *Proxy) clientKey(ctx context.Context, cancel context.CancelCauseFunc, r *http.Request, client string) (key string, e *Error) {
	switch {
	case p.maxPerClient == 0:
		return "", nil
	case p.clientKeyOf == nil:
		return addressKey(client), nil
	}
	defer context.AfterFunc(p.life, func() { cancel(ErrShutdown) })()
	defer hookPanic("admit", "WithMaxSessionsPerClient", &e)
	return p.clientKeyOf(r.WithContext(ctx)), nil
}

// addressKey reduces an address to the part that identifies one client: the
// first 64 bits of an IPv6 address, because one ordinary line has all addresses
// below them.
func addressKey(client string) string {
	addr := parseAddr(client)
	if !addr.IsValid() {
		return client
	}
	if addr.Is6() {
		prefix, _ := addr.Prefix(64) // cannot fail for IPv6
		return prefix.String()
	}
	return addr.String()
}
