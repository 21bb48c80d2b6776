package wsproxy_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"net/netip"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	"github.com/seed-ffb73231/wsproxy"
	"github.com/seed-ffb73231/wsproxy/internal/wstest"
)

// The handshake with the upstream: the request on the wire, connecting, TLS,
// and the handling of every answer.

var discard = slog.New(slog.DiscardHandler)

// C6, C7: the whole request, byte for byte, over every kind of leg.
func TestOutgoingBytes(t *testing.T) {
	t.Attr("case", "C5 C6 C7")
	t.Parallel()
	wstest.EachKind(t, func(t *testing.T, k wstest.Kind) {
		r := newRig(t, k, wsproxy.WithVia("edge"))
		client := r.client()
		client.Send("GET /a%2fb;p/%7Ec?x=%zz;y&&token=a%20b HTTP/1.1\r\n" +
			"Host: Front.test:8080\r\nX-Custom: 1\r\nUpgrade: WebSocket\r\nConnection: keep-alive, upgrade\r\nKeep-Alive: 5\r\n" +
			"sec-websocket-version: 13\r\nsec-websocket-key: " + wstest.Key + "\r\n" +
			"sec-websocket-protocol: chat ,superchat\r\nsec-websocket-extensions: permessage-deflate; client_max_window_bits\r\n" +
			"Origin: http://front.test:8080\r\nCookie: a=1; b=2\r\nAuthorization: Bearer x\r\nX-Custom: 2\r\n\r\n")
		upstream := r.upstream()
		head := upstream.ReadHead()
		wantCleanHead(t, head)
		scheme, peer := "http", "X-Forwarded-For: 127.0.0.1\r\n"
		if k == wstest.TLS {
			scheme = "https"
		}
		if k == wstest.Unix { // A28: a unix socket's peer has no address
			peer = ""
		}
		want := "GET /a%2fb;p/%7Ec?x=%zz;y&&token=a%20b HTTP/1.1\r\n" +
			"Host: Front.test:8080\r\n" +
			"Authorization: Bearer x\r\n" +
			"Connection: Upgrade\r\n" +
			"Cookie: a=1; b=2\r\n" +
			"Origin: http://front.test:8080\r\n" +
			"Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n" +
			"Sec-WebSocket-Key: KEY\r\n" +
			"Sec-WebSocket-Protocol: chat, superchat\r\n" +
			"Sec-WebSocket-Version: 13\r\n" +
			"Upgrade: websocket\r\n" +
			"Via: 1.1 edge\r\n" +
			"X-Custom: 1\r\n" +
			"X-Custom: 2\r\n" +
			peer +
			"X-Forwarded-Host: Front.test:8080\r\n" +
			"X-Forwarded-Proto: " + scheme + "\r\n" +
			"\r\n"
		if got := keyLine.ReplaceAllString(head, "Sec-WebSocket-Key: KEY\r"); got != want {
			t.Errorf("upstream: got\n%s\nwant\n%s", got, want)
		}
	})
}

// A20: every handshake has a key of its own.
func TestFreshKey(t *testing.T) {
	t.Parallel()
	seen := make(map[string]bool)
	for range 20 {
		_, head, _ := direct(t, "http://upstream.test", edited(), nil)
		seen[keyLine.FindString(head)] = true
	}
	if len(seen) != 20 {
		t.Errorf("got %d keys in 20 handshakes", len(seen))
	}
}

// direct has a proxy serve one request from 192.0.2.1, unless set changes that.
// It returns the dialled address, the header that the upstream got (both are
// empty if nothing was dialled) and the client's answer. The upstream answers
// 403.
func direct(t *testing.T, target, request string, set func(*http.Request), options ...wsproxy.Option) (dialled, head string, code int) {
	t.Helper()
	heads := make(chan string, 1)
	p, err := wsproxy.New(target, append([]wsproxy.Option{wsproxy.WithLogger(discard), wsproxy.WithInsecureAnyOrigin(), wsproxy.WithVia(""),
		wsproxy.WithDialContext(func(_ context.Context, network, address string) (net.Conn, error) {
			dialled = network + " " + address
			return scripted(func(head string) string {
				heads <- head
				return "HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n"
			}), nil
		})}, options...)...)
	if err != nil {
		t.Fatal(err)
	}
	r, err := http.ReadRequest(bufio.NewReader(strings.NewReader(request)))
	if err != nil {
		t.Fatal(err)
	}
	r.RemoteAddr = "192.0.2.1:1234"
	if set != nil {
		set(r)
	}
	w := &response{}
	w.Body = new(bytes.Buffer)
	p.ServeHTTP(w, r)
	select {
	case head = <-heads:
	default:
	}
	return dialled, head, w.Code
}

// The request to the upstream, by options and by client. Each row lists the
// lines that are added to those of every handshake.
func TestOutgoing(t *testing.T) {
	t.Attr("case", "A28")
	t.Parallel()
	const forwarded = "X-Forwarded-For: 192.0.2.1|X-Forwarded-Host: front.test|X-Forwarded-Proto: http"
	const get = "GET / HTTP/1.1|Host: front.test|"
	from := func(addr string) func(*http.Request) { return func(r *http.Request) { r.RemoteAddr = addr } }
	trust := func(prefixes ...string) wsproxy.Option {
		var p []netip.Prefix
		for _, s := range prefixes {
			p = append(p, netip.MustParsePrefix(s))
		}
		return wsproxy.WithTrustedProxies(p...)
	}
	rewrite := wsproxy.WithRewrite
	spoofed := withLines("X-Forwarded-For: 10.0.0.1", "x-forwarded-for: 10.0.0.2, 10.0.0.3", "X-Forwarded-Proto: https", "X-Forwarded-Host: www.test",
		"X-Forwarded-Port: 443", "X-Forwarded-Prefix: /p", "X-Real-IP: 10.0.0.1", "Forwarded: for=10.0.0.1;proto=https", "Forwarded: for=\"[2001:db8::1]\"")
	rows := []struct {
		id, name, target, request string
		set                       func(*http.Request)
		option                    wsproxy.Option
		want                      string
	}{
		// A33, C6: paths and queries.
		{"A33", "escaped slash", "", edited("GET /", "GET /a%2Fb"), nil, nil, "GET /a%2Fb HTTP/1.1|Host: front.test|" + forwarded},
		{"A33", "escapes of plain letters", "", edited("GET /", "GET /%61%7e"), nil, nil, "GET /%61%7e HTTP/1.1|Host: front.test|" + forwarded},
		{"A33", "semicolons", "", edited("GET /", "GET /a;b?c;d=1;e"), nil, nil, "GET /a;b?c;d=1;e HTTP/1.1|Host: front.test|" + forwarded},
		{"A33", "invalid escape in the query", "", edited("GET /", "GET /?a=%zz&%"), nil, nil, "GET /?a=%zz&% HTTP/1.1|Host: front.test|" + forwarded},
		{"A33", "empty query", "", edited("GET /", "GET /?"), nil, nil, "GET /? HTTP/1.1|Host: front.test|" + forwarded},
		{"A33", "dots", "", edited("GET /", "GET /a/../b/./%2e%2e/c"), nil, nil, "GET /a/../b/./%2e%2e/c HTTP/1.1|Host: front.test|" + forwarded},
		{"C6", "target with a path", "http://upstream.test/base", edited("GET /", "GET /x"), nil, nil, "GET /base/x HTTP/1.1|Host: front.test|" + forwarded},
		{"C6", "target with a path and a slash", "http://upstream.test/base/", edited("GET /", "GET /x%2fy"), nil, nil, "GET /base/x%2fy HTTP/1.1|Host: front.test|" + forwarded},
		{"C6", "target with a query", "http://upstream.test?k=1", edited("GET /", "GET /x"), nil, nil, "GET /x?k=1 HTTP/1.1|Host: front.test|" + forwarded},
		{"C6", "both with a query", "http://upstream.test/?k=1", edited("GET /", "GET /x?y=%zz"), nil, nil, "GET /x?k=1&y=%zz HTTP/1.1|Host: front.test|" + forwarded},
		// C6: Host.
		{"C6", "WithHost", "", edited(), nil, wsproxy.WithHost("other.test:81"), "GET / HTTP/1.1|Host: other.test:81|" + forwarded},
		{"C6", "WithHost empty", "http://upstream.test:9000", edited(), nil, wsproxy.WithHost(""), "GET / HTTP/1.1|Host: upstream.test:9000|" + forwarded},
		{"C6", "WithHost empty, unix", "unix:/run/s", edited(), nil, wsproxy.WithHost(""), "GET / HTTP/1.1|Host: localhost|" + forwarded},
		{"C6", "WithHost empty, normal form", "http://Upstream.test:80", edited(), nil, wsproxy.WithHost(""), "GET / HTTP/1.1|Host: upstream.test|" + forwarded},
		{"C6", "WithHost beyond ASCII", "", edited(), nil, wsproxy.WithHost("Bücher.example:81"), "GET / HTTP/1.1|Host: xn--bcher-kva.example:81|" + forwarded},
		{"C6", "WithHost as it is", "", edited(), nil, wsproxy.WithHost("Other.test:80"), "GET / HTTP/1.1|Host: Other.test:80|" + forwarded},
		{"C6", "rewrite, Host beyond ASCII", "", edited(), nil, rewrite(func(pr *httputil.ProxyRequest) { pr.Out.Host = "bücher.example" }), "GET / HTTP/1.1|Host: xn--bcher-kva.example|" + forwarded},
		{"C6", "target with a slash", "http://upstream.test/", edited("GET /", "GET //x"), nil, nil, "GET //x HTTP/1.1|Host: front.test|" + forwarded},
		{"C6", "target without a slash", "http://upstream.test", edited("GET /", "GET //x"), nil, nil, "GET //x HTTP/1.1|Host: front.test|" + forwarded},
		{"C6", "absolute form without a path", "http://upstream.test", edited("GET /", "GET http://front.test"), nil, nil, "GET / HTTP/1.1|Host: front.test|" + forwarded},
		{"A38", "Origins that repeat", "", withLines("Origin: http://o", "Origin:", "Origin: http://o"), nil, nil, get + "Origin: http://o|" + forwarded},
		{"A38", "Origin with nothing in it", "", withLines("Origin:"), nil, nil, get + forwarded},
		{"C6", "unix", "unix:/run/s", edited("GET /", "GET /x?y"), nil, nil, "GET /x?y HTTP/1.1|Host: front.test|" + forwarded},
		// C7: end-to-end fields.
		{"C7", "end to end", "", withLines("User-Agent: ua", "Cookie: a", "Authorization: b", "X-A: c", "Cookie: d", "Origin: http://o", "Accept-Encoding: gzip"), nil, nil,
			"GET / HTTP/1.1|Host: front.test|Accept-Encoding: gzip|Authorization: b|Cookie: a|Cookie: d|Origin: http://o|User-Agent: ua|X-A: c|" + forwarded},
		{"A30", "hop-by-hop", "", edited("Connection: Upgrade", "Connection: Upgrade, X-Hop, , close\r\nX-Hop: 1\r\nKeep-Alive: 5\r\nProxy-Connection: x\r\n"+
			"TE: trailers\r\nTrailer: X\r\nProxy-Authorization: Basic x\r\nHTTP2-Settings: x\r\nAlt-Svc: x\r\nConnection: x-hop-2\r\nX-HOP-2: 1\r\nX-End: 1"), nil, nil,
			get + "X-End: 1|" + forwarded},
		{"A30", "unknown Sec-WebSocket fields", "", withLines("Sec-WebSocket-Key1: x", "Sec-WebSocket-Foo: y"), nil, nil, get + forwarded},
		// A21: fields that a client cannot nominate for removal.
		{"A21", "nominated", "", edited("Connection: Upgrade", "Connection: Upgrade, x-FORWARDED-for, X-Forwarded-Host, X-Forwarded-Proto, X-Real-Ip, Forwarded, "+
			"Cookie, authorization, Origin, Host, Sec-WebSocket-Key, Sec-WebSocket-Version, sec-websocket-protocol, Upgrade, Connection\r\nCookie: a\r\nAuthorization: b\r\nOrigin: c\r\nSec-WebSocket-Protocol: d"), nil, nil,
			get + "Authorization: b|Cookie: a|Origin: c|Sec-WebSocket-Protocol: d|" + forwarded},
		{"A21", "nominated, trusted", "", edited("Connection: Upgrade", "Connection: Upgrade, X-Forwarded-For, X-Real-Ip\r\nX-Forwarded-For: 10.0.0.1\r\nX-Real-IP: 10.0.0.1"), nil, trust("192.0.2.0/24"),
			get + "X-Forwarded-For: 10.0.0.1, 192.0.2.1|X-Forwarded-Host: front.test|X-Forwarded-Proto: http|X-Real-Ip: 10.0.0.1"},
		// A25 to A28: forwarding fields.
		{"A25", "spoofed", "", spoofed, nil, nil, get + forwarded},
		{"A25", "spoofed, another is trusted", "", spoofed, nil, trust("198.51.100.0/24"), get + forwarded},
		{"A27", "trusted, many lines", "", spoofed, nil, trust("192.0.2.0/24"),
			get + `Forwarded: for=10.0.0.1;proto=https, for="[2001:db8::1]", for=192.0.2.1|X-Forwarded-For: 10.0.0.1, 10.0.0.2, 10.0.0.3, 192.0.2.1|` +
				"X-Forwarded-Host: www.test|X-Forwarded-Port: 443|X-Forwarded-Prefix: /p|X-Forwarded-Proto: https|X-Real-Ip: 10.0.0.1"},
		{"A27", "trusted, nothing there", "", edited(), nil, trust("192.0.2.0/24"), get + forwarded},
		{"A27", "trusted, empty", "", withLines("X-Forwarded-For:"), nil, trust("192.0.2.0/24"), get + forwarded},
		{"A27", "trusted, no values", "", edited(), func(r *http.Request) { r.Header["X-Forwarded-For"], r.Header["Forwarded"] = nil, []string{} }, trust("192.0.2.0/24"), get + forwarded},
		{"A28", "IPv6 peer", "", edited(), from("[2001:db8::7]:1"), nil, get + "X-Forwarded-For: 2001:db8::7|X-Forwarded-Host: front.test|X-Forwarded-Proto: http"},
		{"A28", "IPv6 peer, trusted", "", withLines("Forwarded: for=10.0.0.1", "X-Forwarded-For: 10.0.0.1"), from("[2001:db8::7]:1"), trust("2001:db8::/32"),
			get + `Forwarded: for=10.0.0.1, for="[2001:db8::7]"|X-Forwarded-For: 10.0.0.1, 2001:db8::7|X-Forwarded-Host: front.test|X-Forwarded-Proto: http`},
		{"A28", "IPv6 peer with a zone", "", edited(), from("[fe80::1%eth0]:1"), nil, get + "X-Forwarded-For: fe80::1|X-Forwarded-Host: front.test|X-Forwarded-Proto: http"},
		{"A28", "IPv4 in IPv6", "", withLines("X-Forwarded-For: 10.0.0.1"), from("[::ffff:192.0.2.1]:1"), trust("192.0.2.0/24"), get + "X-Forwarded-For: 10.0.0.1, 192.0.2.1|X-Forwarded-Host: front.test|X-Forwarded-Proto: http"},
		{"A28", "peer without an address", "", spoofed, from("@"), trust("0.0.0.0/0", "::/0"), get + "X-Forwarded-Host: front.test|X-Forwarded-Proto: http"},
		{"A28", "peer unknown", "", spoofed, from(""), nil, get + "X-Forwarded-Host: front.test|X-Forwarded-Proto: http"},
		{"A28", "peer without a port", "", spoofed, from("192.0.2.1"), nil, get + "X-Forwarded-For: 192.0.2.1|X-Forwarded-Host: front.test|X-Forwarded-Proto: http"},
		{"A26", "underscores", "", withLines("X_Forwarded_For: 1", "x_forwarded-host: 2", "X_Real_IP: 3", "Sec_WebSocket_Key: 4", "Sec_WebSocket_Protocol: 5",
			"Transfer_Encoding: chunked", "Content_Length: 6", "Keep_Alive: 7", "X_Other: 8"), nil, nil, get + forwarded + "|X_other: 8"},
		// C6, A34: the hook.
		{"C6", "rewrite", "", withLines("X-A: 1", "Sec-WebSocket-Protocol: chat, token.secret"), nil, rewrite(func(pr *httputil.ProxyRequest) {
			pr.Out.URL.Host, pr.Out.URL.Path, pr.Out.Host = "other.test:81", "/y", "h.test"
			pr.Out.Header.Del("X-A")
			pr.Out.Header.Set("X-B", pr.In.Header.Get("X-A"))
			pr.Out.Header.Set("Sec-WebSocket-Protocol", "chat") // a token stays here
		}), "GET /y HTTP/1.1|Host: h.test|Sec-WebSocket-Protocol: chat|X-B: 1|" + forwarded},
		{"C6", "rewrite, Host left out", "", edited(), nil, rewrite(func(pr *httputil.ProxyRequest) { pr.Out.Host = "" }), "GET / HTTP/1.1|Host: upstream.test|" + forwarded},
		{"C6", "rewrite, SetURL", "", edited(), nil, rewrite(func(pr *httputil.ProxyRequest) {
			pr.SetURL(&url.URL{Scheme: "http", Host: "other.test", Path: "/z"})
		}), "GET /z/ HTTP/1.1|Host: other.test|" + forwarded},
		{"C6", "rewrite, forwarding fields taken out", "", edited(), nil, rewrite(func(pr *httputil.ProxyRequest) {
			for _, name := range []string{"X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto"} {
				pr.Out.Header.Del(name)
			}
		}), "GET / HTTP/1.1|Host: front.test"},
		{"A30", "rewrite, handshake's own fields", "", withLines("Sec-WebSocket-Protocol: a"), nil, rewrite(func(pr *httputil.ProxyRequest) {
			for _, name := range []string{"Upgrade", "Connection", "Sec-WebSocket-Key", "Sec-WebSocket-Version", "Sec-WebSocket-Foo", "Te", "Content-Length"} {
				pr.Out.Header.Set(name, "7")
				pr.Out.Header[strings.ToLower(name)] = []string{"8"}
			}
			pr.Out.Header["host"] = []string{"9"}
			pr.Out.Header["Sec-WebSocket-Protocol"] = []string{"b"} // the spelling of the RFC
			pr.Out.Method, pr.Out.ContentLength, pr.Out.Close = "POST", 5, true
			pr.Out.Body = io.NopCloser(strings.NewReader("12345"))
		}), get + "Sec-WebSocket-Protocol: b|" + forwarded},
	}
	constant := []string{"Connection: Upgrade", "Sec-WebSocket-Key: KEY", "Sec-WebSocket-Version: 13", "Upgrade: websocket"}
	for _, row := range rows {
		t.Run(row.id+" "+row.name, func(t *testing.T) {
			target := "http://upstream.test"
			if row.target != "" {
				target = row.target
			}
			var options []wsproxy.Option
			if row.option != nil {
				options = append(options, row.option)
			}
			_, head, _ := direct(t, target, row.request, row.set, options...)
			wantCleanHead(t, head)
			lines := strings.Split(strings.TrimSuffix(keyLine.ReplaceAllString(head, "Sec-WebSocket-Key: KEY\r"), "\r\n\r\n"), "\r\n")
			lines = slices.DeleteFunc(lines, func(l string) bool { return slices.Contains(constant, l) })
			if got := strings.Join(lines, "|"); got != row.want {
				t.Errorf("got\n%s\nwant\n%s", strings.ReplaceAll(got, "|", "\n"), strings.ReplaceAll(row.want, "|", "\n"))
			}
		})
	}
}

// A25: the client's address in the log is that of the peer or, behind trusted
// proxies, the last address that is not a trusted proxy's.
func TestClientAddress(t *testing.T) {
	t.Parallel()
	trusted := wsproxy.WithTrustedProxies(netip.MustParsePrefix("192.0.2.0/24"), netip.MustParsePrefix("fe80::/10"))
	for _, row := range []struct {
		name, lines string
		option      wsproxy.Option
		want        string
	}{
		{"nobody is trusted", "X-Forwarded-For: 10.0.0.1", wsproxy.WithTrustedProxies(), "192.0.2.1:1234"},
		{"trusted, nothing there", "X-A: 1", trusted, "192.0.2.1:1234"},
		{"trusted", "X-Forwarded-For: 10.0.0.1", trusted, "10.0.0.1"},
		{"spoofed before", "X-Forwarded-For: 10.9.9.9\r\nX-Forwarded-For: 10.0.0.1, 192.0.2.9", trusted, "10.0.0.1"},
		{"all trusted", "X-Forwarded-For: 192.0.2.8, 192.0.2.9", trusted, "192.0.2.8"},
		{"garbage before", "X-Forwarded-For: unknown, 192.0.2.9", trusted, "192.0.2.9"},
		{"garbage", "X-Forwarded-For: <script>", trusted, "192.0.2.1:1234"},
		{"IPv4 in IPv6", "X-Forwarded-For: ::ffff:10.0.0.1", trusted, "10.0.0.1"},
		{"with a port", "X-Forwarded-For: 10.0.0.1:4711", trusted, "10.0.0.1"},
		{"IPv6 with a port", "X-Forwarded-For: [2001:db8::1]:4711, 192.0.2.9:1", trusted, "2001:db8::1"},
		{"zone", "X-Forwarded-For: 10.0.0.1, fe80::1%a b", trusted, "10.0.0.1"},
		{"zone of a stranger", "X-Forwarded-For: 2001:db8::1%a b", trusted, "2001:db8::1"},
	} {
		t.Run("A25 "+row.name, func(t *testing.T) {
			l := new(wstest.Logs)
			direct(t, "http://upstream.test", withLines(row.lines), nil, row.option, wsproxy.WithLogger(slog.New(l)))
			if got := l.Wait(t, 0)["client"]; got != row.want {
				t.Errorf("logged client %v, want %v", got, row.want)
			}
		})
	}
}

// A81: the address that is dialled for each target; C6: and for each rewriting.
func TestDialAddress(t *testing.T) {
	t.Attr("case", "A81")
	t.Parallel()
	to := func(u string) wsproxy.Option {
		return wsproxy.WithRewrite(func(pr *httputil.ProxyRequest) {
			pr.Out.URL.Scheme, pr.Out.URL.Host, _ = strings.Cut(u, "://")
		})
	}
	for _, row := range []struct {
		target string
		option wsproxy.Option
		want   string
		code   int
	}{
		{"http://upstream.test", nil, "tcp upstream.test:80", 403},
		{"ws://upstream.test:81/x", nil, "tcp upstream.test:81", 403},
		{"ws://[2001:db8::1]", nil, "tcp [2001:db8::1]:80", 403},
		{"https://upstream.test", nil, "tcp upstream.test:443", 504},
		{"WSS://upstream.test:8443", nil, "tcp upstream.test:8443", 504},
		{"http://UPSTREAM.test:/", nil, "tcp upstream.test:80", 403},
		{"http://bücher.example:080", nil, "tcp xn--bcher-kva.example:80", 403},
		{"http://upstream.test", to("http://bücher.example:81"), "tcp xn--bcher-kva.example:81", 403},
		{"http://upstream.test", to("http://UPSTREAM.test:80"), "tcp upstream.test:80", 403},
		{"http://upstream.test", to("http://other.test:"), "tcp other.test:80", 403},
		{"http://upstream.test", to("http://other.test:99999"), "", 500},
		{"http://upstream.test", to("http://user@other.test"), "", 500},
		{"http://upstream.test", to("http://other.test/x"), "", 500},
		{"unix:/run/s", nil, "unix /run/s", 403},
		{"unix:///run/s", nil, "unix /run/s", 403},
		{"unix:s.sock", nil, "unix s.sock", 403},
		{"unix:@abstract", nil, "unix @abstract", 403},
		{"http://upstream.test", to("ws://other.test"), "tcp other.test:80", 403},
		{"http://upstream.test", to("wss://other.test"), "tcp other.test:443", 504},
		{"http://upstream.test", to("unix:///run/t"), "unix /run/t", 403},
		{"http://upstream.test", to("ftp://other.test"), "", 500},
		{"http://upstream.test", to("http://"), "", 500},
	} {
		synctest.Test(t, func(t *testing.T) { // the upstream does not speak TLS
			var options []wsproxy.Option
			if row.option != nil {
				options = append(options, row.option)
			}
			dialled, _, code := direct(t, row.target, edited(), nil, options...)
			if dialled != row.want || code != row.code {
				t.Errorf("%s: dialled %q and answered %d, want %q and %d", row.target, dialled, code, row.want, row.code)
			}
		})
	}
}

// A34, F14: if a hook panics, or leaves a request that cannot be sent, the
// answer is 500 and nothing is dialled. The next session is not affected.
func TestRewriteFails(t *testing.T) {
	t.Attr("case", "A34 F14")
	t.Parallel()
	for name, f := range map[string]func(*httputil.ProxyRequest){
		"F14 panic":        func(*httputil.ProxyRequest) { panic("hook") },
		"F14 panic abort":  func(*httputil.ProxyRequest) { panic(http.ErrAbortHandler) },
		"no request":       func(pr *httputil.ProxyRequest) { pr.Out = nil },
		"no URL":           func(pr *httputil.ProxyRequest) { pr.Out.URL = nil },
		"no header":        func(pr *httputil.ProxyRequest) { pr.Out.Header = nil },
		"A34 CRLF value":   func(pr *httputil.ProxyRequest) { pr.Out.Header.Set("X-A", "a\r\nX-B: b") },
		"A34 LF value":     func(pr *httputil.ProxyRequest) { pr.Out.Header.Set("X-A", "a\nX-B: b") },
		"A34 NUL value":    func(pr *httputil.ProxyRequest) { pr.Out.Header.Set("X-A", "a\x00") },
		"A34 CRLF name":    func(pr *httputil.ProxyRequest) { pr.Out.Header["X-A: a\r\nX-B"] = []string{"b"} },
		"A34 empty name":   func(pr *httputil.ProxyRequest) { pr.Out.Header[""] = []string{"b"} },
		"A34 subprotocol":  func(pr *httputil.ProxyRequest) { pr.Out.Header.Set("Sec-Websocket-Protocol", "a\r\nX-B: b") },
		"A34 CRLF Host":    func(pr *httputil.ProxyRequest) { pr.Out.Host = "a\r\nX-B: b" },
		"A34 space Host":   func(pr *httputil.ProxyRequest) { pr.Out.Host = "a b" },
		"A34 space query":  func(pr *httputil.ProxyRequest) { pr.Out.URL.RawQuery = "a b HTTP/1.1" },
		"A34 CRLF query":   func(pr *httputil.ProxyRequest) { pr.Out.URL.RawQuery = "a\r\nX-B:b" },
		"A34 opaque space": func(pr *httputil.ProxyRequest) { pr.Out.URL.Opaque = "/a b" },
		"A34 opaque CRLF":  func(pr *httputil.ProxyRequest) { pr.Out.URL.Opaque = "/a\r\nX-B:b" },
	} {
		t.Run(name, func(t *testing.T) {
			dialled, head, code := direct(t, "http://upstream.test", edited(), nil, wsproxy.WithRewrite(f))
			if dialled != "" || head != "" || code != 500 {
				t.Errorf("dialled %q, sent %q, answered %d, want 500 and nothing dialled", dialled, head, code)
			}
		})
	}
	t.Run("F14 others live", func(t *testing.T) {
		r := newRig(t, wstest.TCP, wsproxy.WithRewrite(func(pr *httputil.ProxyRequest) {
			if pr.In.URL.Path == "/panic" {
				panic("hook")
			}
		}))
		client, upstream := r.open("", "")
		bad := r.client()
		bad.Send(wstest.Request("/panic", "") + secondRequest)
		if _, body := bad.WantRefusal(500); body != "Internal Server Error\n" {
			t.Errorf("got body %q, want the fixed phrase", body)
		}
		if m := r.logs.Wait(t, 0); m["op"] != "rewrite" || m["side"] != "proxy" || !strings.HasPrefix(m["error"].(string), "panic: hook") {
			t.Errorf("logged %v, want the hook's panic", m)
		}
		client.SendText("still here")
		upstream.Want(wstest.Text, "still here")
	})
}

// F1, F16, F17, F14: connecting fails.
func TestDialFails(t *testing.T) {
	t.Attr("case", "F1 F16 F17 F14")
	t.Parallel()
	t.Run("F1 refused", func(t *testing.T) {
		for _, k := range []wstest.Kind{wstest.TCP, wstest.Unix, wstest.TLS} {
			r := newRig(t, k)
			r.back.Close()
			c := r.client()
			c.Send(wstest.Request("/", "") + secondRequest)
			if _, body := c.WantRefusal(502); body != "Bad Gateway\n" {
				t.Errorf("got body %q, want the fixed phrase", body)
			}
			if m := r.logs.Wait(t, 0); m["op"] != "dial" || m["side"] != "upstream" {
				t.Errorf("logged %v, want a dial error", m)
			}
		}
	})
	failing := func(err error) func(context.Context, string, string) (net.Conn, error) {
		return func(context.Context, string, string) (net.Conn, error) { return nil, err }
	}
	for _, row := range []struct {
		name   string
		f      func(context.Context, string, string) (net.Conn, error)
		status int
	}{
		{"F1 no such host", failing(&net.DNSError{Err: "no such host", IsNotFound: true}), 502},
		{"F1 unreachable", failing(&net.OpError{Op: "dial", Err: os.NewSyscallError("connect", syscall.EHOSTUNREACH)}), 502},
		{"F2 timed out", failing(&net.OpError{Op: "dial", Err: os.NewSyscallError("connect", syscall.ETIMEDOUT)}), 504},
		{"F2 deadline", failing(fmt.Errorf("socks: %w", os.ErrDeadlineExceeded)), 504},
		{"F16 EMFILE", failing(&net.OpError{Op: "dial", Err: os.NewSyscallError("socket", syscall.EMFILE)}), 503},
		{"F16 ENFILE", failing(&net.OpError{Op: "dial", Err: os.NewSyscallError("socket", syscall.ENFILE)}), 503},
		{"F17 EADDRNOTAVAIL", failing(&net.OpError{Op: "dial", Err: os.NewSyscallError("connect", syscall.EADDRNOTAVAIL)}), 503},
		{"F14 panic", func(context.Context, string, string) (net.Conn, error) { panic("dialler") }, 500},
		{"F14 no connection", failing(nil), 502},
	} {
		t.Run(row.name, func(t *testing.T) {
			r := newRig(t, wstest.TCP, wsproxy.WithDialContext(row.f))
			c := r.client()
			c.Send(wstest.Request("/", "") + secondRequest)
			if _, body := c.WantRefusal(row.status); body != http.StatusText(row.status)+"\n" {
				t.Errorf("got body %q, want the fixed phrase", body)
			}
		})
	}
}

// An answer other than a valid 101 opens no tunnel: the client gets 502, both
// connections are closed, and what the client sent after its handshake never
// reaches the upstream (A2).
func TestBadAnswers(t *testing.T) {
	t.Attr("case", "A2 A5 A6 A7 A8 A9 A10 A35 A36 A63")
	t.Parallel()
	const (
		status = "HTTP/1.1 101 Switching Protocols\r\n"
		up     = "Upgrade: websocket\r\n"
		conn   = "Connection: Upgrade\r\n"
		accept = "Sec-WebSocket-Accept: ACCEPT\r\n"
		good   = status + up + conn + accept
		// More extensions than any upstream accepts, although the client offers
		// them.
		letters = "a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p, q"
	)
	rows := []struct{ id, name, answer string }{
		{"A5", "101 and nothing else", status + "\r\n"},
		{"A6", "no accept", status + up + conn + "\r\n"},
		{"A6", "wrong accept", status + up + conn + "Sec-WebSocket-Accept: " + wstest.KeyAnswer + "\r\n\r\n"},
		{"A6", "two accepts", good + accept + "\r\n"},
		{"A6", "right and wrong accept", good + "Sec-WebSocket-Accept: x\r\n\r\n"},
		{"A6", "accept list", status + up + conn + "Sec-WebSocket-Accept: ACCEPT, ACCEPT\r\n\r\n"},
		{"A6", "accept of another case", status + up + conn + "Sec-WebSocket-Accept: CASE\r\n\r\n"},
		{"A7", "no Upgrade", status + conn + accept + "\r\n"},
		{"A7", "Upgrade: h2c", status + "Upgrade: h2c\r\n" + conn + accept + "\r\n"},
		{"A7", "two Upgrades", good + "Upgrade: h2c\r\n\r\n"},
		{"A7", "Upgrade list", status + "Upgrade: websocket, h2c\r\n" + conn + accept + "\r\n"},
		{"A7", "no Connection", status + up + accept + "\r\n"},
		{"A7", "Connection: close", status + up + "Connection: close\r\n" + accept + "\r\n"},
		{"A7", "Connection: upgraded", status + up + "Connection: upgraded\r\n" + accept + "\r\n"},
		{"A8", "HTTP/1.0", strings.Replace(good, "1.1", "1.0", 1) + "\r\n"},
		{"A8", "HTTP/2.0", strings.Replace(good, "1.1", "2.0", 1) + "\r\n"},
		{"A9", "Content-Length: 5", good + "Content-Length: 5\r\n\r\nhello"},
		{"A10", "six 1xx", strings.Repeat("HTTP/1.1 103 Early Hints\r\n\r\n", 6) + good + "\r\n"},
		{"A10", "1xx for ever", strings.Repeat("HTTP/1.1 100 Continue\r\n\r\n", 10_000)},
		{"A35", "subprotocol not offered", good + "Sec-WebSocket-Protocol: other\r\n\r\n"},
		{"A35", "subprotocol of another case", good + "Sec-WebSocket-Protocol: CHAT\r\n\r\n"},
		{"A35", "two subprotocols", good + "Sec-WebSocket-Protocol: chat, v2\r\n\r\n"},
		{"A35", "two subprotocol lines", good + "Sec-WebSocket-Protocol: chat\r\nSec-WebSocket-Protocol: v2\r\n\r\n"},
		{"A35", "subprotocol not a token", good + "Sec-WebSocket-Protocol: a/b\r\n\r\n"},
		{"A35", "extension not offered", good + "Sec-WebSocket-Extensions: x-other\r\n\r\n"},
		{"A35", "extension twice", good + "Sec-WebSocket-Extensions: x-a, x-a\r\n\r\n"},
		{"A35", "second extension not offered", good + "Sec-WebSocket-Extensions: x-a\r\nSec-WebSocket-Extensions: x-b\r\n\r\n"},
		{"A35", "extension not a token", good + "Sec-WebSocket-Extensions: x/a\r\n\r\n"},
		{"A35", "17 extensions", good + "Sec-WebSocket-Extensions: " + letters + "\r\n\r\n"},
		{"A36", "CR in a value", good + "X-A: a\rX-B: b\r\n\r\n"},
		{"A36", "NUL in a value", good + "X-A: a\x00\r\n\r\n"},
		{"A36", "space within a name", good + "X A: a\r\n\r\n"},
		{"A36", "no colon", good + "X-A\r\n\r\n"},
		{"A36", "empty name", good + ": a\r\n\r\n"},
		{"A36", "folded line", good + "X-A: a\r\n b\r\n\r\n"},
		{"A36", "CR alone for the end of the header", good + "\r\r\nX-A: a\r\n\r\n"},
		{"A36", "CR before a line's end", good + "X-A: a\r\r\n\r\n"},
		{"A36", "space before a name", status + " X-A: a\r\n" + up + conn + accept + "\r\n"},
		{"A63", "header over 64 KiB", good + "X-A: " + strings.Repeat("a", 65_536) + "\r\n\r\n"},
		{"A63", "header in small lines", good + strings.Repeat("A: a\r\n", 20_000) + "\r\n"},
		{"A63", "1xx with much header", strings.Repeat("HTTP/1.1 103 Early Hints\r\nLink: "+strings.Repeat("a", 20_000)+"\r\n\r\n", 5) + good + "\r\n"},
		{"F9", "garbage", "\x00\xff\x15\x03\x01\r\n\r\n"},
		{"F9", "TLS alert", "\x15\x03\x01\x00\x02\x02\x16"},
		{"F9", "HTTP/0.9", "<html>hello</html>"},
		{"F9", "status of four digits", "HTTP/1.1 1010 OK\r\n\r\n"},
		{"F9", "status of two digits", "HTTP/1.1 99 OK\r\n\r\n"},
		{"F9", "status 099", "HTTP/1.1 099 OK\r\n\r\n"},
		{"F9", "status with a sign", "HTTP/1.1 +10 OK\r\n\r\n"},
		{"F9", "tab before the status", strings.Replace(good, " ", "\t", 1) + "\r\n"},
		{"F9", "space before the version", " " + good + "\r\n"},
		{"F9", "empty line before the status", "\r\n" + good + "\r\n"},
		{"F9", "CR in the reason", strings.Replace(good, "Switching", "Switching\r", 1) + "\r\n"},
		{"F9", "another protocol", "ICY 101 OK\r\n\r\n"},
		{"F9", "bad Content-Length", "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n"},
		{"F9", "two Content-Lengths", "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab"},
		{"F4", "nothing", ""},
		{"F4", "half a status line", "HTTP/1.1 1"},
		{"F4", "half a header", good},
	}
	wstest.EachKind(t, func(t *testing.T, k wstest.Kind) {
		r := newRig(t, k)
		for i, row := range rows {
			t.Run(row.id+" "+row.name, func(t *testing.T) {
				r := r.on(t)
				client := r.client()
				client.Send(wstest.Request("/", "Sec-WebSocket-Protocol: chat, v2\r\nSec-WebSocket-Extensions: x-a, "+letters+"\r\n") + wstest.RawFrame(wstest.Text, true, "early"))
				upstream := r.upstream()
				head := upstream.ReadHead()
				key := keyLine.FindStringSubmatch(head)[1]
				go func() { // bytes that the proxy does not read may be answered with a reset
					io.WriteString(upstream, strings.NewReplacer("ACCEPT", wstest.AcceptKey(key), "CASE", strings.ToLower(wstest.AcceptKey(key))).Replace(row.answer))
					if c, ok := upstream.Conn.(interface{ CloseWrite() error }); ok && row.id == "F4" || row.id == "F9" {
						c.CloseWrite()
					}
				}()
				if _, body := client.WantRefusal(502); body != "Bad Gateway\n" {
					t.Errorf("client: got body %q, want the fixed phrase", body)
				}
				upstream.WantEnd() // A2, F10
				r.wantReturned()
				m := r.logs.Wait(t, i)
				if m["status"] != int64(502) || m["op"] != "answer" || m["side"] != "upstream" {
					t.Errorf("logged %v, want a bad answer of the upstream's", m)
				}
			})
		}
	})
}

// A10: up to five 1xx answers before the 101 are skipped, and the client does
// not see them.
func TestInformationalAnswers(t *testing.T) {
	t.Attr("case", "A10")
	t.Parallel()
	wstest.EachKind(t, func(t *testing.T, k wstest.Kind) {
		r := newRig(t, k)
		client := r.client()
		client.Send(wstest.Request("/", ""))
		upstream := r.upstream()
		req := upstream.ReadRequest()
		upstream.Send("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + strings.Repeat("HTTP/1.1 102 Processing\r\nContent-Length: 5\r\n\r\n", 3) +
			wstest.AnswerTo(req, "") + upstream.Frame(wstest.Text, "coalesced"))
		if head := client.ReadHead(); !strings.HasPrefix(head, "HTTP/1.1 101 ") || strings.Contains(head, "Link") {
			t.Errorf("client: got %q, want the 101 alone", head)
		}
		client.Want(wstest.Text, "coalesced")
	})
}

// The bytes of the handshakes, split anywhere, make the same session, and
// frames that arrive with them are kept (A11, C22).
func TestHandshakeSplit(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, wstest.Memory)
		inTwo := func(w *wstest.Wire, s string, cut int) (last bool) {
			cut = min(cut, len(s))
			w.Send(s[:cut])
			synctest.Wait() // the proxy has read that much
			w.Send(s[cut:])
			return cut == len(s)
		}
		for cut, last := 0, false; !last; cut++ {
			client := r.client()
			last = inTwo(client, wstest.Request("/", "X-A: 1\r\n")+client.Frame(wstest.Text, "from client"), cut)
			upstream := r.upstream()
			head := upstream.ReadHead()
			wantCleanHead(t, head)
			last = inTwo(upstream, answerTo(head, "X-B: 1\r\n")+upstream.Frame(wstest.Text, "from upstream"), cut) && last
			want := "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: " + wstest.KeyAnswer + "\r\nX-B: 1\r\n\r\n"
			if got := client.ReadHead(); got != want {
				t.Fatalf("cut at %d: client got %q, want %q", cut, got, want)
			}
			client.Want(wstest.Text, "from upstream")
			upstream.Want(wstest.Text, "from client")
			client.Close()
			upstream.Close()
			r.wantReturned()
		}
	})
}

// A64, F2, F3, F5, F8: nothing makes the handshake last longer than its limit.
func TestHandshakeTimeouts(t *testing.T) {
	t.Attr("case", "F2 F3 F5 F8")
	t.Parallel()
	drip := func(w *wstest.Wire, s string) {
		go func() {
			for _, b := range []byte(s) {
				if _, err := w.Write([]byte{b}); err != nil {
					return
				}
				select {
				case <-time.After(time.Second):
				case <-w.T.Context().Done():
					return
				}
			}
		}()
	}
	for _, row := range []struct {
		name, target string
		upstream     func(r *rig, w *wstest.Wire) // nil: no connection is accepted
		op           string
		after        time.Duration
		options      []wsproxy.Option
	}{
		{"F2 connection hangs", "http://upstream.test", nil, "dial", 60 * time.Second, nil},
		{"F3 silent", "http://upstream.test", func(_ *rig, w *wstest.Wire) { w.ReadHead() }, "answer", 60 * time.Second, nil},
		{"F3 another limit", "http://upstream.test", func(_ *rig, w *wstest.Wire) { w.ReadHead() }, "answer", 3 * time.Second, []wsproxy.Option{wsproxy.WithHandshakeTimeout(3 * time.Second)}},
		{"F3 doesn't read", "http://upstream.test", func(*rig, *wstest.Wire) {}, "answer", 60 * time.Second, nil},
		{"F5 stalled TLS", "https://upstream.test", func(*rig, *wstest.Wire) {}, "tls", 60 * time.Second, nil},
		{"F5 TLS in drips", "https://upstream.test", func(_ *rig, w *wstest.Wire) { drip(w, "\x16\x03\x03\x10\x00"+strings.Repeat("\x00", 100)) }, "tls", 60 * time.Second, nil},
		{"A64 header in drips", "http://upstream.test", func(_ *rig, w *wstest.Wire) { w.ReadHead(); drip(w, "HTTP/1.1 101 Switching Protocols\r\n") }, "answer", 60 * time.Second, nil},
		{"A64 1xx in drips", "http://upstream.test", func(_ *rig, w *wstest.Wire) {
			w.ReadHead()
			w.Send("HTTP/1.1 100 Continue\r\n\r\n")
			drip(w, "HTTP/1.1 103 Early Hints\r\n\r\n")
		}, "answer", 60 * time.Second, nil},
	} {
		t.Run(row.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRigTo(t, wstest.Memory, row.target, row.options...)
				began := time.Now()
				c := r.client()
				request := wstest.Request("/", "X-A: "+strings.Repeat("a", 60_000)+"\r\n")
				c.Send(request + secondRequest)
				var u *wstest.Wire
				if row.upstream != nil {
					u = r.upstream()
					row.upstream(r, u)
				}
				c.WantRefusal(504)
				if d := time.Since(began); d != row.after {
					t.Errorf("answered after %v, want %v", d, row.after)
				}
				if m := r.logs.Wait(t, 0); m["op"] != row.op || m["status"] != int64(504) || m["side"] != "upstream" {
					t.Errorf("logged %v, want 504 for %s", m, row.op)
				}
				if u != nil {
					u.WantGone() // F10
				}
			})
		})
	}
}

// A connection from WithDialContext that ignores deadlines cannot exceed the
// limits.
func TestNoDeadlines(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var r *rig
		r = newRig(t, wstest.Memory, wsproxy.WithDialContext(func(ctx context.Context, _, _ string) (net.Conn, error) {
			c, err := wstest.Dial(ctx, r.back)
			return noDeadlines{c}, err
		}))
		c := r.client()
		c.Send(wstest.Request("/", ""))
		u := r.upstream()
		u.ReadHead()
		c.WantRefusal(504)
		u.WantEnd()
	})
}

type noDeadlines struct{ net.Conn }

func (noDeadlines) SetDeadline(time.Time) error      { return errors.ErrUnsupported }
func (noDeadlines) SetReadDeadline(time.Time) error  { return errors.ErrUnsupported }
func (noDeadlines) SetWriteDeadline(time.Time) error { return errors.ErrUnsupported }

// A65, F11: a client that leaves before its 101 ends the handshake with the
// upstream at once, at whatever step, and is logged with 499.
func TestClientLeaves(t *testing.T) {
	t.Attr("case", "F11")
	t.Parallel()
	for _, row := range []struct {
		name, target string
		upstream     func(w *wstest.Wire)
	}{
		{"connecting", "http://upstream.test", nil},
		{"in the TLS handshake", "https://upstream.test", func(*wstest.Wire) {}},
		{"waiting for the answer", "http://upstream.test", func(w *wstest.Wire) { w.ReadHead() }},
		{"within the answer", "http://upstream.test", func(w *wstest.Wire) { w.ReadHead(); w.Send("HTTP/1.1 101 Sw") }},
		{"within a refusal", "http://upstream.test", func(w *wstest.Wire) { w.ReadHead(); w.Send("HTTP/1.1 401 No\r\nContent-Length: 9\r\n\r\nab") }},
	} {
		t.Run("F11 "+row.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRigTo(t, wstest.Memory, row.target)
				c := r.client()
				c.Send(wstest.Request("/", ""))
				var u *wstest.Wire
				if row.upstream != nil {
					u = r.upstream()
					row.upstream(u)
				}
				synctest.Wait()
				began := time.Now()
				c.Close()
				r.wantReturned()
				if d := time.Since(began); d != 0 {
					t.Errorf("the handshake went on for %v, want it to end at once", d)
				}
				if u != nil {
					u.WantGone()
				}
				if m := r.logs.Wait(t, 0); m["status"] != int64(499) || m["side"] != "client" {
					t.Errorf("logged %v, want 499 by the client", m)
				}
			})
		})
	}
	t.Run("A65 TCP", func(t *testing.T) {
		r := newRig(t, wstest.TCP)
		c := r.client()
		c.Send(wstest.Request("/", ""))
		u := r.upstream()
		u.ReadHead()
		c.Reset()
		u.WantEnd()
		r.wantReturned()
		if m := r.logs.Wait(t, 0); m["status"] != int64(499) {
			t.Errorf("logged %v, want 499", m)
		}
	})
}

// F4: the upstream's connection is reset before it answers.
func TestUpstreamResets(t *testing.T) {
	t.Attr("case", "F4")
	t.Parallel()
	for _, k := range []wstest.Kind{wstest.TCP, wstest.TLS} {
		r := newRig(t, k)
		c := r.client()
		c.Send(wstest.Request("/", "") + secondRequest)
		u := r.upstream()
		u.ReadHead()
		u.Reset()
		c.WantRefusal(502)
	}
}

// F7, A2 to A4: an upstream's refusal is relayed with its status, its body and
// its end-to-end fields. Then both connections are closed.
func TestRelayRefusal(t *testing.T) {
	t.Attr("case", "A2 A3 A4 F7")
	t.Parallel()
	big := strings.Repeat("0123456789abcdef", 4096) // 64 KiB
	chunked := func(s string) string { return fmt.Sprintf("%x\r\n%s\r\n", len(s), s) }
	rows := []struct {
		id, name, answer string
		status           int
		lines            string // expected in the header, separated by |
		body             string
		cut              bool
	}{
		{"A2", "426", "HTTP/1.1 426 Upgrade Required\r\nSec-WebSocket-Version: 13\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nContent-Length: 2\r\n\r\nno", 426,
			"Connection: Upgrade|Upgrade: websocket|Sec-Websocket-Version: 13", "no", false},
		{"A2", "404", "HTTP/1.1 404 Not Found\r\nContent-Length: 5\r\nContent-Type: text/x\r\n\r\nthere", 404, "Content-Type: text/x", "there", false},
		{"A2", "no Content-Type", "HTTP/1.1 403 No\r\nContent-Length: 6\r\n\r\n<html>", 403, "", "<html>", false},
		{"A2", "500, chunked", "HTTP/1.1 500 Oops\r\nTransfer-Encoding: chunked\r\nTrailer: X-T\r\n\r\n" + chunked("a") + chunked("bc") + "0\r\nX-T: 1\r\n\r\n", 500, "", "abc", false},
		{"A2", "to the end of the connection", "HTTP/1.0 503 No\r\n\r\nabc", 503, "", "abc", false},
		{"A2", "after 1xx", "HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 403 No\r\nContent-Length: 1\r\n\r\nx", 403, "", "x", false},
		{"A3", "200", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", 200, "", "hello", false},
		{"A3", "200 with all the rest of a 101", "HTTP/1.1 200 OK\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: ACCEPT\r\nContent-Length: 0\r\n\r\n", 200, "", "", false},
		{"A3", "204", "HTTP/1.1 204 No Content\r\n\r\n", 204, "", "", false},
		{"A3", "304", "HTTP/1.1 304 Not Modified\r\nEtag: x\r\n\r\n", 304, "Etag: x", "", false},
		{"A4", "302", "HTTP/1.1 302 Found\r\nLocation: http://other.test/\r\nContent-Length: 0\r\n\r\n", 302, "Location: http://other.test/", "", false},
		{"A4", "307", "HTTP/1.1 307 There\r\nLocation: /x\r\nContent-Length: 0\r\n\r\n", 307, "Location: /x", "", false},
		{"F7", "401", "HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Basic realm=\"x\"\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\nContent-Length: 0\r\n\r\n", 401,
			"Www-Authenticate: Basic realm=\"x\"|Set-Cookie: a=1|Set-Cookie: b=2", "", false},
		{"F7", "hop-by-hop", "HTTP/1.1 403 No\r\nConnection: keep-alive, X-Hop\r\nX-Hop: 1\r\nKeep-Alive: timeout=5\r\nProxy-Authenticate: Basic\r\n" +
			"Upgrade: h2c\r\nAlt-Svc: h3\r\nX-End: 1\r\nContent-Length: 0\r\n\r\n", 403, "X-End: 1", "", false},
		{"F7", "64 KiB", "HTTP/1.1 403 No\r\nContent-Length: 65536\r\n\r\n" + big, 403, "", big, false},
		{"F7", "over 64 KiB", "HTTP/1.1 403 No\r\nContent-Length: 65537\r\n\r\n" + big + "x", 403, "", big, true},
		{"F7", "chunked over 64 KiB", "HTTP/1.1 403 No\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked(big) + chunked("x") + "0\r\n\r\n", 403, "", big, true},
		{"F7", "in chunks that are mostly coding", "HTTP/1.1 403 No\r\nTransfer-Encoding: chunked\r\n\r\n" + strings.Repeat(chunked("x"), 30_000) + "0\r\n\r\n", 403, "", "", true},
		{"F7", "shorter than it says", "HTTP/1.1 403 No\r\nContent-Length: 5\r\n\r\nab", 403, "", "ab", true},
		{"F7", "broken chunks", "HTTP/1.1 403 No\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked("ab") + "zz\r\n", 403, "", "ab", true},
		{"F9", "status 999", "HTTP/1.1 999 Odd\r\nContent-Length: 0\r\n\r\n", 999, "", "", false},
	}
	wstest.EachKind(t, func(t *testing.T, k wstest.Kind) {
		var dials atomic.Int32
		var r *rig
		r = newRig(t, k, wsproxy.WithDialContext(func(ctx context.Context, _, _ string) (net.Conn, error) {
			dials.Add(1)
			return wstest.Dial(ctx, r.back)
		}))
		for i, row := range rows {
			t.Run(row.id+" "+row.name, func(t *testing.T) {
				r := r.on(t)
				c := r.client()
				c.Send(wstest.Request("/", "") + secondRequest)
				u := r.upstream()
				req := u.ReadRequest()
				go func() {
					io.WriteString(u, strings.ReplaceAll(row.answer, "ACCEPT", wstest.AcceptKey(req.Header.Get("Sec-WebSocket-Key"))))
					if c, ok := u.Conn.(interface{ CloseWrite() error }); ok {
						c.CloseWrite()
					}
				}()
				head := c.ReadHead()
				if !strings.HasPrefix(head, fmt.Sprintf("HTTP/1.1 %d ", row.status)) {
					t.Errorf("client: got %q, want %d", head, row.status)
				}
				for line := range strings.SplitSeq("Connection: close|"+row.lines, "|") {
					if !strings.Contains(head, line) {
						t.Errorf("client: got %q, want %q in it", head, line)
					}
				}
				if !strings.Contains(row.answer, "Content-Type") && strings.Contains(head, "Content-Type") {
					t.Errorf("client: got %q, want no Content-Type that the upstream hasn't sent", head)
				}
				if m := hopPattern.FindString(head); m != "" && row.status != 426 {
					t.Errorf("client: got %q, which is about the upstream's connection", m)
				}
				resp, err := http.ReadResponse(bufio.NewReader(io.MultiReader(strings.NewReader(head), c.In)), nil)
				if err != nil {
					t.Fatal(err)
				}
				body, err := io.ReadAll(resp.Body)
				if row.body != "" && string(body) != row.body {
					t.Errorf("client: got a body of %d bytes (%.20q), want %d (%.20q)", len(body), body, len(row.body), row.body)
				}
				if row.cut != errors.Is(err, io.ErrUnexpectedEOF) {
					t.Errorf("client: body ended with %v, want it visibly cut: %v", err, row.cut)
				}
				c.WantEnd()
				u.WantEnd()
				r.wantReturned()
				m := r.logs.Wait(t, i)
				cut := strings.Contains(m["error"].(string), "body truncated")
				if m["status"] != int64(row.status) || m["kind"] != "refusal" || cut != row.cut {
					t.Errorf("logged %v", m)
				}
			})
		}
		// A4: redirects are not followed.
		if n := int(dials.Load()); n != len(rows) {
			t.Errorf("dialled %d times for %d refusals", n, len(rows))
		}
	})
}

var hopPattern = regexp.MustCompile(`(?im)^(keep-alive|upgrade|proxy-authenticate|x-hop|alt-svc|trailer|sec-websocket-accept):.*$`)

// F8: a refusal's body that does not end is cut after 10 s, even if it began
// late in the handshake's own time. The client sees the status and the cut.
func TestEndlessRefusal(t *testing.T) {
	t.Attr("case", "F8")
	t.Parallel()
	for name, answer := range map[string]string{
		"Content-Length": "HTTP/1.1 401 No\r\nContent-Length: 100\r\n\r\nsome",
		"chunked":        "HTTP/1.1 401 No\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nsome\r\n",
		"no length":      "HTTP/1.1 401 No\r\n\r\nsome",
	} {
		for _, late := range []time.Duration{0, 9 * time.Second} {
			t.Run(fmt.Sprintf("F8 %s after %v", name, late), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					r := newRig(t, wstest.Memory)
					c := r.client()
					c.Send(wstest.Request("/", "") + secondRequest)
					u := r.upstream()
					u.ReadHead()
					wstest.Elapse(late)
					began := time.Now()
					u.Send(answer)
					resp := c.ReadResponse()
					body, err := io.ReadAll(resp.Body)
					if resp.StatusCode != 401 || string(body) != "some" || !errors.Is(err, io.ErrUnexpectedEOF) {
						t.Errorf("client: got %d %q %v, want 401 and a body that is cut", resp.StatusCode, body, err)
					}
					if d := time.Since(began); d != 10*time.Second {
						t.Errorf("cut after %v, want 10 s", d)
					}
					c.WantEnd()
					u.WantEnd()
				})
			})
		}
	}
}

// accepted is an independent statement of when an answer's bytes are the
// expected 101 for a client that has offered chat and v2. It shares nothing
// with the proxy's parser.
func accepted(raw, accept string) bool {
	for range 6 {
		head, rest, ok := cutHead(raw)
		if !ok {
			return false
		}
		lines := strings.Split(strings.ReplaceAll(head, "\r\n", "\n"), "\n")
		switch {
		case regexp.MustCompile(`^HTTP/1\.[0-9]  *(10[02-9]|1[1-9][0-9])( [^\r]*)?$`).MatchString(lines[0]):
			raw = rest
			continue
		case !regexp.MustCompile(`^HTTP/1\.[1-9]  *101( [^\r]*)?$`).MatchString(lines[0]):
			return false
		}
		fields := make(map[string][]string)
		for _, line := range lines[1:] {
			name, value, _ := strings.Cut(line, ":")
			name = strings.ToLower(strings.TrimRight(name, " \t"))
			if name == "" || strings.ContainsAny(name, " \t\r") || strings.ContainsAny(value, "\r\x00") {
				return false
			}
			fields[name] = append(fields[name], strings.Trim(value, " \t"))
		}
		// elements returns the elements of a field's lists without duplicates.
		elements := func(name string, cases func(string) string) []string {
			var list []string
			for e := range strings.SplitSeq(strings.Join(fields[name], ","), ",") {
				if e = cases(strings.Trim(e, " \t")); e != "" {
					list = append(list, e)
				}
			}
			return slices.Compact(slices.Sorted(slices.Values(list)))
		}
		protocol := elements("sec-websocket-protocol", strings.Clone)
		return slices.Contains(elements("connection", strings.ToLower), "upgrade") &&
			slices.Equal(fields["sec-websocket-accept"], []string{accept}) &&
			slices.Equal(elements("upgrade", strings.ToLower), []string{"websocket"}) &&
			!slices.ContainsFunc(elements("content-length", strings.Clone), func(v string) bool { return strings.Trim(v, "0") != "" }) &&
			(len(protocol) == 0 || slices.Equal(protocol, []string{"chat"}) || slices.Equal(protocol, []string{"v2"})) &&
			len(lines) <= 257 && len(head) <= 64<<10
	}
	return false
}

// cutHead cuts an HTTP header off text. Its lines may end in LF alone.
func cutHead(raw string) (head, rest string, ok bool) {
	m := regexp.MustCompile(`\n\r?\n`).FindStringIndex(raw)
	if m == nil {
		return "", "", false
	}
	return strings.TrimSuffix(raw[:m[0]], "\r"), raw[m[1]:], true
}

// No answer of an upstream, whatever its bytes, causes a panic, and only a
// valid 101 is relayed as 101. ACCEPT stands for the right key.
func FuzzUpstreamResponse(f *testing.F) {
	const good = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: ACCEPT\r\n"
	for _, s := range []string{
		good + "\r\n", good + "\r\n\x81\x02hi\x88\x00", good + "Sec-WebSocket-Protocol: chat\r\n\r\n", good + "Sec-WebSocket-Protocol: other\r\n\r\n",
		"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + good + "\r\n",
		strings.ReplaceAll(good, "\r\n", "\n") + "\n", strings.Replace(good, "Upgrade: websocket", "Upgrade:\r\n websocket", 1) + "\r\n",
		strings.Replace(good, " ", "  ", 1) + "\r\n", good + "\r\r\n\r\n",
		good + "Content-Length: 0\r\nTransfer-Encoding: chunked\r\nSec-WebSocket-Protocol: ,chat, chat\r\nX-A : a\r\n\r\n", good + "Upgrade: websocket,\r\n\r\n",
		good + "Content-Length: 5\r\n\r\nhello", good + "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", good + "Sec-WebSocket-Accept: ACCEPT\r\n\r\n",
		strings.Replace(good, "1.1", "1.0", 1) + "\r\n", good + "Sec-WebSocket-Extensions: x-a; b=\"c\"\r\n\r\n", good + "Connection: X-A\r\nX-A: b\r\n\r\n",
		"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", "HTTP/1.1 401 No\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nX: y\r\n\r\n",
		"HTTP/1.1 426 Upgrade Required\r\nSec-WebSocket-Version: 13\r\nConnection: close\r\n\r\nno", "HTTP/1.1 304 No\r\nContent-Length: 5\r\n\r\n", "\x15\x03\x01\x00\x02\x02\x16",
	} {
		f.Add([]byte(s))
	}
	var raw, accept string // of the current handshake
	p, err := wsproxy.New("http://upstream.test", wsproxy.WithLogger(discard), wsproxy.WithDialContext(
		func(context.Context, string, string) (net.Conn, error) {
			return scripted(func(head string) string {
				accept = wstest.AcceptKey(keyLine.FindStringSubmatch(head)[1])
				raw = strings.ReplaceAll(raw, "ACCEPT", accept)
				return raw
			}), nil
		}))
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, answer []byte) {
		r, err := http.ReadRequest(bufio.NewReader(strings.NewReader(withLines("Sec-WebSocket-Protocol: chat, v2", "Sec-WebSocket-Extensions: x-a"))))
		if err != nil {
			t.Fatal(err)
		}
		raw = string(answer)
		client, front := wstest.MemPair(1 << 20)
		w := &response{hijack: func() (net.Conn, *bufio.ReadWriter, error) {
			client.CloseWrite()
			return front, bufio.NewReadWriter(bufio.NewReader(front), bufio.NewWriter(front)), nil
		}}
		w.Body = new(bytes.Buffer)
		began := time.Now()
		cut := func() (cut bool) {
			defer func() {
				if v := recover(); v == http.ErrAbortHandler {
					cut = true
				} else if v != nil {
					panic(v)
				}
			}()
			p.ServeHTTP(w, r)
			return false
		}()
		if d := time.Since(began); d > 4*time.Second {
			t.Errorf("took %v, though the upstream had sent all it had", d)
		}
		front.Close()
		got, _ := io.ReadAll(client)
		if bytes.HasPrefix(got, []byte("HTTP/1.1 101 ")) {
			if !accepted(raw, accept) {
				t.Fatalf("client got %q for %q", got, raw)
			}
			if _, err := http.ReadResponse(bufio.NewReader(iotest.OneByteReader(bytes.NewReader(got))), nil); err != nil {
				t.Errorf("client got %q: %v", got, err)
			}
			return
		}
		if len(got) > 0 || w.Code == 101 || w.Body.Len() > 64<<10 {
			t.Errorf("client got %q, %d and %d bytes (cut: %v)", got, w.Code, w.Body.Len(), cut)
		}
	})
}
