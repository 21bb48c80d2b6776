package wsproxy_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/seed-ffb73231/wsproxy"
	"github.com/seed-ffb73231/wsproxy/internal/wstest"
)

// All answers other than 101: when they arrive, where their body ends, what
// their header holds, and that nobody can delay them.

// F7: the header of an upstream's refusal reaches the client at once, and its
// body as it arrives, whether or not its length is announced, even if the
// upstream keeps the connection open.
func TestRefusalAsItComes(t *testing.T) {
	t.Attr("case", "F7 F8")
	t.Parallel()
	for _, row := range []struct {
		name, head string
		piece      func(string) string
		length     int64
	}{
		{"no length", "HTTP/1.1 403 No\r\n\r\n", func(s string) string { return s }, -1},
		{"no length, keep-alive", "HTTP/1.1 403 No\r\nConnection: keep-alive\r\n\r\n", func(s string) string { return s }, -1},
		{"chunked", "HTTP/1.1 403 No\r\nTransfer-Encoding: chunked\r\n\r\n", func(s string) string { return fmt.Sprintf("%x\r\n%s\r\n", len(s), s) }, -1},
		{"Content-Length", "HTTP/1.1 403 No\r\nContent-Length: 100\r\n\r\n", func(s string) string { return s }, 100},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Run("pieces", func(t *testing.T) {
				wstest.EachKind(t, func(t *testing.T, k wstest.Kind) {
					r := newRig(t, k)
					c := r.client()
					c.Send(wstest.Request("/", ""))
					u := r.upstream()
					u.ReadHead()
					u.Send(row.head)
					resp := c.ReadResponse()
					if resp.StatusCode != 403 || resp.ContentLength != row.length {
						t.Errorf("client: got %d with a body of %d, want 403 with %d", resp.StatusCode, resp.ContentLength, row.length)
					}
					for _, s := range []string{"a", "bc", "defg"} { // each is sent only after the client got the previous one
						u.Send(row.piece(s))
						got := make([]byte, len(s))
						if _, err := io.ReadFull(resp.Body, got); err != nil || string(got) != s {
							t.Fatalf("client: got %q, %v, want %q", got, err, s)
						}
					}
					u.Close()
				})
			})
			// A slow body is cut after 10 s, and reaches the client until then.
			t.Run("trickle", func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					r := newRig(t, wstest.Memory)
					c := r.client()
					c.Send(wstest.Request("/", ""))
					u := r.upstream()
					u.ReadHead()
					began := time.Now()
					u.Send(row.head)
					done := make(chan struct{})
					go func() {
						defer close(done)
						for {
							time.Sleep(time.Second - time.Millisecond)
							if _, err := io.WriteString(u, row.piece("x")); err != nil {
								return
							}
						}
					}()
					resp := c.ReadResponse()
					if d := time.Since(began); d > 0 {
						t.Errorf("client: got the head after %v, want it at once", d)
					}
					body, err := io.ReadAll(resp.Body)
					if len(body) != 10 || !errors.Is(err, io.ErrUnexpectedEOF) || time.Since(began) != 10*time.Second {
						t.Errorf("client: got %d bytes, %v after %v, want 10 and a cut after 10 s", len(body), err, time.Since(began))
					}
					c.WantEnd()
					u.WantGone()
					r.wantReturned()
					wstest.Receive(t, done)
					if m := r.logs.Wait(t, 0); m["status"] != int64(403) || !strings.Contains(fmt.Sprint(m["error"]), "body truncated") {
						t.Errorf("logged %v", m)
					}
				})
			})
		})
	}
}

// RFC 9112, 6.3: where a refusal's body ends. Irregular framing with only one
// meaning is normalized; ambiguous framing is a bad answer and makes 502.
func TestRefusalFraming(t *testing.T) {
	t.Attr("case", "F7")
	t.Parallel()
	const chunks = "2\r\nhi\r\n0\r\n\r\n"
	r := newRig(t, wstest.TCP)
	for _, row := range []struct {
		name, answer string
		status       int
		body         string
		length       int64 // as announced to the client
	}{
		{"one length", "HTTP/1.1 403 No\r\nContent-Length: 2\r\n\r\nhi, and more", 403, "hi", 2},
		{"one length twice", "HTTP/1.1 403 No\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nhi", 403, "hi", 2},
		{"one length in a list", "HTTP/1.1 403 No\r\nContent-Length: 2, 2,\r\n\r\nhi", 403, "hi", 2},
		{"empty length", "HTTP/1.1 403 No\r\nContent-Length:\r\n\r\nhi", 403, "hi", -1},
		{"two lengths", "HTTP/1.1 403 No\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nhi!", 502, "", 12},
		{"two lengths in a list", "HTTP/1.1 403 No\r\nContent-Length: 2, 3\r\n\r\nhi!", 502, "", 12},
		{"a sign", "HTTP/1.1 403 No\r\nContent-Length: +2\r\n\r\nhi", 502, "", 12},
		{"hexadecimal", "HTTP/1.1 403 No\r\nContent-Length: 0x2\r\n\r\nhi", 502, "", 12},
		{"too large a number", "HTTP/1.1 403 No\r\nContent-Length: 18446744073709551618\r\n\r\nhi", 502, "", 12},
		{"chunks and a length", "HTTP/1.1 403 No\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks, 403, "hi", 2},
		{"chunks in another case", "HTTP/1.1 403 No\r\nTransfer-Encoding: , Chunked\r\n\r\n" + chunks, 403, "hi", 2},
		{"chunks of HTTP/1.0", "HTTP/1.0 403 No\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks, 403, "hi", 2},
		{"no coding", "HTTP/1.1 403 No\r\nTransfer-Encoding: identity\r\nContent-Length: 2\r\n\r\nhi", 403, "hi", 2},
		{"another coding", "HTTP/1.1 403 No\r\nTransfer-Encoding: gzip, chunked\r\n\r\n" + chunks, 502, "", 12},
		{"chunks twice", "HTTP/1.1 403 No\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks, 502, "", 12},
		{"chunks with a parameter", "HTTP/1.1 403 No\r\nTransfer-Encoding: chunked;q=1\r\n\r\n" + chunks, 502, "", 12},
		{"chunks by another name", "HTTP/1.1 403 No\r\nTransfer-Encoding: xchunked\r\n\r\n" + chunks, 502, "", 12},
		{"204", "HTTP/1.1 204 No\r\nContent-Length: 2\r\n\r\nhi", 204, "", 0},
		{"304", "HTTP/1.1 304 No\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks, 304, "", 0},
	} {
		t.Run(row.name, func(t *testing.T) {
			r := r.on(t)
			c := r.client()
			c.Send(wstest.Request("/", "") + secondRequest)
			u := r.upstream()
			u.ReadHead()
			u.Send(row.answer)
			u.CloseWrite()
			resp := c.ReadResponse()
			body, err := io.ReadAll(resp.Body)
			if resp.StatusCode != row.status || row.status != 502 && string(body) != row.body || err != nil || resp.ContentLength != row.length {
				t.Errorf("client: got %d %q of %d, %v, want %d %q of %d", resp.StatusCode, body, resp.ContentLength, err, row.status, row.body, row.length)
			}
			c.WantEnd()
			u.WantEnd()
			r.wantReturned()
		})
	}
}

// A24: a refusal's header holds what the upstream sent, without what concerns
// the upstream's connection, in whatever form that comes. Nothing is added.
func TestRefusalHeader(t *testing.T) {
	t.Attr("case", "A24 A87")
	t.Parallel()
	r := newRig(t, wstest.TCP)
	for _, row := range []struct{ name, lines, want string }{
		{"nominated beside close", "Connection: close, X-Hop\r\nX-Hop: 1\r\n", ""},
		{"nominated before close", "Connection: x-internal-token\r\nConnection: close\r\nX-Internal-Token: 1\r\n", ""},
		{"nominated beside keep-alive", "Connection: keep-alive, X-Hop\r\nX-Hop: 1\r\n", ""},
		{"not nominated", "Connection: close\r\nX-Hop: 1\r\n", "X-Hop: 1\r\n"},
		{"what can't be nominated", "Connection: close, Set-Cookie2, Authorization\r\nAuthorization: 1\r\nSet-Cookie2: 1\r\n", "Authorization: 1\r\n"},
		{"Pragma", "Pragma: no-cache\r\n", "Pragma: no-cache\r\n"},
		{"Trailer", "Trailer: X-T\r\nX-A: 1\r\n", "X-A: 1\r\n"},
		{"two of a kind", "Set-Cookie: a=1\r\nset-cookie: b=2\r\n", "Set-Cookie: a=1\r\nSet-Cookie: b=2\r\n"},
	} {
		t.Run(row.name, func(t *testing.T) {
			r := r.on(t)
			c := r.client()
			c.Send(wstest.Request("/", ""))
			u := r.upstream()
			u.ReadHead()
			u.Send("HTTP/1.1 403 No\r\nDate: today\r\n" + row.lines + "Content-Length: 0\r\n\r\n")
			got := sortedLines(c.ReadHead())
			want := sortedLines("HTTP/1.1 403 Forbidden\r\nConnection: close\r\nContent-Length: 0\r\nDate: today\r\n" + row.want + "\r\n")
			if got != want {
				t.Errorf("client: got\n%s\nwant\n%s", got, want)
			}
			u.Close()
			r.wantReturned()
		})
	}
}

// sortedLines returns the lines of a header in sorted order, for comparison.
func sortedLines(head string) string {
	lines := strings.Split(strings.TrimSuffix(head, "\r\n\r\n"), "\r\n")
	slices.Sort(lines[1:])
	return strings.Join(lines, "\n")
}

// WithRewriteAnswer changes the header of a 101 and of a refusal, but not the
// fields of the connection, of the handshake and of the body's framing. If it
// panics, the answer is 500 and the upstream's connection is closed.
func TestRewriteAnswer(t *testing.T) {
	t.Parallel()
	rewrite := wsproxy.WithRewriteAnswer(func(answer *http.Response) {
		for _, name := range []string{"Connection", "Upgrade", "Sec-Websocket-Accept", "Content-Length"} {
			if v := answer.Header[name]; v != nil {
				t.Errorf("the hook is shown %s: %q", name, v)
			}
		}
		answer.Header.Del("X-Internal")
		answer.Header.Set("X-Status", fmt.Sprint(answer.StatusCode, " to ", answer.Request.URL.Path))
		answer.Header.Set("X-Two-Lines", "a\r\nX-Injected: b")
		for _, name := range []string{"Connection", "Upgrade", "Sec-WebSocket-Accept", "Sec-WebSocket-Extensions", "Content-Length", "Transfer-Encoding"} {
			answer.Header.Set(name, "broken")
			answer.Header[strings.ToLower(name)] = []string{"broken"}
		}
		answer.StatusCode = 200
	})
	const fields = "X-Internal: 1\r\nX-Public: 2\r\n"
	t.Run("101", func(t *testing.T) {
		r := newRig(t, wstest.TCP, rewrite)
		c := r.client()
		c.Send(wstest.Request("/path", ""))
		r.upstream().Answer(fields)
		got := sortedLines(c.ReadHead())
		want := sortedLines("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: " + wstest.AcceptKey(wstest.Key) +
			"\r\nX-Public: 2\r\nX-Status: 101 to /path\r\nX-Two-Lines: a  X-Injected: b\r\n\r\n")
		if got != want {
			t.Errorf("client: got\n%s\nwant\n%s", got, want)
		}
	})
	t.Run("refusal", func(t *testing.T) {
		r := newRig(t, wstest.TCP, rewrite)
		c := r.client()
		c.Send(wstest.Request("/path", ""))
		u := r.upstream()
		u.ReadHead()
		u.Send("HTTP/1.1 403 No\r\nDate: today\r\n" + fields + "Content-Length: 2\r\n\r\nno")
		got := sortedLines(c.ReadHead())
		want := sortedLines("HTTP/1.1 403 Forbidden\r\nConnection: close\r\nContent-Length: 2\r\nDate: today\r\nX-Public: 2\r\nX-Status: 403 to /path\r\nX-Two-Lines: a  X-Injected: b\r\n\r\n")
		if got != want {
			t.Errorf("client: got\n%s\nwant\n%s", got, want)
		}
		c.WantBytes("no")
	})
	for _, head := range []string{"", "HTTP/1.1 403 No\r\n\r\n"} {
		t.Run("panic "+head, func(t *testing.T) {
			r := newRig(t, wstest.TCP, wsproxy.WithRewriteAnswer(func(*http.Response) { panic("hook") }))
			c := r.client()
			c.Send(wstest.Request("/", ""))
			u := r.upstream()
			if head == "" {
				u.Answer("")
			} else {
				u.ReadHead()
				u.Send(head)
			}
			c.WantStatus(500)
			u.WantGone()
			r.wantReturned()
		})
	}
	t.Run("all fields removed", func(t *testing.T) {
		r := newRig(t, wstest.TCP, wsproxy.WithRewriteAnswer(func(answer *http.Response) { answer.Header = nil }))
		_, u := r.open("", fields)
		u.Close()
	})
}

// A hook's refusal sets the client's answer: its fields are kept, except those
// about the connection and the framing of the body. The same holds for fields
// that middleware has set before.
func TestRefusalFields(t *testing.T) {
	t.Parallel()
	const text = `{"error":1}`
	json := http.Header{"Content-Type": {"application/json"}}
	with := func(pairs ...string) http.Header {
		h := json.Clone()
		for i := 0; i < len(pairs); i += 2 {
			h[pairs[i]] = append(h[pairs[i]], pairs[i+1])
		}
		return h
	}
	for _, row := range []struct {
		name   string
		status int
		header http.Header
		want   string // besides Connection, Content-Length and Content-Type
	}{
		{"Retry-After", 503, with("Retry-After", "120"), "Retry-After: 120\r\n"},
		{"Retry-After in another case", 429, with("retry-after", "120"), "Retry-After: 120\r\n"},
		{"Retry-After left out", 503, json, "Retry-After: 5\r\n"},
		{"Retry-After of another status", 403, with("Retry-After", "120"), "Retry-After: 120\r\n"},
		{"Allow", 405, with("Allow", "GET, HEAD"), "Allow: GET, HEAD\r\n"},
		{"Allow left out", 405, json, "Allow: GET\r\n"},
		{"Upgrade", 426, with("Upgrade", "chat/2"), "Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\nUpgrade: chat/2\r\n"},
		{"Sec-WebSocket-Version", 426, with("Sec-WebSocket-Version", "13, 8"), "Connection: Upgrade\r\nSec-Websocket-Version: 13, 8\r\nUpgrade: websocket\r\n"},
		{"Upgrade of another status", 403, with("Upgrade", "chat/2"), "Connection: Upgrade\r\nUpgrade: chat/2\r\n"},
		{"Connection", 403, with("Connection", "keep-alive"), ""},
		{"Content-Length", 403, with("Content-Length", "2", "content-length", "3"), ""},
		{"Transfer-Encoding", 403, with("Transfer-Encoding", "gzip", "Trailer", "X-T"), ""},
		{"others", 401, with("WWW-Authenticate", "Basic", "X-A", "1", "X-A", "2"), "Www-Authenticate: Basic\r\nX-A: 1\r\nX-A: 2\r\n"},
	} {
		t.Run(row.name, func(t *testing.T) {
			r := newRig(t, wstest.TCP, wsproxy.WithOnOpen(func(*wsproxy.Session, *http.Request) error {
				return &wsproxy.Refusal{Status: row.status, Text: text, Header: row.header}
			}))
			r.front = wstest.Listen(t, wstest.TCP)
			r.serve(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
				w.Header()["Date"] = nil
				w.Header().Set("Content-Length", "1")
				w.Header().Set("Transfer-Encoding", "gzip")
				r.proxy.ServeHTTP(w, req)
			}))
			c := r.client()
			c.Send(wstest.Request("/", "") + secondRequest)
			got := sortedLines(c.ReadHead())
			want := sortedLines(fmt.Sprintf("HTTP/1.1 %d %s\r\nConnection: close\r\nContent-Length: %d\r\nContent-Type: application/json\r\n%s\r\n",
				row.status, http.StatusText(row.status), len(text), row.want))
			if got != want {
				t.Errorf("client: got\n%s\nwant\n%s", got, want)
			}
			if body, err := io.ReadAll(c.In); string(body) != text || err != nil {
				t.Errorf("client: got %q, %v, want %q and the end", body, err, text)
			}
			r.wantReturned()
		})
	}
	t.Run("of an upstream", func(t *testing.T) {
		r := newRig(t, wstest.TCP)
		r.front = wstest.Listen(t, wstest.TCP)
		r.serve(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			w.Header()["Date"] = nil
			w.Header().Set("Content-Length", "1")
			w.Header().Set("Transfer-Encoding", "gzip")
			r.proxy.ServeHTTP(w, req)
		}))
		c := r.client()
		c.Send(wstest.Request("/", ""))
		u := r.upstream()
		u.ReadHead()
		u.Send("HTTP/1.1 403 No\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n")
		const want = "HTTP/1.1 403 Forbidden\r\nConnection: close\r\nContent-Length: 2\r\n\r\n"
		if got := c.ReadHead(); got != want {
			t.Errorf("client: got %q, want %q", got, want)
		}
		if body, err := io.ReadAll(c.In); string(body) != "hi" || err != nil {
			t.Errorf("client: got %q, %v, want %q and the end", body, err, "hi")
		}
	})
}

// A client that does not read its refusal delays nothing: neither for longer
// than the time limit of a write, nor after the proxy was closed.
func TestUnreadRefusal(t *testing.T) {
	t.Parallel()
	big := strings.Repeat("x", 60_000)
	for _, row := range []struct {
		name   string
		end    func(p *wsproxy.Proxy)
		within time.Duration
	}{
		{"write time-out", func(*wsproxy.Proxy) {}, 60 * time.Second},
		{"Close", func(p *wsproxy.Proxy) { p.Close() }, 0},
		{"Shutdown", func(p *wsproxy.Proxy) { go p.Shutdown(context.Background()) }, 0},
	} {
		t.Run("an upstream's, "+row.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t, wstest.Memory)
				c := r.client()
				c.Send(wstest.Request("/", ""))
				u := r.upstream()
				u.ReadHead()
				u.Send("HTTP/1.1 403 No\r\nX-A: " + big[:40_000] + "\r\nContent-Length: 60000\r\n\r\n" + big)
				synctest.Wait()
				began := time.Now()
				row.end(r.proxy)
				r.wantReturned()
				if d := time.Since(began); d != row.within {
					t.Errorf("ServeHTTP returned after %v, want %v", d, row.within)
				}
				u.WantGone()
			})
		})
	}
	t.Run("the proxy's own", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			r := newRig(t, wstest.Memory, wsproxy.WithErrorHandler(func(w http.ResponseWriter, _ *http.Request, e *wsproxy.Error) {
				w.WriteHeader(e.Status)
				io.WriteString(w, big+big)
			}))
			c := r.client()
			began := time.Now()
			c.Send(edited("websocket", "h2c"))
			r.wantReturned()
			if d := time.Since(began); d != 60*time.Second {
				t.Errorf("ServeHTTP returned after %v, want the write time-out of 60 s", d)
			}
		})
	})
}
