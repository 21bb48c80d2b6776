package wsproxy

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
)

// This file decides whose pages may open a WebSocket.

// An originPattern is one of [WithOrigins].
type originPattern struct {
	scheme string // "": http or https
	host   string // with the leading dot where names below it are meant
	port   string // "": the scheme's own
}

func parseOriginPattern(p string) (o originPattern, err error) {
	rest := p
	if scheme, after, ok := strings.Cut(p, "://"); ok {
		o.scheme, rest = strings.ToLower(scheme), after
	}
	below := strings.HasPrefix(rest, "*.")
	u, err := url.Parse("//" + strings.TrimPrefix(rest, "*."))
	if o.scheme == "ws" || o.scheme == "wss" {
		return o, errors.New("an origin is a page's, so http or https")
	}
	if err != nil || u.Host != strings.TrimPrefix(rest, "*.") || u.Hostname() == "" || strings.Contains(u.Host, "*") {
		return o, errors.New(`want "[scheme://]host[:port]", the host with "*." before it at most`)
	}
	o.host, o.port = strings.ToLower(u.Hostname()), u.Port()
	if below {
		o.host = "." + o.host
	}
	return o, nil
}

// checkOrigin refuses pages of other origins than the request's own and those
// allowed: a browser sends the visitor's cookies with a WebSocket handshake
// whoever's page opens it (RFC 6455, 10.2).
func (c *config) checkOrigin(r *http.Request) *Error {
	values := r.Header["Origin"]
	if c.anyOrigin || len(values) == 0 {
		return nil
	}
	// What the log says of it names no header's value.
	forbidden := func(text string) *Error {
		return &Error{Op: "origin", Side: Client, Status: http.StatusForbidden, Err: fmt.Errorf("%w: %s", ErrForbiddenOrigin, text)}
	}
	o, err := url.Parse(values[0])
	if err != nil || o.Scheme == "" || o.Host == "" || values[0] != o.Scheme+"://"+o.Host {
		return forbidden("not a scheme and host")
	}
	scheme, host, forwardedPort := c.publicOrigin(r)
	name, port := splitHost(o.Scheme, o.Host)
	ownName, ownPort := splitHost(scheme, host)
	if (&url.URL{Host: host}).Port() == "" && port == forwardedPort {
		ownPort = port
	}
	if o.Scheme == scheme && name == ownName && port == ownPort {
		return nil
	}
	for _, p := range c.origins {
		if p.matches(o.Scheme, name, port) {
			return nil
		}
	}
	switch {
	case name != ownName:
		return forbidden("another host than the request's")
	case o.Scheme != scheme:
		return forbidden("another scheme than the request's")
	}
	return forbidden("another port than the request's")
}

func (p originPattern) matches(scheme, name, port string) bool {
	if p.scheme == "" && scheme != "http" && scheme != "https" || p.scheme != "" && p.scheme != scheme {
		return false
	}
	if p.port != port && (p.port != "" || port != defaultPort(scheme)) {
		return false
	}
	if strings.HasPrefix(p.host, ".") {
		return strings.HasSuffix(name, p.host) && len(name) > len(p.host)
	}
	return name == p.host
}

// splitHost returns an authority's name in lower case and its port, the
// scheme's own where it names none.
func splitHost(scheme, host string) (name, port string) {
	u := url.URL{Host: host}
	if port = u.Port(); port == "" {
		port = defaultPort(scheme)
	}
	return strings.ToLower(u.Hostname()), port
}

func defaultPort(scheme string) string {
	switch scheme {
	case "http":
		return "80"
	case "https":
		return "443"
	}
	return ""
}
