package wsproxy_test

import (
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"net/http/httputil"
	"net/netip"
	"strings"
	"testing"

	"github.com/seed-ffb73231/wsproxy"
	"github.com/seed-ffb73231/wsproxy/internal/wstest"
)

// Middleware as many programs use it.
type middleware = func(http.Handler) http.Handler

// realIP replaces RemoteAddr with the value of a header field, as chi's RealIP
// does.
func realIP(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if v := r.Header.Get("X-Real-Ip"); v != "" {
			r.RemoteAddr = v
		}
		next.ServeHTTP(w, r)
	})
}

// proxyHeaders takes address, scheme and host from forwarding fields, as
// gorilla/handlers' ProxyHeaders does.
func proxyHeaders(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if v := r.Header.Get("X-Forwarded-For"); v != "" {
			r.RemoteAddr = v
		}
		if v := r.Header.Get("X-Forwarded-Proto"); v != "" {
			r.URL.Scheme = v
		}
		if v := r.Header.Get("X-Forwarded-Host"); v != "" {
			r.Host = v
		}
		next.ServeHTTP(w, r)
	})
}

// wholeURL makes the request's URL absolute, for links.
func wholeURL(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.URL.Scheme, r.URL.Host = "http", r.Host
		next.ServeHTTP(w, r)
	})
}

// opaque passes the path on as it was sent, as programs did before URL.RawPath.
func opaque(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.URL.Opaque = "//other.test" + r.URL.Path
		next.ServeHTTP(w, r)
	})
}

// What came over the wire decides, not what middleware has made of the request:
// the form of the target, the logged path, the peer.
func TestMiddleware(t *testing.T) {
	t.Attr("case", "A25 A31 A40")
	t.Parallel()
	local := wsproxy.WithTrustedProxies(netip.MustParsePrefix("127.0.0.0/8"))
	another := wsproxy.WithTrustedProxies(netip.MustParsePrefix("192.0.2.0/24"))
	prefix := func(next http.Handler) http.Handler { return http.StripPrefix("/app", next) }
	const (
		https = "Origin: https://front.test\r\n"
		proto = "X-Forwarded-Proto: https\r\n"
	)
	for _, row := range []struct {
		name       string
		middleware middleware
		keep       bool // set ConnContext
		option     wsproxy.Option
		target     string // of the client's request
		lines      string
		status     int
		sent       []string // lines of the upstream's request, in order; the first is its path
		logged     map[string]string
	}{
		{"nothing", nil, false, nil, "/a%20b?x", "", 101,
			[]string{"GET /a%20b?x HTTP/1.1", "X-Forwarded-For: 127.0.0.1", "X-Forwarded-Proto: http"}, map[string]string{"path": "/a b"}},
		{"StripPrefix", prefix, false, nil, "/app/a%2Fb?x", "", 101,
			[]string{"GET /a%2Fb?x HTTP/1.1"}, map[string]string{"path": "/app/a/b"}},
		{"StripPrefix, all of it", prefix, false, nil, "/app", "", 101,
			[]string{"GET / HTTP/1.1"}, map[string]string{"path": "/app"}},
		{"StripPrefix, absolute form", prefix, false, nil, "http://user:" + wstest.Secret + "@front.test/app/x?" + wstest.Secret, "", 101,
			[]string{"GET /x?"}, map[string]string{"path": "/app/x"}},
		{"absolute form without a path", nil, false, nil, "http://front.test?x", "", 101, []string{"GET /?x HTTP/1.1"}, map[string]string{"path": ""}},
		{"StripPrefix, refused", prefix, false, nil, "/app/x", "Origin: http://evil.test\r\n", 403, nil, map[string]string{"path": "/app/x"}},

		// The middleware's scheme is used where the client's own is unknown.
		{"ProxyHeaders", proxyHeaders, false, nil, "/x", https + proto + "X-Forwarded-For: 203.0.113.7\r\n", 101,
			[]string{"GET /x HTTP/1.1", "X-Forwarded-For: 203.0.113.7", "X-Forwarded-Host: front.test", "X-Forwarded-Proto: https"}, map[string]string{"client": "203.0.113.7"}},
		{"ProxyHeaders, another host", proxyHeaders, false, nil, "/x", "Origin: https://www.test\r\n" + proto + "X-Forwarded-Host: www.test\r\n", 101,
			[]string{"X-Forwarded-Host: www.test"}, nil},
		{"ProxyHeaders, another origin", proxyHeaders, false, nil, "/x", "Origin: https://evil.test\r\n" + proto, 403, nil, nil},
		{"ProxyHeaders, no path", proxyHeaders, false, nil, "a:", proto, 400, nil, nil},
		{"ProxyHeaders, *", proxyHeaders, false, nil, "*", proto, 400, nil, nil},
		{"whole URL", wholeURL, false, nil, "/x", "", 101, []string{"GET /x HTTP/1.1"}, nil},
		{"whole URL, authority form", wholeURL, false, nil, "evil.test:80", "", 400, nil, nil},
		{"whole URL, no host", wholeURL, false, nil, "http:///x", "", 400, nil, nil},
		{"opaque URL", opaque, false, nil, "/x", "", 101, []string{"GET /x HTTP/1.1"}, nil},
		{"absolute form says https", nil, false, nil, "https://front.test/x", https, 403, nil, nil},

		{"RealIP", realIP, false, local, "/x", https + proto + "X-Real-Ip: 203.0.113.7\r\n", 403, nil, map[string]string{"client": "203.0.113.7"}},
		{"RealIP, kept", realIP, true, local, "/x", https + proto + "X-Real-Ip: 203.0.113.7\r\nX-Forwarded-For: 203.0.113.7\r\n", 101,
			[]string{"X-Forwarded-For: 203.0.113.7, 127.0.0.1", "X-Forwarded-Proto: https", "X-Real-Ip: 203.0.113.7"}, map[string]string{"client": "203.0.113.7"}},
		{"RealIP, kept, nobody trusted", realIP, true, nil, "/x", proto + "X-Real-Ip: 203.0.113.7\r\n", 101,
			[]string{"X-Forwarded-For: 127.0.0.1", "X-Forwarded-Proto: http"}, nil},
		{"RealIP, a stranger claims to be trusted", realIP, true, another, "/x", https + proto + "X-Real-Ip: 192.0.2.1:80\r\n", 403, nil, nil},
		{"RealIP, long", realIP, false, nil, "/x", "X-Real-Ip: " + strings.Repeat("a", 5000) + "\r\n", 101, nil, map[string]string{"client": strings.Repeat("a", 200) + "…"}},
		{"kept, as by ProxyHeaders", proxyHeaders, true, local, "/x", https + proto + "X-Forwarded-For: 203.0.113.7\r\n", 101,
			[]string{"X-Forwarded-For: 203.0.113.7, 127.0.0.1"}, map[string]string{"client": "203.0.113.7"}},
	} {
		t.Run(row.name, func(t *testing.T) {
			// Hooks that do nothing, each with its own copy of the request.
			options := []wsproxy.Option{
				wsproxy.WithOnOpen(func(*wsproxy.Session, *http.Request) error { return nil }),
				wsproxy.WithRewrite(func(*httputil.ProxyRequest) {}),
			}
			if row.option != nil {
				options = append(options, row.option)
			}
			r := newRigTo(t, wstest.TCP, "http://upstream.test", options...)
			if row.keep {
				r.connContext = wsproxy.ConnContext
			}
			r.mount(row.middleware)
			r.try(0, wstest.Request(row.target, row.lines), row.status, row.sent, row.logged)
		})
	}
}

// mount serves the proxy again, behind middleware unless it is nil.
func (r *rig) mount(m middleware) {
	r.front = wstest.Listen(r.t, r.legs.client)
	if m == nil {
		m = func(next http.Handler) http.Handler { return next }
	}
	r.serve(m(r.proxy))
}

// try sends a request and expects it to be answered with status. With 101, the
// request to the upstream must contain the lines; otherwise nothing must have
// been dialled. The nth record must have the values.
func (r *rig) try(nth int, request string, status int, sent []string, logged map[string]string) {
	t := r.t
	t.Helper()
	c := r.client()
	c.Send(request)
	if status != 101 {
		c.WantRefusal(status)
	} else {
		u := r.upstream()
		head := u.ReadHead()
		for _, line := range sent {
			if !strings.Contains(head, line) {
				t.Errorf("upstream: got\n%s\nwant the line %q", head, line)
			}
		}
		u.Send("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: " +
			wstest.AcceptKey(strings.TrimSuffix(strings.TrimPrefix(keyLine.FindString(head), "Sec-WebSocket-Key: "), "\r")) + "\r\n\r\n")
		if resp := c.ReadResponse(); resp.StatusCode != 101 {
			t.Fatalf("client: got %d, want 101", resp.StatusCode)
		}
		u.Close()
		c.Close()
	}
	r.wantReturned()
	m := r.logs.Wait(t, nth)
	for key, want := range logged {
		if m[key] != want {
			t.Errorf("logged %s %q, want %q", key, m[key], want)
		}
	}
}

// A peer over a unix socket has no address. The forwarding fields of a trusted
// one are used and forwarded; those of any other are not, whatever RemoteAddr
// is.
func TestTrustedUnixSockets(t *testing.T) {
	t.Attr("case", "A28 A40 A86")
	t.Parallel()
	const lines = "Origin: https://www.test\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Host: www.test\r\n" +
		"X-Forwarded-For: 198.51.100.1, 203.0.113.7, 10.0.0.1\r\nX-Real-Ip: 203.0.113.7\r\nForwarded: for=203.0.113.7\r\n"
	sent := []string{"X-Forwarded-For: 198.51.100.1, 203.0.113.7, 10.0.0.1\r\n", "X-Forwarded-Proto: https\r\n", "X-Forwarded-Host: www.test\r\n",
		"X-Real-Ip: 203.0.113.7\r\n", "Forwarded: for=203.0.113.7\r\n"}
	inner := wsproxy.WithTrustedProxies(netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("::/0"))
	at := func(addr string) middleware {
		return func(next http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				r.RemoteAddr = addr
				next.ServeHTTP(w, r)
			})
		}
	}
	for _, row := range []struct {
		name       string
		kind       wstest.Kind
		trusted    bool
		middleware middleware
		status     int
	}{
		{"trusted", wstest.Unix, true, nil, 101},
		{"trusted, no name at all", wstest.Unix, true, at(""), 101},
		{"trusted, RemoteAddr replaced", wstest.Unix, true, at("203.0.113.7"), 101},
		{"not trusted", wstest.Unix, false, nil, 403},
		{"TCP", wstest.TCP, true, nil, 403},
		{"TCP, as if it were none", wstest.TCP, true, at("@"), 403},
		{"TCP, no address", wstest.TCP, true, at(""), 403},
	} {
		t.Run(row.name, func(t *testing.T) {
			options := []wsproxy.Option{inner, wsproxy.WithOnOpen(func(*wsproxy.Session, *http.Request) error { return nil })}
			logged := map[string]string{}
			if row.trusted {
				options = append(options, wsproxy.WithTrustedUnixSockets())
			}
			if row.status == 101 {
				logged["client"] = "203.0.113.7"
			}
			r := newRigTo(t, row.kind, "http://upstream.test", options...)
			r.mount(row.middleware)
			r.try(0, wstest.Request("/", lines), row.status, sent, logged)
			if row.status == 101 { // no address is invented
				r.try(1, wstest.Request("/", ""), 101, []string{"X-Forwarded-Host: front.test\r\nX-Forwarded-Proto: http\r\n"}, nil)
			}
		})
	}
}

// With ConnContext, a peer over a unix socket never counts as a client with an
// address that middleware took from a stranger's header.
func TestUnixSocketAddress(t *testing.T) {
	t.Attr("case", "A28")
	t.Parallel()
	for _, keep := range []bool{true, false} {
		r := newRigTo(t, wstest.Unix, "http://upstream.test", wsproxy.WithInsecureAnyOrigin())
		if keep {
			r.connContext = wsproxy.ConnContext
		}
		r.mount(realIP)
		c := r.client()
		c.Send(wstest.Request("/", "X-Real-Ip: 203.0.113.7\r\n"))
		head := r.upstream().ReadHead()
		if told := strings.Contains(head, "X-Forwarded-For: 203.0.113.7\r\n"); told == keep {
			t.Errorf("kept %v: the upstream was sent\n%s", keep, head)
		}
	}
}

// The limit per client counts the clients that a trusted proxy behind a unix
// socket reports. Without trust, all of them count as one.
func TestUnixSocketClients(t *testing.T) {
	t.Attr("case", "A86")
	t.Parallel()
	for _, trusted := range []bool{true, false} {
		options := []wsproxy.Option{wsproxy.WithMaxSessionsPerClient(1, nil), wsproxy.WithInsecureAnyOrigin()}
		if trusted {
			options = append(options, wsproxy.WithTrustedUnixSockets())
		}
		r := newRigTo(t, wstest.Unix, "http://upstream.test", options...)
		r.open("X-Forwarded-For: 203.0.113.7\r\n", "")
		for _, lines := range []string{"X-Forwarded-For: 203.0.113.7\r\n", "X-Forwarded-For: 203.0.113.8\r\n"} {
			if trusted && strings.Contains(lines, ".8") {
				r.open(lines, "")
				continue
			}
			c := r.client()
			c.Send(wstest.Request("/", lines))
			if resp := c.ReadResponse(); resp.StatusCode != 429 {
				t.Errorf("trusted %v, %q: got %d, want 429", trusted, lines, resp.StatusCode)
			}
		}
	}
}

// A connection's address is read when a request comes, not in the server's
// accept loop: with a listener that parses PROXY headers, reading it blocks.
func TestConnContextIsLazy(t *testing.T) {
	t.Parallel()
	conn := slowAddress{asked: make(chan struct{})}
	wsproxy.ConnContext(t.Context(), conn)
	select {
	case <-conn.asked:
		t.Error("ConnContext asks for the address")
	default:
	}
}

type slowAddress struct {
	net.Conn
	asked chan struct{}
}

func (c slowAddress) RemoteAddr() net.Addr { close(c.asked); return wstest.MemAddr{} }

// New reports the same mistakes in the same order each time.
func TestOrderOfMistakes(t *testing.T) {
	t.Parallel()
	want := ""
	for range 50 {
		_, err := wsproxy.New("", wsproxy.WithUpstreams(wsproxy.Member{Target: "http://a", Address: "b"}, wsproxy.Member{Target: "http://a", Address: "b:99999"}),
			wsproxy.WithTLSConfig(&tls.Config{MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11}),
			wsproxy.WithHealthCheck(wsproxy.HealthCheck{Interval: -1, Timeout: -1, Fall: -1, Rise: -1, Path: "x", Header: http.Header{"a b": nil, "c d": nil, "e": {"\n"}}}))
		if err == nil {
			t.Fatal("no error")
		}
		if want == "" {
			want = err.Error()
			if joined, ok := errors.AsType[interface {
				error
				Unwrap() []error
			}](err); !ok || len(joined.Unwrap()) != 12 {
				t.Errorf("got %v, want 12 mistakes", err)
			}
		}
		if err.Error() != want {
			t.Fatalf("got\n%v\nand\n%v", err, want)
		}
	}
}
