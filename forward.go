package wsproxy

import (
	"bytes"
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

// This file builds the upstream's request from the client's: what is forwarded, and
// what the upstream is told about the client.

// hopByHop names the header fields that concern one connection only (RFC 9110,
// 7.6.1), and those that occur only with them.
var hopByHop = []string{
	"Connection", "Proxy-Connection", "Keep-Alive", "Proxy-Authenticate",
	"Proxy-Authorization", "Te", "Trailer", "Transfer-Encoding", "Upgrade",
	"Http2-Settings", "Content-Length", "Alt-Svc",
}

// stripHopByHop removes the hop-by-hop fields from h, and those that its
// Connection field nominates.
func stripHopByHop(h http.Header) {
	stripNominated(h)
	for _, name := range hopByHop {
		delete(h, name)
	}
}

// stripNominated removes the fields from h that its Connection field nominates.
// It keeps the fields that a peer must not remove: those that say who sends the
// request, from where, and for what.
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

// forwarding reports whether a field, by its canonical name, is one by which
// proxies describe the client.
func forwarding(name string) bool {
	return strings.HasPrefix(name, "X-Forwarded-") || name == "Forwarded" || name == "X-Real-Ip"
}

// outgoing builds the upstream's request from the client's, except for the
// fields of the handshake, and returns what it will offer. r is the request as
// the hooks left it. from determines who sent it, and to which host.
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
		// Many application servers do not distinguish X_Forwarded_For from
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
	if h.Get("User-Agent") == "" { // a hook removed it
		delete(h, "User-Agent")
	}
	out.Method, out.Body, out.ContentLength, out.TransferEncoding, out.Trailer, out.Close = http.MethodGet, nil, 0, nil, nil, false
	if out.Host == "" {
		out.Host = targetHost(out.URL)
	}
	for name, values := range h {
		if !httpguts.ValidHeaderFieldName(name) || slices.ContainsFunc(values, func(v string) bool { return !httpguts.ValidHeaderFieldValue(v) }) {
			return nil, nil, fmt.Errorf("invalid header field %q", name)
		}
	}
	if !httpguts.ValidHostHeader(out.Host) {
		return nil, nil, errors.New("invalid host")
	}
	if out.RequestURI = asked.bytes(out.URL); !validTarget(out.RequestURI) {
		return nil, nil, errors.New("invalid path or query")
	}
	if !slices.Contains([]string{"http", "https", "ws", "wss", "unix"}, out.URL.Scheme) || out.URL.Host == "" {
		return nil, nil, errors.New("URL without a host, or with an unsupported scheme")
	}
	return out, sent, nil
}

// takeOffer removes the fields of the handshake and of the connection from h,
// and returns what they offer. Names that are not spelled as in net/http were
// set by a hook: what they offer together replaces the client's offer.
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
		slices.Sort(hooks) // a fixed order
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

// tidyRewritten normalizes the hosts that a hook of [WithRewrite] has set.
func tidyRewritten(out *http.Request, target *url.URL) (err error) {
	if out.URL.Scheme != "unix" && out.URL.Host != "" && out.URL.Host != target.Host {
		if out.URL.Host, err = normalHost(out.URL.Scheme, out.URL.Host); err != nil {
			return fmt.Errorf("URL host %q: %w", clip(out.URL.Host), err)
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

// setForwarding sets the fields that describe the client to the upstream.
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
			return // it has already set the fields
		}
		// Middleware that evaluated X-Forwarded-For may leave an address without
		// a port; a unix socket has no address at all.
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

// writeRequest writes a request without a body. It writes RequestURI unchanged,
// where [http.Request.Write] would re-encode the URL. All of it must be valid.
func writeRequest(b *bytes.Buffer, r *http.Request) {
	b.WriteString("GET ")
	b.WriteString(r.RequestURI)
	b.WriteString(" HTTP/1.1\r\nHost: ")
	b.WriteString(withoutZone(r.Host))
	b.WriteString("\r\n")
	r.Header.Write(b) // a bytes.Buffer returns no error
	b.WriteString("\r\n")
}

// withoutZone removes the zone from an IPv6 address: it has a meaning on this
// machine only (RFC 6874, 4).
func withoutZone(host string) string {
	zone, end := strings.IndexByte(host, '%'), strings.IndexByte(host, ']')
	if zone < 0 || end < zone || host[0] != '[' {
		return host
	}
	return host[:zone] + host[end:]
}
