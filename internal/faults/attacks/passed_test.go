package attacks

import (
	"cmp"
	"io"
	"net/http"
	"net/netip"
	"strings"
	"testing"

	"github.com/seed-ffb73231/wsproxy"
)

// A pass is a client's handshake, valid if unusual, and everything that the
// upstream gets of it: FORWARDED stands for the lines about the client.
type pass struct {
	cases, name, send, seen string
	host                    string // that the client has asked for; "": front.test
	options                 []wsproxy.Option
}

const plainSeen = "GET / HTTP/1.1\r\nHost: front.test\r\nConnection: Upgrade\r\n" + own + "Upgrade: websocket\r\nFORWARDED\r\n"

// seen is the plain handshake as the upstream gets it, with replacements.
func seen(edits ...string) string { return strings.NewReplacer(edits...).Replace(plainSeen) }

func trusting() []wsproxy.Option {
	return []wsproxy.Option{wsproxy.WithTrustedProxies(netip.MustParsePrefix("127.0.0.0/8"))}
}

var passes = []pass{
	{"C1 C3 A20", "plain", handshake(""), plainSeen, "", nil},
	{"C2", "other case", edited("Upgrade: websocket", "UPGRADE: WebSocket", "Connection: Upgrade", "connection: uPGRADE"), plainSeen, "", nil},
	{"C2", "lines that end in LF", strings.ReplaceAll(handshake(""), "\r\n", "\n"), plainSeen, "", nil},
	{"A22 C2", "tokens over many lines, odd spaces", edited("Connection: Upgrade", "Connection:\t keep-alive ,,\r\nConnection: ,upgrade\t,"), plainSeen, "", nil},
	{"A23", "close, upgrade", edited("Connection: Upgrade", "Connection: close, upgrade"), plainSeen, "", nil},
	{"A12", "h2c beside websocket", edited("Upgrade: websocket", "Upgrade: websocket, h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__", "Connection: Upgrade", "Connection: Upgrade, HTTP2-Settings"), plainSeen, "", nil},
	{"A12", "h2c on a line before", edited("Upgrade: websocket", "Upgrade: foo, h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\nUpgrade: websocket"), plainSeen, "", nil},
	{"A13", "a body of no bytes", handshake("Content-Length: 0\r\n"), plainSeen, "", nil},
	{"A14", "Expect without a body", handshake("Expect: 100-continue\r\n"), plainSeen, "", nil},
	{"A17 A38", "key and version twice", edited(keyOfClient, keyOfClient+keyOfClient+versionLine), plainSeen, "", nil},
	{"A34", "lists with gaps and repeats", handshake("Sec-WebSocket-Protocol: ,a,,b/c=, a\r\nSec-WebSocket-Extensions: x;, ,y; ;z=1;\r\nSec-WebSocket-Protocol:\r\n"),
		seen("Sec-WebSocket-Key", "Sec-WebSocket-Extensions: x, y; z=1\r\nSec-WebSocket-Key", "Sec-WebSocket-Version", "Sec-WebSocket-Protocol: a, b/c=\r\nSec-WebSocket-Version"), "", nil},
	{"A34", "empty lists", handshake("Sec-WebSocket-Protocol:\r\nSec-WebSocket-Extensions: ,\r\n"), plainSeen, "", nil},
	{"A17", "spaces around the key", edited(key, " \t"+key+" \t"), plainSeen, "", nil},

	// Hop-by-hop fields are removed. Whatever the client nominates, the fields
	// that the proxy sets are present.
	{"A24 A30", "hop-by-hop", edited("Connection: Upgrade", "Connection: Upgrade, x-hop\r\nX-Hop: 1\r\nKeep-Alive: 5\r\nProxy-Connection: x\r\nTE: trailers\r\nTrailer: X\r\n"+
		"Proxy-Authorization: Basic x\r\nConnection: X-Hop-2\r\nX-HOP-2: 1\r\nX-End: 1"), seen("FORWARDED", "X-End: 1\r\nFORWARDED"), "", nil},
	{"A21 A30", "nominated", edited("Connection: Upgrade", "connection: Upgrade, x-FORWARDED-for, X-Forwarded-Host, X-Forwarded-Proto, X-Real-IP, Forwarded, Host, Cookie, Authorization, Origin, Sec-WebSocket-Key, "+
		"Sec-WebSocket-Version, Sec-WebSocket-Protocol, Upgrade, Connection\r\nCookie: a\r\nAuthorization: b\r\nOrigin: http://c\r\nSec-WebSocket-Protocol: d"),
		seen("GET / HTTP/1.1\r\nHost: front.test\r\n", "GET / HTTP/1.1\r\nHost: front.test\r\nAuthorization: b\r\n", "Sec-WebSocket-Key", "Cookie: a\r\nOrigin: http://c\r\nSec-WebSocket-Key", "Sec-WebSocket-Version", "Sec-WebSocket-Protocol: d\r\nSec-WebSocket-Version"), "", nil},
	{"A21", "nominated behind a trusted proxy", edited("Connection: Upgrade", "Connection: Upgrade, X-Forwarded-For, X-Forwarded-Proto\r\nX-Forwarded-For: 192.0.2.1\r\nX-Forwarded-Proto: wss"),
		seen("FORWARDED", "X-Forwarded-For: 192.0.2.1, 127.0.0.1\r\nX-Forwarded-Host: front.test\r\nX-Forwarded-Proto: wss\r\n"), "", trusting()},
	{"A30", "handshake's own fields", handshake("Sec-WebSocket-Key1: a\r\nSec-WebSocket-Location: b\r\n"), plainSeen, "", nil},

	{"A25", "lies", handshake("X-Forwarded-For: 192.0.2.1\r\nX-Forwarded-Host: a.test\r\nX-Forwarded-Proto: gopher\r\nX-Forwarded-Port: 1\r\nX-Forwarded-Prefix: /x\r\nX-Real-IP: 192.0.2.1\r\nForwarded: for=192.0.2.1\r\n"), plainSeen, "", nil},
	{"A26", "lies by underscore", handshake("X_Forwarded_For: 192.0.2.1\r\nx_forwarded-host: a.test\r\nX_Real_IP: 192.0.2.1\r\nSec_WebSocket_Key: " + key + "\r\nSec_WebSocket-Protocol: d\r\nTransfer_Encoding: chunked\r\nContent_Length: 5\r\n"), plainSeen, "", nil},
	{"A27 C8", "a trusted proxy's", handshake("X-Forwarded-For: 192.0.2.1\r\nX-Forwarded-For: 2001:db8::1, 192.0.2.2\r\nX-Forwarded-Host: a.test\r\nX-Forwarded-Proto: https\r\nForwarded: for=\"[2001:db8::1]:4711\";proto=https\r\n"),
		seen("Sec-WebSocket-Key", "Forwarded: for=\"[2001:db8::1]:4711\";proto=https, for=127.0.0.1\r\nSec-WebSocket-Key",
			"FORWARDED", "X-Forwarded-For: 192.0.2.1, 2001:db8::1, 192.0.2.2, 127.0.0.1\r\nX-Forwarded-Host: a.test\r\nX-Forwarded-Proto: https\r\n"), "", trusting()},
	{"A27", "a trusted proxy's, empty", handshake("X-Forwarded-For:\r\nX-Forwarded-For:\r\n"), plainSeen, "", trusting()},

	{"A31", "absolute form", edited("GET / ", "GET http://evil.test:81/x?y "), passed("GET /x?y HTTP/1.1", "evil.test:81", "", own, "FORWARDED"), "evil.test:81", nil},
	{"A31", "absolute form with a user", edited("GET / ", "GET ws://user:secret@evil.test/x "), passed("GET /x HTTP/1.1", "evil.test", "", own, "FORWARDED"), "evil.test", nil},
	{"A31", "two slashes", edited("GET / ", "GET //evil.test/x "), seen("GET / ", "GET //evil.test/x "), "", nil},
	{"A31", "an address in the path", edited("GET / ", "GET /@evil.test:80/ "), seen("GET / ", "GET /@evil.test:80/ "), "", nil},
	{"A31", "number sign", edited("GET / ", "GET /a#b "), seen("GET / ", "GET /a%23b "), "", nil},
	{"A33 C6", "escapes and semicolons", edited("GET / ", "GET /a%2f%2E%2e/b;c/%7E?x=%zz;y&&z=%&= "), seen("GET / ", "GET /a%2f%2E%2e/b;c/%7E?x=%zz;y&&z=%&= "), "", nil},
	{"A33 C6", "dots", edited("GET / ", "GET /a/../b/./..//c "), seen("GET / ", "GET /a/../b/./..//c "), "", nil},
	{"A33 C6", "an empty query", edited("GET / ", "GET /? "), seen("GET / ", "GET /? "), "", nil},
	{"A33", "an escaped slash beside what a URL may not hold", edited("GET / ", "GET /x|%2F..%2Fadmin?\"%2F "), seen("GET / ", "GET /x|%2F..%2Fadmin?\"%2F "), "", nil},
	{"A33", "a second question mark", edited("GET / ", "GET /?a?b "), seen("GET / ", "GET /?a?b "), "", nil},
	{"A33", "bytes above 7F", edited("GET / ", "GET /\xe2\x82\xac?\xff "), seen("GET / ", "GET /€?\xff "), "", nil},

	{"A37", "a folded line", handshake("X-A: a\r\n\tb\r\n"), seen("FORWARDED", "X-A: a b\r\nFORWARDED"), "", nil},
	{"A37", "bytes above 7F in a value", handshake("X-A: \x80\xff\r\n"), seen("FORWARDED", "X-A: \x80\xff\r\nFORWARDED"), "", nil},
	{"A42 C6", "Host goes on", edited("front.test", "Front.test:8080"), seen("front.test", "Front.test:8080"), "Front.test:8080", nil},
	{"A42 C6", "another Host", handshake("Origin: https://front.test\r\n"), seen("Host: front.test", "Host: up.test", "Sec-WebSocket-Key", "Origin: https://front.test\r\nSec-WebSocket-Key"), "", []wsproxy.Option{wsproxy.WithHost("up.test")}},
	{"A62", "256 lines", handshake(strings.Repeat("A:\r\n", 252)), seen("Host: front.test\r\n", "Host: front.test\r\n"+strings.Repeat("A: \r\n", 252)), "", nil},
	{"A62", "a header just below 64 KiB", handshake("X-A: " + strings.Repeat("a", 65_200) + "\r\n"), seen("FORWARDED", "X-A: "+strings.Repeat("a", 65_200)+"\r\nFORWARDED"), "", nil},

	{"C4 C5", "offers", handshake("sec-websocket-protocol: chat ,superchat\r\nSec-WebSocket-Protocol: v2\r\nSec-WebSocket-Extensions: permessage-deflate; client_max_window_bits, x-a; b=\"c\"\r\nSec-WebSocket-Extensions: x-d\r\n"),
		seen("Sec-WebSocket-Key", "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits, x-a; b=\"c\", x-d\r\nSec-WebSocket-Key",
			"Sec-WebSocket-Version", "Sec-WebSocket-Protocol: chat, superchat, v2\r\nSec-WebSocket-Version"), "", nil},
	{"C7", "end to end", handshake("Cookie: a\r\nCookie: b\r\nAuthorization: Bearer c\r\nUser-Agent: d\r\nOrigin: http://e\r\nX-F: g\r\nVia: 1.1 h\r\nAccept-Encoding: gzip\r\nContent-Type: text/i\r\n"),
		seen("Host: front.test\r\n", "Host: front.test\r\nAccept-Encoding: gzip\r\nAuthorization: Bearer c\r\n", "Connection: Upgrade\r\n", "Connection: Upgrade\r\nContent-Type: text/i\r\nCookie: a\r\nCookie: b\r\n",
			"Sec-WebSocket-Key", "Origin: http://e\r\nSec-WebSocket-Key", "FORWARDED", "User-Agent: d\r\nVia: 1.1 h\r\nX-F: g\r\nFORWARDED"), "", nil},
}

// Every accepted handshake goes to the configured upstream, whatever the
// request names, as one clean handshake with a key of the proxy's own; the
// answer is to the client's key.
func TestPasses(t *testing.T) {
	eachLeg(t, func(t *testing.T, secure bool) {
		r := newRig(t, secure)
		keys := make(map[string]bool)
		for _, row := range passes {
			t.Run(row.name, func(t *testing.T) {
				t.Attr("case", row.cases)
				r := r.on(t)
				if row.options != nil {
					r = newRig(t, secure, row.options...)
				}
				c := r.client()
				go io.WriteString(c, row.send)
				u := r.upstream()
				head := u.ReadHead()
				if k := keyLine.FindString(head); keys[k] {
					t.Errorf("upstream: got %q a second time, want a fresh one (A20)", k)
				} else {
					keys[k] = true
				}
				want := strings.ReplaceAll(row.seen, "FORWARDED", forwarded(cmp.Or(row.host, "front.test"), secure))
				if got := keyed(head); got != want {
					t.Errorf("upstream: got\n%.900q, want\n%.900q", got, want)
				}
				u.Send(answer(head, ""))
				c.WantBytes(opened(""))
				c.Send(closeFrame("client", 1000, ""))
				u.Send(closeFrame("upstream", 1000, ""))
				wantRest(c, closeFrame("upstream", 1000, ""))
			})
		}
	})
}

// A41: net/http's own protection accepts every GET, so it does not replace the
// proxy's check of the origin (A39), which works without it.
func TestCrossOriginProtection(t *testing.T) {
	t.Attr("case", "A39 A41")
	eachLeg(t, func(t *testing.T, secure bool) {
		origin := map[bool]string{false: "http://front.test", true: "https://front.test"}[secure]
		r := newStrictRig(t, secure)
		r.reserve(&http.Server{Handler: http.NewCrossOriginProtection().Handler(r.proxy)})
		for _, lines := range []string{
			"Origin: http://evil.test\r\nSec-Fetch-Site: cross-site\r\n",
			"Origin: null\r\n",
			"Origin: " + strings.Replace(origin, "front", "FRONT.test@evil", 1) + "\r\n",
		} {
			c := r.client()
			c.Send(handshake(lines) + second)
			if got := undated(c.Rest()); got != refused(403, "") {
				t.Errorf("%q: got\n%q, want\n%q", lines, got, refused(403, ""))
			}
		}
		c := r.client()
		c.Send(handshake("Origin: " + origin + "\r\nSec-Fetch-Site: same-origin\r\n"))
		u := r.upstream()
		u.Send(answer(u.ReadHead(), ""))
		c.WantBytes(opened(""))
	})
}
