package wsproxy

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/textproto"
	"net/url"
	"slices"
	"strings"

	"golang.org/x/net/http/httpguts"
)

// This file makes the upstream's request of the client's: what of it goes
// on, and what the upstream is told of the client.

// hopByHop names the header fields that concern one connection only
// (RFC 9110, 7.6.1), and those that only ever come with them.
var hopByHop = []string{
	"Connection", "Proxy-Connection", "Keep-Alive", "Proxy-Authenticate",
	"Proxy-Authorization", "Te", "Trailer", "Transfer-Encoding", "Upgrade",
	"Http2-Settings", "Content-Length", "Alt-Svc",
}

// stripHopByHop takes hop-by-hop fields out of h, and those that its
// Connection field nominates.
func stripHopByHop(h http.Header) {
	stripNominated(h)
	for _, name := range hopByHop {
		delete(h, name)
	}
}

// stripNominated takes out of h what its Connection field nominates. What a
// peer may not nominate away it keeps: the fields that say who is asking, from
// where, and for what.
func stripNominated(h http.Header) {
	for name := range elements(h["Connection"]) {
		name = textproto.CanonicalMIMEHeaderKey(name)
		switch {
		case name == "Authorization", name == "Cookie", name == "Origin",
			strings.HasPrefix(name, "Sec-Websocket-"), forwarding(name):
		default:
			delete(h, name)
		}
	}
}

// forwarding says whether a field, by its canonical name, is one by which
// proxies tell of the client.
func forwarding(name string) bool {
	return strings.HasPrefix(name, "X-Forwarded-") || name == "Forwarded" || name == "X-Real-Ip"
}

// outgoing makes the upstream's request of the client's, but for the fields of
// the handshake, and what it is to offer. r is the request as the hooks have left
// it; who has sent it, and to what host, is what from says.
func (c *config) outgoing(ctx context.Context, from, r *http.Request, target *url.URL) (out *http.Request, sent *offer, err error) {
	out = r.Clone(ctx)
	out.RequestURI, out.Body = "", nil
	if c.targetPath {
		out.URL.Path, out.URL.RawPath = "", ""
	}
	asked := joinTarget(out.URL, target)
	switch {
	case c.targetsHost:
		out.Host = targetHost(target)
	case c.host != "":
		out.Host = c.host
	}
	h := out.Header
	stripHopByHop(h)
	tidyOrigin(h)
	trusted := c.trustedPeer(from)
	for name := range h {
		// Many an application server can't tell X_Forwarded_For from
		// X-Forwarded-For.
		alias := textproto.CanonicalMIMEHeaderKey(strings.ReplaceAll(name, "_", "-"))
		switch {
		case alias != name && (forwarding(alias) || strings.HasPrefix(alias, "Sec-Websocket-") || slices.Contains(hopByHop, alias)):
			delete(h, name)
		case forwarding(name) && !trusted:
			delete(h, name)
		}
	}
	setForwarding(from, h, trusted)
	c.addVia(from, h)
	if c.rewrite != nil {
		if out, err = callRewrite(c.rewrite, r, out); err != nil {
			return nil, nil, err
		}
		if err := tidyRewritten(out, target); err != nil {
			return nil, nil, err
		}
		h = out.Header
	}

	if sent, err = takeOffer(h); err != nil {
		return nil, nil, err
	}
	if h.Get("User-Agent") == "" { // how a hook leaves it out
		delete(h, "User-Agent")
	}
	out.Method, out.Body, out.ContentLength, out.TransferEncoding, out.Trailer, out.Close = http.MethodGet, nil, 0, nil, nil, false
	if out.Host == "" {
		out.Host = targetHost(out.URL)
	}
	for name, values := range h {
		if !httpguts.ValidHeaderFieldName(name) || slices.ContainsFunc(values, func(v string) bool { return !httpguts.ValidHeaderFieldValue(v) }) {
			return nil, nil, fmt.Errorf("header field %q is not valid", name)
		}
	}
	if !httpguts.ValidHostHeader(out.Host) {
		return nil, nil, errors.New("host is not valid")
	}
	if out.RequestURI = asked.bytes(out.URL); !validTarget(out.RequestURI) {
		return nil, nil, errors.New("path or query is not valid")
	}
	if !slices.Contains([]string{"http", "https", "ws", "wss", "unix"}, out.URL.Scheme) || out.URL.Host == "" {
		return nil, nil, errors.New("no host, or a scheme that can't be dialled")
	}
	return out, sent, nil
}

// takeOffer takes the fields of the handshake and of the connection out of h,
// and returns what they offer. Names that are not written as net/http writes them
// are a hook's: what it offers by them, in all of them together, stands in place of
// what the client has offered.
func takeOffer(h http.Header) (*offer, error) {
	protocols, extensions := h["Sec-Websocket-Protocol"], h["Sec-Websocket-Extensions"]
	var hooks []string // names
	for name := range h {
		canonical := textproto.CanonicalMIMEHeaderKey(name)
		switch own := strings.HasPrefix(canonical, "Sec-Websocket-"); {
		case own && name != canonical:
			hooks = append(hooks, name)
		case own, canonical == "Host", canonical == "Expect", slices.Contains(hopByHop, canonical):
			delete(h, name)
		}
	}
	if len(hooks) > 0 {
		slices.Sort(hooks) // one order, always
		offers := make(http.Header)
		for _, name := range hooks {
			canonical := textproto.CanonicalMIMEHeaderKey(name)
			offers[canonical] = append(offers[canonical], h[name]...)
			delete(h, name)
		}
		if v, ok := offers["Sec-Websocket-Protocol"]; ok {
			protocols = v
		}
		if v, ok := offers["Sec-Websocket-Extensions"]; ok {
			extensions = v
		}
	}
	sent, field, err := parseOffer(protocols, extensions)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", field, err)
	}
	return &sent, nil
}

// tidyRewritten brings the hosts that a hook of [WithRewrite] has set into
// their normal form.
func tidyRewritten(out *http.Request, target *url.URL) (err error) {
	if out.URL.Scheme != "unix" && out.URL.Host != "" && out.URL.Host != target.Host {
		if out.URL.Host, err = normalHost(out.URL.Scheme, out.URL.Host); err != nil {
			return fmt.Errorf("URL's host %q: %w", clip(out.URL.Host), err)
		}
	}
	if !httpguts.ValidHostHeader(out.Host) {
		name, port, err := readHost(out.Host)
		if err != nil {
			return fmt.Errorf("host %q: %w", clip(out.Host), err)
		}
		out.Host = joinHost(name, port)
	}
	return nil
}

// setForwarding sets the fields that tell the upstream of the client.
func setForwarding(r *http.Request, h http.Header, trusted bool) {
	set := func(name, value string) {
		if len(h[name]) == 0 {
			h[name] = []string{value}
		}
	}
	set("X-Forwarded-Host", r.Host)
	set("X-Forwarded-Proto", clientScheme(r))
	peer := peerAddr(r)
	if !peer.IsValid() {
		if trusted && overUnix(r) {
			return // it has said all that there is to say
		}
		// Middleware that has looked into X-Forwarded-For itself may leave
		// an address without a port; a unix socket has none at all.
		if peer = parseAddr(remoteAddr(r)); !peer.IsValid() {
			return
		}
	}
	hops := slices.DeleteFunc(h["X-Forwarded-For"], func(v string) bool { return v == "" })
	h.Set("X-Forwarded-For", strings.Join(append(hops, peer.String()), ", "))
	if f := h["Forwarded"]; len(f) > 0 { // RFC 7239, 4 and 6
		node := peer.String()
		if peer.Is6() {
			node = `"[` + node + `]"`
		}
		h.Set("Forwarded", strings.Join(append(f, "for="+node), ", "))
	}
}
