package wsproxy

import (
	"fmt"
	"net/http"
	"net/netip"
	"net/textproto"
	"runtime/debug"
	"strings"
)

// This file decides whose address is believed: who the client is, and what
// it has sent its request to.

// peerAddr is the address of the connection that a request came over; the
// zero Addr where it has none.
func peerAddr(r *http.Request) netip.Addr {
	ap, err := netip.ParseAddrPort(r.RemoteAddr)
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
	return len(c.trusted) > 0 && c.trusts(peerAddr(r))
}

// clientAddr is the client's address: the peer's, or, behind trusted
// proxies, the last one in X-Forwarded-For that is not one of theirs.
func (c *config) clientAddr(r *http.Request) string {
	if !c.trustedPeer(r) {
		return r.RemoteAddr
	}
	addr := r.RemoteAddr
	hops := strings.Split(strings.Join(r.Header["X-Forwarded-For"], ","), ",")
	for i := len(hops) - 1; i >= 0; i-- {
		a := parseAddr(strings.TrimSpace(hops[i])) // some proxies add the port
		if !a.IsValid() {
			break
		}
		if addr = a.String(); !c.trusts(a) {
			break
		}
	}
	return addr
}

// publicOrigin is the scheme and host that the client has sent its request
// to, as far as this proxy, or a trusted one in front, can tell. One in front
// may have cut the port off the host; then it may have told it apart.
func (c *config) publicOrigin(r *http.Request) (scheme, host, port string) {
	scheme, host = "http", r.Host
	if r.TLS != nil {
		scheme = "https"
	}
	if !c.trustedPeer(r) {
		return scheme, host, ""
	}
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

// clientKey returns what a client's sessions are counted by; "" if they aren't.
func (c *config) clientKey(r *http.Request, client string) (key string, e *Error) {
	switch {
	case c.maxPerClient == 0:
		return "", nil
	case c.clientKeyOf == nil:
		return addressKey(client), nil
	}
	defer func() {
		if v := recover(); v != nil {
			e = &Error{Op: "admit", Side: Neither, Status: http.StatusInternalServerError, Err: fmt.Errorf("%w: %v\n%s", errPanic, v, debug.Stack())}
		}
	}()
	return c.clientKeyOf(r), nil
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
