package wsproxy

import (
	"crypto/rand"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/net/http/httpguts"
)

// This file names the proxy to the upstream, and knows its own name again: a
// request that has passed it before would pass it for ever, and take two more
// connections each time.

// WithVia sets the name that the proxy gives itself in the Via field of requests to
// the upstream (RFC 9110, 7.6.3), behind those that are there already. A request
// that carries the name has passed the proxy before: it is answered 508 and
// nothing is dialled for it. The default is a name that is random and this
// Proxy's own.
//
// Where several proxies are given one name, a request can pass only one of them.
// The name must be a token. With "" no name is sent, and a proxy that is its own
// upstream goes on until something runs out: set [WithMaxSessions] then.
func WithVia(name string) Option {
	return func(c *config) {
		if c.via = name; name != "" && !httpguts.ValidHeaderFieldName(name) { // a token
			c.mistake("WithVia", name, "not a token")
		}
	}
}

// randomName is what WithVia defaults to.
func randomName() string { return "wsproxy-" + strings.ToLower(rand.Text()[:10]) }

// checkLoop refuses a request that has passed this proxy before.
func (c *config) checkLoop(r *http.Request) *Error {
	if c.via == "" {
		return nil
	}
	for _, v := range r.Header["Via"] {
		for hop := range strings.SplitSeq(v, ",") { // one in a comment is no harm
			_, by, _ := strings.Cut(strings.ReplaceAll(strings.Trim(hop, " \t"), "\t", " "), " ")
			by, _, _ = strings.Cut(strings.TrimLeft(by, " "), " ")
			if strings.EqualFold(by, c.via) {
				return &Error{Op: "handshake", Side: Neither, Status: http.StatusLoopDetected, Err: ErrLoop}
			}
		}
	}
	return nil
}

// addVia adds the proxy's name to those that a request has passed.
func (c *config) addVia(r *http.Request, h http.Header) {
	if c.via == "" {
		return
	}
	version := strconv.Itoa(r.ProtoMajor)
	if r.ProtoMajor == 1 {
		version += "." + strconv.Itoa(r.ProtoMinor)
	}
	hops := slices.DeleteFunc(h["Via"], func(v string) bool { return v == "" })
	h["Via"] = []string{strings.Join(append(hops, version+" "+c.via), ", ")}
}
