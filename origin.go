package wsproxy

import (
	"cmp"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"strings"
)

// This file decides which pages may open a WebSocket.

// An origin is the origin of a page (RFC 6454), as sent by the client, in
// normal form. The literal null is represented as a scheme without a host.
type origin struct{ scheme, name, port string }

// parseOrigin parses the value of an Origin field: scheme://host[:port], with
// at most one trailing slash. It accepts two forms that programs send, although
// no browser does, because they are unambiguous: without a scheme, own is used,
// the request's; and ws and wss stand for http and https.
func parseOrigin(s, own string) (o origin, ok bool) {
	if s == "null" {
		return origin{scheme: s}, true
	}
	scheme, rest, found := strings.Cut(s, "://")
	if !found {
		scheme, rest = own, s
	}
	switch o.scheme = strings.ToLower(scheme); o.scheme {
	case "ws":
		o.scheme = "http"
	case "wss":
		o.scheme = "https"
	}
	if !validScheme(o.scheme) {
		return o, false
	}
	rest = strings.TrimSuffix(rest, "/")
	if rest == "" {
		return o, found && o.scheme == "file"
	}
	var err error
	o.name, o.port, err = readHost(rest)
	o.port = cmp.Or(o.port, defaultPort(o.scheme))
	return o, err == nil
}

// validScheme reports whether s is a scheme (RFC 3986, 3.1) in lower case.
func validScheme(s string) bool {
	return s != "" && 'a' <= s[0] && s[0] <= 'z' && !strings.ContainsFunc(s, func(r rune) bool {
		return !('a' <= r && r <= 'z' || '0' <= r && r <= '9' || r == '+' || r == '-' || r == '.')
	})
}

// tidyOrigin reduces the upstream's Origin fields to one or none.
func tidyOrigin(h http.Header) {
	values := h["Origin"]
	if len(values) == 0 || len(values) == 1 && values[0] != "" {
		return
	}
	switch value, ok := sole(values); {
	case value != "":
		h["Origin"] = []string{value}
	case ok:
		delete(h, "Origin")
	}
}

// An originPattern is one of [WithOrigins].
type originPattern struct {
	scheme string // "": http or https
	host   string // with a leading dot: the names below it; "*": any
	port   string // "": the scheme's default; "*": any
}

var (
	errAnyPage  = errors.New("allows every page on the internet; use WithInsecureAnyOrigin for that")
	errWildcard = errors.New(`* matches only all names below a host ("*.example.com"), all ports ("localhost:*") or, with a scheme other than http and https, all hosts ("moz-extension://*")`)
)

func parseOriginPattern(p string) (o originPattern, err error) {
	switch strings.ToLower(p) {
	case "":
		return o, errors.New(`empty; want "[scheme://]host[:port]"`)
	case "*":
		return o, errAnyPage
	case "null":
		return originPattern{scheme: "null"}, nil
	}
	scheme, rest, found := strings.Cut(p, "://")
	if !found {
		scheme, rest = "", p
	}
	prefix := p[:len(p)-len(rest)]
	web := !found
	switch o.scheme = strings.ToLower(scheme); o.scheme {
	case "http", "https":
		web = true
	case "ws", "wss":
		return o, fmt.Errorf("an origin has the scheme of its page; use %q", "http"+o.scheme[2:]+"://"+rest)
	default:
		switch {
		case strings.Contains(scheme, "*"):
			return o, errors.New("no * in a scheme; a pattern without a scheme matches http and https")
		case found && !validScheme(o.scheme):
			return o, errors.New("invalid scheme")
		}
	}
	rest = strings.TrimSuffix(rest, "/")
	authority := rest
	if i := strings.IndexAny(rest, "/?#"); i >= 0 {
		authority = rest[:i]
	}
	if i := strings.LastIndexByte(authority, '@'); i >= 0 {
		return o, fmt.Errorf("an origin has no user; use %q", prefix+authority[i+1:])
	}
	switch {
	case o.scheme == "file" && rest != "":
		return o, errors.New(`the origin of local files is "file://" or "null"`)
	case o.scheme == "file":
		return o, nil
	case authority == "":
		return o, errors.New(`no host; want "[scheme://]host[:port]"`)
	case authority != rest:
		return o, fmt.Errorf("an origin has no path or query; use %q", prefix+authority)
	}
	if host, ok := strings.CutSuffix(rest, ":*"); ok {
		rest, o.port = host, "*"
	}
	if rest == "*" {
		if web {
			return o, errAnyPage
		}
		o.host, o.port = "*", "*"
		return o, nil
	}
	rest, below := strings.CutPrefix(rest, "*.")
	if strings.Contains(rest, "*") {
		return o, errWildcard
	}
	if strings.ContainsAny(rest, ", ;") {
		return o, errors.New("more than one pattern; pass each as a separate argument")
	}
	name, port, err := readHost(rest)
	if err != nil {
		return o, err
	}
	ip, err := netip.ParseAddr(name)
	switch isIP := err == nil; {
	case isIP && ip.Zone() != "":
		return o, errors.New("an address in an origin has no zone")
	case isIP && below:
		return o, errors.New("an IP address has no names below it")
	case !isIP && web && numeric(name[strings.LastIndexByte(name, '.')+1:]):
		return o, errors.New("a host that ends in a number must be an IPv4 address")
	}
	if o.host = name; below {
		o.host = "." + name
	}
	o.port = cmp.Or(o.port, port)
	return o, nil
}

func numeric(s string) bool {
	return s != "" && strings.Trim(s, "0123456789") == ""
}

func (p originPattern) matches(o origin) bool {
	switch {
	case p.scheme == "" && o.scheme != "http" && o.scheme != "https", p.scheme != "" && p.scheme != o.scheme:
		return false
	case p.port != "*" && p.port != o.port && (p.port != "" || o.port != defaultPort(o.scheme)):
		return false
	case strings.HasPrefix(p.host, "."):
		return strings.HasSuffix(o.name, p.host) && len(o.name) > len(p.host)
	}
	return p.host == o.name || p.host == "*"
}

// checkOrigin refuses pages whose origin is neither the request's own nor
// allowed: a browser sends the visitor's cookies with a WebSocket handshake no
// matter which page opens it (RFC 6455, 10.2).
func (c *config) checkOrigin(r *http.Request) *Error {
	value, _ := sole(r.Header["Origin"])
	if c.anyOrigin || value == "" {
		return nil
	}
	scheme, host, port := c.publicOrigin(r)
	o, ok := parseOrigin(value, scheme)
	if ok && o.isOf(scheme, host, port) {
		return nil
	}
	if ok {
		for _, p := range c.origins {
			if p.matches(o) {
				return nil
			}
		}
	}
	name, hostPort, _ := readHost(host) // name is empty on error
	text := fmt.Sprintf("%q is not %q: ", clip(redactOrigin(value)), clip(scheme+"://"+host))
	switch {
	case !ok:
		text = fmt.Sprintf("%q is not an origin; want scheme://host[:port]", clip(redactOrigin(value)))
	case o.scheme == "https" && scheme == "http" && o.name == name && (o.port == cmp.Or(hostPort, port) || o.port == "443" && hostPort == ""):
		text += c.trustAdvice(r, "if a proxy in front terminates TLS")
	case !c.trustedPeer(r) && o.isOf(forwardedOrigin(r)):
		text += c.trustAdvice(r, "if a proxy in front set the X-Forwarded fields")
	case o.scheme == scheme && o.name == name && hostPort == "":
		text += "a proxy in front must send the port in Host or X-Forwarded-Port, or allow the origin with WithOrigins"
	default:
		text += "allow it with WithOrigins"
	}
	return &Error{Op: "origin", Side: Client, Status: http.StatusForbidden, Err: fmt.Errorf("%w: %s", ErrForbiddenOrigin, text)}
}

// isOf reports whether o is the origin of a request for host with the scheme.
// port applies if host has none.
func (o origin) isOf(scheme, host, port string) bool {
	name, hostPort, err := readHost(host)
	return err == nil && o.scheme == scheme && o.name == name &&
		(o.port == cmp.Or(hostPort, defaultPort(scheme)) || hostPort == "" && port != "" && o.port == port)
}

// redactOrigin removes from a client's Origin what may be secret: user, path
// and query, which a valid origin does not have. "/…" marks that there was more
// than a host.
func redactOrigin(value string) string {
	short, more := redactTarget(value), strings.ContainsAny(value, "?#")
	if scheme, rest, ok := strings.Cut(short, "://"); ok {
		authority, path, _ := strings.Cut(rest, "/")
		short, more = scheme+"://"+authority, more || path != ""
	}
	if more {
		short += "/…"
	}
	return short
}
