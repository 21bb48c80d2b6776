package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
)

// Each key of a route has its effect. Each case adds one line to a minimal
// config.
func TestRouteKeys(t *testing.T) {
	header := func(pairs ...string) http.Header {
		h := make(http.Header)
		for i := 0; i < len(pairs); i += 2 {
			h.Set(pairs[i], pairs[i+1])
		}
		return h
	}
	refused := func(header http.Header, want int) func(*testing.T, *instance, *upstream) {
		return func(t *testing.T, in *instance, _ *upstream) {
			if _, status, err := tryDial(t, in.url(t, "/"), header); err == nil || status != want {
				t.Errorf("got status %d, %v, want %d", status, err, want)
			}
		}
	}
	second := func(want int) func(*testing.T, *instance, *upstream) {
		return func(t *testing.T, in *instance, _ *upstream) {
			dial(t, in.url(t, "/"), nil).echo(t)
			refused(nil, want)(t, in, nil)
		}
	}
	ends := func(bytes int, want websocket.StatusCode) func(*testing.T, *instance, *upstream) {
		return func(t *testing.T, in *instance, _ *upstream) {
			c := dial(t, in.url(t, "/"), nil)
			for range 3 {
				if bytes > 0 {
					c.Write(t.Context(), websocket.MessageBinary, make([]byte, bytes))
				}
			}
			if got := c.ended(t); got != want {
				t.Errorf("got Close %d, want %d", got, want)
			}
		}
	}
	seen := func(sent http.Header, name, want string) func(*testing.T, *instance, *upstream) {
		return func(t *testing.T, in *instance, u *upstream) {
			dial(t, in.url(t, "/"), sent)
			r := u.last(t)
			got := r.Header.Get(name)
			if name == "Host" {
				got = r.Host
			}
			if got != want {
				t.Errorf("the upstream has seen %s %q, want %q", name, got, want)
			}
		}
	}
	const page = "https://app.example.com"
	for _, test := range []struct {
		line string
		test func(t *testing.T, in *instance, u *upstream)
	}{
		{"", func(t *testing.T, in *instance, _ *upstream) { dial(t, in.url(t, "/"), nil).echo(t) }},
		{`ping = { interval = "50ms" }`, func(t *testing.T, in *instance, u *upstream) {
			c := dial(t, in.url(t, "/"), nil)
			c.CloseRead(t.Context()) // which answers the Pings to it
			eventually(t, "a Ping at the upstream", func() bool {
				u.mu.Lock()
				defer u.mu.Unlock()
				return u.pings > 0
			})
		}},
		{"ping = { interval = \"0s\" }\nping_upstream = { interval = \"50ms\" }", func(t *testing.T, in *instance, u *upstream) {
			dial(t, in.url(t, "/"), nil)
			eventually(t, "a Ping at the upstream", func() bool {
				u.mu.Lock()
				defer u.mu.Unlock()
				return u.pings > 0
			})
		}},
		{`idle_timeout = "100ms"`, ends(0, websocket.StatusGoingAway)},
		{`max_age = "100ms"`, ends(0, websocket.StatusGoingAway)},
		{"", refused(header("Origin", page), http.StatusForbidden)},
		{`origins = ["app.example.com"]`, seen(header("Origin", page), "Origin", page)},
		{`origins = ["other.example.com"]`, refused(header("Origin", page), http.StatusForbidden)},
		{"any_origin = true", seen(header("Origin", page), "Origin", page)},
		{"", seen(header("X-Forwarded-For", "192.0.2.1"), "X-Forwarded-For", "127.0.0.1")},
		{`trusted_proxies = ["127.0.0.0/8"]`, seen(header("X-Forwarded-For", "192.0.2.1"), "X-Forwarded-For", "192.0.2.1, 127.0.0.1")},
		{"", seen(header("Host", "there.example"), "Host", "there.example")},
		{`host = "chat.internal"`, seen(nil, "Host", "chat.internal")},
		{`via = "gateway"`, seen(header("Via", "1.1 a"), "Via", "1.1 a, 1.1 gateway")},
		{`via = "gateway"`, refused(header("Via", "1.1 gateway"), http.StatusLoopDetected)},
		{`via = ""`, seen(nil, "Via", "")},
		{"target_path = true", func(t *testing.T, in *instance, u *upstream) {
			dial(t, in.url(t, "/any/where"), nil)
			if got := u.last(t).URL.Path; got != "/" {
				t.Errorf("the upstream is asked for %s, want its own path", got)
			}
		}},
		{`set_headers = { x-tenant = "blue" }`, seen(header("X-Tenant", "red"), "X-Tenant", "blue")},
		{`answer_headers = { set = { x-served-by = "blue" }, remove = ["x-powered-by"] }`, func(t *testing.T, in *instance, _ *upstream) {
			h := dial(t, in.url(t, "/"), nil).header
			if h.Get("X-Served-By") != "blue" || h.Values("X-Powered-By") != nil {
				t.Errorf("the client has seen %v, want X-Served-By: blue and no X-Powered-By", h)
			}
		}},
		{"", func(t *testing.T, in *instance, _ *upstream) {
			if h := dial(t, in.url(t, "/"), nil).header; h.Get("X-Powered-By") != "u" {
				t.Errorf("the client has seen %v, want the upstream's X-Powered-By", h)
			}
		}},
		{`resume = "20s"`, func(t *testing.T, in *instance, u *upstream) {
			c := dial(t, in.url(t, "/"), nil)
			c.echo(t)
			u.leave()
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			if _, name, err := c.Read(ctx); err != nil || string(name) != "u" { // as upstreams greet every client
				t.Fatalf("after its upstream has left, the client got %q, %v, want the greeting of the next connection", name, err)
			}
			c.echo(t)
		}},
		{`compression = { client = { mode = "no_context_takeover", threshold = 10 } }`, func(t *testing.T, in *instance, u *upstream) {
			c, err := dialCompressed(t, in.url(t, "/"))
			if err != nil {
				t.Fatal(err)
			}
			if got := c.header.Get("Sec-WebSocket-Extensions"); !strings.HasPrefix(got, "permessage-deflate") {
				t.Errorf("the client was promised %q, want permessage-deflate", got)
			}
			if got := u.last(t).Header.Get("Sec-WebSocket-Extensions"); got != "" {
				t.Errorf("the upstream was offered %q, want nothing", got)
			}
			c.echo(t)
		}},
		{`compression = { client = { mode = "disabled" } }`, func(t *testing.T, in *instance, u *upstream) {
			c, err := dialCompressed(t, in.url(t, "/"))
			if err != nil {
				t.Fatal(err)
			}
			if got := c.header.Get("Sec-WebSocket-Extensions") + u.last(t).Header.Get("Sec-WebSocket-Extensions"); got != "" {
				t.Errorf("somebody saw %q, want no extensions", got)
			}
			c.echo(t)
		}},
		{"", func(t *testing.T, in *instance, u *upstream) {
			c, err := dialCompressed(t, in.url(t, "/"))
			if err != nil {
				t.Fatal(err)
			}
			if got := u.last(t).Header.Get("Sec-WebSocket-Extensions"); got == "" {
				t.Error("the upstream was offered no extensions, want the client's")
			}
			c.echo(t)
		}},
		{"max_sessions = 1", second(http.StatusServiceUnavailable)},
		{"max_sessions_per_client = 1", second(http.StatusTooManyRequests)},
		{"max_message_size = { client = 99 }", ends(100, websocket.StatusMessageTooBig)},
		{"max_message_size = { upstream = 99 }", ends(100, websocket.StatusGoingAway)},
		{"max_frame_size = { client = 99 }", ends(100, websocket.StatusMessageTooBig)},
		{"max_frame_size = { upstream = 99 }", ends(100, websocket.StatusGoingAway)},
		{"rate_limit = { client = { messages = 1, close = true } }", ends(1, websocket.StatusPolicyViolation)},
		{`rate_limit = { upstream = { bytes = 100, burst = "2s", close = true } }`, ends(200, websocket.StatusGoingAway)},
		{`health_check = { path = "/well", interval = "50ms", headers = { x-who = "gateway" } }`, func(t *testing.T, in *instance, u *upstream) {
			eventually(t, "a check", func() bool {
				u.mu.Lock()
				defer u.mu.Unlock()
				return len(u.requests) > 0
			})
			if r := u.last(t); r.URL.Path != "/well" || r.Header.Get("X-Who") != "gateway" {
				t.Errorf("got a check of %s with X-Who %q, want /well and gateway", r.URL.Path, r.Header.Get("X-Who"))
			}
		}},
		{"detach = true", func(t *testing.T, in *instance, _ *upstream) {
			c := dial(t, in.url(t, "/"), nil)
			eventually(t, "ServeHTTP returned", func() bool {
				stacks := make([]byte, 1<<20)
				return !bytes.Contains(stacks[:runtime.Stack(stacks, true)], []byte("wsproxy.(*Proxy).ServeHTTP("))
			})
			c.echo(t)
		}},
	} {
		t.Run(test.line, func(t *testing.T) {
			u := newUpstream(t, "u")
			in := start(t, fmt.Sprintf("[[route]]\npath = \"/\"\ntarget = %q\n%s\n", u.URL, test.line))
			test.test(t, in, u)
		})
	}
}

// Keys about upstreams that do not answer.
func TestTimeouts(t *testing.T) {
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	t.Run("handshake_timeout", func(t *testing.T) {
		in := start(t, fmt.Sprintf("[[route]]\npath = \"/\"\ntarget = \"http://%v\"\nhandshake_timeout = \"100ms\"\n", silent.Addr()))
		if _, status, err := tryDial(t, in.url(t, "/"), nil); status != http.StatusGatewayTimeout {
			t.Errorf("got status %d, %v, want 504", status, err)
		}
	})
	t.Run("max_handshakes", func(t *testing.T) {
		in := start(t, fmt.Sprintf("[[route]]\npath = \"/\"\ntarget = \"http://%v\"\nmax_handshakes = 1\n", silent.Addr()))
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		url := in.url(t, "/")
		go func() {
			defer close(done)
			websocket.Dial(ctx, url, nil)
		}()
		eventually(t, "a handshake under way", func() bool { return in.stats().Routes[0].Handshakes == 1 })
		if _, status, err := tryDial(t, url, nil); status != http.StatusServiceUnavailable {
			t.Errorf("got status %d, %v, want 503", status, err)
		}
		cancel()
		<-done
	})
	// These continue the session but answer nothing.
	deaf := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		conn, err := websocket.Accept(w, r, nil)
		if err != nil {
			return
		}
		conn.Write(r.Context(), websocket.MessageText, []byte("deaf"))
		<-t.Context().Done()
		conn.CloseNow()
	}))
	t.Cleanup(deaf.Close)
	t.Run("close_timeout", func(t *testing.T) {
		in := start(t, fmt.Sprintf("[[route]]\npath = \"/\"\ntarget = %q\nclose_timeout = \"50ms\"\nwrite_timeout = \"100ms\"\n", deaf.URL))
		c := dial(t, in.url(t, "/"), nil)
		began := time.Now()
		go c.Close(websocket.StatusNormalClosure, "")
		eventually(t, "the session's end", func() bool { return in.stats().Open == 0 })
		if took := time.Since(began); took > 4*time.Second { // 5 s by default
			t.Errorf("the end took %v", took)
		}
	})
	t.Run("write_timeout", func(t *testing.T) {
		in := start(t, fmt.Sprintf("[[route]]\npath = \"/\"\ntarget = %q\nwrite_timeout = \"300ms\"\nclose_timeout = \"50ms\"\n", deaf.URL))
		c := dial(t, in.url(t, "/"), nil)
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		for range 1000 { // up to 1 GB, of which the kernel takes a few MB
			if c.Write(ctx, websocket.MessageBinary, make([]byte, 1<<20)) != nil {
				break
			}
		}
		eventually(t, "the upstream given up", func() bool {
			return in.stats().Routes[0].Ended["lost by upstream"] == 1
		})
	})
}

// A request that is not a WebSocket handshake gets the proxy's own refusal, and
// a path without a route that of the mux.
func TestPlainHTTP(t *testing.T) {
	u := newUpstream(t, "u")
	in := start(t, fmt.Sprintf("[[route]]\npath = \"/chat/\"\ntarget = %q\n", u.URL))
	base := strings.Replace(in.url(t, ""), "ws:", "http:", 1)
	for path, want := range map[string]int{"/chat/": http.StatusUpgradeRequired, "/": http.StatusNotFound} {
		resp, err := http.Get(base + path)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != want {
			t.Errorf("GET %s: got %s, want %d", path, resp.Status, want)
		}
	}
	if _, status, _ := tryDial(t, in.url(t, "/other"), nil); status != http.StatusNotFound {
		t.Errorf("a WebSocket to no route: got status %d, want 404", status)
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	if len(u.requests) > 0 {
		t.Errorf("the upstream has had %d requests, want none", len(u.requests))
	}
}

// Routes are selected by path and by host.
func TestRoutes(t *testing.T) {
	a, b, c := newUpstream(t, "a"), newUpstream(t, "b"), newUpstream(t, "c")
	in := start(t, fmt.Sprintf(`[[route]]
path = "/"
target = %q
[[route]]
path = "/rooms/{room}/ws"
target = %q
[[route]]
path = "there.example/"
target = %q
`, a.URL, b.URL, c.URL))
	for _, test := range []struct{ path, host, want string }{
		{"/", "", "a"}, {"/rooms/1/x", "", "a"}, {"/rooms/1/ws", "", "b"}, {"/", "there.example", "c"},
	} {
		if got := dial(t, in.url(t, test.path), http.Header{"Host": {test.host}}).name; got != test.want {
			t.Errorf("%s%s is with %s, want %s", test.host, test.path, got, test.want)
		}
	}
}

// TLS on both sides: a certificate of the gateway's, upstreams' certificates,
// and a client certificate that they require.
func TestTLS(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"front", "other", "client"} {
		writeCertificate(t, dir, name, "127.0.0.1")
	}
	writeCertificate(t, dir, "up", "chat.internal")
	pool := func(name string) *x509.CertPool {
		pem, err := os.ReadFile(filepath.Join(dir, name+".pem"))
		if err != nil {
			t.Fatal(err)
		}
		p := x509.NewCertPool()
		p.AppendCertsFromPEM(pem)
		return p
	}
	pair, err := tls.LoadX509KeyPair(filepath.Join(dir, "up.pem"), filepath.Join(dir, "up.key"))
	if err != nil {
		t.Fatal(err)
	}
	u := &upstream{name: "u"}
	u.Server = httptest.NewUnstartedServer(u)
	u.TLS = &tls.Config{Certificates: []tls.Certificate{pair}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: pool("client")}
	u.Config.ErrorLog = log.New(io.Discard, "", 0) // of those that fail on purpose
	u.StartTLS()
	t.Cleanup(u.stop)

	const route = `[tls]
listen = ["127.0.0.1:0"]
certificates = [{ cert = "%[1]s/front.pem", key = "%[1]s/front.key" }]
[[route]]
path = "/"
target = %[2]q
upstream_tls = { ca = "%[1]s/up.pem", cert = "%[1]s/client.pem", key = "%[1]s/client.key", server_name = "chat.internal" }
[[route]]
path = "/unknown-authority"
target = %[2]q
upstream_tls = { cert = "%[1]s/client.pem", key = "%[1]s/client.key", server_name = "chat.internal" }
[[route]]
path = "/wrong-name"
target = %[2]q
upstream_tls = { ca = "%[1]s/up.pem", cert = "%[1]s/client.pem", key = "%[1]s/client.key" }
[[route]]
path = "/insecure"
target = %[2]q
upstream_tls = { insecure_skip_verify = true, cert = "%[1]s/client.pem", key = "%[1]s/client.key" }
[[route]]
path = "/no-certificate"
target = %[2]q
upstream_tls = { ca = "%[1]s/up.pem", server_name = "chat.internal" }
`
	in := start(t, fmt.Sprintf(route, dir, u.URL))
	front := in.address(t, func(a address) bool { return a.tls })
	dialTLS := func(path, authority string) error {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool(authority)}}}
		conn, _, err := websocket.Dial(ctx, "wss://"+front+path, &websocket.DialOptions{HTTPClient: client})
		if err == nil {
			conn.CloseNow()
		}
		return err
	}
	for path, well := range map[string]bool{"/": true, "/unknown-authority": false, "/wrong-name": false, "/insecure": true, "/no-certificate": false} {
		if err := dialTLS(path, "front"); (err == nil) != well {
			t.Errorf("%s: %v, want that to be well: %v", path, err, well)
		}
	}
	if err := dialTLS("/", "other"); err == nil {
		t.Error("a client that doesn't know the gateway's authority got in")
	}
	// Another certificate, after a change of the config.
	if err := in.rewrite(t, strings.ReplaceAll(fmt.Sprintf(route, dir, u.URL), "front", "other")); err != nil {
		t.Fatal(err)
	}
	if got := in.address(t, func(a address) bool { return a.tls }); got != front {
		t.Errorf("TLS is at %s now, was at %s", got, front)
	}
	if err := dialTLS("/", "other"); err != nil {
		t.Errorf("with another certificate: %v", err)
	}
	// A replaced client certificate needs no reload.
	writeCertificate(t, dir, "client", "127.0.0.1")
	if err := dialTLS("/", "other"); err == nil {
		t.Error("the upstream has taken a client certificate that it doesn't know: is the old one still shown?")
	}
}

// Unix sockets on both sides, one of them left behind by a dead process.
func TestUnixSockets(t *testing.T) {
	dir := t.TempDir()
	front, back := filepath.Join(dir, "front"), filepath.Join(dir, "back")
	left, err := net.Listen("unix", front)
	if err != nil {
		t.Fatal(err)
	}
	left.(*net.UnixListener).SetUnlinkOnClose(false)
	left.Close()
	ln, err := net.Listen("unix", back)
	if err != nil {
		t.Fatal(err)
	}
	u := &upstream{name: "u"}
	server := &http.Server{Handler: u}
	go server.Serve(ln)
	defer server.Close()
	in := start(t, fmt.Sprintf("[[route]]\npath = \"/\"\ntarget = \"unix:%s\"\ntrusted_proxies = [\"10.0.0.0/8\", \"unix:\"]\n", back))
	text, err := os.ReadFile(in.file)
	if err != nil {
		t.Fatal(err)
	}
	writeFile(t, filepath.Dir(in.file), "wsproxy.toml", strings.Replace(string(text), `["127.0.0.1:0"]`, `["unix:`+front+`"]`, 1))
	c, err := load(in.file)
	if err != nil {
		t.Fatal(err)
	}
	if err := in.apply(c); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	client := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", front)
	}}}
	conn, _, err := websocket.Dial(ctx, "ws://localhost/", &websocket.DialOptions{HTTPClient: client, HTTPHeader: http.Header{
		"X-Forwarded-For": {"192.0.2.1"}, "X-Forwarded-Proto": {"https"}, "Origin": {"https://localhost"}}})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.CloseNow()
	if _, name, err := conn.Read(ctx); string(name) != "u" {
		t.Errorf("got %q, %v, want u", name, err)
	}
	if got := u.last(t).Header.Get("X-Forwarded-For"); got != "192.0.2.1" {
		t.Errorf("the upstream has seen X-Forwarded-For %q, want what was said over the socket", got)
	}
	// But a socket that is in use is not replaced.
	if _, err := listen(address{network: "unix", text: front}); err == nil {
		t.Error("two listen on one socket")
	}
}
