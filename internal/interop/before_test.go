//go:build linux

package interop

import (
	"context"
	"crypto/tls"
	"maps"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/seed-ffb73231/wsproxy"
	"github.com/seed-ffb73231/wsproxy/internal/wstest"
)

// nginxUpstream configures nginx in front of an echo server at ECHO. It refuses
// the paths below /refused; the last one answers with the names in the TLS
// handshake.
const nginxUpstream = `
server_name upstream.example;
location / {
  proxy_pass http://ECHO;
  proxy_http_version 1.1;
  proxy_set_header Upgrade $http_upgrade;
  proxy_set_header Connection "upgrade";
  proxy_set_header Host $http_host;
}
location /refused/dead { proxy_pass http://127.0.0.1:1; }
location /refused/missing { return 404; }
location /refused/forbidden { deny all; }
location /refused/tls {
  default_type text/plain;
  return 403 "asked for $ssl_server_name by $ssl_client_s_dn";
}
`

const haproxyUpstream = `
  http-request deny deny_status 403 if { path /refused/forbidden }
  use_backend dead if { path /refused/dead }
  default_backend echo
backend echo
  server echo ECHO
backend dead
  server dead 127.0.0.1:1
`

// TestBefore has two peers talk through the proxy and an upstream that is
// itself a proxy. Its refusals must be relayed unchanged, including the page.
func TestBefore(t *testing.T) {
	a := wstest.NewAuthority()
	cert, root := files(t, a, "upstream.example")
	verify := &tls.Config{RootCAs: a.Pool()}
	identify := verify.Clone()
	identify.ServerName = "upstream.example" // for it is dialled by address
	identify.Certificates = []tls.Certificate{a.Issue("the proxy")}

	nginxRefuses := map[string]refusal{
		"dead":      {502, "<center>nginx", "upstream", "answer"},
		"missing":   {404, "<center>nginx", "upstream", "answer"},
		"forbidden": {403, "<center>nginx", "upstream", "answer"},
	}
	with := func(path, body string) map[string]refusal {
		all := map[string]refusal{path: {403, body, "upstream", "answer"}}
		maps.Copy(all, nginxRefuses)
		return all
	}
	for _, c := range []struct {
		name    string
		program program
		conf    string
		target  string
		tls     *tls.Config
		refuses map[string]refusal
	}{
		{"nginx", nginx, "listen LISTEN;" + nginxUpstream, "http://ADDR", &tls.Config{}, nginxRefuses},
		// http2 is what the proxy must not let itself be talked into.
		{"nginx, TLS", nginx, "listen LISTEN ssl http2; ssl_certificate CERT; ssl_certificate_key CERT;" + nginxUpstream,
			"https://upstream.example", verify, with("tls", "asked for upstream.example by ")},
		{"nginx, client certificate", nginx, "listen LISTEN ssl; ssl_certificate CERT; ssl_certificate_key CERT;" +
			"ssl_verify_client on; ssl_client_certificate ROOT;" + nginxUpstream,
			"https://ADDR", identify, with("tls", "asked for upstream.example by CN=the proxy")},
		{"haproxy", haproxy, "frontend front\n  bind LISTEN" + haproxyUpstream, "http://ADDR", &tls.Config{}, map[string]refusal{
			"dead":      {503, "No server is available", "upstream", "answer"},
			"forbidden": {403, "Request forbidden by administrative rules", "upstream", "answer"},
		}},
		{"haproxy, client certificate", haproxy, "frontend front\n" +
			"  bind LISTEN ssl crt CERT ca-file ROOT verify required alpn h2,http/1.1" + haproxyUpstream,
			"https://ADDR", identify, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			p := &pair{client: gorilla{}, upstream: &upstream{peer: coder{}}}
			echo := p.upstream.listen(t, p.upstream.arrived)
			d := c.program.start(t, c.conf, "ECHO", strings.TrimPrefix(echo, "http://"), "CERT", cert, "ROOT", root)
			dial := func(ctx context.Context, network, _ string) (net.Conn, error) {
				return new(net.Dialer).DialContext(ctx, network, d.addr) // whatever its name
			}
			p.front = newFront(t, strings.Replace(c.target, "ADDR", d.addr, 1), false,
				wsproxy.WithTLSConfig(c.tls), wsproxy.WithDialContext(dial))
			p.test(t)
			p.front.wantRefused(t, c.refuses)
		})
	}
}

// TestBeforeTLS: an upstream that the proxy cannot verify, or that requires
// another client certificate, gets no session.
func TestBeforeTLS(t *testing.T) {
	a, other := wstest.NewAuthority(), wstest.NewAuthority()
	cert, root := files(t, a, "upstream.example")
	stranger := other.Issue("a stranger")
	const name = "upstream.example"
	present := func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &stranger, nil }

	nginxTLS := "listen LISTEN ssl; ssl_certificate CERT; ssl_certificate_key CERT;" + nginxUpstream
	nginxAsks := nginxTLS + "ssl_verify_client on; ssl_client_certificate ROOT;"
	haproxyAsks := "frontend front\n  bind LISTEN ssl crt CERT ca-file ROOT verify required" + haproxyUpstream
	for _, c := range []struct {
		name    string
		program program
		conf    string
		tls     *tls.Config
		want    refusal
	}{
		{"nginx by another name", nginx, nginxTLS, &tls.Config{RootCAs: a.Pool(), ServerName: "other.example"},
			refusal{502, "Bad Gateway", "upstream", "tls"}},
		{"nginx by its address", nginx, nginxTLS, &tls.Config{RootCAs: a.Pool()},
			refusal{502, "Bad Gateway", "upstream", "tls"}},
		{"nginx by another authority", nginx, nginxTLS, &tls.Config{RootCAs: other.Pool(), ServerName: name},
			refusal{502, "Bad Gateway", "upstream", "tls"}},
		// nginx completes the TLS handshake and refuses the request.
		{"nginx without a client certificate", nginx, nginxAsks, &tls.Config{RootCAs: a.Pool(), ServerName: name},
			refusal{400, "No required SSL certificate was sent", "upstream", "answer"}},
		{"nginx with a stranger's", nginx, nginxAsks, &tls.Config{RootCAs: a.Pool(), ServerName: name, GetClientCertificate: present},
			refusal{400, "The SSL certificate error", "upstream", "answer"}},
		// HAProxy refuses the TLS handshake. In TLS 1.3, the client's side of
		// it is complete by then.
		{"haproxy without a client certificate", haproxy, haproxyAsks, &tls.Config{RootCAs: a.Pool(), ServerName: name},
			refusal{502, "Bad Gateway", "upstream", "answer"}},
		{"haproxy without a client certificate, TLS 1.2", haproxy, haproxyAsks, &tls.Config{RootCAs: a.Pool(), ServerName: name, MaxVersion: tls.VersionTLS12},
			refusal{502, "Bad Gateway", "upstream", "tls"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			d := c.program.start(t, c.conf, "ECHO", "127.0.0.1:1", "CERT", cert, "ROOT", root)
			f := newFront(t, "https://"+d.addr, false, wsproxy.WithTLSConfig(c.tls))
			f.wantRefused(t, map[string]refusal{"": c.want})
		})
	}
}

// A refusal is the client's answer in place of a session, and the proxy's log
// record of it.
type refusal struct {
	status   int
	body     string // some of it
	side, op string
}

// wantRefused makes handshakes for paths below [refused].
func (f *front) wantRefused(t *testing.T, refusals map[string]refusal) {
	t.Helper()
	for path, want := range refusals {
		path = refused + path
		a := f.ask(t, path, http.Header{"Origin": {f.origin}})
		r := f.record(t, path)
		if a.status != want.status || !strings.Contains(a.body, want.body) {
			t.Errorf("%s is answered %d %q, want %d with %q", path, a.status, a.body, want.status, want.body)
		}
		if r.status != want.status || r.side != want.side || r.op != want.op {
			t.Errorf("the proxy says of %s: %d in %s %s, want %d in %s %s", path, r.status, r.side, r.op, want.status, want.side, want.op)
		}
	}
}
