package wsproxy_test

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"testing"

	"github.com/seed-ffb73231/wsproxy"
	"github.com/seed-ffb73231/wsproxy/internal/wstest"
)

// Ordinary HTTP on the proxy's route.

// A request that does not ask for a WebSocket goes to the fallback, whatever
// its form, and nothing is logged or counted. A request that asks for one never
// does.
func TestFallback(t *testing.T) {
	t.Parallel()
	const h = " HTTP/1.1\r\nHost: front.test\r\n"
	const sec = "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: " + wstest.Key + "\r\n"
	for _, row := range []struct {
		name, request string
		want          int // 200: from the fallback
	}{
		{"GET", "GET /socket.io/?EIO=4&transport=polling" + h + "\r\n", 200},
		{"HEAD", "HEAD /" + h + "\r\n", 200},
		{"POST", "POST /hub/negotiate?negotiateVersion=1" + h + "Content-Length: 2\r\n\r\nhi", 200},
		{"chunks", "POST /echo/000/abc/xhr_streaming" + h + "Transfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n", 200},
		{"OPTIONS", "OPTIONS /info" + h + "Origin: http://elsewhere.test\r\nAccess-Control-Request-Method: POST\r\n\r\n", 200},
		{"another origin", "GET /" + h + "Origin: http://elsewhere.test\r\n\r\n", 200},
		{"HTTP/1.0", "GET / HTTP/1.0\r\n\r\n", 200},
		{"HTTP/1.0, kept alive", "GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", 200},
		{"h2c", "GET /" + h + "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n\r\n", 200},
		{"another protocol", "GET /" + h + "Connection: Upgrade\r\nUpgrade: websockets\r\n" + sec + "\r\n", 200},
		{"another protocol's version", "GET /" + h + "Connection: Upgrade\r\nUpgrade: websocket/13\r\n" + sec + "\r\n", 200},
		{"Connection alone", "GET /" + h + "Connection: Upgrade\r\n" + sec + "\r\n", 200},
		{"many fields", "GET /" + h + strings.Repeat("a:\r\n", 480) + "\r\n", 200},
		{"our own name", "GET /" + h + "Via: 1.1 edge\r\n\r\n", 200},

		{"another origin's WebSocket", wstest.Request("/", "Origin: http://elsewhere.test\r\n"), 403},
		{"no Connection", "GET /" + h + "Upgrade: websocket\r\n" + sec + "\r\n", 426},
		{"among others", "GET /" + h + "Upgrade: h2c, WebSocket\r\n\r\n", 426},
		{"in two fields", "GET /" + h + "Upgrade: h2c\r\nUpgrade: websocket\r\n\r\n", 426},
		{"POST for a WebSocket", "POST /" + h + "Connection: Upgrade\r\nUpgrade: websocket\r\n" + sec + "\r\n", 405},
		{"HTTP/1.0 for a WebSocket", "GET / HTTP/1.0\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n" + sec + "\r\n", 400},
		{"no key", "GET /" + h + "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\r\n", 400},
		{"body", "GET /" + h + "Connection: Upgrade\r\nUpgrade: websocket\r\n" + sec + "Content-Length: 2\r\n\r\nhi", 400},
		{"loop", wstest.Request("/", "Via: 1.1 edge\r\n"), 508},
	} {
		t.Run(row.name, func(t *testing.T) {
			var got *http.Request
			r := newRigTo(t, wstest.TCP, "http://upstream.test", wsproxy.WithVia("edge"), wsproxy.WithMaxHandshakes(1),
				wsproxy.WithOnOpen(func(*wsproxy.Session, *http.Request) error {
					t.Error("a hook was shown the request")
					return nil
				}),
				wsproxy.WithFallback(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
					got = req
					body, err := io.ReadAll(req.Body)
					if req.Method == "POST" && string(body) != "hi" || err != nil {
						t.Errorf("fallback: read %q, %v", body, err)
					}
				})))
			c := r.client()
			c.Send(row.request)
			resp := c.ReadResponse()
			r.wantReturned()
			if resp.StatusCode != row.want || (got != nil) != (row.want == 200) {
				t.Fatalf("answered %d, by the fallback: %v; want %d", resp.StatusCode, got != nil, row.want)
			}
			if got == nil {
				r.logs.Wait(t, 0)
				return
			}
			if v, ok := got.Header["Upgrade"]; ok {
				t.Errorf("fallback: got Upgrade %q, want none", v)
			}
			for kind, n := range r.proxy.Stats().Failed {
				if n != 0 {
					t.Errorf("counted %d of %q, want none", n, kind)
				}
			}
			if r.logs.String() != "" {
				t.Errorf("logged %q, want nothing", r.logs)
			}
		})
	}
}

// The fallback needs no free session and continues after Shutdown. Without a
// fallback the answer is 426. HTTP/2 requests go to it as well.
func TestFallbackAlways(t *testing.T) {
	t.Parallel()
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, r.Proto) })
	p, err := wsproxy.New("http://upstream.test", wsproxy.WithLogger(discard), wsproxy.WithMaxSessions(1), wsproxy.WithFallback(h))
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewUnstartedServer(p)
	s.EnableHTTP2 = true
	s.StartTLS()
	defer s.Close()
	get := func() string {
		resp, err := s.Client().Get(s.URL)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		if err != nil || resp.StatusCode != 200 {
			t.Fatalf("got %d %q %v", resp.StatusCode, b, err)
		}
		return string(b)
	}
	if got := get(); got != "HTTP/2.0" {
		t.Errorf("fallback: got %s, want HTTP/2.0", got)
	}
	for protocol, want := range map[string]int{"websocket": 405, "connect-udp": 200} { // RFC 8441, as net/http shows it
		r := httptest.NewRequest(http.MethodConnect, "https://front.test/", nil)
		r.Proto, r.ProtoMajor, r.ProtoMinor = "HTTP/2.0", 2, 0
		r.Header[":protocol"] = []string{protocol}
		w := httptest.NewRecorder()
		if p.ServeHTTP(w, r); w.Code != want {
			t.Errorf("CONNECT for %s: got %d, want %d", protocol, w.Code, want)
		}
	}
	if err := p.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	get()
	if _, err := wsproxy.New("http://upstream.test", wsproxy.WithFallback(nil)); err == nil {
		t.Error("WithFallback(nil) is no mistake")
	}
}

// A panic in the fallback is left to net/http: a ReverseProxy panics to abort
// an answer that it cannot complete.
func TestFallbackPanics(t *testing.T) {
	t.Parallel()
	r := newRig(t, wstest.TCP, wsproxy.WithFallback(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, "some")
		http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	})))
	c := r.client()
	c.Send("GET / HTTP/1.1\r\nHost: front.test\r\n\r\n")
	if b, err := io.ReadAll(c.ReadResponse().Body); string(b) != "some" || err == nil {
		t.Errorf("client: got %q, %v, want the body cut short", b, err)
	}
}

// One mount, one upstream: polling goes through a ReverseProxy and a session
// through the proxy, also one after the other on the same connection. A request
// that only resembles an upgrade opens no tunnel, even if the upstream would
// accept it.
func TestFallbackReverseProxy(t *testing.T) {
	t.Parallel()
	var r *rig
	target := &url.URL{Scheme: "http", Host: "upstream.test"}
	through := &httputil.ReverseProxy{Rewrite: func(pr *httputil.ProxyRequest) { pr.SetURL(target) }}
	r = newRig(t, wstest.TCP, wsproxy.WithFallback(through))
	through.Transport = &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return wstest.Dial(ctx, r.back) }}

	c := r.client()
	c.Send("POST /poll HTTP/1.1\r\nHost: front.test\r\nContent-Length: 2\r\n\r\n40")
	u := r.upstream()
	if head := u.ReadHead(); !strings.HasPrefix(head, "POST /poll HTTP/1.1\r\n") {
		t.Errorf("upstream: got %q", head)
	}
	u.WantBytes("40") // an answer before the body would end the connection
	u.Send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
	if b, err := io.ReadAll(c.ReadResponse().Body); string(b) != "ok" || err != nil {
		t.Fatalf("client: got %q, %v", b, err)
	}
	c.Send(wstest.Request("/", ""))
	u2 := r.upstream()
	u2.Answer("")
	if resp := c.ReadResponse(); resp.StatusCode != 101 {
		t.Fatalf("client was answered %d, want 101", resp.StatusCode)
	}
	c.SendText("over")
	u2.Want(wstest.Text, "over")

	for _, protocol := range []string{"h2c", "websocket/13", "WebSockets", `"websocket"`, "x"} {
		c := r.client()
		c.Send("GET /x HTTP/1.1\r\nHost: front.test\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: " + protocol + "\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n" +
			"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: " + wstest.Key + "\r\n\r\nGET /admin HTTP/1.1\r\nHost: x\r\n\r\n")
		head := u.ReadHead() // on the existing connection
		for line := range strings.SplitSeq(strings.ToLower(head), "\r\n") {
			if strings.HasPrefix(line, "upgrade:") || strings.HasPrefix(line, "connection:") || strings.HasPrefix(line, "http2-settings:") {
				t.Errorf("Upgrade: %s: upstream got %q", protocol, line)
			}
		}
		u.Send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
		if resp := c.ReadResponse(); resp.StatusCode != 200 {
			t.Errorf("Upgrade: %s: answered %d, want 200", protocol, resp.StatusCode)
		}
		// The bytes after it are an ordinary request, not part of a tunnel.
		if head := u.ReadHead(); !strings.HasPrefix(head, "GET /admin HTTP/1.1\r\n") {
			t.Errorf("Upgrade: %s: upstream got %q", protocol, head)
		}
		u.Send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
		c.ReadResponse()
	}
}

// The fallback's handler runs outside of sessions: a Shutdown that it calls
// waits for all of them.
func TestShutdownInFallback(t *testing.T) {
	t.Parallel()
	var r *rig
	ready := make(chan struct{})
	r = newRig(t, wstest.TCP, wsproxy.WithFallback(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		<-ready
		if err := r.proxy.Shutdown(req.Context()); err != nil {
			t.Errorf("Shutdown: %v", err)
		}
		if n := r.proxy.Stats().Open; n != 0 {
			t.Errorf("%d sessions open behind it", n)
		}
		w.WriteHeader(http.StatusNoContent)
	})))
	close(ready)
	client, upstream := r.open("", "")
	other := r.client()
	other.Send("GET /stop HTTP/1.1\r\nHost: front.test\r\n\r\n")
	upstream.WantClose(1001)
	upstream.SendClose(1001, "")
	upstream.Close()
	client.WantClose(1001)
	client.SendClose(1001, "")
	client.Close()
	if resp := other.ReadResponse(); resp.StatusCode != http.StatusNoContent {
		t.Errorf("answered %d", resp.StatusCode)
	}
}
