package wsproxy_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"strings"
	"syscall"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/seed-ffb73231/wsproxy"
	"github.com/seed-ffb73231/wsproxy/internal/wstest"
)

// A panic in user code makes one record with its stack, and no other record
// contains the stack.
func TestPanicRecord(t *testing.T) {
	t.Parallel()
	boom := func() { panic("boom") }
	key := func(*http.Request) string { boom(); return "" }
	members := wsproxy.WithUpstreams(wsproxy.Member{Target: "http://a.test"}, wsproxy.Member{Target: "http://b.test"})
	for _, test := range []struct {
		hook   string
		option wsproxy.Option
		target string
		status int // 0: the connection is aborted
	}{
		{"WithOnOpen", wsproxy.WithOnOpen(func(*wsproxy.Session, *http.Request) error { boom(); return nil }), "http://a.test", 500},
		{"WithOnClose", wsproxy.WithOnClose(func(*wsproxy.Session) { boom() }), "http://a.test", 502},
		{"WithRewrite", wsproxy.WithRewrite(func(*httputil.ProxyRequest) { boom() }), "http://a.test", 500},
		{"WithMaxSessionsPerClient", wsproxy.WithMaxSessionsPerClient(1, key), "http://a.test", 500},
		{"WithBalance", wsproxy.WithBalance(wsproxy.Rendezvous(key)), "http://a.test", 500},
		{"WithBalance", wsproxy.WithBalance(wsproxy.BalanceFunc(func(*http.Request, []wsproxy.MemberState) int { boom(); return 0 })), "", 500},
		{"WithDialContext", wsproxy.WithDialContext(func(context.Context, string, string) (net.Conn, error) { boom(); return nil, nil }), "http://a.test", 500},
		{"connection", wsproxy.WithDialContext(func(context.Context, string, string) (net.Conn, error) { return panickingConn{}, nil }), "http://a.test", 500},
		{"WithErrorHandler", wsproxy.WithErrorHandler(func(http.ResponseWriter, *http.Request, *wsproxy.Error) { boom() }), "http://a.test", 0},
	} {
		t.Run(test.hook, func(t *testing.T) {
			options := []wsproxy.Option{wsproxy.WithDialContext(func(context.Context, string, string) (net.Conn, error) { return nil, syscall.ECONNREFUSED }), test.option}
			if test.target == "" {
				options = append(options, members)
			}
			r := newRigTo(t, wstest.TCP, test.target, options...)
			c := r.client()
			c.Send(wstest.Request("/", ""))
			if test.status == 0 {
				c.WantEnd()
			} else if resp := c.ReadResponse(); resp.StatusCode != test.status {
				t.Errorf("answered %d, want %d", resp.StatusCode, test.status)
			}
			<-r.returned
			failed, panicked := r.logs.Wait(t, 0), r.logs.Wait(t, 1)
			if failed["msg"] != "wsproxy: handshake failed" || strings.Contains(fmt.Sprint(failed), "goroutine") || strings.Contains(fmt.Sprint(failed), ".go:") {
				t.Errorf("logged %v, want a failed handshake without a stack", failed)
			}
			wantPanic(t, panicked, test.hook)
			if _, ok := panicked["id"]; ok != (test.hook != "WithMaxSessionsPerClient") { // the others panic before there is a session
				t.Errorf("logged id %v", panicked["id"])
			}
			if n := strings.Count(r.logs.String(), "panic in a hook"); n != 1 {
				t.Errorf("%d records of one panic", n)
			}
		})
	}
	t.Run("WithSource", func(t *testing.T) {
		logs := new(wstest.Logs)
		p, err := wsproxy.New("", wsproxy.WithLogger(slog.New(logs)), wsproxy.WithSource(time.Hour, func(context.Context) ([]wsproxy.Member, error) { boom(); return nil, nil }))
		if err != nil {
			t.Fatal(err)
		}
		defer p.Close()
		if m := logs.Wait(t, 0); m["error"] != "panic: boom" {
			t.Errorf("logged %v", m)
		}
		wantPanic(t, logs.Wait(t, 1), "WithSource")
	})
}

func wantPanic(t *testing.T, m map[string]any, hook string) {
	t.Helper()
	if m["msg"] != "wsproxy: panic in a hook" || m["level"] != slog.LevelError || m["hook"] != hook {
		t.Errorf("logged %v, want a panic in %s", m, hook)
	}
	want := "boom"
	if hook == "connection" {
		want = "x"
	}
	if stack, _ := m["stack"].(string); m["panic"] != want || !strings.Contains(stack, "_test.go:") {
		t.Errorf("logged %v, want where it came from", m)
	}
}

// What strangers can cause is not a warning: they may do it all day.
func TestLevels(t *testing.T) {
	t.Parallel()
	none := func(context.Context, string, string) (net.Conn, error) { return nil, syscall.ECONNREFUSED }
	answers := func(status int) func(context.Context, string, string) (net.Conn, error) {
		return func(ctx context.Context, _, _ string) (net.Conn, error) { return answeringStatus(status)(ctx) }
	}
	refuse := func(err error) wsproxy.Option {
		return wsproxy.WithOnOpen(func(*wsproxy.Session, *http.Request) error { return err })
	}
	for _, test := range []struct {
		kind    wsproxy.Kind
		request string
		option  wsproxy.Option
		level   slog.Level
	}{
		{wsproxy.KindBadHandshake, "GET / HTTP/1.1\r\nHost: front.test\r\n\r\n", wsproxy.WithDialContext(none), slog.LevelInfo},
		{wsproxy.KindForbiddenOrigin, wstest.Request("/", "Origin: http://evil.test\r\n"), wsproxy.WithDialContext(none), slog.LevelInfo},
		{wsproxy.KindHook, wstest.Request("/", ""), refuse(errors.New("no")), slog.LevelInfo},
		{wsproxy.KindHook, wstest.Request("/", ""), refuse(&wsproxy.Refusal{Status: 503}), slog.LevelWarn},
		{wsproxy.KindRefusal, wstest.Request("/", ""), wsproxy.WithDialContext(answers(404)), slog.LevelInfo},
		{wsproxy.KindRefusal, wstest.Request("/", ""), wsproxy.WithDialContext(answers(500)), slog.LevelWarn},
		{wsproxy.KindRefused, wstest.Request("/", ""), wsproxy.WithDialContext(none), slog.LevelWarn},
		{wsproxy.KindPanic, wstest.Request("/", ""), wsproxy.WithRewrite(func(*httputil.ProxyRequest) { panic("x") }), slog.LevelWarn},
	} {
		t.Run(string(test.kind), func(t *testing.T) {
			r := newRigTo(t, wstest.TCP, "http://upstream.test", test.option)
			c := r.client()
			c.Send(test.request)
			c.ReadResponse()
			if m := r.logs.Wait(t, 0); m["kind"] != string(test.kind) || m["level"] != test.level {
				t.Errorf("logged %v, want kind %q at level %v", m, test.kind, test.level)
			}
		})
	}
}

// A logger that panics does no harm, not even if package log, which reports
// that, leads to the same logger.
func TestLoggerPanics(t *testing.T) {
	before, out, flags := slog.Default(), log.Writer(), log.Flags()
	slog.SetDefault(slog.New(panicking{}))
	defer func() {
		slog.SetDefault(before)
		log.SetOutput(out)
		log.SetFlags(flags)
	}()
	for _, options := range [][]wsproxy.Option{nil, {wsproxy.WithDetach()}} {
		r := newRig(t, wstest.TCP, append([]wsproxy.Option{wsproxy.WithLogger(slog.Default())}, options...)...)
		c := r.client()
		c.Send("GET / HTTP/1.1\r\nHost: front.test\r\n\r\n")
		if resp := c.ReadResponse(); resp.StatusCode != 426 {
			t.Errorf("answered %d, want 426", resp.StatusCode)
		}
		<-r.returned
		client, upstream := r.open("", "")
		client.SendText("x")
		upstream.Want(wstest.Text, "x")
		client.SendClose(1000, "")
		upstream.WantClose(1000)
		upstream.SendClose(1000, "")
		upstream.Close()
		client.WantClose(1000)
		client.WantEnd()
		<-r.returned
		if err := r.proxy.SetUpstreams(wsproxy.Member{Target: "http://c.test"}); err != nil {
			t.Error(err)
		}
	}
}

// A long path is truncated between two characters.
func TestClip(t *testing.T) {
	t.Parallel()
	for _, path := range []string{strings.Repeat("é", 150), "x" + strings.Repeat("é", 150), strings.Repeat("日", 99), "xx" + strings.Repeat("🙂", 99), strings.Repeat("a", 300), strings.Repeat("\x80", 300)} {
		r := newRigTo(t, wstest.Memory, "http://upstream.test")
		c := r.client()
		go io.Copy(io.Discard, c.Conn)
		c.Send("GET /" + escape(path) + " HTTP/1.1\r\nHost: front.test\r\n\r\n")
		got := r.logs.Wait(t, 0)["path"].(string)
		kept, ok := strings.CutSuffix(got, "…")
		if !ok || !strings.HasPrefix("/"+path, kept) || len(kept) > 200 || len(kept) < 197 || utf8.ValidString(path) && !utf8.ValidString(got) {
			t.Errorf("path logged as %q", got)
		}
	}
}

// escape percent-encodes every byte.
func escape(s string) string {
	var b strings.Builder
	for i := range len(s) {
		fmt.Fprintf(&b, "%%%02X", s[i])
	}
	return b.String()
}

// The record of a failure towards an upstream names the upstream, what it was
// asked, and what it answered, but never the query.
func TestUpstreamInLog(t *testing.T) {
	t.Parallel()
	https := httptest.NewTLSServer(http.NotFoundHandler())
	defer https.Close()
	https.Config.ErrorLog = log.New(io.Discard, "", 0)
	says := func(text string) act {
		return func(context.Context) (net.Conn, error) { // it sends this and keeps the connection open
			near, far := wstest.MemPair(1 << 16)
			go func() {
				http.ReadRequest(bufio.NewReader(far))
				io.WriteString(far, text)
			}()
			return near, nil
		}
	}
	nginx := "HTTP/1.1 400 Bad Request\r\nServer: nginx\r\nContent-Length: 90\r\nConnection: close\r\n\r\n" +
		fmt.Sprintf("%-90s", "<html><head><title>400 The plain HTTP request was sent to HTTPS port</title></head></html>")
	const wants = "the upstream speaks TLS: use an https or wss target"
	for _, test := range []struct {
		name   string
		dial   act
		status int
		kind   wsproxy.Kind
		level  slog.Level
		error  string
	}{
		{"404", answeringStatus(404), 404, wsproxy.KindRefusal, slog.LevelInfo, "upstream answered 404 to GET /ws/websocket, want 101"},
		{"502", answeringStatus(502), 502, wsproxy.KindRefusal, slog.LevelWarn, "upstream answered 502 to GET /ws/websocket, want 101"},
		{"bad 101", answering("HTTP/1.1 101 x\r\n\r\n"), 502, wsproxy.KindBadAnswer, slog.LevelWarn, "GET /ws/websocket: "},
		{"SSH", says("SSH-2.0-x"), 502, wsproxy.KindBadAnswer, slog.LevelWarn, `GET /ws/websocket: bad answer: not HTTP: starts with "SSH-"`},
		{"refused", failing(syscall.ECONNREFUSED), 502, wsproxy.KindRefused, slog.LevelWarn, "refused"},
		{"reset", func(context.Context) (net.Conn, error) { return &resetOnce{}, nil }, 502, wsproxy.KindReset, slog.LevelWarn, "GET /ws/websocket"},
		{"an alert", says("\x15\x03\x01\x00\x02\x02\x46"), 502, wsproxy.KindWantsTLS, slog.LevelWarn, wants},
		{"nginx's HTTPS port", says(nginx), 400, wsproxy.KindWantsTLS, slog.LevelWarn, wants},
		{"Go's HTTPS port", func(ctx context.Context) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "tcp", https.Listener.Addr().String())
		}, 400, wsproxy.KindWantsTLS, slog.LevelWarn, wants},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := newRigTo(t, wstest.TCP, "http://upstream.test/ws", wsproxy.WithDialContext(func(ctx context.Context, _, _ string) (net.Conn, error) { return test.dial(ctx) }))
			c := r.client()
			c.Send(wstest.Request("/websocket?token="+wstest.Secret, ""))
			if resp := c.ReadResponse(); resp.StatusCode != test.status {
				t.Errorf("answered %d, want %d", resp.StatusCode, test.status)
			}
			m := r.logs.Wait(t, 0)
			if m["upstream"] != "http://upstream.test" || m["kind"] != string(test.kind) || m["level"] != test.level || !strings.Contains(m["error"].(string), test.error) {
				t.Errorf("logged %v, want kind %q, level %v, and %q", m, test.kind, test.level, test.error)
			}
		})
	}
	// A path of maximum length, and one that could break the lines of a log.
	for _, path := range []string{"/" + strings.Repeat("a", 50_000), "/a%0Ab%22", "/a|b%2Fc"} {
		r := newRigTo(t, wstest.TCP, "http://upstream.test", wsproxy.WithDialContext(func(ctx context.Context, _, _ string) (net.Conn, error) { return answeringStatus(404)(ctx) }))
		c := r.client()
		c.Send(wstest.Request(path, ""))
		c.ReadResponse()
		if text := r.logs.Wait(t, 0)["error"].(string); len(text) > 300 || strings.ContainsAny(text, "\n") || len(path) < 300 && !strings.Contains(text, " to GET "+path+", ") {
			t.Errorf("logged %q", text)
		}
	}
}

// The record names the type that prevents hijacking.
func TestNoHijackInLog(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name  string
		wrap  func(http.Handler) http.Handler
		proto int
		kind  wsproxy.Kind
		level slog.Level
		error string
	}{
		{"TimeoutHandler", func(h http.Handler) http.Handler { return http.TimeoutHandler(h, time.Minute, "") }, 1, wsproxy.KindNoHijack, slog.LevelWarn, "*http.timeoutWriter implements neither http.Hijacker nor Unwrap"},
		{"within one that unwraps", func(h http.Handler) http.Handler {
			inner := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { h.ServeHTTP(unwrapping{w}, r) })
			return http.TimeoutHandler(inner, time.Minute, "")
		}, 1, wsproxy.KindNoHijack, slog.LevelWarn, "*http.timeoutWriter implements neither http.Hijacker nor Unwrap"},
		{"HTTP/2", func(h http.Handler) http.Handler { return h }, 2, wsproxy.KindHTTPVersion, slog.LevelInfo, "WebSockets are supported over HTTP/1.1 only: HTTP/2.0"},
	} {
		t.Run(test.name, func(t *testing.T) {
			logs := new(wstest.Logs)
			p, err := wsproxy.New("http://upstream.test", wsproxy.WithLogger(slog.New(logs)))
			if err != nil {
				t.Fatal(err)
			}
			defer p.Close()
			s := httptest.NewUnstartedServer(test.wrap(p))
			s.EnableHTTP2 = true
			s.StartTLS()
			defer s.Close()
			req, err := http.NewRequestWithContext(t.Context(), "GET", s.URL, nil)
			if err != nil {
				t.Fatal(err)
			}
			client := s.Client()
			if test.proto == 1 {
				client.Transport.(*http.Transport).ForceAttemptHTTP2 = false
				client.Transport.(*http.Transport).TLSClientConfig.NextProtos = []string{"http/1.1"}
				req.Header = http.Header{"Connection": {"Upgrade"}, "Upgrade": {"websocket"}, "Sec-Websocket-Version": {"13"}, "Sec-Websocket-Key": {wstest.Key}}
			}
			resp, err := client.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
			m := logs.Wait(t, 0)
			if resp.StatusCode != 501 || m["kind"] != string(test.kind) || m["level"] != test.level || m["error"] != test.error {
				t.Errorf("answered %d, logged %v, want kind %q and %q", resp.StatusCode, m, test.kind, test.error)
			}
		})
	}
}

// resetOnce is a connection that reports its reset once.
type resetOnce struct {
	full
	told bool
}

func (c *resetOnce) Read([]byte) (int, error) {
	if c.told {
		return 0, io.EOF
	}
	c.told = true
	return 0, syscall.ECONNRESET
}
