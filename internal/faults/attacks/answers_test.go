package attacks

import (
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/seed-ffb73231/wsproxy"
	"github.com/seed-ffb73231/wsproxy/internal/wstest"
)

// offers are the client's offers in the tests of answers.
const offers = "Sec-WebSocket-Protocol: chat, v2\r\nSec-WebSocket-Extensions: permessage-deflate; client_max_window_bits, x-a\r\n"

// An upstreamAnswer is an upstream's answer to a handshake, in which ACCEPT
// stands for the right Sec-WebSocket-Accept, and everything that the client
// gets for it. After a valid 101, the early frames of both sides follow.
type upstreamAnswer struct {
	cases, name, send, want string
}

const (
	status101  = "HTTP/1.1 101 Switching Protocols\r\n"
	acceptLine = "Sec-WebSocket-Accept: ACCEPT\r\n"
	right101   = status101 + upgradeLine + connectionLine + acceptLine
)

// right is a valid 101 with additional lines.
func right(lines string) string { return right101 + lines + "\r\n" }

var bad = refused(502, "")

var answers = []upstreamAnswer{
	{"A1", "426", "HTTP/1.1 426 Upgrade Required\r\nSec-WebSocket-Version: 8\r\nContent-Length: 0\r\n\r\n",
		"HTTP/1.1 426 Upgrade Required\r\nConnection: close\r\nConnection: Upgrade\r\nContent-Length: 0\r\nSec-Websocket-Version: 8\r\nUpgrade: websocket\r\n\r\n"},
	{"A2", "503 in chunks", "HTTP/1.1 503 Later\r\nRetry-After: 7\r\nTransfer-Encoding: chunked\r\nTrailer: X-T\r\n\r\n2\r\nab\r\n1;x=y\r\nc\r\n0\r\nX-T: 1\r\n\r\n",
		"HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nRetry-After: 7\r\nContent-Length: 3\r\n\r\nabc"},
	{"A2", "401 by HTTP/1.0", "HTTP/1.0 401 No\r\nWWW-Authenticate: Basic\r\nContent-Type: text/x\r\n\r\nabc",
		"HTTP/1.1 401 Unauthorized\r\nConnection: close\r\nContent-Type: text/x\r\nWww-Authenticate: Basic\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"}, // its end comes later
	{"A2 A24", "403 with much about its connection", "HTTP/1.1 403 No\r\nConnection: keep-alive, X-Hop, Set-Cookie\r\nX-Hop: 1\r\nKeep-Alive: timeout=5\r\nProxy-Authenticate: Basic\r\nUpgrade: h2c\r\nAlt-Svc: h3\r\nSet-Cookie: a\r\nX-End: 1\r\nContent-Length: 0\r\n\r\n",
		"HTTP/1.1 403 Forbidden\r\nConnection: close\r\nContent-Length: 0\r\nX-End: 1\r\n\r\n"},
	{"A2 A24", "403 that nominates beside close", "HTTP/1.1 403 No\r\nConnection: close, X-Internal-Token\r\nX-Internal-Token: 1\r\nPragma: no-cache\r\nContent-Length: 0\r\n\r\n",
		"HTTP/1.1 403 Forbidden\r\nConnection: close\r\nContent-Length: 0\r\nPragma: no-cache\r\n\r\n"},
	{"A2", "403 that looks like a page", "HTTP/1.1 403 No\r\nContent-Length: 13\r\n\r\n<script>1</sc", "HTTP/1.1 403 Forbidden\r\nConnection: close\r\nContent-Length: 13\r\n\r\n<script>1</sc"},
	{"A3", "200 with all the rest of a 101", strings.Replace(right("Content-Length: 2\r\n"), "101 Switching Protocols", "200 OK", 1) + "ok",
		"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok"},
	{"A3", "200 by two lengths", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello!", bad},
	{"A3", "200 by length and chunks", "HTTP/1.1 200 OK\r\nContent-Length: 90\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n" + right(""),
		"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok"},
	{"A3", "204 with a body", "HTTP/1.1 204 No\r\nContent-Length: 2\r\n\r\nok", "HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n"},
	{"A4", "302", "HTTP/1.1 302 There\r\nLocation: http://169.254.169.254/\r\nContent-Length: 0\r\n\r\n",
		"HTTP/1.1 302 Found\r\nConnection: close\r\nContent-Length: 0\r\nLocation: http://169.254.169.254/\r\n\r\n"},
	{"A4", "307", "HTTP/1.1 307 There\r\nLocation: /other\r\nContent-Length: 0\r\n\r\n", "HTTP/1.1 307 Temporary Redirect\r\nConnection: close\r\nContent-Length: 0\r\nLocation: /other\r\n\r\n"},

	{"A5", "101 and nothing else", status101 + "\r\n", bad},
	{"A6", "no accept", status101 + upgradeLine + connectionLine + "\r\n", bad},
	{"A6 A20", "the accept of the client's key", status101 + upgradeLine + connectionLine + "Sec-WebSocket-Accept: " + wstest.KeyAnswer + "\r\n\r\n", bad},
	{"A6", "two accepts", right(acceptLine), bad},
	{"A6", "an accept in a list", status101 + upgradeLine + connectionLine + "Sec-WebSocket-Accept: ACCEPT, x\r\n\r\n", bad},
	{"A7", "Upgrade: h2c", strings.Replace(right(""), "websocket", "h2c", 1), bad},
	{"A7", "no Upgrade", strings.Replace(right(""), upgradeLine, "", 1), bad},
	{"A7", "no Connection", strings.Replace(right(""), connectionLine, "", 1), bad},
	{"A7", "Connection: close", strings.Replace(right(""), "Connection: Upgrade", "Connection: close", 1), bad},
	{"A8", "HTTP/1.0", strings.Replace(right(""), "1.1", "1.0", 1), bad},
	{"A9", "a body by length", right("Content-Length: 4\r\n") + "\x81\x02hi", bad},
	{"A10", "six 1xx", strings.Repeat("HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n", 6) + right(""), bad},
	{"A35", "another subprotocol", right("Sec-WebSocket-Protocol: v3\r\n"), bad},
	{"A35", "two subprotocols", right("Sec-WebSocket-Protocol: chat\r\nSec-WebSocket-Protocol: v2\r\n"), bad},
	{"A35", "subprotocol that is no token", right("Sec-WebSocket-Protocol: \"chat\"\r\n"), bad},
	{"A35", "another extension", right("Sec-WebSocket-Extensions: x-b\r\n"), bad},
	{"A35", "an extension twice", right("Sec-WebSocket-Extensions: x-a\r\nSec-WebSocket-Extensions: X-A\r\n"), bad},
	{"A36", "a folded line", right("X-A: a\r\n b\r\n"), bad},
	{"A36", "CR in a line", right("X-A: a\rSet-Cookie: b\r\n"), bad},
	{"A36", "NUL in a line", right("X-A: \x00\r\n"), bad},
	{"A36", "a header that ends in CR alone", right101 + "\r\r\nX-A: a\r\n\r\n", bad},
	{"A36", "space before the colon", right("Content-Length : 5\r\n") + "hello", bad},
	{"A63", "a line of 64 KiB", right("X-A: " + strings.Repeat("a", 65_536) + "\r\n"), bad},
	{"A63", "a line without end", right101 + "X-A: " + strings.Repeat("a", 1<<20), bad},
	{"A63", "254 lines besides", right(strings.Repeat("A: a\r\n", 254)), bad},
	{"A63", "16,000 lines", right(strings.Repeat("A: a\r\n", 16_000)), bad},

	{"C4 C5", "right, plain", right(""), opened("")},
	{"A10", "after five 1xx", "HTTP/1.1 100 Continue\r\n\r\n" + strings.Repeat("HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n", 4) + right(""), opened("")},
	{"A7 C2", "right, in another case", "HTTP/1.1 101 \nUPGRADE: WebSocket\nconnection: keep-alive,, uPGRADE\nsec-websocket-accept:ACCEPT\n\n", opened("")},
	{"A9", "fields about a body that isn't there", right("Content-Length: 0\r\nTransfer-Encoding: chunked\r\n"), opened("")},
	{"A36", "spaces before a colon", right("X-A : a\r\n"), opened("X-A: a\r\n")},
	{"A35", "lists with gaps", right("Sec-WebSocket-Protocol: ,chat,\r\nSec-WebSocket-Extensions: x-a;,\r\n"), opened("Sec-WebSocket-Protocol: chat\r\nSec-WebSocket-Extensions: x-a\r\n")},
	{"C4", "a subprotocol", right("sec-websocket-protocol:  v2\r\n"), opened("Sec-WebSocket-Protocol: v2\r\n")},
	{"C5", "extensions", right("Sec-WebSocket-Extensions: X-A; q=\"r\"\r\nSec-WebSocket-Extensions: permessage-deflate; server_max_window_bits=10\r\n"),
		opened("Sec-WebSocket-Extensions: X-A; q=\"r\", permessage-deflate; server_max_window_bits=10\r\n")},
	{"C7", "cookies and others", right("Set-Cookie: a=1\r\nContent-Security-Policy: x\r\nSet-Cookie: b=2\r\n"),
		opened("Content-Security-Policy: x\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\n")},
	{"A24", "right, with much about its connection", right("Connection: X-Hop, Trailer\r\nX-Hop: 1\r\nKeep-Alive: timeout=5\r\nProxy-Authenticate: Basic\r\nProxy-Connection: x\r\nAlt-Svc: h3\r\nTE: trailers\r\nTrailer: X\r\nX-End: 1\r\n"),
		opened("X-End: 1\r\n")},
}

// No tunnel is opened before a 101 that is valid in every respect (A2 to A9).
// What the client sent after its handshake is relayed only then, and what came
// with the 101 reaches the client only after the client's own 101 (A11, C22).
func TestAnswers(t *testing.T) {
	const early = "early"
	eachLeg(t, func(t *testing.T, secure bool) {
		r := newRig(t, secure)
		for _, row := range answers {
			t.Run(row.name, func(t *testing.T) {
				t.Attr("case", row.cases)
				r := r.on(t)
				c := r.client()
				c.Send(handshake(offers) + frame("client", wstest.Text, early))
				u := r.upstream()
				head := u.ReadHead()
				if n := u.In.Buffered(); n > 0 {
					t.Errorf("upstream: %d bytes came before its answer", n)
				}
				said := strings.ReplaceAll(row.send, "ACCEPT", acceptOf(head))
				if !strings.HasPrefix(row.want, status101) {
					go func() { // the proxy need not take it all
						io.WriteString(u, said)
						u.Below().(*net.TCPConn).CloseWrite()
					}()
					if got := undated(c.Rest()); got != row.want {
						t.Errorf("client: got\n%.900q, want\n%.900q", got, row.want)
					}
					wantRest(u, "")
					return
				}
				u.Send(said + frame("upstream", wstest.Text, "coalesced"))
				c.WantBytes(row.want + frame("upstream", wstest.Text, "coalesced"))
				u.WantBytes(frame("client", wstest.Text, early))
				c.Send(closeFrame("client", 1000, ""))
				u.WantBytes(closeFrame("client", 1000, ""))
				u.Send(closeFrame("upstream", 1000, ""))
				wantRest(c, closeFrame("upstream", 1000, ""))
			})
		}
	})
}

// A64: however slowly the upstream sends its answer, the handshake's time limit
// holds, and the client is answered 504.
func TestDrips(t *testing.T) {
	t.Attr("case", "A64")
	eachLeg(t, func(t *testing.T, secure bool) {
		for name, drips := range map[string][]string{
			"bytes of a 101": strings.Split(status101+upgradeLine+strings.Repeat("X-A: a\r\n", 1000), ""),
			"lines":          strings.SplitAfter(status101+strings.Repeat("X-A: a\r\n", 1000), "\n"),
			"1xx":            {"HTTP/1.1 100 Continue\r\n\r\n", "HTTP/1.1 103 Early Hints\r\n\r\n"},
			"nothing":        nil,
		} {
			t.Run(name, func(t *testing.T) {
				r := newRig(t, secure, wsproxy.WithHandshakeTimeout(300*time.Millisecond))
				c := r.client()
				c.Send(handshake("") + second)
				u := r.upstream()
				u.ReadHead()
				stop := make(chan struct{})
				done := make(chan struct{})
				go func() {
					defer close(done)
					for _, s := range drips {
						if _, err := io.WriteString(u, s); err != nil {
							return
						}
						select {
						case <-time.After(10 * time.Millisecond):
						case <-stop:
							return
						}
					}
				}()
				if got := undated(c.Rest()); got != refused(504, "") {
					t.Errorf("client: got\n%q, want\n%q", got, refused(504, ""))
				}
				wantRest(u, "")
				close(stop)
				<-done
			})
		}
	})
}

// A65: a client that leaves during its handshake ends the upstream's connection
// at once, at whatever step, by a FIN or a reset.
func TestClientLeaves(t *testing.T) {
	t.Attr("case", "A65")
	eachLeg(t, func(t *testing.T, secure bool) {
		for name, said := range map[string]string{"before the answer": "", "within the answer": status101 + "Upgr", "within a refusal": "HTTP/1.1 403 No\r\nContent-Length: 9\r\n\r\nab"} {
			for _, how := range []string{"FIN", "reset"} {
				t.Run(name+" by "+how, func(t *testing.T) {
					// Long enough for the test to fail earlier.
					r := newRig(t, secure, wsproxy.WithHandshakeTimeout(time.Hour))
					c := r.client()
					c.Send(handshake(""))
					u := r.upstream()
					u.ReadHead()
					u.Send(said)
					if how == "FIN" {
						c.FIN()
					} else {
						c.Reset()
					}
					began := time.Now()
					wantRest(u, "")
					if d := time.Since(began); d > 8*time.Second {
						t.Errorf("the upstream's connection ended after %v", d)
					}
					await(t, "the handshake to be given up", func() bool { s := r.proxy.Stats(); return s.Handshakes == 0 && s.Failed["client left"] == 1 })
				})
			}
		}
	})
}
