package wscaddy

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/coder/websocket"
)

// Forwarding fields are believed if Caddy believes them, and the client is
// Caddy's client_ip.
func TestTrust(t *testing.T) {
	u := newUpstream(t, "a")
	sent := http.Header{
		"X-Forwarded-For":   {"203.0.113.1, 198.51.100.2", "10.0.0.3"},
		"X-Forwarded-Proto": {"https"},
		"X-Forwarded-Host":  {"public.example"},
		"X-Real-Ip":         {"203.0.113.1"},
		"Forwarded":         {"for=203.0.113.1"},
		"Cf-Ip":             {"203.0.113.77"},
	}
	for _, row := range []struct {
		name, servers, client, forFor, proto, forwarded string
	}{
		{"nobody", "", "127.0.0.1", "127.0.0.1", "http", ""},
		{"somebody else", "trusted_proxies static 10.0.0.0/8", "127.0.0.1", "127.0.0.1", "http", ""},
		{"the peer", "trusted_proxies static 127.0.0.0/8", "203.0.113.1",
			"203.0.113.1, 198.51.100.2, 10.0.0.3, 127.0.0.1", "https", "for=203.0.113.1, for=127.0.0.1"},
		{"strictly", "trusted_proxies static 127.0.0.0/8 10.0.0.0/8\n\t\ttrusted_proxies_strict", "198.51.100.2",
			"203.0.113.1, 198.51.100.2, 10.0.0.3, 127.0.0.1", "https", "for=203.0.113.1, for=127.0.0.1"},
		{"another field", "trusted_proxies static 127.0.0.0/8\n\t\tclient_ip_headers Cf-Ip", "203.0.113.77",
			"203.0.113.1, 198.51.100.2, 10.0.0.3, 127.0.0.1", "https", "for=203.0.113.1, for=127.0.0.1"},
	} {
		t.Run(row.name, func(t *testing.T) {
			s := start(t, fmt.Sprintf("{\n\tGLOBAL\n\tservers {\n\t\t%s\n\t}\n}\nSITE {\n\twsproxy %s {\n\t\theader_up X-Client {client_ip}\n\t}\n}\n", row.servers, u.addr()))
			s.open(t, "/", sent).Close(websocket.StatusNormalClosure, "")
			h := u.request().Header
			for name, want := range map[string]string{
				"X-Client": row.client, "X-Forwarded-For": row.forFor, "X-Forwarded-Proto": row.proto, "Forwarded": row.forwarded,
			} {
				if got := strings.Join(h[name], " | "); got != want {
					t.Errorf("the upstream got %s: %q, want %q", name, got, want)
				}
			}
			if got := s.record(t, "wsproxy: session ended")["client"]; strings.Split(got.(string), ":")[0] != row.client {
				t.Errorf("the record has the client %v, want %s", got, row.client)
			}
		})
	}
}

// header_up and header_down know Caddy's placeholders.
func TestHeaders(t *testing.T) {
	u := newUpstream(t, "a")
	s := start(t, `SITE {
	handle_path /app/* {
		wsproxy `+u.addr()+` {
			header_up Host {upstream_hostport}
			header_up X-Room {query.room}
			header_up -User-Agent
			header_up Cookie "(secret)=[^;]*" "$1=hidden"
			header_down -X-Secret
			header_down X-Upstream "^(.*)$" "is $1"
			header_down +X-Port {http.wsproxy.upstream.port}
		}
	}
}
`)
	_, port, _ := net.SplitHostPort(u.addr())
	for path, status := range map[string]int{"/app/chat?room=7": 101, "/app/refused?room=7": 418} {
		conn, resp, err := s.dial(t, path, http.Header{"Cookie": {"a=b; secret=1234"}, "User-Agent": {"me"}})
		if status == 101 {
			if err != nil {
				t.Fatal(err)
			}
			if err := echo(conn); err != nil {
				t.Error(err)
			}
		}
		if resp.StatusCode != status {
			t.Errorf("%s: got %d, want %d", path, resp.StatusCode, status)
		}
		if h := resp.Header; h.Get("X-Secret") != "" || h.Get("X-Upstream") != "is a" || h.Get("X-Port") != port {
			t.Errorf("%s: the client got %v", path, h)
		}
		r := u.request()
		want := map[string]string{"X-Room": "7", "User-Agent": "", "Cookie": "a=b; secret=hidden", "X-Forwarded-Host": "127.0.0.1:" + s.port}
		for name, value := range want {
			if got := r.Header.Get(name); got != value {
				t.Errorf("%s: the upstream got %s: %q, want %q", path, name, got, value)
			}
		}
		if path, _, _ := strings.Cut(strings.TrimPrefix(path, "/app"), "?"); r.Host != u.addr() || r.URL.Path != path {
			t.Errorf("the upstream got %s%s, want %s%s", r.Host, r.URL.Path, u.addr(), path)
		}
	}
}

// Requests that do not ask for a WebSocket go to the next handler, as they came.
func TestNext(t *testing.T) {
	u := newUpstream(t, "a")
	s := start(t, `SITE {
	route {
		wsproxy `+u.addr()+`
		rewrite * /new?from={http.request.uri.path}
		respond "{http.request.uri} {http.request.header.Upgrade} {http.request.header.X-Forwarded-For}" 203
	}
}
`)
	s.open(t, "/chat", nil)
	resp, body := s.get(t, "/old", http.Header{"Upgrade": {"h9"}, "Connection": {"upgrade"}, "X-Forwarded-For": {"1.2.3.4"}})
	if resp.StatusCode != 203 || body != "/new?from=%2Fold h9 1.2.3.4" {
		t.Errorf("got %d %q, want 203 and what the next handler sees of the request", resp.StatusCode, body)
	}
}

// What the proxy refuses itself is an error for Caddy, with its handle_errors.
func TestErrors(t *testing.T) {
	nobody := "127.0.0.1:" + freePort(t)
	site := "SITE {\n\twsproxy " + nobody + "\n\t%s\n}\n"
	s := start(t, fmt.Sprintf(site, "handle_errors {\n\t\trespond \"sorry: {err.status_code}\" {err.status_code}\n\t}"))
	for _, row := range []struct {
		origin string
		status int
	}{{"", 502}, {"https://evil.example", 403}} {
		header := http.Header{"Upgrade": {"websocket"}, "Connection": {"Upgrade"}, "Sec-Websocket-Version": {"13"}, "Sec-Websocket-Key": {"dGhlIHNhbXBsZSBub25jZQ=="}}
		if row.origin != "" {
			header.Set("Origin", row.origin)
		}
		resp, body := s.get(t, "/", header)
		if resp.StatusCode != row.status || body != fmt.Sprintf("sorry: %d", row.status) || !resp.Close {
			t.Errorf("got %d %q, connection closed: %v, want %d from handle_errors, and closed", resp.StatusCode, body, resp.Close, row.status)
		}
		if row.status == 502 && resp.Header.Get("Retry-After") == "" {
			t.Error("no Retry-After with the 502")
		}
	}
	s.record(t, "wsproxy: handshake failed")
	s.reload(t, fmt.Sprintf(site, ""))
	if _, resp, err := s.dial(t, "/", nil); err == nil || resp.StatusCode != 502 {
		t.Errorf("without handle_errors: got %v, want 502", err)
	}
}

// The access log has the handshake with its status, and the session's length.
// Records go to the log of the newest configuration.
func TestLogs(t *testing.T) {
	u := newUpstream(t, "a")
	site := "{\n\tGLOBAL\n\tlog sessions {\n\t\toutput file %s\n\t\tinclude http.handlers.wsproxy\n\t}\n}\nSITE {\n\tlog {\n\t\toutput file access.log\n\t}\n\twsproxy " + u.addr() + "\n}\n"
	s := start(t, fmt.Sprintf(site, "first.log"))
	conn := s.open(t, "/", nil)
	s.reload(t, fmt.Sprintf(site, "second.log"))
	if err := echo(conn); err != nil {
		t.Fatal(err)
	}
	conn.Close(websocket.StatusNormalClosure, "")
	contains := func(name string, parts ...string) func() bool {
		return func() bool {
			b, err := os.ReadFile(filepath.Join(s.dir, name))
			for _, part := range parts {
				if err != nil || !strings.Contains(string(b), part) {
					return false
				}
			}
			return true
		}
	}
	eventually(t, "the record in the second log", contains("second.log", `"msg":"wsproxy: session ended"`, `"logger":"http.handlers.wsproxy"`, `"from_client":{"frames":3,"messages":2,`))
	eventually(t, "the access log", contains("access.log", `"status":101`))
	if contains("first.log", "session ended")() {
		t.Error("the record is in the first log as well")
	}
}

// The metrics are with Caddy's own, also after a reload.
func TestMetrics(t *testing.T) {
	u := newUpstream(t, "a")
	site := "SITE {\n\twsproxy /a " + u.addr() + " {\n\t\tname chat\n\t}\n\twsproxy /b " + u.addr() + "\n\twsproxy /c " + u.addr() + "\n\twsproxy /d " + u.addr() + " {\n\t\tdetach\n\t}\n\t%s\n}\n"
	s := start(t, fmt.Sprintf(site, ""))
	for _, path := range []string{"/a", "/b", "/c", "/d"} {
		s.open(t, path, nil)
	}
	for range 2 {
		_, text := get(t, "http://"+s.admin+"/metrics", http.Header{"Origin": {"http://" + s.admin}})
		for _, want := range []string{
			`wsproxy_sessions{proxy="chat"} 1`,
			fmt.Sprintf("wsproxy_sessions{proxy=%q} 2", u.addr()), // two handlers with one configuration
			fmt.Sprintf("wsproxy_sessions{proxy=%q} 1", u.addr()+" #2"),
		} {
			if !strings.Contains(text, want+"\n") {
				t.Errorf("the metrics do not have %s", want)
			}
		}
		s.reload(t, fmt.Sprintf(site, "header X-A b"))
	}
}

// The proxy gets the connection itself, not the one that counts for the access
// log, and the log has the status.
func TestHijack(t *testing.T) {
	type result struct {
		own    bool
		status int
	}
	results := make(chan result, 1)
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		recorder := caddyhttp.NewResponseRecorder(w, nil, nil)
		conn, buf, err := (&writer{recorder, r}).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close()
		_, own := conn.(*net.TCPConn)
		fmt.Fprintf(conn, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n", buf.Reader.Buffered())
		results <- result{own, recorder.Status()}
	}))
	server.Config.ConnContext = connContext
	server.Start()
	defer server.Close()
	conn, err := net.Dial("tcp", server.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	io.WriteString(conn, "GET / HTTP/1.1\r\nHost: a\r\n\r\nearly bytes")
	if got := <-results; !got.own || got.status != 101 {
		t.Errorf("got the connection itself: %v, status %d; want true and 101", got.own, got.status)
	}
	b, err := io.ReadAll(conn)
	if want := "HTTP/1.1 200 OK\r\nContent-Length: 11\r\n\r\n"; err != nil || string(b) != want {
		t.Errorf("got %q, %v, want %q alone", b, err, want)
	}
	// Without the hook of the server, there is what Caddy has.
	if _, _, err := (&writer{httptest.NewRecorder(), httptest.NewRequestWithContext(context.Background(), "GET", "/", nil)}).Hijack(); err == nil {
		t.Error("no error where hijacking is not supported")
	}
}
