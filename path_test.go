package wsproxy_test

import (
	"fmt"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strings"
	"testing"

	"github.com/seed-ffb73231/wsproxy"
	"github.com/seed-ffb73231/wsproxy/internal/wstest"
)

// How the request target reaches the upstream: the bytes that came over the
// wire, joined to the target's.

// untidy is a path that net/url and net/http would encode differently: bytes
// that are invalid in a URL, and next to them an escaped slash that must not
// become a slash.
var untidy = func() (paths []string) {
	for _, c := range []string{"|", "^", `"`, "<", ">", `\`, "`", "{", "}", "ü", "\u0085", "\xff", "\xc3", "日本", "!", "*", "[", "'", "~", ";", ":", "@"} {
		paths = append(paths, "/x"+c+"%2F..%2Fadmin")
	}
	return append(paths,
		"/", "/?", "/??", "/x?", "/x??a?", "//", "//other.test/x", "///x", "/x//y", "/x/", "/.", "/..", "/../../x", "/a/../b/./%2e%2E/c",
		"/%00", "/%0d%0aX-A:%20b", "/%20", "/+", "/%2b", "/%25", "/%2525", "/%c3%bc", "/%ff", "/a%2Fb", "/a%2fb", "/a%5cb", "/%7e", "/%61", "/a;b=c/d",
		"/x?a=b;c=d", "/x?a=%zz", "/x?%", "/x?a=b&&c", "/x?ü|^\"<>\\`{}", "/x?a=\xff", "/x?/../y", "/x?a=//", "/x?a+b%20c",
		"/*", "/x:y", "/:", "/@", "/"+strings.Repeat("ä|%2F", 4000), "/?"+strings.Repeat("ä|%2F", 4000))
}()

func TestRequestTarget(t *testing.T) {
	t.Attr("case", "A33 C6")
	t.Parallel()
	type row struct {
		name, target string
		wrap         func(http.Handler) http.Handler // nil: only the proxy
		option       wsproxy.Option
		asked, want  string
	}
	var rows []row
	for _, path := range untidy {
		rows = append(rows,
			row{"alone", "http://upstream.test", nil, nil, path, path},
			row{"slash", "http://upstream.test/", nil, nil, path, path},
			row{"path", "http://upstream.test/base", nil, nil, path, "/base" + path},
			row{"path with a slash", "http://upstream.test/base/", nil, nil, path, "/base" + path},
			row{"absolute form", "http://upstream.test", nil, nil, "http://other.test" + path, path},
			row{"stripped", "http://upstream.test/base", strip("/pre"), nil, "/pre" + path, "/base" + path},
			row{"hook that changes the host", "http://upstream.test/base", nil, rewriteURL(func(u *url.URL) { u.Host = "other.test" }), path, "/base" + path},
		)
		if before, after, found := strings.Cut(path, "?"); found && after != "" {
			rows = append(rows, row{"query", "http://upstream.test/base?k=1|", nil, nil, path, "/base" + before + "?k=1|&" + after})
		}
	}
	// Paths that net/http's own parser does not accept.
	rows = append(rows,
		row{"absolute form without a path", "http://upstream.test", nil, nil, "http://other.test", "/"},
		row{"absolute form, query only", "http://upstream.test/base", nil, nil, "http://other.test?x", "/base?x"},
	)
	// Some servers end the path at a number sign; the proxy does not.
	rows = append(rows,
		row{"number sign", "http://upstream.test/base", nil, nil, "/x|%2F#y", "/base/x|%2F%23y"},
		row{"number sign in the query", "http://upstream.test/base", nil, nil, "/x?a#b", "/base/x?a%23b"},
		row{"number sign, absolute form", "http://upstream.test", nil, nil, "http://front.test/#", "/%23"},
		row{"number sign, stripped", "http://upstream.test", strip("/pre"), nil, "/pre/#?#", "/%23?%23"},
		row{"number sign, hook", "http://upstream.test", nil, rewriteURL(func(u *url.URL) { u.RawQuery += "&c" }), "/#?#", "/%23?%23&c"},
	)
	// What is irregular in the target is the operator's, and is encoded once.
	rows = append(rows,
		row{"target", "http://upstream.test/a|%2F..%2Fb", nil, nil, "/x", "/a%7C%2F..%2Fb/x"},
		row{"target with a space", "http://upstream.test/a b%2F", nil, nil, "/x|", "/a%20b%2F/x|"},
		row{"target in letters of its own", "http://upstream.test/straße", nil, nil, "/ö%2F", "/stra%C3%9Fe/ö%2F"},
		row{"target's query with a space", "http://upstream.test?a b", nil, nil, "/?c", "/?a%20b&c"},
	)
	// Changes by middleware and hooks are used, and encoded once.
	const path = "/x|%2F..%2Fadmin"
	rows = append(rows,
		row{"nothing left", "http://upstream.test/ws", strip("/pre"), nil, "/pre", "/ws"},
		row{"nothing left, slash", "http://upstream.test/ws/", strip("/pre"), nil, "/pre?a", "/ws/?a"},
		row{"nothing left, no path", "http://upstream.test", strip("/pre"), nil, "/pre", "/"},
		row{"no slash left", "http://upstream.test", strip("/pre/"), nil, "/pre" + path, path},
		row{"no slash left, path", "http://upstream.test/ws", strip("/pre/"), nil, "/pre" + path, "/ws" + path},
		row{"middleware sets the path", "http://upstream.test", change(func(u *url.URL) { u.Path, u.RawPath = "/y|/z", "" }), nil, path, "/y%7C/z"},
		row{"middleware sets the path only", "http://upstream.test", change(func(u *url.URL) { u.Path = "/y|/z" }), nil, path, "/y%7C/z"},
		row{"middleware sets the query", "http://upstream.test", change(func(u *url.URL) { u.RawQuery = "a=b" }), nil, path + "?c|", path + "?a=b"},
		row{"hook sets the path", "http://upstream.test", nil, rewriteURL(func(u *url.URL) { u.Path, u.RawPath = "/y|/z ü", "" }), path + "?q|", "/y%7C/z%20%C3%BC?q|"},
		row{"hook sets the raw path", "http://upstream.test", nil, rewriteURL(func(u *url.URL) { u.Path, u.RawPath = "/y|/z", "/y|%2Fz" }), path, "/y%7C%2Fz"},
		row{"hook sets no path", "http://upstream.test", nil, rewriteURL(func(u *url.URL) { u.Path, u.RawPath = "", "" }), path, "/"},
		row{"hook sets no slash", "http://upstream.test", nil, rewriteURL(func(u *url.URL) { u.Path, u.RawPath = "y", "" }), path, "/y"},
		row{"hook sets the query", "http://upstream.test", nil, rewriteURL(func(u *url.URL) { u.RawQuery = "a=b" }), path + "?q|", path + "?a=b"},
		row{"hook forces a query", "http://upstream.test", nil, rewriteURL(func(u *url.URL) { u.ForceQuery = true }), path, path + "?"},
		row{"hook sets bytes of its own", "http://upstream.test", nil, rewriteURL(func(u *url.URL) { u.Opaque = "/|%2F" }), path + "?q|", "/|%2F?q|"},
		row{"hook calls SetURL", "http://upstream.test", nil, wsproxy.WithRewrite(func(pr *httputil.ProxyRequest) {
			pr.SetURL(&url.URL{Scheme: "http", Host: "other.test"})
		}), path, path},
		row{"hook calls SetURL with a path", "http://upstream.test", nil, wsproxy.WithRewrite(func(pr *httputil.ProxyRequest) {
			pr.SetURL(&url.URL{Scheme: "http", Host: "other.test", Path: "/v2"})
		}), path, "/v2/x%7C%2F..%2Fadmin"},
		row{"hook puts something before", "http://upstream.test", nil, wsproxy.WithRewrite(func(pr *httputil.ProxyRequest) {
			pr.Out.URL.Path, pr.Out.URL.RawPath = "/v2"+pr.Out.URL.Path, "/v2"+pr.Out.URL.EscapedPath()
		}), path, "/v2/x%7C%2F..%2Fadmin"},
		row{"hook puts the request on", "http://upstream.test", nil, wsproxy.WithRewrite(func(pr *httputil.ProxyRequest) {
			pr.Out = pr.Out.Clone(pr.Out.Context())
		}), path, path},
	)
	for _, row := range rows {
		t.Run(fmt.Sprintf("%s %.40q", row.name, row.asked), func(t *testing.T) {
			options := []wsproxy.Option{wsproxy.WithInsecureAnyOrigin()}
			if row.option != nil {
				options = append(options, row.option)
			}
			r := newRigTo(t, wstest.TCP, row.target, options...)
			if row.wrap != nil {
				r.front = wstest.Listen(t, wstest.TCP)
				r.serve(row.wrap(r.proxy))
			}
			r.client().Send(wstest.Request(row.asked, ""))
			got, _, _ := strings.Cut(r.upstream().ReadHead(), "\r\n")
			if want := "GET " + row.want + " HTTP/1.1"; got != want {
				t.Errorf("%s: upstream was asked\n%q, want\n%q", row.target, got, want)
			}
		})
	}
}

func strip(prefix string) func(http.Handler) http.Handler {
	return func(h http.Handler) http.Handler { return http.StripPrefix(prefix, h) }
}

// change is middleware that passes on a changed URL.
func change(f func(*url.URL)) func(http.Handler) http.Handler {
	return func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			r = r.Clone(r.Context())
			f(r.URL)
			h.ServeHTTP(w, r)
		})
	}
}

func rewriteURL(f func(*url.URL)) wsproxy.Option {
	return wsproxy.WithRewrite(func(pr *httputil.ProxyRequest) { f(pr.Out.URL) })
}

// Characters that would end the target, or the line, are refused, whoever has
// put them there, and nothing is dialled.
func TestRequestTargetRefused(t *testing.T) {
	t.Attr("case", "A33")
	t.Parallel()
	for _, target := range []string{
		"/x y", "/x?y z", "/x\ty", "/x\x00", "/x\x7f", "/x\ry", "/x\x0b", "/%", "/%2", "/%zz", "x", "", "?x",
	} {
		t.Run(fmt.Sprintf("client %q", target), func(t *testing.T) {
			r := newRig(t, wstest.TCP)
			c := r.client()
			c.Send(wstest.Request(target, ""))
			if resp := c.ReadResponse(); resp.StatusCode != 400 {
				t.Errorf("answered %d, want 400", resp.StatusCode)
			}
		})
	}
	for _, bad := range []string{"/x HTTP/1.1\r\nX-A: b", " ", "\t", "\r", "\n", "\x00", "\x7f"} {
		for place, f := range map[string]func(*url.URL){
			"query":  func(u *url.URL) { u.RawQuery = bad },
			"opaque": func(u *url.URL) { u.Opaque = "/" + bad },
		} {
			t.Run(fmt.Sprintf("hook %s %q", place, bad), func(t *testing.T) {
				if dialled, _, code := direct(t, "http://upstream.test", edited(), nil, rewriteURL(f)); code != 500 || dialled != "" {
					t.Errorf("answered %d and dialled %q, want 500 and nothing", code, dialled)
				}
			})
		}
		t.Run(fmt.Sprintf("hook path %q", bad), func(t *testing.T) { // a path can be encoded
			_, head, _ := direct(t, "http://upstream.test", edited(), nil, rewriteURL(func(u *url.URL) { u.Path, u.RawPath = bad, bad }))
			if line, _, _ := strings.Cut(head, "\r\n"); !strings.HasPrefix(line, "GET /") || strings.Count(line, " ") != 2 || strings.ContainsAny(line, "\t\r\n\x00\x7f") {
				t.Errorf("upstream was asked %q", line)
			}
			wantCleanHead(t, head)
		})
	}
}
