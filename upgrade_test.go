package wsproxy_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"go/build"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/http/httpguts"

	"github.com/seed-ffb73231/wsproxy"
	"github.com/seed-ffb73231/wsproxy/internal/wstest"
)

// The client's handshake: what is refused and how, what is accepted, and the
// 101.

// noDial makes every connection to the upstream fail and counts the attempts.
func noDial(n *atomic.Int32) wsproxy.Option {
	return wsproxy.WithDialContext(func(context.Context, string, string) (net.Conn, error) {
		n.Add(1)
		return nil, errors.New("not to be dialled")
	})
}

// on returns the rig for a subtest.
func (r *rig) on(t *testing.T) *rig {
	c := *r
	c.t = t
	return &c
}

// edited is the plain handshake with replacements: old, new, old, new …
func edited(edits ...string) string {
	return strings.NewReplacer(edits...).Replace(wstest.Request("/", ""))
}

// withLines is the plain handshake with additional header lines.
func withLines(lines ...string) string {
	return wstest.Request("/", strings.Join(lines, "\r\n")+"\r\n")
}

// secondRequest follows a handshake on a connection that must be closed: if it
// were served as a request of its own, it would be answered.
const secondRequest = "GET /second HTTP/1.1\r\nHost: front.test\r\n\r\n"

// countsFields reports whether net/http limits the number of fields itself, by
// default to 500: it does since Go 1.27.
var countsFields = slices.Contains(build.Default.ReleaseTags, "go1.27")

// An invalid handshake is answered with its status, nothing is dialled for it,
// and (A18) the connection is closed, so that the bytes after it are not taken
// for a second request.
func TestRefuse(t *testing.T) {
	t.Attr("case", "A1 A13 A14 A15 A16 A17 A18 A22 A23 A34 A37 A38 A62 C3 C9")
	t.Parallel()
	const (
		key      = "Sec-WebSocket-Key: " + wstest.Key
		version  = "Sec-WebSocket-Version: 13"
		connLine = "Connection: Upgrade"
		upLine   = "Upgrade: websocket"
	)
	rows := []struct {
		id, name string
		request  string
		status   int
		early    bool // refused by net/http before the proxy sees it
	}{
		{"A1", "version 777", edited(version, "Sec-WebSocket-Version: 777"), 426, false},
		{"A1", "version 8", edited(version, "Sec-WebSocket-Version: 8"), 426, false},
		{"C3", "version 013", edited(version, "Sec-WebSocket-Version: 013"), 426, false},
		{"C3", "version list", edited(version, "Sec-WebSocket-Version: 13, 8"), 426, false},
		{"C3", "version empty", edited(version, "Sec-WebSocket-Version:"), 426, false},
		{"A17", "two versions", edited(version, version+"\r\nSec-WebSocket-Version: 8"), 426, false},
		{"A17", "version absent", edited(version+"\r\n", ""), 400, false},
		{"A12", "h2c", edited(upLine, "Upgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__", connLine, "Connection: Upgrade, HTTP2-Settings"), 426, false},
		{"A13", "Content-Length", edited(upLine, "Content-Length: 5\r\n"+upLine) + "\x81\x83abc", 400, false},
		{"A13", "chunked", edited(upLine, "Transfer-Encoding: chunked\r\n"+upLine) + "3\r\nabc\r\n0\r\n\r\n", 400, false},
		{"A13", "both", edited(upLine, "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n"+upLine) + "0\r\n\r\n", 400, false},
		{"A14", "Expect with a body", withLines("Expect: 100-continue", "Content-Length: 5"), 400, false},
		{"A14", "unknown Expect", withLines("Expect: tea"), 417, true},
		{"A15", "POST", edited("GET /", "POST /"), 405, false},
		{"A15", "PUT", edited("GET /", "PUT /"), 405, false},
		{"A15", "HEAD", edited("GET /", "HEAD /"), 405, false},
		{"A15", "get", edited("GET /", "get /"), 405, false},
		{"A16", "HTTP/1.0", edited("HTTP/1.1", "HTTP/1.0"), 400, false},
		{"A17", "key absent", edited(key+"\r\n", ""), 400, false},
		{"A17", "key empty", edited(key, "Sec-WebSocket-Key:"), 400, false},
		{"A17", "key of 15 bytes", edited(wstest.Key, "dGhlIHNhbXBsZSBub25j"), 400, false},
		{"A17", "key of 17 bytes", edited(wstest.Key, "dGhlIHNhbXBsZSBub25jZWU="), 400, false},
		{"A17", "key not base64", edited(wstest.Key, "dGhlIHNhbXBsZSBub25j!Q=="), 400, false},
		{"A17", "key unpadded", edited(wstest.Key, "dGhlIHNhbXBsZSBub25jZQ"), 400, false},
		{"A38", "two keys", edited(key, key+"\r\nSec-WebSocket-Key: AQIDBAUGBwgJCgsMDQ4PEC=="), 400, false},
		{"A38", "two Origins", withLines("Origin: http://front.test", "Origin: http://evil.test"), 400, false},
		{"A17", "key list", edited(wstest.Key, wstest.Key+", "+wstest.Key), 400, false},
		{"A38", "two spellings of an Origin", withLines("Origin: http://front.test", "Origin: http://front.test/"), 400, false},
		{"A22", "Connection: not-upgrade", edited(connLine, "Connection: not-upgrade"), 426, false},
		{"A22", "Connection: upgrade;x", edited(connLine, "Connection: upgrade;x"), 426, false},
		{"A22", "Upgrade: websocketx", edited(upLine, "Upgrade: websocketx"), 426, false},
		{"A22", "Upgrade: web socket", edited(upLine, "Upgrade: web socket"), 426, false},
		{"A22", "Upgrade: websocket/13", edited(upLine, "Upgrade: websocket/13"), 426, false},
		{"A23", "Connection empty", edited(connLine, "Connection:"), 426, false},
		{"A23", "Connection: close", edited(connLine, "Connection: close"), 426, false},
		{"C9", "no handshake at all", "GET / HTTP/1.1\r\nHost: front.test\r\n\r\n", 426, false},
		{"C9", "no Upgrade", edited(upLine+"\r\n", ""), 426, false},
		{"C9", "no Connection", edited(connLine+"\r\n", ""), 426, false},
		{"A31", "target *", edited("GET /", "GET *"), 400, false},
		{"A31", "authority", edited("GET /", "GET evil.test:80"), 400, false},
		{"A31", "scheme alone", edited("GET /", "GET a:"), 400, false},
		{"A31", "absolute form without a host", edited("GET /", "GET http:///x"), 400, false},
		{"A31", "absolute form with a user, without a host", edited("GET /", "GET http://user@/x"), 400, false},
		{"A31", "a scheme with a second colon", edited("GET /", "GET http:://front.test/x"), 400, false},
		{"A31", "no slash", edited("GET /", "GET evil.test"), 400, true},
		{"A34", "subprotocol not a token", withLines("Sec-WebSocket-Protocol: chat 1"), 400, false},
		{"A34", "extension not a token", withLines("Sec-WebSocket-Extensions: a b"), 400, false},
		{"A34", "extension without value", withLines("Sec-WebSocket-Extensions: a; b="), 400, false},
		{"A34", "extension quote open", withLines(`Sec-WebSocket-Extensions: a; b="c`), 400, false},
		{"A34", "extension quoted no token", withLines(`Sec-WebSocket-Extensions: a; b="c d"`), 400, false},
		{"A37", "two Hosts", withLines("Host: evil.test"), 400, true},
		{"A37", "no Host", edited("Host: front.test\r\n", ""), 400, true},
		{"A37", "empty name", withLines(": x"), 400, true},
		{"A37", "space before the colon", withLines("X-A : x"), 400, true},
		{"A37", "NUL in a value", withLines("X-A: \x00"), 400, true},
		{"A37", "CR in a value", withLines("X-A: a\rX-B: b"), 400, true},
		{"A62", "header over 64 KiB", withLines("X-A: " + strings.Repeat("a", 65_536)), 431, false},
		{"A62", "Host over 64 KiB", edited("front.test", strings.Repeat("a", 65_536)), 431, false},
		{"A62", "many small fields", withLines(strings.Repeat("A: \r\n", 14_000) + "A: "), 431, countsFields},
		{"A62", "request target over 64 KiB", edited("GET /", "GET /"+strings.Repeat("a", 65_536)), 431, false},
	}
	wstest.EachKind(t, func(t *testing.T, k wstest.Kind) {
		var dials atomic.Int32
		r := newRig(t, k, noDial(&dials))
		for _, row := range rows {
			t.Run(row.id+" "+row.name, func(t *testing.T) {
				r := r.on(t)
				c := r.client()
				if row.early {
					// net/http has answers of its own, which do not name the
					// mistake. It may not have read the whole request.
					go io.WriteString(c, row.request+secondRequest)
					if head := c.ReadHead(); !strings.HasPrefix(head, fmt.Sprintf("HTTP/1.1 %d ", row.status)) {
						t.Errorf("got %q, want %d", head, row.status)
					}
					return
				}
				c.SendLater(row.request + secondRequest)
				_, body := c.WantRefusal(row.status)
				// The client may know what was wrong with its handshake.
				if !strings.HasPrefix(body, "bad handshake: ") && !strings.Contains(row.request, "HEAD") {
					t.Errorf("got body %q, want it to say what was wrong", body)
				}
				r.wantReturned()
				if n := len(r.returned); n > 0 {
					t.Error("what came behind a refused handshake was served as a request")
				}
			})
		}
		if n := dials.Load(); n > 0 {
			t.Errorf("upstream dialled %d times, want nothing dialled for a refused handshake", n)
		}
	})
}

// A valid handshake, however unusual, is answered 101 with the accept value of
// its key (C1: RFC 6455, 1.3), and the upstream gets one clean handshake.
func TestAccept(t *testing.T) {
	t.Attr("case", "A12 A22 A23 A31 C1 C2")
	t.Parallel()
	const connLine, upLine = "Connection: Upgrade", "Upgrade: websocket"
	rows := []struct {
		id, name string
		request  string
		line     string // the request line to the upstream
		host     string
	}{
		{"C1", "plain", edited(), "", ""},
		{"C2", "other case", edited(connLine, "cOnNeCtIoN: UPGRADE", upLine, "uPGRADE: WebSocket"), "", ""},
		{"A22", "list", edited(connLine, "Connection: keep-alive, Upgrade"), "", ""},
		{"A22", "odd spaces", edited(connLine, "Connection:  upgrade\t ,,keep-alive "), "", ""},
		{"A22", "many lines", edited(connLine, "Connection: keep-alive\r\nConnection: upgrade"), "", ""},
		{"A23", "close, upgrade", edited(connLine, "Connection: close, upgrade"), "", ""},
		{"A23", "an empty line", edited(connLine, "Connection:\r\nConnection: upgrade"), "", ""},
		{"A12", "websocket, h2c", edited(upLine, "Upgrade: websocket, h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__", connLine, "Connection: Upgrade, HTTP2-Settings"), "", ""},
		{"A12", "h2c on a line before", edited(upLine, "Upgrade: foo, h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\nUpgrade: websocket"), "", ""},
		{"A13", "Content-Length: 0", withLines("Content-Length: 0"), "", ""},
		{"A31", "absolute form", edited("GET /", "GET http://evil.test/x?y"), "GET /x?y HTTP/1.1", "evil.test"},
		{"A31", "absolute form, no path", edited("GET /", "GET http://evil.test"), "GET / HTTP/1.1", "evil.test"},
		{"A31", "two slashes", edited("GET /", "GET //evil.test/x"), "GET //evil.test/x HTTP/1.1", ""},
		{"A31", "number sign", edited("GET /", "GET /a#b"), "GET /a%23b HTTP/1.1", ""},
		{"A31", "at", edited("GET /", "GET /@evil.test"), "GET /@evil.test HTTP/1.1", ""},
		{"A37", "folded", withLines("X-A: a\r\n b"), "", ""},
		{"A62", "header just under 64 KiB", withLines("X-A: " + strings.Repeat("a", 65_000)), "", ""},
	}
	wstest.EachKind(t, func(t *testing.T, k wstest.Kind) {
		var addresses sync.Map
		var r *rig
		r = newRig(t, k, wsproxy.WithDialContext(func(ctx context.Context, network, address string) (net.Conn, error) {
			addresses.Store(network+" "+address, true)
			return wstest.Dial(ctx, r.back)
		}))
		for _, row := range rows {
			t.Run(row.id+" "+row.name, func(t *testing.T) {
				r := r.on(t)
				client := r.client()
				client.SendLater(row.request)
				upstream := r.upstream()
				head := upstream.ReadHead()
				wantCleanHead(t, head)
				line, rest, _ := strings.Cut(head, "\r\n")
				if want := row.line; want != "" && line != want || want == "" && line != "GET / HTTP/1.1" {
					t.Errorf("upstream: got %q, want %q", line, want)
				}
				host := row.host
				if host == "" {
					host = "front.test"
				}
				if !strings.HasPrefix(rest, "Host: "+host+"\r\n") {
					t.Errorf("upstream: got %.50q, want Host %q", rest, host)
				}
				upstream.Send(answerTo(head, ""))
				const want = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n" +
					"Sec-WebSocket-Accept: " + wstest.KeyAnswer + "\r\n\r\n"
				if got := client.ReadHead(); got != want {
					t.Errorf("client: got\n%s\nwant\n%s", got, want)
				}
				client.Close()
				upstream.Close()
				r.wantReturned()
			})
		}
		// A31: whatever the request names, only the configured target is
		// dialled.
		addresses.Range(func(address, _ any) bool {
			if address != "tcp upstream.test:80" && address != "tcp upstream.test:443" {
				t.Errorf("dialled %q, want the target", address)
			}
			return true
		})
	})
}

var keyLine = regexp.MustCompile(`(?m)^Sec-WebSocket-Key: ([A-Za-z0-9+/]{21}[AQgw]==)\r$`)

// answerTo returns a valid 101 for a request's header.
func answerTo(head, lines string) string {
	key := "none"
	if m := keyLine.FindStringSubmatch(head); m != nil {
		key = m[1]
	}
	return "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n" +
		"Sec-WebSocket-Accept: " + wstest.AcceptKey(key) + "\r\n" + lines + "\r\n"
}

// wantCleanHead checks what must hold for a request to the upstream whatever
// the client has sent: the handshake's own fields once each, a key of the
// proxy's own, and no hop-by-hop fields.
func wantCleanHead(t *testing.T, head string) {
	t.Helper()
	head, ok := strings.CutSuffix(head, "\r\n\r\n")
	lines := strings.Split(head, "\r\n")
	if !ok || strings.ContainsAny(strings.Join(lines, ""), "\r\n\x00") {
		t.Fatalf("upstream: got %q, want lines that end in CRLF", head)
	}
	if !strings.HasPrefix(lines[0], "GET /") || !strings.HasSuffix(lines[0], " HTTP/1.1") || strings.Count(lines[0], " ") != 2 {
		t.Errorf("upstream: got request line %q", lines[0])
	}
	count := make(map[string]int)
	for _, line := range lines[1:] {
		name, value, _ := strings.Cut(line, ": ")
		count[name]++
		switch lower := strings.ToLower(name); lower {
		case "host", "sec-websocket-protocol", "sec-websocket-extensions":
		case "upgrade", "connection", "sec-websocket-version":
			if want := map[string]string{"upgrade": "websocket", "connection": "Upgrade", "sec-websocket-version": "13"}[lower]; value != want {
				t.Errorf("upstream: got %q, want %q", line, want)
			}
		case "sec-websocket-key":
			if !keyLine.MatchString(line+"\r") || value == wstest.Key {
				t.Errorf("upstream: got %q, want a key of the proxy's own", line)
			}
		case "keep-alive", "proxy-connection", "proxy-authenticate", "proxy-authorization", "te", "trailer",
			"transfer-encoding", "content-length", "http2-settings", "expect":
			t.Errorf("upstream: got %q, want it gone", line)
		default:
			if strings.HasPrefix(strings.ReplaceAll(lower, "_", "-"), "sec-websocket-") {
				t.Errorf("upstream: got %q, want it gone", line)
			}
		}
	}
	// Their case is that of the RFC, too.
	for _, name := range []string{"Host", "Upgrade", "Connection", "Sec-WebSocket-Key", "Sec-WebSocket-Version"} {
		if count[name] != 1 {
			t.Errorf("upstream: got %d lines %q, want one, in\n%s", count[name], name, head)
		}
	}
}

// C4, C5, C7, A24: what the client gets of the upstream's 101.
func TestAnswer101(t *testing.T) {
	t.Parallel()
	const offer = "Sec-WebSocket-Protocol: chat, superchat\r\nSec-WebSocket-Protocol: v2\r\n" +
		"Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits, x-a; b=\"c\"\r\n" +
		"Sec-WebSocket-Extensions: permessage-deflate\r\n"
	rows := []struct {
		id, name, answer string
		want             string // after the 101's own lines
	}{
		{"C4", "no subprotocol", "", ""},
		{"C4", "subprotocol", "Sec-WebSocket-Protocol: superchat\r\n", "Sec-WebSocket-Protocol: superchat\r\n"},
		{"C4", "subprotocol of the second line", "sec-websocket-protocol:v2\r\n", "Sec-WebSocket-Protocol: v2\r\n"},
		{"C5", "extension", "Sec-WebSocket-Extensions: permessage-deflate; server_max_window_bits=10\r\n",
			"Sec-WebSocket-Extensions: permessage-deflate; server_max_window_bits=10\r\n"},
		{"C5", "two extensions", "Sec-WebSocket-Extensions: X-A; b=\"c\"\r\nSec-WebSocket-Extensions: permessage-deflate\r\n",
			"Sec-WebSocket-Extensions: X-A; b=\"c\", permessage-deflate\r\n"},
		{"C7", "cookies and others", "Set-Cookie: a=1\r\nX-Frame-Options: DENY\r\nSet-Cookie: b=2\r\n",
			"Set-Cookie: a=1\r\nSet-Cookie: b=2\r\nX-Frame-Options: DENY\r\n"},
		{"A24", "hop-by-hop", "Connection: X-Hop\r\nX-Hop: 1\r\nKeep-Alive: timeout=5\r\nProxy-Authenticate: Basic\r\n" +
			"Proxy-Connection: keep-alive\r\nAlt-Svc: h3=\":443\"\r\nTE: trailers\r\nTrailer: X\r\nX-End: 1\r\n", "X-End: 1\r\n"},
	}
	r := newRig(t, wstest.TCP)
	for _, row := range rows {
		t.Run(row.id+" "+row.name, func(t *testing.T) {
			r := r.on(t)
			client := r.client()
			client.Send(wstest.Request("/", offer))
			upstream := r.upstream()
			head := upstream.ReadHead()
			// C5: the offer is forwarded in its order and with its parameters.
			for _, line := range []string{"Sec-WebSocket-Protocol: chat, superchat, v2\r\n",
				"Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits, x-a; b=\"c\", permessage-deflate\r\n"} {
				if !strings.Contains(head, line) {
					t.Errorf("upstream: got\n%s\nwant %q in it", head, line)
				}
			}
			upstream.Send(answerTo(head, row.answer))
			want := "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n" +
				"Sec-WebSocket-Accept: " + wstest.KeyAnswer + "\r\n" + row.want + "\r\n"
			if got := client.ReadHead(); got != want {
				t.Errorf("client: got\n%s\nwant\n%s", got, want)
			}
			client.Close()
			upstream.Close()
			r.wantReturned()
		})
	}
}

// Fields that middleware has set in the ResponseWriter are in the 101, too, but
// cannot break the handshake.
func TestAnswer101Middleware(t *testing.T) {
	t.Parallel()
	r := newRig(t, wstest.TCP)
	front := wstest.Listen(t, wstest.TCP)
	go http.Serve(front, http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		for _, name := range []string{"X-Request-Id", "Content-Length", "Transfer-Encoding", "Sec-Websocket-Accept", "Sec-Websocket-Protocol"} {
			w.Header().Set(name, "7")
		}
		r.proxy.ServeHTTP(w, req)
	}))
	r.front = front
	client := r.client()
	client.Send(wstest.Request("/", ""))
	upstream := r.upstream()
	upstream.Answer("")
	const want = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n" +
		"Sec-WebSocket-Accept: " + wstest.KeyAnswer + "\r\nX-Request-Id: 7\r\n\r\n"
	if got := client.ReadHead(); got != want {
		t.Errorf("client: got\n%s\nwant\n%s", got, want)
	}
}

// A39, A40: which pages may open a WebSocket.
func TestOrigin(t *testing.T) {
	t.Attr("case", "A39 A40")
	t.Parallel()
	type row struct {
		id, origin string // origin "-": no field
		want       int    // 502: accepted, and the upstream is unreachable
	}
	groups := []struct {
		name    string
		kind    wstest.Kind
		request string
		options []wsproxy.Option
		rows    []row
	}{
		{"same origin", wstest.TCP, "Host: front.test", nil, []row{
			{"A39", "-", 502},
			{"A39", "http://front.test", 502},
			{"A39", "http://evil.test", 403},
			{"A40", "https://front.test", 403},
			{"A40", "http://front.test:80", 502},
			{"A40", "http://front.test:8080", 403},
			{"A40", "http://FRONT.test", 502},
			{"A40", "http://front.test.", 403},
			{"A40", "null", 403},
			{"A40", "", 502},
			{"A40", "\r\nOrigin: http://front.test\r\nOrigin: http://front.test", 502},
			{"A40", "\r\nOrigin: http://evil.test", 403},
			{"A40", "front.test", 502},
			{"A40", "evil.test", 403},
			{"A40", "evil.test/http://front.test", 403},
			{"A40", "//front.test", 403},
			{"A40", "http://", 403},
			{"A40", "http:///", 403},
			{"A40", "/", 403},
			{"A40", "HTTP://Front.Test:80/", 502},
			{"A40", "http://front.test:080", 502},
			{"A40", "http://front.test:", 502},
			{"A40", "http://front.test:0", 403},
			{"A40", "http://front.test:65616", 403}, // 80 in 16 bits
			{"A40", "ws://front.test/", 502},        // iTerm2's clients, others of microcontrollers
			{"A40", "wss://front.test", 403},
			{"A40", "ws://evil.test", 403},
			{"A40", "http://front.test//", 403},
			{"A40", "http://front.test/x", 403},
			{"A40", "http://front.test?", 403},
			{"A40", "http://front.test?x", 403},
			{"A40", "http://front.test#", 403},
			{"A40", "http://front.test#x", 403},
			{"A40", "http://@front.test", 403},
			{"A40", "http://evil.test\\@front.test", 403},
			{"A40", "http://front%2Etest", 403},
			{"A40", "http://" + strings.Repeat("\u00fc", 1<<13) + ".test", 403},
			{"A40", "http://front.test" + strings.Repeat("a", 1<<13), 403},
			{"A40", "null/", 403},
			{"A40", "http://front.test@evil.test", 403},
			{"A40", "http://evil.test@front.test", 403},
			{"A40", "http://front.test.evil.test", 403},
			{"A40", "http://frontxtest", 403},
			{"A40", "http://front.test/", 502},
			{"A40", "http://front.test http://evil.test", 403},
			{"A40", "file://", 403},
		}},
		{"TLS", wstest.TLS, "Host: front.test", nil, []row{
			{"A40", "https://front.test", 502},
			{"A40", "https://front.test:443", 502},
			{"A40", "http://front.test", 403},
			{"A40", "http://front.test:443", 403},
		}},
		{"port in Host", wstest.TCP, "Host: front.test:8080", nil, []row{
			{"A40", "http://front.test:8080", 502},
			{"A40", "http://front.test", 403},
		}},
		{"patterns", wstest.TCP, "Host: front.test", []wsproxy.Option{wsproxy.WithOrigins(
			"https://app.example.com", "*.any.example", "https://*.deep.example:8443", "chrome-extension://abc")}, []row{
			{"A39", "http://front.test", 502},
			{"A39", "https://app.example.com", 502},
			{"A40", "https://APP.example.com:443", 502},
			{"A40", "http://app.example.com", 403},
			{"A40", "https://app.example.com:444", 403},
			{"A40", "https://appxexample.com", 403},
			{"A40", "https://app.example.com.evil.test", 403},
			{"A40", "https://xapp.example.com", 403},
			{"A39", "http://a.any.example", 502},
			{"A39", "https://a.b.any.example", 502},
			{"A40", "https://any.example", 403},
			{"A40", "https://.any.example", 403},
			{"A40", "https://evilany.example", 403},
			{"A40", "ftp://a.any.example", 403},
			{"A39", "https://a.deep.example:8443", 502},
			{"A40", "https://a.deep.example", 403},
			{"A39", "chrome-extension://abc", 502},
			{"A40", "chrome-extension://abd", 403},
		}},
		{"IPv6", wstest.TCP, "Host: [::1]:8080", nil, []row{
			{"A40", "http://[::1]:8080", 502},
			{"A40", "http://[0:0:0:0:0:0:0:1]:8080", 502},
			{"A40", "http://[::2]:8080", 403},
			{"A40", "http://::1:8080", 403},
			{"A40", "http://[::1", 403},
		}},
		{"literals and wildcards", wstest.TCP, "Host: front.test", []wsproxy.Option{wsproxy.WithOrigins(
			"null", "file://", "moz-extension://*", "http://localhost:*", "https://b\u00fccher.example", "*.M\u00fcnchen.example:*", "[::1]", "HTTPS://Slash.Test:443/")}, []row{
			{"A39", "null", 502},
			{"A39", "file://", 502},
			{"A39", "file:///", 502},
			{"A40", "file://evil.test", 403},
			{"A40", "file:", 403},
			{"A40", "http://null", 403},
			{"A40", "null.evil.test", 403},
			{"A39", "moz-extension://3c6f8d0e-0000-4000-8000-000000000000", 502},
			{"A40", "moz-extension://u@x", 403},
			{"A40", "moz-extension://", 403},
			{"A40", "moz-extensionx://x", 403},
			{"A40", "http://moz-extension", 403},
			{"A39", "http://localhost:5173", 502},
			{"A39", "http://localhost", 502},
			{"A40", "https://localhost:5173", 403},
			{"A40", "http://localhost.evil.test:5173", 403},
			{"A40", "http://localhost:5173@evil.test", 403},
			{"A39", "https://xn--bcher-kva.example", 502},
			{"A40", "https://xn--bcher-kva.example.evil.test", 403},
			{"A40", "https://bucher.example", 403},
			{"A39", "http://a.xn--mnchen-3ya.example:81", 502},
			{"A40", "http://xn--mnchen-3ya.example:81", 403},
			{"A39", "https://[::1]", 502},
			{"A40", "https://[::1]:8443", 403},
			{"A39", "https://slash.test", 502},
			{"A40", "http://slash.test", 403},
		}},
		// A40: behind a trusted proxy that terminates TLS, the scheme that it
		// reports is used; otherwise it is not.
		{"trusted", wstest.TCP, "Host: front.test\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Host: www.test",
			[]wsproxy.Option{wsproxy.WithTrustedProxies(netip.MustParsePrefix("127.0.0.0/8"))}, []row{
				{"A40", "https://www.test", 502},
				{"A40", "http://www.test", 403},
				{"A40", "https://front.test", 403},
			}},
		{"trusted, wss", wstest.TCP, "Host: www.test:8443\r\nX-Forwarded-Proto: WSS",
			[]wsproxy.Option{wsproxy.WithTrustedProxies(netip.MustParsePrefix("127.0.0.0/8"))}, []row{
				{"A40", "https://www.test:8443", 502},
				{"A40", "https://www.test", 403},
				{"A40", "http://www.test:8443", 403},
			}},
		{"trusted, lists", wstest.TCP, "Host: front.test\r\nX-Forwarded-Proto: https, http\r\nX-Forwarded-Host: www.test , inner.test",
			[]wsproxy.Option{wsproxy.WithTrustedProxies(netip.MustParsePrefix("127.0.0.0/8"))}, []row{
				{"A40", "https://www.test", 502},
				{"A40", "https://inner.test", 403},
				{"A40", "http://www.test", 403},
			}},
		{"trusted, port told apart", wstest.TCP, "Host: www.test\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Port: 8443",
			[]wsproxy.Option{wsproxy.WithTrustedProxies(netip.MustParsePrefix("127.0.0.0/8"))}, []row{
				{"A40", "https://www.test:8443", 502},
				{"A40", "https://www.test", 502},
				{"A40", "https://www.test:8444", 403},
				{"A40", "http://www.test:8443", 403},
			}},
		{"trusted, port in both", wstest.TCP, "Host: www.test:9000\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Port: 8443",
			[]wsproxy.Option{wsproxy.WithTrustedProxies(netip.MustParsePrefix("127.0.0.0/8"))}, []row{
				{"A40", "https://www.test:9000", 502},
				{"A40", "https://www.test:8443", 403},
			}},
		{"not trusted", wstest.TCP, "Host: front.test\r\nX-Forwarded-Port: 8443\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Host: www.test", nil, []row{
			{"A40", "https://www.test", 403},
			{"A40", "http://front.test", 502},
			{"A40", "http://front.test:8443", 403},
		}},
		{"any", wstest.TCP, "Host: front.test", []wsproxy.Option{wsproxy.WithInsecureAnyOrigin()}, []row{
			{"A39", "http://evil.test", 502},
			{"A39", "null", 502},
		}},
	}
	for _, g := range groups {
		t.Run(g.name, func(t *testing.T) {
			var dials atomic.Int32
			r := newRigTo(t, g.kind, "http://upstream.test", append([]wsproxy.Option{noDial(&dials)}, g.options...)...)
			for _, row := range g.rows {
				t.Run(row.id+" "+row.origin, func(t *testing.T) {
					r := r.on(t)
					dials.Store(0)
					request := edited("Host: front.test", g.request+"\r\nOrigin: "+row.origin)
					if row.origin == "-" {
						request = edited("Host: front.test", g.request)
					}
					c := r.client()
					c.Send(request + secondRequest)
					_, body := c.WantRefusal(row.want)
					if want := http.StatusText(row.want) + "\n"; body != want {
						t.Errorf("got body %q, want the fixed phrase %q", body, want)
					}
					if dialled := dials.Load() > 0; dialled != (row.want == 502) {
						t.Errorf("dialled: %v", dialled)
					}
				})
			}
		})
	}
}

// A response is a ResponseWriter that can be hijacked: tests without a server
// pass it to ServeHTTP.
type response struct {
	httptest.ResponseRecorder
	hijack func() (net.Conn, *bufio.ReadWriter, error)
}

func (r *response) Hijack() (net.Conn, *bufio.ReadWriter, error) { return r.hijack() }

// unwrapping hides the ResponseWriter's methods, as middleware does.
type unwrapping struct{ http.ResponseWriter }

func (u unwrapping) Unwrap() http.ResponseWriter { return u.ResponseWriter }

// F12: a ResponseWriter in two wrappers can be hijacked; one that cannot is
// answered 501 before anything is dialled.
func TestHijackable(t *testing.T) {
	t.Attr("case", "F12")
	t.Parallel()
	var dials atomic.Int32
	r := newRig(t, wstest.TCP)
	front := wstest.Listen(t, wstest.TCP)
	go http.Serve(front, http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if req.URL.Path == "/wrapped" {
			r.proxy.ServeHTTP(unwrapping{unwrapping{w}}, req)
			return
		}
		p, _ := wsproxy.New("http://upstream.test", noDial(&dials), wsproxy.WithLogger(discard))
		p.ServeHTTP(struct{ http.ResponseWriter }{w}, req) // no Unwrap
	}))
	r.front = front

	client := r.client()
	client.Send(wstest.Request("/wrapped", "") + wstest.RawFrame(wstest.Text, true, "early"))
	upstream := r.upstream()
	upstream.Answer("")
	upstream.Want(wstest.Text, "early")
	if resp := client.ReadResponse(); resp.StatusCode != 101 {
		t.Errorf("wrapped: got %d, want 101", resp.StatusCode)
	}

	client = r.client()
	client.Send(wstest.Request("/hidden", "") + secondRequest)
	client.WantRefusal(501)
	if n := dials.Load(); n != 0 {
		t.Errorf("dialled %d times for a connection that can't be taken over", n)
	}
}

// F12, F13: HTTP/2 requests are refused, whatever their fields say.
func TestHTTP2(t *testing.T) {
	t.Attr("case", "C26 F12 F13")
	t.Parallel()
	var dials atomic.Int32
	p, err := wsproxy.New("http://upstream.test", noDial(&dials), wsproxy.WithLogger(discard))
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewUnstartedServer(p)
	s.EnableHTTP2 = true
	s.StartTLS()
	defer s.Close()
	for method, status := range map[string]int{"GET": 501, "POST": 405} {
		req, _ := http.NewRequestWithContext(t.Context(), method, s.URL+"/x", nil)
		resp, err := s.Client().Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.ProtoMajor != 2 || resp.StatusCode != status {
			t.Errorf("%s: got HTTP/%d %d, want HTTP/2 %d", method, resp.ProtoMajor, resp.StatusCode, status)
		}
	}
	// RFC 8441 as it reaches a handler if net/http is configured to accept it
	// (GODEBUG).
	req := httptest.NewRequest("CONNECT", "https://front.test/x", nil)
	req.ProtoMajor, req.ProtoMinor = 2, 0
	req.Header[":protocol"] = []string{"websocket"}
	w := httptest.NewRecorder()
	p.ServeHTTP(w, req)
	if w.Code != 405 {
		t.Errorf("extended CONNECT: got %d, want 405", w.Code)
	}
	// Even if the ResponseWriter claims that it can be hijacked.
	req = httptest.NewRequest("GET", "https://front.test/x", nil)
	req.ProtoMajor, req.ProtoMinor = 2, 0
	rw := &response{hijack: func() (net.Conn, *bufio.ReadWriter, error) { panic("taken over") }}
	p.ServeHTTP(rw, req)
	if rw.Code != 501 {
		t.Errorf("HTTP/2 on a Hijacker: got %d, want 501", rw.Code)
	}
	if n := dials.Load(); n != 0 {
		t.Errorf("dialled %d times", n)
	}
}

// F13: if the client's connection cannot be hijacked in the end, or is gone,
// the upstream's is closed.
func TestHijackFails(t *testing.T) {
	t.Attr("case", "F13")
	t.Parallel()
	gone, other := wstest.MemPair(1 << 16)
	other.Close()
	rows := []struct {
		name   string
		hijack func() (net.Conn, *bufio.ReadWriter, error)
		status int // in the log
		panics bool
	}{
		{"error", func() (net.Conn, *bufio.ReadWriter, error) { return nil, nil, errors.New("no") }, 500, false},
		{"not supported", func() (net.Conn, *bufio.ReadWriter, error) { return nil, nil, http.ErrNotSupported }, 501, false},
		{"101 can't be written", func() (net.Conn, *bufio.ReadWriter, error) {
			return gone, bufio.NewReadWriter(bufio.NewReader(gone), bufio.NewWriter(gone)), nil
		}, 499, false},
		{"panic", func() (net.Conn, *bufio.ReadWriter, error) { panic("hijack") }, 0, true},
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			r := newRig(t, wstest.Memory)
			req, err := http.ReadRequest(bufio.NewReader(strings.NewReader(wstest.Request("/", ""))))
			if err != nil {
				t.Fatal(err)
			}
			w := &response{hijack: row.hijack}
			w.Body = new(bytes.Buffer)
			done := make(chan bool)
			go func() {
				defer func() { done <- recover() != nil }()
				r.proxy.ServeHTTP(w, req)
			}()
			upstream := r.upstream()
			upstream.Answer("")
			upstream.WantEnd()
			if panicked := wstest.Receive(t, done); panicked != row.panics {
				t.Errorf("panicked: %v", panicked)
			}
			if row.panics {
				return
			}
			if m := r.logs.Wait(t, 0); m["status"] != int64(row.status) {
				t.Errorf("logged %v, want status %d", m, row.status)
			}
			if row.status != 499 && w.Code != row.status {
				t.Errorf("answered %d, want %d", w.Code, row.status)
			}
		})
	}
}

// F40, F15: a handshake that is under way during Shutdown, and every later one,
// is answered 503 with Retry-After.
func TestShutdownHandshake(t *testing.T) {
	t.Attr("case", "F40 F15")
	t.Parallel()
	for name, shutdown := range map[string]func(*wsproxy.Proxy) error{
		"Shutdown": func(p *wsproxy.Proxy) error { return p.Shutdown(context.Background()) },
		"Close":    (*wsproxy.Proxy).Close,
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t, wstest.Memory)
				began := time.Now()
				waiting := r.client() // for the upstream's answer
				waiting.Send(wstest.Request("/", "") + secondRequest)
				upstream := r.upstream()
				upstream.ReadRequest()
				refused := r.client() // for the rest of a refusal
				refused.Send(wstest.Request("/", ""))
				slow := r.upstream()
				slow.ReadRequest()
				slow.Send("HTTP/1.1 401 Unauthorized\r\nContent-Length: 5\r\n\r\nab")
				dialling := r.client() // for the connection
				dialling.Send(wstest.Request("/", ""))
				synctest.Wait()

				if err := shutdown(r.proxy); err != nil {
					t.Errorf("got %v, want nil", err)
				}
				for _, c := range []*wstest.Wire{waiting, dialling} {
					c.WantRefusal(503)
				}
				resp := refused.ReadResponse() // it has got the header
				if body, err := io.ReadAll(resp.Body); resp.StatusCode != 401 || string(body) != "ab" || !errors.Is(err, io.ErrUnexpectedEOF) {
					t.Errorf("got %d %q, %v, want 401 and a body that is cut", resp.StatusCode, body, err)
				}
				refused.WantEnd()
				upstream.WantEnd()
				slow.WantEnd()
				late := r.client()
				late.Send(wstest.Request("/", "") + secondRequest)
				late.WantRefusal(503)
				// Except for the server's own linger after an answer, nothing
				// waits.
				if d := time.Since(began); d > time.Second {
					t.Errorf("took %v, want the handshakes ended at once", d)
				}
				for n := range 4 {
					m := r.logs.Wait(t, n)
					if m["kind"] == "refusal" && m["status"] == int64(401) && strings.HasSuffix(m["error"].(string), "body truncated: shutting down") {
						continue
					}
					if m["status"] != int64(503) || m["side"] != "proxy" {
						t.Errorf("logged %v, want 503 by the proxy", m)
					}
				}
			})
		})
	}
}

// F40: a client that does not read its 101 does not delay the end of its
// session, whoever ends it. A client that reads it gets the Close.
func TestUntakenAnswer(t *testing.T) {
	t.Attr("case", "F40")
	t.Parallel()
	for _, row := range []struct {
		name string
		end  func(p *wsproxy.Proxy, cancel func()) // nil: it ends by itself
		kind wsproxy.Kind
		code int // of the Close frame to a client that reads in the end
	}{
		{"Shutdown", func(p *wsproxy.Proxy, _ func()) { go p.Shutdown(context.Background()) }, wsproxy.KindShuttingDown, 1001},
		{"Session.Close", func(p *wsproxy.Proxy, _ func()) {
			for s := range p.Sessions() {
				s.Close(4000, "kicked")
			}
		}, wsproxy.KindClosedByProxy, 4000},
		{"the request's context", func(_ *wsproxy.Proxy, cancel func()) { cancel() }, wsproxy.KindClientLeft, 1001},
		{"Close", func(p *wsproxy.Proxy, _ func()) { p.Close() }, wsproxy.KindShuttingDown, 0},
		{"the write timeout", nil, wsproxy.KindClientLeft, 0},
	} {
		// begin opens a session up to the middle of its 101.
		begin := func(t *testing.T, k wstest.Kind) (r *rig, c, u *wstest.Wire, cancel func()) {
			r = newRig(t, k)
			ctx, cancel := context.WithCancel(t.Context())
			t.Cleanup(cancel)
			r.front = wstest.Listen(t, k)
			r.serve(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
				size := 8 << 20 // more than sockets hold
				if k == wstest.Memory {
					size = 4 * wstest.MemBuffer
				}
				w.Header().Set("X-Big", strings.Repeat("x", size))
				r.proxy.ServeHTTP(w, req.WithContext(ctx))
			}))
			c = r.client()
			c.Send(wstest.Request("/", ""))
			u = r.upstream()
			u.Answer("")
			if _, err := c.In.ReadByte(); err != nil {
				t.Fatal(err)
			}
			return r, c, u, cancel
		}
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			untaken := func(t *testing.T, k wstest.Kind) {
				r, _, u, cancel := begin(t, k)
				began := time.Now()
				if row.end != nil {
					row.end(r.proxy, cancel)
				}
				select {
				case <-r.returned:
				case <-time.After(wstest.Timeout):
				}
				switch d := time.Since(began); {
				case row.end == nil:
					if d != time.Minute {
						t.Errorf("ServeHTTP returned after %v, want the write timeout of 60 s", d)
					}
				case d > 5*time.Second: // there is no Close either that nobody reads
					t.Errorf("ServeHTTP returned after %v, want it to end with the session, not the write timeout of 60 s", d)
				}
				u.WantEnd()
				if m := r.logs.Wait(t, 0); m["kind"] != string(row.kind) || m["op"] != "answer" {
					t.Errorf("logged %v, want kind %q", m, row.kind)
				}
			}
			for _, k := range []wstest.Kind{wstest.TCP, wstest.TLS} {
				if row.end == nil {
					break // a minute is not really waited for
				}
				t.Run(string(k), func(t *testing.T) {
					t.Parallel()
					untaken(t, k)
				})
			}
			t.Run(string(wstest.Memory), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) { untaken(t, wstest.Memory) })
			})
			if row.code == 0 {
				return
			}
			t.Run("reads", func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					r, c, u, cancel := begin(t, wstest.Memory)
					row.end(r.proxy, cancel)
					synctest.Wait()
					c.ReadHead()
					c.WantClose(row.code)
					c.Close()
					u.Close()
					r.wantReturned()
					r.proxy.Close()
				})
			})
		})
	}
}

// An error handler answers when the proxy refuses a handshake or fails, with
// the header fields already set. It is not called for a client that has left,
// nor for an upstream's own refusal.
func TestErrorHandler(t *testing.T) {
	t.Parallel()
	var got []*wsproxy.Error
	r := newRig(t, wstest.TCP, wsproxy.WithErrorHandler(func(w http.ResponseWriter, _ *http.Request, e *wsproxy.Error) {
		got = append(got, e)
		w.WriteHeader(e.Status)
		io.WriteString(w, "sorry")
	}))
	for _, row := range []struct {
		request string
		answer  string
		status  int
		is      error
		side    wsproxy.Side
		body    string
	}{
		{edited("websocket", "h2c"), "", 426, wsproxy.ErrBadHandshake, wsproxy.Client, "sorry"},
		{edited("GET", "PUT"), "", 405, wsproxy.ErrBadHandshake, wsproxy.Client, "sorry"},
		{edited(), "HTTP/1.1 101 OK\r\n\r\n", 502, wsproxy.ErrBadAnswer, wsproxy.Upstream, "sorry"},
		{edited(), "HTTP/1.1 404 No\r\nContent-Length: 4\r\n\r\nnone", 404, nil, 0, "none"},
	} {
		got = nil
		c := r.client()
		c.Send(row.request + secondRequest)
		if row.answer != "" {
			u := r.upstream()
			u.ReadRequest()
			u.Send(row.answer)
		}
		if _, body := c.WantRefusal(row.status); body != row.body {
			t.Errorf("%d: got body %q, want %q", row.status, body, row.body)
		}
		r.wantReturned()
		switch {
		case row.is == nil && len(got) > 0:
			t.Errorf("%d: the handler was called for the upstream's refusal", row.status)
		case row.is != nil && (len(got) != 1 || !errors.Is(got[0], row.is) || got[0].Side != row.side || got[0].Status != row.status):
			t.Errorf("%d: got %v, want %v on the side of the %v", row.status, got, row.is, row.side)
		}
	}
}

// A43: tokens are in the query, in Cookie and Authorization, in subprotocols
// and in what the upstream sets. None of them is in a log record or an error.
func TestNoSecrets(t *testing.T) {
	t.Attr("case", "A43")
	t.Parallel()
	const secret = "s3cr3t"
	lines := "Cookie: sid=" + secret + "\r\nAuthorization: Bearer " + secret + "\r\nX-Token: " + secret + "\r\n" +
		"Sec-WebSocket-Protocol: base64url.bearer." + secret + "\r\n" +
		"Sec-WebSocket-Extensions: x; y=" + secret + "\r\n"
	good := wstest.Request("/p?access_token="+secret, lines)
	for _, row := range []struct {
		name, request, answer string
	}{
		{"session", good, "101"},
		{"refused", strings.Replace(good, "Version: 13", "Version: "+secret, 1), ""},
		{"bad key", strings.Replace(good, wstest.Key, secret, 1), ""},
		{"bad subprotocol", strings.Replace(good, "bearer.", "bearer;", 1), ""},
		{"foreign origin", strings.Replace(good, "Upgrade:", "Origin: http://evil.test/?"+secret+"\r\nUpgrade:", 1), ""},
		{"foreign origin's user", strings.Replace(good, "Upgrade:", "Origin: http://"+secret+"@evil.test\r\nUpgrade:", 1), ""},
		{"foreign origin's path", strings.Replace(good, "Upgrade:", "Origin: http://evil.test/"+secret+"\r\nUpgrade:", 1), ""},
		{"not dialled", good, "close"},
		{"no HTTP", good, secret + "\r\n\r\n"},
		{"malformed header", good, "HTTP/1.1 101 OK\r\n" + secret + "\r\n\r\n"},
		{"malformed status", good, "HTTP/1.1 " + secret + "\r\n\r\n"},
		{"wrong accept", good, "HTTP/1.1 101 OK\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: " + secret + "\r\n\r\n"},
		{"refusal", good, "HTTP/1.1 401 " + secret + "\r\nLocation: /?" + secret + "\r\nSet-Cookie: " + secret + "\r\nContent-Length: 6\r\n\r\n" + secret},
		{"cut refusal", good, "HTTP/1.1 401 No\r\nTransfer-Encoding: chunked\r\n\r\n" + secret},
	} {
		t.Run(row.name, func(t *testing.T) {
			var text []string
			var mu sync.Mutex
			r := newRigTo(t, wstest.TCP, "http://upstream.test/?key="+secret, wsproxy.WithErrorHandler(
				func(w http.ResponseWriter, _ *http.Request, e *wsproxy.Error) {
					mu.Lock()
					defer mu.Unlock()
					text = append(text, e.Error())
					w.WriteHeader(e.Status)
				}))
			if row.answer == "close" {
				r.back.Close()
			}
			c := r.client()
			c.Send(row.request)
			switch row.answer {
			case "", "close":
			case "101":
				u := r.upstream()
				u.Answer("Set-Cookie: " + secret + "\r\nSec-WebSocket-Protocol: base64url.bearer." + secret + "\r\n")
				c.ReadHead()
				c.SendClose(1000, secret)
				u.Want(wstest.Close, wstest.CloseBody(1000, secret))
				u.SendClose(1000, secret)
				c.Want(wstest.Close, wstest.CloseBody(1000, secret))
				c.Close()
				u.Close()
			default:
				u := r.upstream()
				u.ReadRequest()
				u.Send(row.answer)
				u.CloseWrite()
			}
			r.wantReturned()
			m := r.logs.Wait(t, 0)
			if m["path"] != "/p" {
				t.Errorf("logged %v, want the path and no query", m)
			}
			mu.Lock()
			defer mu.Unlock()
			if all := fmt.Sprint(r.logs.String(), text); strings.Contains(all, secret) {
				t.Errorf("the secret is in\n%s", all)
			}
		})
	}
}

// acceptable is an independent statement of the rules of checkHandshake, for a
// request that net/http has parsed.
func acceptable(r *http.Request) bool {
	// elements returns the non-empty elements of a field's lists.
	elements := func(name string) (list []string) {
		for e := range strings.SplitSeq(strings.Join(r.Header[http.CanonicalHeaderKey(name)], ","), ",") {
			if e = strings.Trim(e, " \t"); e != "" {
				list = append(list, e)
			}
		}
		return list
	}
	// distinct returns the non-empty values of a field without duplicates.
	distinct := func(name string) []string {
		values := slices.Compact(slices.Sorted(slices.Values(r.Header[http.CanonicalHeaderKey(name)])))
		return slices.DeleteFunc(values, func(v string) bool { return v == "" })
	}
	listed := func(name, token string) bool {
		return slices.ContainsFunc(elements(name), func(e string) bool { return strings.EqualFold(e, token) })
	}
	size, fields := len(r.RequestURI)+len(r.Host), 0
	for name, values := range r.Header {
		fields += len(values)
		for _, v := range values {
			size += len(name) + len(v) + 4
		}
	}
	protocols := elements("Sec-WebSocket-Protocol")
	if len(protocols) > 256 || slices.ContainsFunc(protocols, func(p string) bool { return !protocolPattern.MatchString(p) }) {
		return false
	}
	items := 0
	for _, v := range r.Header["Sec-Websocket-Extensions"] {
		if !extensionsPattern.MatchString(v) {
			return false
		}
		items += len(tokenRun.FindAllString(valuePattern.ReplaceAllString(v, ""), -1))
	}
	key := distinct("Sec-WebSocket-Key")
	versions := slices.Compact(elements("Sec-WebSocket-Version"))
	return r.Method == "GET" && r.ProtoMajor == 1 && r.ProtoMinor >= 1 &&
		listed("Upgrade", "websocket") && listed("Connection", "upgrade") &&
		slices.Equal(versions, []string{"13"}) &&
		len(key) == 1 && regexp.MustCompile(`^[A-Za-z0-9+/]{22}==$`).MatchString(key[0]) &&
		r.ContentLength == 0 && len(r.TransferEncoding) == 0 &&
		!slices.ContainsFunc(r.Header["Expect"], func(v string) bool { return strings.ToLower(v) != "100-continue" }) &&
		len(distinct("Origin")) <= 1 &&
		regexp.MustCompile(`^(/|[A-Za-z][A-Za-z0-9+.-]*://[^/?]*[^/?@]([/?]|$))`).MatchString(r.RequestURI) &&
		size <= 64<<10 && fields <= 256 && items <= 256
}

const tokenText = "[!#$%&'*+.^_`|~0-9A-Za-z-]+"

var (
	tokenRun          = regexp.MustCompile(tokenText)
	protocolPattern   = regexp.MustCompile(`^[!#-'*+./-:<-\[\]-~-]+$`)
	value             = `=[ \t]*(` + tokenText + `|"` + tokenText + `")`
	valuePattern      = regexp.MustCompile(value)
	parameter         = `[ \t]*;[ \t]*(` + tokenText + `[ \t]*(` + value + `)?)?`
	extension         = `[ \t]*(` + tokenText + `(` + parameter + `)*)?[ \t]*`
	extensionsPattern = regexp.MustCompile(`^` + extension + `(,` + extension + `)*$`)
)

// No request, whatever its bytes, causes a panic. Only valid handshakes are
// dialled for, and the upstream always gets a clean one.
func FuzzHandshake(f *testing.F) {
	for _, s := range []string{
		edited(), secondRequest,
		edited("Upgrade: websocket", "Upgrade: h2c\r\nUpgrade: foo, WebSocket\r\nHTTP2-Settings: AA"),
		edited("Connection: Upgrade", "Connection: keep-alive , upgrade,X-Forwarded-For\r\nConnection: Cookie,,Sec-WebSocket-Key"),
		edited("GET /", "GET http://evil.test//x/%2f;a?b=%zz;c&&?"), edited("GET /", "GET *"), edited("GET /", "CONNECT evil:80"),
		edited("GET /", "GET http://user@/#front.test/x?"), edited("GET /", "GET http://a:b@c@front.test?"), edited("GET /", "GET a:://front.test/x"),
		withLines("Content-Length: 0"), withLines("Transfer-Encoding: chunked"), withLines("Expect: 100-continue"),
		withLines("X_Forwarded_For: 1", "Sec_WebSocket_Key: 2", "Transfer_Encoding: chunked", "X-Forwarded-For: 3", "Forwarded: for=4"),
		withLines("TE: trailers", "Trailer: X", "Keep-Alive: 1", "Proxy-Authorization: x", "Proxy-Connection: x"),
		withLines("Sec-WebSocket-Protocol: a, b", "Sec-WebSocket-Protocol: c", `Sec-WebSocket-Extensions: a; b="c"; d=e, f`, "Sec-WebSocket-Extensions: "),
		withLines("Sec-WebSocket-Protocol: ,a,,a, b/c=,", "Sec-WebSocket-Extensions: a;, b; ;c = d;,"), withLines("Sec-WebSocket-Version: 13,,13", "Sec-WebSocket-Key: "+wstest.Key),
		edited(wstest.Key, "AQIDBAUGBwgJCgsMDQ4PEC=="), withLines("Expect: x"), withLines("Origin: http://a", "Origin: http://a", "Origin: "),
		withLines("Sec-WebSocket-Foo: 1", "Sec-WebSocket-Accept: x", "Origin: null", "User-Agent: x", "X-A: a\r\n b"),
	} {
		f.Add([]byte(s))
	}
	var head atomic.Pointer[string]
	p, err := wsproxy.New("http://upstream.test", wsproxy.WithLogger(discard), wsproxy.WithInsecureAnyOrigin(), wsproxy.WithDialContext(
		func(context.Context, string, string) (net.Conn, error) {
			return scripted(func(got string) string {
				head.Store(&got)
				return answerTo(got, "")
			}), nil
		}))
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		br := bufio.NewReader(bytes.NewReader(raw))
		r, err := http.ReadRequest(br)
		if err != nil || !reachesHandler(r) {
			return
		}
		r.RemoteAddr = "192.0.2.1:1"
		head.Store(nil)
		client, front := wstest.MemPair(1 << 20)
		w := &response{hijack: func() (net.Conn, *bufio.ReadWriter, error) {
			client.CloseWrite()
			return front, bufio.NewReadWriter(bufio.NewReader(front), bufio.NewWriter(front)), nil
		}}
		w.Body = new(bytes.Buffer)
		p.ServeHTTP(w, r)
		front.Close()
		answer, _ := io.ReadAll(client)
		got := head.Load()
		if want := acceptable(r); (got != nil) != want || bytes.HasPrefix(answer, []byte("HTTP/1.1 101 ")) != want {
			t.Fatalf("upstream got %v, client %q and %d %q; want it accepted: %v", got != nil, answer, w.Code, w.Body, want)
		}
		if got != nil {
			wantCleanHead(t, *got)
			wantForwarded(t, *got)
		} else if w.Code < 400 || (w.Header()["Connection"] == nil) != (r.ProtoMajor >= 2) {
			t.Errorf("refused with %d and %v", w.Code, w.Header())
		}
	})
}

// reachesHandler reports whether net/http's server, which is stricter than its
// ReadRequest, would call a handler for a request.
func reachesHandler(r *http.Request) bool {
	for name, values := range r.Header {
		if !httpguts.ValidHeaderFieldName(name) || slices.ContainsFunc(values, func(v string) bool { return !httpguts.ValidHeaderFieldValue(v) }) {
			return false
		}
	}
	return r.Host != "" && httpguts.ValidHostHeader(r.Host)
}

// wantForwarded checks that the forwarding fields are the proxy's own, for the
// client at 192.0.2.1.
func wantForwarded(t *testing.T, head string) {
	t.Helper()
	for line := range strings.SplitSeq(head, "\r\n") {
		name, value, _ := strings.Cut(line, ": ")
		switch name = strings.ReplaceAll(strings.ToLower(name), "_", "-"); {
		case name == "x-forwarded-for" && value == "192.0.2.1", name == "x-forwarded-proto" && value == "http", name == "x-forwarded-host":
		case strings.HasPrefix(name, "x-forwarded-"), name == "forwarded", name == "x-real-ip":
			t.Errorf("upstream: got %q from a client that isn't trusted", line)
		}
	}
}

// scripted is a connection to an upstream that reads a request's header, sends
// what f returns for it, and then a FIN.
func scripted(f func(head string) string) net.Conn {
	near, far := wstest.MemPair(1 << 20)
	go func() {
		defer far.Close()
		br := bufio.NewReader(far)
		var head strings.Builder
		for {
			line, err := br.ReadString('\n')
			head.WriteString(line)
			if err != nil {
				return
			}
			if line == "\r\n" {
				break
			}
		}
		io.WriteString(far, f(head.String()))
		far.CloseWrite()
		io.Copy(io.Discard, br)
	}()
	return near
}

// A18: if a request's context ends while the client is still there (a timeout
// set by middleware), the client is answered and the connection closed: the
// bytes after the handshake are not served.
func TestContextEndsInHandshake(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name   string
		ctx    func(context.Context) (context.Context, context.CancelFunc)
		status int
	}{
		{"time-out", func(ctx context.Context) (context.Context, context.CancelFunc) {
			return context.WithTimeout(ctx, time.Second)
		}, 504},
		{"time-out with a cause", func(ctx context.Context) (context.Context, context.CancelFunc) {
			return context.WithTimeoutCause(ctx, time.Second, errors.New("too slow"))
		}, 504},
		{"cancelled", func(ctx context.Context) (context.Context, context.CancelFunc) {
			ctx, cancel := context.WithCancel(ctx)
			time.AfterFunc(time.Second, cancel)
			return ctx, cancel
		}, 499},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t, wstest.Memory)
				requests := 0
				r.front = wstest.Listen(t, wstest.Memory)
				r.serve(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
					requests++
					ctx, cancel := test.ctx(req.Context())
					defer cancel()
					r.proxy.ServeHTTP(w, req.WithContext(ctx))
				}))
				c := r.client()
				c.Send(wstest.Request("/", "") + "GET /behind HTTP/1.1\r\nHost: x\r\n\r\n")
				r.upstream().ReadHead()
				if resp := c.ReadResponse(); resp.StatusCode != test.status || !resp.Close {
					t.Errorf("got %d, close=%v, want %d and close", resp.StatusCode, resp.Close, test.status)
				}
				r.wantReturned()
				c.Close()
				synctest.Wait()
				if requests != 1 {
					t.Errorf("%d requests were served, want 1", requests)
				}
			})
		})
	}
}

// A refused request over HTTP/2 does not end the connection's other requests.
func TestHTTP2ConnectionStays(t *testing.T) {
	t.Parallel()
	r := newRig(t, wstest.TCP)
	mux := http.NewServeMux()
	mux.Handle("/websocket", r.proxy)
	mux.HandleFunc("/", func(http.ResponseWriter, *http.Request) {})
	s := httptest.NewUnstartedServer(mux)
	s.EnableHTTP2 = true
	s.StartTLS()
	defer s.Close()
	conns := 0
	ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{GotConn: func(i httptrace.GotConnInfo) {
		if !i.Reused {
			conns++
		}
	}})
	for _, path := range []string{"/", "/websocket", "/", "/websocket", "/"} {
		req, err := http.NewRequestWithContext(ctx, "GET", s.URL+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := s.Client().Do(req)
		if err != nil {
			t.Fatal(err)
		}
		io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
	}
	if conns != 1 {
		t.Errorf("got %d connections, want 1", conns)
	}
}

// Answers have their own time limit: they are sent even if a server's
// WriteTimeout has passed, and clients that do not read them delay nothing.
func TestAnswerLimits(t *testing.T) {
	t.Parallel()
	t.Run("WriteTimeout", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			r := newRig(t, wstest.Memory)
			front := wstest.Listen(t, wstest.Memory)
			s := &http.Server{Handler: r.proxy, WriteTimeout: time.Second}
			go s.Serve(front)
			defer s.Close()
			r.front = front
			c := r.client()
			c.Send(wstest.Request("/", ""))
			r.upstream().ReadHead()
			if resp := c.ReadResponse(); resp.StatusCode != 504 {
				t.Errorf("got %d, want 504", resp.StatusCode)
			}
		})
	})
	t.Run("body that doesn't come", func(t *testing.T) {
		for _, lines := range []string{"Content-Length: 5", "Transfer-Encoding: chunked", "Expect: 100-continue\r\nContent-Length: 5"} {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t, wstest.Memory)
				c := r.client()
				c.Send(withLines(lines))
				began := time.Now()
				c.WantRefusal(400)
				if d := time.Since(began); d > 5*time.Second {
					t.Errorf("%s: the connection was closed after %v, want the close timeout of 5 s", lines, d)
				}
				wstest.Elapse(time.Second) // net/http lingers half of it
			})
		}
	})
	t.Run("unread refusal", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			r := newRig(t, wstest.Memory)
			c := r.client()
			c.Send(wstest.Request("/", ""))
			u := r.upstream()
			u.ReadHead()
			u.Send("HTTP/1.1 403 Forbidden\r\nX-A: " + strings.Repeat("y", 40_000) + "\r\nContent-Length: 60000\r\n\r\n" + strings.Repeat("x", 60_000))
			began := time.Now()
			r.wantReturned()
			if d := time.Since(began); d > 61*time.Second {
				t.Errorf("ServeHTTP returned after %v, want the write timeout of 60 s", d)
			}
		})
	})
}

// A43: the body of a refusal that is cut off does not get into the log.
func TestRefusalTrailerNotLogged(t *testing.T) {
	t.Attr("case", "A43")
	t.Parallel()
	r := newRig(t, wstest.Memory)
	r.client().Send(wstest.Request("/", ""))
	u := r.upstream()
	u.ReadHead()
	u.Send("HTTP/1.1 403 Forbidden\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\nplanted token\r\n\r\n")
	if m := r.logs.Wait(t, 0); strings.Contains(fmt.Sprint(m), "planted") || m["status"] != int64(403) {
		t.Errorf("logged %v", m)
	}
}

// Middleware sees of a session that its writer is hijacked once, and no status;
// of a refusal it sees the status once.
func TestMiddlewareStatus(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		answer string
		want   string
	}{
		{"101", "hijack"},
		{"HTTP/1.1 403 No\r\nContent-Length: 2\r\n\r\nno", "403"},
		{"HTTP/1.1 101 No\r\n\r\n", "502"},
	} {
		r := newRig(t, wstest.TCP)
		r.front = wstest.Listen(t, wstest.TCP)
		var seen []string
		r.serve(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			r.proxy.ServeHTTP(statusWatcher{w, &seen}, req)
		}))
		c := r.client()
		c.Send(wstest.Request("/", ""))
		u := r.upstream()
		if row.answer == "101" {
			u.Answer("")
			c.ReadHead()
			u.SendClose(1000, "")
			c.WantClose(1000)
			c.Close()
			u.Close()
		} else {
			u.ReadHead()
			u.Send(row.answer)
		}
		r.wantReturned()
		if got := strings.Join(seen, " "); got != row.want {
			t.Errorf("%q: middleware has seen %q, want %q", row.answer, got, row.want)
		}
	}
}

// A statusWatcher is a ResponseWriter of middleware.
type statusWatcher struct {
	http.ResponseWriter
	seen *[]string
}

func (w statusWatcher) WriteHeader(status int) {
	*w.seen = append(*w.seen, fmt.Sprint(status))
	w.ResponseWriter.WriteHeader(status)
}

func (w statusWatcher) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	*w.seen = append(*w.seen, "hijack")
	return w.ResponseWriter.(http.Hijacker).Hijack()
}
