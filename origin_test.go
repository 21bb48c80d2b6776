package wsproxy_test

import (
	"errors"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/seed-ffb73231/wsproxy"
	"github.com/seed-ffb73231/wsproxy/internal/wstest"
)

// The record of a forbidden origin contains the origin, what it was compared
// with, and what to do about it. The client gets none of that.
func TestForbiddenOrigin(t *testing.T) {
	t.Attr("case", "A40 A43")
	t.Parallel()
	trusted := wsproxy.WithTrustedProxies(netip.MustParsePrefix("127.0.0.0/8"))
	another := wsproxy.WithTrustedProxies(netip.MustParsePrefix("192.0.2.0/24"))
	replaced := func(addr string) middleware {
		return func(next http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				r.RemoteAddr = addr
				next.ServeHTTP(w, r)
			})
		}
	}
	const (
		ends   = "if a proxy in front terminates TLS, trust it with "
		fields = "if a proxy in front set the X-Forwarded fields, trust it with "
	)
	for _, row := range []struct {
		name, lines string
		kind        wstest.Kind
		option      wsproxy.Option
		middleware  middleware
		want        string
	}{
		{"another host", "Origin: http://evil.test", wstest.TCP, nil, nil,
			`"http://evil.test" is not "http://front.test": allow it with WithOrigins`},
		{"null", "Origin: null", wstest.TCP, nil, nil,
			`"null" is not "http://front.test": allow it with WithOrigins`},
		{"the scheme", "Origin: https://front.test", wstest.TCP, nil, nil,
			`"https://front.test" is not "http://front.test": ` + ends + "WithTrustedProxies"},
		{"the scheme, with a port", "Origin: https://front.test:443/", wstest.TCP, nil, nil,
			`"https://front.test:443" is not "http://front.test": ` + ends + "WithTrustedProxies"},
		{"the scheme, the other way", "Origin: http://front.test", wstest.TLS, nil, nil,
			`"http://front.test" is not "https://front.test": allow it with WithOrigins`},
		{"the scheme, trusted", "Origin: https://front.test", wstest.TCP, trusted, nil,
			`"https://front.test" is not "http://front.test": the trusted proxy in front must send X-Forwarded-Proto: https`},
		{"the scheme, another is trusted", "Origin: https://front.test", wstest.TCP, another, nil,
			`"https://front.test" is not "http://front.test": ` + ends + "WithTrustedProxies; if middleware replaces RemoteAddr, set ConnContext in the http.Server"},
		{"the scheme, RemoteAddr replaced", "Origin: https://front.test\r\nX-Forwarded-Proto: https", wstest.TCP, trusted, replaced("203.0.113.7"),
			`"https://front.test" is not "http://front.test": ` + ends + "WithTrustedProxies; middleware has replaced RemoteAddr, so also set ConnContext in the http.Server"},
		{"the scheme, unix", "Origin: https://front.test", wstest.Unix, nil, nil,
			`"https://front.test" is not "http://front.test": ` + ends + "WithTrustedUnixSockets"},
		{"the port", "Origin: http://front.test:8080", wstest.TCP, nil, nil,
			`"http://front.test:8080" is not "http://front.test": a proxy in front must send the port in Host or X-Forwarded-Port, or allow the origin with WithOrigins`},
		{"what a trusted proxy says", "Origin: https://a.test\r\nX-Forwarded-Host: b\".test\r\nX-Forwarded-Proto: https", wstest.TCP, trusted, nil,
			`"https://a.test" is not "https://b\".test": allow it with WithOrigins`},
		{"none", "Origin: http://user:" + wstest.Secret + "@front.test/" + wstest.Secret + "?" + wstest.Secret, wstest.TCP, nil, nil,
			`"http://…@front.test/…" is not an origin; want scheme://host[:port]`},
		{"a path", "Origin: http://front.test/" + wstest.Secret, wstest.TCP, nil, nil,
			`"http://front.test/…" is not an origin; want scheme://host[:port]`},
		{"a query", "Origin: http://front.test?" + wstest.Secret, wstest.TCP, nil, nil,
			`"http://front.test/…" is not an origin; want scheme://host[:port]`},
		{"a list", "Origin: http://front.test, http://evil.test", wstest.TCP, nil, nil,
			`"http://front.test, http:/…" is not an origin; want scheme://host[:port]`},
		{"the host, not trusted", "Origin: http://www.test\r\nX-Forwarded-Host: www.test", wstest.TCP, another, nil,
			`"http://www.test" is not "http://front.test": ` + fields + "WithTrustedProxies; if middleware replaces RemoteAddr, set ConnContext in the http.Server"},
		{"the host, RemoteAddr replaced", "Origin: https://www.test\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Host: www.test", wstest.TCP, trusted, replaced("203.0.113.7"),
			`"https://www.test" is not "http://front.test": ` + fields + "WithTrustedProxies; middleware has replaced RemoteAddr, so also set ConnContext in the http.Server"},
		{"the host, as nobody says", "Origin: http://www.test\r\nX-Forwarded-Host: evil.test", wstest.TCP, another, nil,
			`"http://www.test" is not "http://front.test": allow it with WithOrigins`},
		{"hostile", "Origin: http://a\"\tb", wstest.TCP, nil, nil,
			`"http://a\"\tb" is not an origin; want scheme://host[:port]`},
		{"long", "Origin: http://" + strings.Repeat("a", 5000), wstest.TCP, nil, nil,
			`"http://` + strings.Repeat("a", 193) + `…" is not an origin; want scheme://host[:port]`},
	} {
		t.Run(row.name, func(t *testing.T) {
			var got []*wsproxy.Error
			options := []wsproxy.Option{wsproxy.WithErrorHandler(func(w http.ResponseWriter, _ *http.Request, e *wsproxy.Error) {
				got = append(got, e)
				http.Error(w, "no", e.Status)
			})}
			if row.option != nil {
				options = append(options, row.option)
			}
			r := newRigTo(t, row.kind, "http://upstream.test", options...)
			r.mount(row.middleware)
			c := r.client()
			c.Send(withLines(row.lines))
			c.WantRefusal(403)
			r.wantReturned()
			if m := r.logs.Wait(t, 0); m["error"] != "forbidden origin: "+row.want || m["kind"] != "forbidden origin" {
				t.Errorf("logged\n%v\nwant\n%v", m["error"], "forbidden origin: "+row.want)
			}
			if len(got) != 1 || !errors.Is(got[0], wsproxy.ErrForbiddenOrigin) || got[0].Error() != "wsproxy: client origin: forbidden origin: "+row.want {
				t.Errorf("got %v", got)
			}
		})
	}
}

// A long Origin with non-ASCII characters costs nothing: its conversion to an
// A-label, whose time grows with the square of the length, would take seconds.
func TestLongOrigin(t *testing.T) {
	t.Parallel()
	var name strings.Builder
	for c := '\u4e00'; name.Len() < 60_000; c++ {
		name.WriteRune(c)
	}
	r := newRigTo(t, wstest.TCP, "http://upstream.test")
	c := r.client()
	c.SetDeadline(time.Now().Add(4 * time.Second))
	c.Send(withLines("Origin: http://" + name.String()))
	c.WantRefusal(403)
}
