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

// This file decides whose address is believed: who the client is, and what
// it has sent its request to.

// ConnContext keeps a connection's own address with its requests. It is for
// the ConnContext field of an [http.Server] whose handlers include middleware
// that replaces a request's RemoteAddr by what header fields say. With it,
// [WithTrustedProxies], the client's address in logs and X-Forwarded-For, and
// the limit for each client use the address that has really connected. A server that has
// a ConnContext function of its own can call this one in it.
func ConnContext(ctx context.Context, conn net.Conn) context.Context {
	return context.WithValue(ctx, connKey{}, conn)
}

// connKey is the key under which a request's context has its connection. What
// is kept is that, not its address: to ask for the address of a connection
// that begins with the PROXY protocol can take a while.
type connKey struct{}

// remoteAddr is where a request came from: the other end of its connection, if
// [ConnContext] has kept that, or else what the server, or middleware, says.
func remoteAddr(r *http.Request) string {
	if conn, ok := r.Context().Value(connKey{}).(net.Conn); ok {
		return conn.RemoteAddr().String()
	}
	return r.RemoteAddr
}

// overUnix says whether a request came over a unix socket. The server says so
// apart from RemoteAddr, which middleware may have replaced.
func overUnix(r *http.Request) bool {
	local, ok := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
	return ok && local.Network() == "unix"
}

// peerAddr is the address of the connection that a request came over; the
// zero Addr where it has none.
func peerAddr(r *http.Request) netip.Addr {
	ap, err := netip.ParseAddrPort(remoteAddr(r))
	if err != nil {
		return netip.Addr{}
	}
	return ap.Addr().Unmap().WithZone("")
}

// parseAddr parses an address, which may have a port; the zero Addr is none.
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

// trustedPeer says whether a request's forwarding fields are to be believed.
func (c *config) trustedPeer(r *http.Request) bool {
	if c.trustUnix && overUnix(r) {
		return true
	}
	return len(c.trusted) > 0 && c.trusts(peerAddr(r))
}

// clientAddr is the client's address: the peer's, or, behind trusted
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

// clientScheme is what the client spoke to this proxy. A server leaves the
// scheme of a request for a path empty: middleware that sets it has learned it
// from a proxy in front. In absolute form, the client itself has written it.
func clientScheme(r *http.Request) string {
	if r.TLS != nil || strings.EqualFold(r.URL.Scheme, "https") && strings.HasPrefix(r.RequestURI, "/") {
		return "https"
	}
	return "http"
}

// clientPath is the path that the client has asked for, without the query:
// middleware may have cut the request's own (http.StripPrefix does).
func clientPath(r *http.Request) string {
	path, _, _ := strings.Cut(r.RequestURI, "?")
	if !strings.HasPrefix(path, "/") { // in absolute form (RFC 9112, 3.2.2), or in none
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

// asksForPath says whether a request's target, as it came over the wire, is a
// path, by itself or in a URL (RFC 9112, 3.2.1 and 3.2.2).
func asksForPath(r *http.Request) bool {
	target := r.RequestURI
	if target == "" { // the request was made by a program
		return r.URL.Path != "*" && r.URL.Opaque == "" && (r.URL.Scheme == "" || r.URL.Host != "")
	}
	if strings.HasPrefix(target, "/") {
		return true
	}
	_, authority, ok := strings.Cut(target, "://")
	if i := strings.IndexAny(authority, "/?"); i >= 0 {
		authority = authority[:i]
	}
	return ok && authority[strings.LastIndexByte(authority, '@')+1:] != ""
}

// publicOrigin is the scheme and host that the client has sent its request
// to, as far as this proxy, or a trusted one in front, can tell. One in front
// may have cut the port off the host; then it may have told it apart.
func (c *config) publicOrigin(r *http.Request) (scheme, host, port string) {
	if !c.trustedPeer(r) {
		return clientScheme(r), r.Host, ""
	}
	return forwardedOrigin(r)
}

// forwardedOrigin is publicOrigin by the forwarding fields, whoever has set them.
func forwardedOrigin(r *http.Request) (scheme, host, port string) {
	scheme, host = clientScheme(r), r.Host
	// Several proxies in a row may have made lists of these.
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

// trustAdvice says what to do where a page is refused that would be let in if
// the forwarding fields were believed, or were there. when says in which case.
func (c *config) trustAdvice(r *http.Request, when string) string {
	switch {
	case c.trustedPeer(r):
		return "the proxy in front, which is trusted, has to send X-Forwarded-Proto: https"
	case overUnix(r):
		return when + ", name it by WithTrustedUnixSockets"
	case !peerAddr(r).IsValid():
		return when + ", name it by WithTrustedProxies; middleware has replaced RemoteAddr, so set ConnContext in the http.Server, too"
	case len(c.trusted) > 0 && r.Context().Value(connKey{}) == nil:
		return when + ", name it by WithTrustedProxies; if middleware replaces RemoteAddr, set ConnContext in the http.Server"
	}
	return when + ", name it by WithTrustedProxies"
}

// clientKey returns what a client's sessions are counted by; "" if they aren't.
// The user's own function gets a request whose context, ctx, ends with the proxy
// as well: the session isn't there yet for Shutdown to end it.
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

// addressKey cuts a client's address down to what one client has: of IPv6 the
// first 64 bits, which an ordinary line gets all of.
func addressKey(client string) string {
	addr := parseAddr(client)
	if !addr.IsValid() {
		return client
	}
	if addr.Is6() {
		prefix, _ := addr.Prefix(64) // can't fail for IPv6
		return prefix.String()
	}
	return addr.String()
}
