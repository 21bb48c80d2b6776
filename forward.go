package wsproxy

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"iter"
	"net/http"
	"net/textproto"
	"net/url"
	"slices"
	"strings"
	"sync"

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
func stripNominated(h http.Header) {
	for name := range nominated(h) {
		delete(h, name)
	}
}

// nominated yields the names that h's Connection field nominates. It leaves out
// the fields that a peer must not remove: those that say who sends the request,
// from where, and for what.
func nominated(h http.Header) iter.Seq[string] {
	return func(yield func(string) bool) {
		for name := range elements(h["Connection"]) {
			name = textproto.CanonicalMIMEHeaderKey(name)
			switch {
			case name == "Authorization", name == "Cookie", name == "Origin",
				strings.HasPrefix(name, "Sec-Websocket-"), forwarding(name):
			case !yield(name):
				return
			}
		}
	}
}

// forwarding reports whether a field, by its canonical name, is one by which
// proxies describe the client.
func forwarding(name string) bool {
	return strings.HasPrefix(name, "X-Forwarded-") || name == "Forwarded" || name == "X-Real-Ip"
}

// A request is the upstream's request. The handshake adds its own fields to it.
type request struct {
	url    *url.URL // where to connect to
	target string   // the path and query on the wire
	host   string
	fields []field
}

// A field is one or more lines of a request's header with the same name.
type field struct {
	name   string
	values []string // not to be changed: they may be the client's
}

// requests holds requests for reuse.
var requests = sync.Pool{New: func() any { return new(request) }}

// release makes the request available for reuse.
func (q *request) release() {
	clear(q.fields)
	*q = request{fields: q.fields[:0]}
	requests.Put(q)
}

func (q *request) add(name string, values ...string) {
	q.fields = append(q.fields, field{name, values})
}

func (q *request) addAll(h http.Header) {
	for name, values := range h {
		q.add(name, values...)
	}
}

// outgoing builds the upstream's request, out, from the client's, except for the
// fields of the handshake, and returns what it will offer. r is the request as
// the hooks left it. from determines who sent it, and to which host.
func (c *config) outgoing(ctx context.Context, out *request, from, r *http.Request, target *url.URL) (sent *offer, err error) {
	u := *r.URL
	if c.targetPath {
		u.Path, u.RawPath = "", ""
	}
	asked := joinTarget(&u, target)
	out.url, out.host = &u, r.Host
	switch {
	case c.targetsHost:
		out.host = targetHost(target)
	case c.host != "":
		out.host = c.host
	}
	c.forward(out, from, r)
	if c.rewrite == nil {
		sent, err = readOffer(r.Header["Sec-Websocket-Protocol"], r.Header["Sec-Websocket-Extensions"])
	} else {
		sent, err = c.rewritten(ctx, out, r, target)
	}
	if err != nil {
		return nil, err
	}
	c.offerUpstream(sent)
	out.fields = slices.DeleteFunc(out.fields, func(f field) bool { // a hook removed it
		return f.name == "User-Agent" && (len(f.values) == 0 || f.values[0] == "")
	})
	if out.host == "" {
		out.host = targetHost(out.url)
	}
	for _, f := range out.fields {
		if !httpguts.ValidHeaderFieldName(f.name) || slices.ContainsFunc(f.values, func(v string) bool { return !httpguts.ValidHeaderFieldValue(v) }) {
			return nil, fmt.Errorf("invalid header field %q", f.name)
		}
	}
	if !httpguts.ValidHostHeader(out.host) {
		return nil, errors.New("invalid host")
	}
	if out.target = asked.bytes(out.url); !validTarget(out.target) {
		return nil, errors.New("invalid path or query")
	}
	if !slices.Contains([]string{"http", "https", "ws", "wss", "unix"}, out.url.Scheme) || out.url.Host == "" {
		return nil, errors.New("URL without a host, or with an unsupported scheme")
	}
	return sent, nil
}

// forward adds to out the fields of r that are forwarded, and those that
// describe the client. It does not change r's header, and copies only the
// fields that the proxy itself may change. It leaves out the fields of the
// handshake.
func (c *config) forward(out *request, from, r *http.Request) {
	var unwanted map[string]bool // names; a client can send thousands
	for name := range nominated(r.Header) {
		if !slices.Contains(hopByHop, name) {
			if unwanted == nil {
				unwanted = make(map[string]bool)
			}
			unwanted[name] = true
		}
	}
	trusted := c.trustedPeer(from)
	own := make(http.Header, 8)
	for name, values := range r.Header {
		// Many application servers do not distinguish X_Forwarded_For from
		// X-Forwarded-For.
		alias := textproto.CanonicalMIMEHeaderKey(strings.ReplaceAll(name, "_", "-"))
		switch {
		case slices.Contains(hopByHop, alias), unwanted[name]:
		case strings.HasPrefix(alias, "Sec-Websocket-"), alias == "Host", alias == "Expect":
		case forwarding(alias) && (alias != name || !trusted):
		case forwarding(name), name == "Origin", name == "Via":
			own[name] = slices.Clone(values)
		default:
			out.add(name, values...)
		}
	}
	tidyOrigin(own)
	setForwarding(from, own, trusted)
	c.addVia(from, own)
	out.addAll(own)
}

// rewritten calls the user's hook of [WithRewrite] with the request, which also
// has the client's offer, and makes out what the hook makes of it.
func (c *config) rewritten(ctx context.Context, out *request, r *http.Request, target *url.URL) (*offer, error) {
	pr := r.Clone(ctx)
	pr.URL, pr.Host, pr.RequestURI, pr.Body = out.url, out.host, "", nil
	pr.Header = make(http.Header, len(r.Header))
	for _, f := range out.fields {
		pr.Header[f.name] = slices.Clone(f.values)
	}
	for name, values := range r.Header {
		if strings.HasPrefix(name, "Sec-Websocket-") && name == textproto.CanonicalMIMEHeaderKey(name) {
			pr.Header[name] = slices.Clone(values)
		}
	}
	pr, err := callRewrite(c.rewrite, r, pr)
	if err != nil {
		return nil, err
	}
	if err := tidyRewritten(pr, target); err != nil {
		return nil, err
	}
	sent, err := takeOffer(pr.Header)
	out.url, out.host, out.fields = pr.URL, pr.Host, out.fields[:0]
	out.addAll(pr.Header)
	return sent, err
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
	return readOffer(protocols, extensions)
}

// readOffer is parseOffer for what goes to an upstream.
func readOffer(protocols, extensions []string) (*offer, error) {
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

// write writes the request, which has no body, with the fields in the order of
// their names. All of it must be valid.
func (q *request) write(b *bytes.Buffer) {
	line := func(name, value string) {
		b.WriteString(name)
		b.WriteString(": ")
		b.WriteString(textproto.TrimString(value))
		b.WriteString("\r\n")
	}
	b.WriteString("GET ")
	b.WriteString(q.target)
	b.WriteString(" HTTP/1.1\r\n")
	line("Host", withoutZone(q.host))
	slices.SortFunc(q.fields, func(f, g field) int { return strings.Compare(f.name, g.name) })
	for _, f := range q.fields {
		for _, v := range f.values {
			line(f.name, v)
		}
	}
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
