//go:build linux

package zoo

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/http/httputil"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/seed-ffb73231/wsproxy"
)

// A way is what relays an animal's sessions: nginx or the proxy, each in four forms.
type way struct {
	name   string
	plain  form                            // with default time-outs
	secure form                            // wss, with a certificate of the private authority
	behind form                            // wss, terminated by HAProxy in front
	short  form                            // with time-outs shortened by scale
	drain  func(ctx context.Context) error // drains the way behind HAProxy; nil if it can't
}

// A form is an address that clients connect to.
type form struct {
	addr   string
	secure bool
}

func (f form) url(path string) string {
	if f.secure {
		return "wss://" + f.addr + path
	}
	return "ws://" + f.addr + path
}

func (f form) http(path string) string {
	if f.secure {
		return "https://" + f.addr + path
	}
	return "http://" + f.addr + path
}

// scale is the factor of the short form's time-outs: nginx's 60 s become 3 s.
const scale = 20

// silence is a quarter longer than nginx's time-out.
const silence = 75 * time.Second

// nginxConf has the four lines. SITE stands for what an animal needs besides.
const nginxConf = `
daemon off; user root; worker_processes 1; pid pid; error_log stderr info;
events {}
http {
  access_log off;
  client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path fastcgi;
  uwsgi_temp_path uwsgi; scgi_temp_path scgi;
  map $http_x_forwarded_proto $zoo_scheme { default $scheme; https https; }
  map $http_upgrade $connection_upgrade { default upgrade; '' close; }
  server {
    listen 127.0.0.1:PORT;
    listen 127.0.0.1:PORT2 ssl; ssl_certificate CERT; ssl_certificate_key CERT;
    location / { include block; }
  }
  server {
    listen 127.0.0.1:PORT3;
    location / { include block; proxy_read_timeout 3s; proxy_send_timeout 3s; }
  }
}
`

const haproxyConf = `
global
  log stdout format raw local0
  maxconn 256
defaults
  mode http
  log global
  option dontlognull
  retries 0
  timeout connect 30s
  timeout client 60s
  timeout server 60s
  option forwardfor
frontend front
  bind 127.0.0.1:PORT ssl crt CERT
  http-request set-header X-Forwarded-Proto https
  default_backend back
backend back
  server way WAY
`

// throughNginx puts nginx in front of a server.
func throughNginx(t *testing.T, upstream, extra string) *way {
	t.Helper()
	cert, _ := certificates(t)
	p := command{
		args: []string{"nginx", "-p", ".", "-c", "conf", "-e", "stderr"},
		files: map[string]string{
			"conf": words(nginxConf, "CERT", cert),
			"block": "proxy_pass http://" + upstream + ";\nproxy_http_version 1.1;\n" +
				"proxy_set_header Upgrade $http_upgrade;\nproxy_set_header Connection $connection_upgrade;\n" + extra + "\n",
		},
	}.start(t)
	return &way{
		name:   "nginx",
		plain:  form{p.addr, false},
		secure: form{p.more[0], true},
		behind: form{behindHAProxy(t, p.addr), true},
		short:  form{p.more[1], false},
	}
}

// throughProxy puts wsproxy, in a net/http server, in front of a server.
func throughProxy(t *testing.T, upstream string, fallback bool, lostCode websocket.StatusCode) *way {
	t.Helper()
	log := new(recorder)
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("wsproxy said:\n%s", log.said())
		}
	})
	target := &url.URL{Scheme: "http", Host: upstream}
	build := func(options ...wsproxy.Option) *wsproxy.Proxy {
		options = append(options, wsproxy.WithLogger(slog.New(slog.NewTextHandler(log, nil))))
		if lostCode != 0 {
			options = append(options, wsproxy.WithLostCode(lostCode))
		}
		if fallback {
			options = append(options, wsproxy.WithFallback(&httputil.ReverseProxy{
				ErrorLog: slog.NewLogLogger(slog.NewTextHandler(log, nil), slog.LevelInfo),
				Rewrite: func(pr *httputil.ProxyRequest) {
					pr.SetURL(target)
					pr.SetXForwarded()
					pr.Out.Host = pr.In.Host
				},
			}))
		}
		p, err := wsproxy.New(target.String(), options...)
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	defaults, behind := build(), build(wsproxy.WithTrustedProxies(netip.MustParsePrefix("127.0.0.1/32")))
	short := build(wsproxy.WithPing(25*time.Second/scale, 35*time.Second/scale))
	return &way{
		name:   "wsproxy",
		plain:  form{serve(t, defaults, false), false},
		secure: form{serve(t, defaults, true), true},
		behind: form{behindHAProxy(t, serve(t, behind, false)), true},
		short:  form{serve(t, short, false), false},
		drain:  behind.Shutdown,
	}
}

// serve mounts a proxy in a plain net/http server.
func serve(t *testing.T, p *wsproxy.Proxy, secure bool) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.Handle("/", p)
	server := &http.Server{Handler: mux, ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelInfo)}
	done := make(chan struct{})
	cert, _ := certificates(t)
	go func() {
		defer close(done)
		if secure {
			_ = server.ServeTLS(ln, cert, cert)
		} else {
			_ = server.Serve(ln)
		}
	}()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_ = p.Shutdown(ctx) // it ends the remaining sessions
		server.Close()
		<-done
	})
	return ln.Addr().String()
}

// behindHAProxy puts HAProxy in front of a way and returns its address.
func behindHAProxy(t *testing.T, addr string) string {
	t.Helper()
	cert, _ := certificates(t)
	return command{
		args:  []string{"haproxy", "-db", "-f", "conf"},
		files: map[string]string{"conf": words(haproxyConf, "CERT", cert, "WAY", addr)},
	}.start(t).addr
}

// A recorder keeps the last part of what is written to it.
type recorder struct {
	mu   sync.Mutex
	text []byte // guarded by mu
}

func (r *recorder) Write(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.text = append(r.text, p...)
	r.text = r.text[max(0, len(r.text)-16<<10):]
	return len(p), nil
}

func (r *recorder) said() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return string(bytes.Clone(r.text))
}

type certificate struct {
	file, root string // in PEM
	pool       *x509.CertPool
}

// madeCertificates are the private authority and its certificate for this
// machine.
var madeCertificates = memo(func() (c certificate, err error) {
	dir, err := os.MkdirTemp("", "zoo")
	if err != nil {
		return c, err
	}
	atEnd = append(atEnd, func() { os.RemoveAll(dir) })
	var parent *x509.Certificate
	var signer *ecdsa.PrivateKey
	make := func(template *x509.Certificate) (text []byte, err error) {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			return nil, err
		}
		if template.SerialNumber, err = rand.Int(rand.Reader, big.NewInt(1<<62)); err != nil {
			return nil, err
		}
		template.NotBefore, template.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(24*time.Hour)
		if parent == nil {
			parent, signer = template, key
		}
		der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer)
		if err != nil {
			return nil, err
		}
		if parent, err = x509.ParseCertificate(der); err != nil {
			return nil, err
		}
		private, err := x509.MarshalPKCS8PrivateKey(key)
		if err != nil {
			return nil, err
		}
		return append(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
			pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})...), nil
	}
	if _, err = make(&x509.Certificate{
		Subject:               pkix.Name{CommonName: "the zoo"},
		IsCA:                  true,
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageCertSign,
	}); err != nil {
		return c, err
	}
	root := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: parent.Raw})
	c.pool = x509.NewCertPool()
	c.pool.AddCert(parent)
	text, err := make(&x509.Certificate{
		Subject:     pkix.Name{CommonName: "localhost"},
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		DNSNames:    []string{"localhost"},
	})
	if err != nil {
		return c, err
	}
	c.file, c.root = filepath.Join(dir, "cert"), filepath.Join(dir, "root")
	if err := os.WriteFile(c.root, root, 0o600); err != nil {
		return c, err
	}
	return c, os.WriteFile(c.file, text, 0o600)
})

// certificates returns PEM files: the certificate with its key, and the authority.
func certificates(t *testing.T) (cert, root string) {
	t.Helper()
	c := madeCertificates(t)
	return c.file, c.root
}

func trust(t *testing.T) *tls.Config {
	t.Helper()
	return &tls.Config{RootCAs: madeCertificates(t).pool}
}
