package attacks

import (
	"io"
	"strings"
	"testing"
	"time"

	"github.com/seed-ffb73231/wsproxy"
	"github.com/seed-ffb73231/wsproxy/internal/wstest"
)

// A refusal is a client's handshake that must be refused. Nothing is dialled
// for it, the client gets one answer, and the connection is closed, so that the
// bytes after it are not a second request (A18).
type refusal struct {
	cases, name, send string
	status            int
	text              string // what was wrong; "": net/http refuses it before the proxy sees it
}

const (
	upgradeLine    = "Upgrade: websocket\r\n"
	connectionLine = "Connection: Upgrade\r\n"
	versionLine    = "Sec-WebSocket-Version: 13\r\n"
	keyOfClient    = "Sec-WebSocket-Key: " + key + "\r\n"
)

var refusals = []refusal{
	// The answer to another version names the supported one.
	{"A1 A18 C3", "version 777", edited("Version: 13", "Version: 777"), 426, "Sec-WebSocket-Version is not 13"},
	{"A1 C3", "version 13 in a list", edited("Version: 13", "Version: 13, 8"), 426, "Sec-WebSocket-Version is not 13"},
	{"A17 A38", "two versions", edited(versionLine, versionLine+"Sec-WebSocket-Version: 8\r\n"), 426, "Sec-WebSocket-Version is not 13"},

	// A request that does not ask for a WebSocket does not open one.
	{"A12", "h2c", edited(upgradeLine, "Upgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n", "Connection: Upgrade", "Connection: Upgrade, HTTP2-Settings"), 426, "not a request to upgrade to WebSocket"},
	{"A12 A15", "HTTP/2's preface", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 405, ""},
	{"A12", "websocket in another token", edited("Upgrade: websocket", "Upgrade: h2c, websocket-13"), 426, "not a request to upgrade to WebSocket"},
	{"A22", "upgrade in another token", edited("Connection: Upgrade", "Connection: not-upgrade, upgrades"), 426, "not a request to upgrade to WebSocket"},
	{"A23", "no token at all", edited("Connection: Upgrade", "Connection:"), 426, "not a request to upgrade to WebSocket"},
	{"C9", "an ordinary request", "GET / HTTP/1.1\r\nHost: front.test\r\n\r\n", 426, "not a request to upgrade to WebSocket"},

	// The bytes of a body would become frames.
	{"A13 A18", "body by length", edited(upgradeLine, upgradeLine+"Content-Length: 7\r\n") + "\x81\x83abcde", 400, "request has a body"},
	{"A13", "body in chunks", edited(upgradeLine, upgradeLine+"Transfer-Encoding: chunked\r\n") + "7\r\n\x81\x83abcde\r\n0\r\n\r\n", 400, "request has a body"},
	{"A13", "body by both", edited(upgradeLine, upgradeLine+"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n") + "0\r\n\r\n", 400, "request has a body"},
	{"A13", "empty chunks", edited(upgradeLine, upgradeLine+"Transfer-Encoding: chunked\r\n") + "0\r\n\r\n", 400, "request has a body"},
	{"A13", "two lengths", edited(upgradeLine, upgradeLine+"Content-Length: 0\r\nContent-Length: 5\r\n") + "abcde", 400, ""},
	{"A13", "length with a sign", edited(upgradeLine, upgradeLine+"Content-Length: +0\r\n"), 400, ""},
	{"A13", "other coding", edited(upgradeLine, upgradeLine+"Transfer-Encoding: identity\r\n"), 501, ""},
	{"A13", "coding in disguise", edited(upgradeLine, upgradeLine+"Transfer-Encoding: \x0bchunked\r\n"), 400, ""},
	{"A14 A13", "Expect with a body", handshake("Expect: 100-continue\r\nContent-Length: 5\r\n"), 400, "request has a body"},

	{"A15", "POST", edited("GET /", "POST /"), 405, "method is not GET"},
	{"A15 A31", "CONNECT", edited("GET / ", "CONNECT evil.test:80 "), 405, "method is not GET"},
	{"A15", "method of the client's own", edited("GET /", "WEBSOCKET /"), 405, "method is not GET"},
	{"A16", "HTTP/1.0", edited("HTTP/1.1", "HTTP/1.0"), 400, "HTTP version is below 1.1"},
	{"A16", "HTTP/1.0, kept alive", edited("HTTP/1.1", "HTTP/1.0", "Connection: Upgrade", "Connection: Upgrade, keep-alive"), 400, "HTTP version is below 1.1"},
	{"A16", "HTTP/3.0", edited("HTTP/1.1", "HTTP/3.0"), 505, ""},

	{"A17", "no key", edited(keyOfClient, ""), 400, "missing or repeated Sec-WebSocket-Key"},
	{"A17 A38", "two keys", edited(keyOfClient, keyOfClient+"sec-websocket-key: AQIDBAUGBwgJCgsMDQ4PEC==\r\n"), 400, "missing or repeated Sec-WebSocket-Key"},
	{"A17", "key of 15 bytes", edited(key, "dGhlIHNhbXBsZSBub25j"), 400, "Sec-WebSocket-Key is not 16 bytes in base64"},
	{"A17", "key in base64 of the other kind", edited(key, "_-hlIHNhbXBsZSBub25jZQ=="), 400, "Sec-WebSocket-Key is not 16 bytes in base64"},
	{"A17", "key within a line break", edited(key, "dGhlIHNhbXBs\r\n ZSBub25jZQ=="), 400, "Sec-WebSocket-Key is not 16 bytes in base64"},
	{"A38", "two origins", handshake("Origin: http://front.test\r\nOrigin: http://evil.test\r\n"), 400, "conflicting Origin fields"},

	{"A31", "target *", edited("GET / ", "GET * "), 400, "request target is not a path"},
	{"A31", "target that is an authority", edited("GET / ", "GET evil.test:80 "), 400, "request target is not a path"},
	{"A31", "target of another scheme", edited("GET / ", "GET file:///etc/passwd "), 400, "request target is not a path"},
	{"A31", "target with a space", edited("GET / ", "GET /a b "), 400, ""},
	{"A31", "target with a tab", edited("GET / ", "GET /a\tb "), 400, ""},
	{"A33", "target with a broken escape", edited("GET / ", "GET /%zz "), 400, ""},

	{"A34 A37", "CR within a line", handshake("X-A: a\rX-B: b\r\n"), 400, ""},
	{"A34 A37", "NUL in a value", handshake("X-A: a\x00b\r\n"), 400, ""},
	{"A37", "line without a name", handshake(": x\r\n"), 400, ""},
	{"A37", "line without a colon", handshake("X-A\r\n"), 400, ""},
	{"A37", "space before the colon", handshake("Content-Length : 5\r\n") + "abcde", 400, ""},
	{"A37", "folded first line", edited("Host:", " Host:"), 400, ""},
	{"A37", "two Hosts", handshake("Host: evil.test\r\n"), 400, ""},
	{"A37", "no Host", edited("Host: front.test\r\n", ""), 400, ""},
	{"A37", "Host that is none", edited("front.test", "a b"), 400, ""},
	{"A37", "Host with a path", edited("front.test", "front.test\\@evil.test"), 400, ""},
	{"A34", "subprotocol that is no token", handshake("Sec-WebSocket-Protocol: a\x20b\r\n"), 400, "malformed Sec-WebSocket-Protocol"},
	{"A34", "extension that is no token", handshake("Sec-WebSocket-Extensions: a; b=\"c,d\"\r\n"), 400, "malformed Sec-WebSocket-Extensions"},

	{"A62", "Host of 64 KiB", edited("front.test", strings.Repeat("h", 65_536)), 431, "header exceeds 64 KiB"},
	{"A62", "one line of 64 KiB", handshake("X-A: " + strings.Repeat("a", 65_536) + "\r\n"), 431, "header exceeds 64 KiB"},
	{"A62", "253 lines besides", handshake(strings.Repeat("A:\r\n", 253)), 431, "header has more than 256 fields"},
	{"A62", "8,810 lines", handshake(strings.Repeat("A:\r\n", 8_810)), 431, "header has more than 256 fields"},
	{"A62", "257 subprotocols", handshake("Sec-WebSocket-Protocol: " + strings.Repeat("a,", 257) + "\r\n"), 431, "Sec-WebSocket-Protocol has more than 256 elements"},
	{"A62", "an extension with 256 parameters", handshake("Sec-WebSocket-Extensions: a" + strings.Repeat(";b", 256) + "\r\n"), 431, "Sec-WebSocket-Extensions has more than 256 elements"},
	{"A62", "target of 64 KiB", edited("GET /", "GET /?"+strings.Repeat("q", 65_536)), 431, "header exceeds 64 KiB"},
	{"A62", "over a megabyte", handshake("X-A: " + strings.Repeat("a", 1<<20+8000) + "\r\n"), 431, ""},
}

func TestRefusals(t *testing.T) {
	eachLeg(t, func(t *testing.T, secure bool) {
		r := newRig(t, secure)
		for _, row := range refusals {
			t.Run(row.name, func(t *testing.T) {
				t.Attr("case", row.cases)
				c := r.on(t).client()
				go io.WriteString(c, row.send+second)
				got := undated(c.Rest())
				if row.text == "" {
					// The answer is net/http's own, or ours to what is not
					// HTTP/1, in its wording.
					if head, body, _ := strings.Cut(got, "\r\n\r\n"); !strings.HasPrefix(head, statusLine(row.status)) ||
						!strings.Contains(head, "Connection: close") || strings.Contains(body, "HTTP/1.1 ") {
						t.Errorf("client: got %q, want %d and the end", got, row.status)
					}
					return
				}
				want := refused(row.status, row.text)
				if strings.Contains(row.send, "HTTP/1.0") { // RFC 9112, 2.3
					want = strings.Replace(want, "HTTP/1.1", "HTTP/1.0", 1)
				}
				if got != want {
					t.Errorf("client: got\n%q, want\n%q", got, want)
				}
			})
		}
		r.wantNoDial()
	})
}

// A13, A18: an announced body that never arrives does not keep a refused
// connection open for longer than closing may take.
func TestRefusedBodyMissing(t *testing.T) {
	t.Attr("case", "A13 A14 A18")
	eachLeg(t, func(t *testing.T, secure bool) {
		r := newRig(t, secure, wsproxy.WithCloseTimeout(100*time.Millisecond))
		for _, lines := range []string{"Content-Length: 5\r\n", "Transfer-Encoding: chunked\r\n", "Content-Length: 5\r\nExpect: 100-continue\r\n"} {
			c := r.client()
			c.Send(handshake(lines))
			if got := undated(c.Rest()); got != refused(400, "request has a body") {
				t.Errorf("client: got\n%q, want\n%q", got, refused(400, "request has a body"))
			}
		}
		r.wantNoDial()
	})
}

// A18: a refusal by the upstream, or because there is none, also closes the
// connection, and what the client sent after its handshake is discarded,
// whether frames or another request.
func TestRefusedFurtherOn(t *testing.T) {
	eachLeg(t, func(t *testing.T, secure bool) {
		r := newRig(t, secure)
		for _, row := range []struct{ cases, name, answer, want string }{
			{"A2 A18", "refused", "HTTP/1.1 403 No\r\nContent-Length: 2\r\n\r\nno", "HTTP/1.1 403 Forbidden\r\nConnection: close\r\nContent-Length: 2\r\n\r\nno"},
			{"A2 A18", "refused, kept alive", "HTTP/1.1 404 No\r\nConnection: keep-alive\r\nKeep-Alive: timeout=5\r\nContent-Length: 0\r\n\r\n", "HTTP/1.1 404 Not Found\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"},
			{"A5 A18", "no right 101", "HTTP/1.1 101 OK\r\n\r\n", refused(502, "")},
			{"A18", "no HTTP", "+OK\r\n\r\n", refused(502, "")},
		} {
			for what, behind := range map[string]string{"frames": frame("client", wstest.Text, "early"), "a request": second} {
				t.Run(row.name+", behind it "+what, func(t *testing.T) {
					t.Attr("case", row.cases)
					r := r.on(t)
					c := r.client()
					c.Send(handshake("") + behind)
					u := r.upstream()
					u.ReadHead()
					u.Send(row.answer)
					if got := undated(c.Rest()); got != row.want {
						t.Errorf("client: got\n%q, want\n%q", got, row.want)
					}
					wantRest(u, "")
				})
			}
		}
	})
}
