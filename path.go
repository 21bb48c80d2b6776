package wsproxy

import (
	"cmp"
	"net/url"
	"strings"
)

// This file builds the request target for the upstream: the path and query of the
// target and of the request, joined as bytes. net/url re-encodes a path that
// contains a byte such as | or ", and then turns %2F into a slash.

// A requestTarget is a path and query in the bytes in which they are sent.
type requestTarget struct {
	path  string
	query string  // including the question mark
	url   url.URL // what the hook of WithRewrite sees; its path is equivalent
}

// joinTarget sets u to target joined with the request's path and query, and
// returns the bytes to send.
func joinTarget(u, target *url.URL) requestTarget {
	path := cmp.Or(joinPath(escapeOnce(rawPath(target)), tidyTarget.Replace(rawPath(u))), "/")
	query := tidyTarget.Replace(u.RawQuery)
	if query != "" && target.RawQuery != "" {
		query = "&" + query
	}
	query = tidyTarget.Replace(target.RawQuery) + query
	*u = url.URL{Scheme: target.Scheme, Host: target.Host, RawQuery: query, ForceQuery: u.ForceQuery}
	setPath(u, path)
	return requestTarget{path, rawQuery(u), *u}
}

// tidyTarget escapes bytes that a server may take for the end of the path while
// net/http and middleware in front of the proxy do not: a number sign
// (CVE-2023-45539), and a space, which an HTTP/2 request may contain.
var tidyTarget = strings.NewReplacer("#", "%23", " ", "%20")

// bytes returns the request target after the hook of WithRewrite may have
// changed u. Parts that the hook changed are encoded once; the rest is
// unchanged.
func (t *requestTarget) bytes(u *url.URL) string {
	if u.Opaque != "" {
		return u.RequestURI()
	}
	path, query := t.path, t.query
	if u.Path != t.url.Path || u.RawPath != t.url.RawPath {
		path = cmp.Or(escapeOnce(rawPath(u)), "/")
		if path[0] != '/' {
			path = "/" + path
		}
	}
	if u.RawQuery != t.url.RawQuery || u.ForceQuery != t.url.ForceQuery {
		query = rawQuery(u)
	}
	return path + query
}

// validTarget reports whether a request line may contain the target: none of
// its bytes ends the target or the line.
func validTarget(target string) bool {
	for i := range len(target) {
		if c := target[i]; c <= ' ' || c == 0x7F {
			return false
		}
	}
	return target != ""
}

// rawPath returns the bytes that u's path was parsed from: RawPath, if it is an
// encoding of Path, even one that [url.URL.EscapedPath] rejects.
func rawPath(u *url.URL) string {
	if u.RawPath != "" {
		if p, err := url.PathUnescape(u.RawPath); err == nil && p == u.Path {
			return u.RawPath
		}
	}
	return u.EscapedPath()
}

func rawQuery(u *url.URL) string {
	if u.ForceQuery || u.RawQuery != "" {
		return "?" + u.RawQuery
	}
	return ""
}

// setPath sets u's path so that EscapedPath keeps an escaped slash. The hook of
// WithRewrite may call [httputil.ProxyRequest.SetURL] or [url.URL.JoinPath],
// which join escaped paths.
func setPath(u *url.URL, raw string) {
	var err error
	if u.Path, err = url.PathUnescape(raw); err != nil { // its parts were valid
		u.Path = raw
	}
	if escaped := escapeOnce(raw); escaped != u.EscapedPath() {
		u.RawPath = escaped
	}
}

// joinPath joins two paths as [httputil.ProxyRequest.SetURL] does, with one
// slash between them; but an empty path adds none.
func joinPath(target, path string) string {
	switch {
	case path == "":
		return target
	case strings.HasSuffix(target, "/") && strings.HasPrefix(path, "/"):
		return target + path[1:]
	case !strings.HasSuffix(target, "/") && !strings.HasPrefix(path, "/"):
		return target + "/" + path
	}
	return target + path
}

// escapeOnce escapes the bytes that a path must not contain (RFC 3986, 3.3),
// and leaves existing escapes unchanged.
func escapeOnce(path string) string {
	const hex = "0123456789ABCDEF"
	n := 0
	for i := range len(path) {
		if !pathByte(path[i]) {
			n++
		}
	}
	if n == 0 {
		return path
	}
	b := make([]byte, 0, len(path)+2*n)
	for i := range len(path) {
		if c := path[i]; pathByte(c) {
			b = append(b, c)
		} else {
			b = append(b, '%', hex[c>>4], hex[c&15])
		}
	}
	return string(b)
}

// pathByte reports whether a path may contain c, with the same set as net/url's
// EscapedPath.
func pathByte(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' ||
		strings.IndexByte("-._~!$&'()*+,;=:@/%[]", c) >= 0
}
