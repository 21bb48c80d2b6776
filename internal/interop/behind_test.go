//go:build linux

package interop

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/seed-ffb73231/wsproxy"
	"github.com/seed-ffb73231/wsproxy/internal/wstest"
)

// A tlsEnd is a program that terminates TLS in front of the proxy. In its
// configuration, PROXY stands for the proxy's address and TIMEOUT for the time
// that a session may be silent.
type tlsEnd struct {
	program
	conf string
}

var tlsEnds = []tlsEnd{
	{nginx, nginxTLS(`
proxy_set_header Host $http_host;
proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
proxy_set_header X-Forwarded-Proto $scheme;
proxy_set_header X-Forwarded-Host $http_host;
`)},
	{haproxy, `
frontend front
  bind LISTEN ssl crt CERT
  timeout client TIMEOUT
  option forwardfor
  http-request set-header X-Forwarded-Proto https
  http-request set-header X-Forwarded-Host %[req.hdr(host)]
  http-request del-header X-Forwarded-Port
  default_backend back
backend back
  timeout server TIMEOUT
  timeout tunnel TIMEOUT
  server proxy PROXY
`},
}

func nginxTLS(fields string) string {
	return `
listen LISTEN ssl;
ssl_certificate CERT; ssl_certificate_key CERT;
location / {
  proxy_pass http://PROXY;
  proxy_http_version 1.1;
  proxy_set_header Upgrade $http_upgrade;
  proxy_set_header Connection "upgrade";
  proxy_read_timeout TIMEOUT;
` + fields + `
}
`
}

// loopback is the address from which the TLS ends connect.
var loopback = netip.MustParsePrefix("127.0.0.1/32")

// newFront puts a proxy in front of an upstream, and a TLS end in front of the
// proxy.
func (e tlsEnd) newFront(t *testing.T, upstream string, timeout time.Duration, options ...wsproxy.Option) (*front, *daemon) {
	t.Helper()
	a := wstest.NewAuthority()
	cert, _ := files(t, a, "127.0.0.1")
	f := newFront(t, upstream, false, options...)
	d := e.start(t, e.conf, "CERT", cert, "PROXY", strings.TrimPrefix(f.origin, "http://"),
		"TIMEOUT", strconv.FormatInt(timeout.Milliseconds(), 10)+"ms")
	f.url, f.origin, f.root = "wss://"+d.addr, "https://"+d.addr, a.Cert
	return f, d
}

// newPair has coder as the client and gorilla as the upstream.
func (e tlsEnd) newPair(t *testing.T, timeout time.Duration, options ...wsproxy.Option) (*pair, *daemon) {
	t.Helper()
	p := &pair{client: coder{}, upstream: &upstream{peer: gorilla{}}}
	p.upstream.url = p.upstream.listen(t, p.upstream.arrived)
	f, d := e.newFront(t, p.upstream.url, timeout, append(options, wsproxy.WithTrustedProxies(loopback))...)
	p.front = f
	return p, d
}

// TestBehind has two peers talk through a TLS end and the proxy behind it.
func TestBehind(t *testing.T) {
	for _, e := range tlsEnds {
		t.Run(e.name, func(t *testing.T) {
			t.Parallel()
			p, _ := e.newPair(t, limit)
			p.test(t)
		})
	}
}

// TestBehindOrigin: the origin is compared with the host that the client sees,
// not with the one between the TLS end and the proxy.
func TestBehindOrigin(t *testing.T) {
	const (
		proto   = "proxy_set_header X-Forwarded-Proto $scheme;"
		cutHost = proto + "proxy_set_header Host $host;"
		port    = "proxy_set_header X-Forwarded-Port $server_port;"
	)
	ends := map[string]tlsEnd{
		// By default nginx sets Host to the value in proxy_pass. Many manuals
		// set it to $host, which has no port.
		"nginx, X-Forwarded-Host": {nginx, nginxTLS(proto + "proxy_set_header X-Forwarded-Host $http_host;")},
		"nginx, X-Forwarded-Port": {nginx, nginxTLS(cutHost + port)},
		"nginx, both":             {nginx, nginxTLS(proto + port + "proxy_set_header X-Forwarded-Host $host;")},
		"nginx, no port":          {nginx, nginxTLS(cutHost)},
	}
	for _, e := range tlsEnds {
		ends[e.name] = e
	}
	for name, e := range ends {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f, d := e.newFront(t, mirror(t), limit, wsproxy.WithTrustedProxies(loopback))
			_, port, _ := net.SplitHostPort(d.addr)
			other := "1" // nobody has been given that one
			own := http.StatusSwitchingProtocols
			if name == "nginx, no port" {
				own = http.StatusForbidden
			}
			for origin, want := range map[string]int{
				f.origin:                      own,
				"http://" + d.addr:            http.StatusForbidden,
				"https://localhost:" + port:   http.StatusForbidden,
				"https://127.0.0.1:" + other:  http.StatusForbidden,
				"https://127.0.0.1." + d.addr: http.StatusForbidden,
				"null":                        http.StatusForbidden,
			} {
				if got := f.ask(t, refused, http.Header{"Origin": {origin}}); got.status != want {
					t.Errorf("Origin %s at %s is answered %d, want %d", origin, f.origin, got.status, want)
				}
			}
		})
	}
}

// TestBehindForwarding checks what the upstream and the proxy's log learn about
// the client.
func TestBehindForwarding(t *testing.T) {
	for _, e := range tlsEnds {
		t.Run(e.name, func(t *testing.T) {
			t.Parallel()
			f, d := e.newFront(t, mirror(t), limit, wsproxy.WithTrustedProxies(loopback))
			honest := http.Header{"Origin": {f.origin}}
			f.wantSeen(t, "/honest", honest, d.addr, "https", askerAddr+", 127.0.0.1")
			if r := f.record(t, "/honest"); r.client != askerAddr {
				t.Errorf("the proxy says that the client is %q, want %q", r.client, askerAddr)
			}

			// The list of addresses is extended, so that its end is reliable.
			// The other fields are overwritten.
			lying := maps.Clone(lies)
			lying["Origin"] = honest["Origin"]
			f.wantSeen(t, "/lying", lying, d.addr, "https", "198.51.100.7, "+askerAddr+", 127.0.0.1")
			if r := f.record(t, "/lying"); r.client != askerAddr {
				t.Errorf("the proxy says that the client is %q, want %q", r.client, askerAddr)
			}
			for _, origin := range []string{"http://lies.example", "https://lies.example", "http://lies.example:81", "https://127.0.0.1:81"} {
				lying["Origin"] = []string{origin}
				if got := f.ask(t, refused, lying); got.status != http.StatusForbidden {
					t.Errorf("Origin %s with forwarding fields to match is answered %d, want 403", origin, got.status)
				}
			}
		})
	}
}

// TestBehindUntrusted: forwarding fields of a TLS end that the proxy does not
// trust are ignored.
func TestBehindUntrusted(t *testing.T) {
	for _, e := range tlsEnds {
		t.Run(e.name, func(t *testing.T) {
			t.Parallel()
			f, d := e.newFront(t, mirror(t), limit)
			if got := f.ask(t, refused, http.Header{"Origin": {f.origin}}); got.status != http.StatusForbidden {
				t.Errorf("Origin %s, known from an untrusted proxy only, is answered %d, want 403", f.origin, got.status)
			}
			lying := maps.Clone(lies)
			lying["Origin"] = []string{"http://" + d.addr}
			f.wantSeen(t, "/", lying, d.addr, "http", "127.0.0.1")
			if r := f.record(t, "/"); !strings.HasPrefix(r.client, "127.0.0.1:") {
				t.Errorf("the proxy says that the client is %q, want the TLS end", r.client)
			}
		})
	}
}

// TestBehindSilence leaves a session silent for longer than the TLS end allows.
// The proxy's pings keep it alive; without them it is cut.
func TestBehindSilence(t *testing.T) {
	const (
		timeout = 2 * time.Second
		pings   = 200 * time.Millisecond // a tenth, for machines that get stuck
		count   = 25
	)
	for _, e := range tlsEnds {
		t.Run(e.name, func(t *testing.T) {
			t.Parallel()
			p, _ := e.newPair(t, timeout, wsproxy.WithPing(pings, limit))
			began := time.Now()
			s := p.open(t, false)
			s.awaitPings(count)
			if d := time.Since(began); d < 2*timeout {
				t.Fatalf("%d pings took %v: not long enough to prove anything", count, d)
			}
			s.exchange(text(100))
			s.close(s.client, 1000, "done")
		})
		t.Run(e.name+", no pings", func(t *testing.T) {
			t.Parallel()
			p, _ := e.newPair(t, timeout, wsproxy.WithPing(0, 0))
			s := p.open(t, false)
			s.exchange(text(100))
			s.wantLost()
		})
	}
}

// wantLost waits for the end of a session that the TLS end has cut.
func (s *session) wantLost() {
	s.t.Helper()
	s.wantEnd(s.client, closing{code: abnormal})
	s.wantEnd(s.upstream, closing{1001, "client lost"})
	r := s.pair.front.record(s.t, s.path)
	if r.by != "client" || r.reason != "lost" {
		s.t.Errorf("the proxy says %q by the %s, want \"lost\" by the client", r.reason, r.by)
	}
}

// wantEnd waits for the end of an end. With code 1006 the reason varies.
func (s *session) wantEnd(e *end, want closing) {
	s.t.Helper()
	got, err := e.awaitEnd(s.ctx)
	if err != nil {
		s.t.Fatalf("the %s has not come to its end: %v", e.role, err)
	}
	if got.code == abnormal {
		got.reason = ""
	}
	if got != want {
		s.t.Errorf("the %s has come to its end by %d %q, want %d %q", e.role, got.code, got.reason, want.code, want.reason)
	}
}

// TestBehindShutdown: the proxy's Shutdown reaches clients through the TLS end,
// and so does its refusal of new ones.
func TestBehindShutdown(t *testing.T) {
	for _, e := range tlsEnds {
		t.Run(e.name, func(t *testing.T) {
			t.Parallel()
			p, _ := e.newPair(t, limit)
			s := p.open(t, true)
			s.exchange(text(100))
			if err := p.front.proxy.Shutdown(s.ctx); err != nil {
				t.Errorf("Shutdown: %v", err)
			}
			for _, end := range s.ends() {
				s.wantEnd(end, closing{1001, "shutting down"})
			}
			if r := p.front.record(t, s.path); r.by != "proxy" || r.reason != "drained" {
				t.Errorf("the proxy says %q by the %s, want \"drained\" by the proxy", r.reason, r.by)
			}
			got := p.front.ask(t, refused, nil)
			if retry := got.header.Get("Retry-After"); got.status != http.StatusServiceUnavailable || retry == "" {
				t.Errorf("a handshake after Shutdown is answered %d with Retry-After %q, want 503 with some", got.status, retry)
			}
		})
	}
}

// TestBehindEnd stops the TLS end. On a graceful stop it accepts no new clients
// and keeps the session; when killed, it drops the client.
func TestBehindEnd(t *testing.T) {
	for _, e := range tlsEnds {
		t.Run(e.name, func(t *testing.T) {
			t.Parallel()
			p, d := e.newPair(t, limit)
			s := p.open(t, true)
			d.signal(t, e.quit)
			for {
				c, err := net.Dial("tcp", d.addr)
				if err != nil {
					break
				}
				c.Close()
				select {
				case <-s.ctx.Done():
					t.Fatalf("%s takes connections after signal %v", e.name, e.quit)
				case <-time.After(5 * time.Millisecond):
				}
			}
			s.exchange(text(100))
			d.kill()
			s.wantLost()
		})
	}
}

// mirror starts an upstream that sends each client the header of its request,
// including Host, as JSON. It accepts every origin.
func mirror(t *testing.T) string {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, err := websocket.Accept(w, r, &websocket.AcceptOptions{InsecureSkipVerify: true})
		if err != nil {
			t.Errorf("upstream's handshake: %v", err)
			return
		}
		defer c.CloseNow()
		r.Header.Set("Host", r.Host)
		data, _ := json.Marshal(r.Header) // of strings
		if err := c.Write(r.Context(), websocket.MessageText, data); err != nil {
			t.Errorf("upstream: %v", err)
		}
		_ = c.Close(websocket.StatusNormalClosure, "") // or the asker has gone
	}))
	t.Cleanup(server.Close)
	return server.URL
}

// askerAddr is the address from which ask connects: loopback, but not a TLS
// end's.
const askerAddr = "127.0.0.2"

// lies are the forwarding fields of a client that poses as another.
var lies = http.Header{
	"X-Forwarded-For":   {"198.51.100.7"},
	"X-Forwarded-Host":  {"lies.example"},
	"X-Forwarded-Proto": {"http"},
	"X-Forwarded-Port":  {"81"},
}

// An answer is the result of a handshake.
type answer struct {
	status int
	header http.Header
	body   string
	seen   http.Header // by a mirror
}

// ask makes a handshake and, if the upstream is a mirror, reads its message.
func (f *front) ask(t *testing.T, path string, header http.Header) answer {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	dialer := &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(askerAddr)}}
	transport := &http.Transport{DialContext: dialer.DialContext, TLSClientConfig: offer{root: f.root}.tlsConfig()}
	defer transport.CloseIdleConnections()
	c, resp, err := websocket.Dial(ctx, f.url+path, &websocket.DialOptions{
		HTTPClient: &http.Client{Transport: transport},
		HTTPHeader: header,
	})
	if resp == nil {
		t.Fatal(err)
	}
	a := answer{status: resp.StatusCode, header: resp.Header}
	if err != nil {
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Error(err)
		}
		a.body = string(body)
		return a
	}
	defer c.CloseNow()
	_, data, err := c.Read(ctx)
	if err == nil {
		err = json.Unmarshal(data, &a.seen)
	}
	if err != nil {
		t.Fatal(err)
	}
	var end websocket.CloseError
	if _, _, err := c.Read(ctx); !errors.As(err, &end) {
		t.Errorf("the mirror's Close has not come: %v", err)
	}
	return a
}

// wantSeen calls ask and checks what the mirror has seen.
func (f *front) wantSeen(t *testing.T, path string, header http.Header, host, proto, addrs string) {
	t.Helper()
	a := f.ask(t, path, header)
	if a.status != http.StatusSwitchingProtocols {
		t.Fatalf("answered %d %q, want 101", a.status, a.body)
	}
	for name, want := range map[string]string{
		"Host":              host,
		"X-Forwarded-For":   addrs,
		"X-Forwarded-Host":  host,
		"X-Forwarded-Proto": proto,
	} {
		if got := strings.Join(a.seen[name], " | "); got != want {
			t.Errorf("the upstream has got %s: %q, want %q", name, got, want)
		}
	}
}

// record is sessions.await for tests without a session.
func (f *front) record(t *testing.T, path string) record {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	r, err := f.sessions.await(ctx, path)
	if err != nil {
		t.Fatalf("the proxy has logged nothing of %s: %v", path, err)
	}
	return r
}
