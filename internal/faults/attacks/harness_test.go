package attacks

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/seed-ffb73231/wsproxy"
)

// patience is how long a test waits for something before it takes it that it
// won't come.
const patience = 20 * time.Second

// A rig is a proxy between raw connections: the tests are both peers.
type rig struct {
	*testing.T
	secure bool // TLS on both legs
	proxy  *wsproxy.Proxy
	log    *records
	front  net.Listener
	back   net.Listener // below TLS
	dials  chan net.Conn
}

// eachLeg runs a test with both legs plain and with both in TLS.
func eachLeg(t *testing.T, f func(t *testing.T, secure bool)) {
	t.Run("plain", func(t *testing.T) { f(t, false) })
	t.Run("tls", func(t *testing.T) { f(t, true) })
}

// newRig starts a proxy with the options. Pages of any origin may come in,
// for most tests are about something else.
func newRig(t *testing.T, secure bool, options ...wsproxy.Option) *rig {
	t.Helper()
	return newStrictRig(t, secure, append([]wsproxy.Option{wsproxy.WithInsecureAnyOrigin()}, options...)...)
}

// newStrictRig is newRig with the origins that the options let in.
func newStrictRig(t *testing.T, secure bool, options ...wsproxy.Option) *rig {
	t.Helper()
	r := &rig{T: t, secure: secure, log: new(records), front: listen(t), back: listen(t), dials: make(chan net.Conn, 1000)}
	go func() {
		for {
			c, err := r.back.Accept()
			if err != nil {
				return
			}
			r.dials <- c
		}
	}()
	var err error
	r.proxy, err = wsproxy.New(r.target(), append([]wsproxy.Option{
		wsproxy.WithLogger(slog.New(r.log)),
		wsproxy.WithVia(""), // at random
		wsproxy.WithTLSConfig(&tls.Config{RootCAs: identity().pool}),
	}, options...)...)
	if err != nil {
		t.Fatal(err)
	}
	r.serve(&http.Server{Handler: r.proxy})
	t.Cleanup(func() { r.proxy.Close() })
	return r
}

// on is the rig for a subtest.
func (r *rig) on(t *testing.T) *rig {
	c := *r
	c.T = t
	return &c
}

// target is the URL of the rig's own upstream.
func (r *rig) target() string {
	if r.secure {
		return "https://" + r.back.Addr().String()
	}
	return "http://" + r.back.Addr().String()
}

// serve has a server take the rig's clients, until the test is over.
func (r *rig) serve(s *http.Server) {
	front := r.front
	if r.secure {
		front = tls.NewListener(front, &tls.Config{Certificates: []tls.Certificate{identity().cert}})
	}
	s.ErrorLog = log.New(io.Discard, "", 0)
	go s.Serve(front)
	r.Cleanup(func() { s.Close() })
}

// reserve puts another server, with other rules, before the same proxy.
func (r *rig) reserve(s *http.Server) {
	r.front = listen(r.T)
	r.serve(s)
}

func listen(t testing.TB) net.Listener {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	return ln
}

// client connects to the front.
func (r *rig) client() *wire {
	r.Helper()
	c, err := net.Dial("tcp", r.front.Addr().String())
	if err != nil {
		r.Fatal(err)
	}
	if r.secure {
		return newWire(r.T, "client", c, tls.Client(c, &tls.Config{RootCAs: identity().pool, ServerName: "127.0.0.1"}))
	}
	return newWire(r.T, "client", c, c)
}

// upstream waits for the proxy's connection.
func (r *rig) upstream() *wire {
	r.Helper()
	select {
	case c := <-r.dials:
		if r.secure {
			return newWire(r.T, "upstream", c, tls.Server(c, &tls.Config{Certificates: []tls.Certificate{identity().cert}}))
		}
		return newWire(r.T, "upstream", c, c)
	case <-time.After(patience):
		r.Fatal("nobody connects to the upstream")
		return nil
	}
}

// open takes both sides through a handshake, with the further lines.
func (r *rig) open(requestLines, answerLines string) (client, upstream *wire) {
	r.Helper()
	client = r.client()
	client.send(handshake(requestLines))
	upstream = r.upstream()
	upstream.send(answer(upstream.head(), answerLines))
	if head := client.head(); !strings.HasPrefix(head, "HTTP/1.1 101 ") {
		r.Fatalf("the client was answered %q, want 101", head)
	}
	return client, upstream
}

// wantNoDial wants the upstream to have been left alone. All that was to come
// of earlier handshakes has come: their clients have been answered.
func (r *rig) wantNoDial() {
	r.Helper()
	client := r.client()
	client.send(edited("GET /", "GET /last"))
	u := r.upstream()
	if head := u.head(); !strings.HasPrefix(head, "GET /last ") {
		r.Errorf("upstream: got %.300q, want nothing for what was refused", head)
	}
	u.Close()
	client.rest()
}

// A wire is one end of a connection, in raw bytes.
type wire struct {
	net.Conn
	t     *testing.T
	who   string
	below net.Conn // of TLS
	br    *bufio.Reader
}

func newWire(t *testing.T, who string, below, c net.Conn) *wire {
	c.SetDeadline(time.Now().Add(patience))
	t.Cleanup(func() { below.Close() })
	return &wire{c, t, who, below, bufio.NewReaderSize(c, 64<<10)}
}

// send writes bytes, all in one piece.
func (w *wire) send(s string) {
	w.t.Helper()
	if _, err := io.WriteString(w, s); err != nil {
		w.t.Fatalf("%s: write: %v", w.who, err)
	}
}

// sendLater writes in the background more than buffers may hold. The proxy
// need not take it all.
func (w *wire) sendLater(s string) {
	go io.WriteString(w, s)
}

// head reads an HTTP header as it is on the wire, the empty line included.
func (w *wire) head() string {
	w.t.Helper()
	var b strings.Builder
	for {
		line, err := w.br.ReadString('\n')
		b.WriteString(line)
		if err != nil {
			w.t.Fatalf("%s: got %v after %.300q, want a header", w.who, err, b.String())
		}
		if line == "\r\n" {
			return b.String()
		}
	}
}

// rest reads all that still comes, and wants the stream to end.
func (w *wire) rest() string {
	w.t.Helper()
	b, err := io.ReadAll(w.br)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		w.t.Fatalf("%s: the connection is still open, want its end; got %.300q", w.who, b)
	}
	return string(b)
}

// want reads as many bytes as s has, and compares.
func (w *wire) want(s string) {
	w.t.Helper()
	b := make([]byte, len(s))
	n, err := io.ReadFull(w.br, b)
	if string(b) != s {
		w.t.Fatalf("%s: got %.200q, %v; want %.200q", w.who, b[:n], err, s)
	}
}

// wantRest wants these bytes and then the end, by a FIN or a reset.
func (w *wire) wantRest(s string) {
	w.t.Helper()
	if got := w.rest(); got != s {
		w.t.Errorf("%s: got %.300q and the end, want %.300q", w.who, got, s)
	}
}

// fin ends what this end sends; within TLS, with no goodbye.
func (w *wire) fin() {
	w.t.Helper()
	if err := w.below.(*net.TCPConn).CloseWrite(); err != nil {
		w.t.Fatal(err)
	}
}

// reset ends the connection by a RST.
func (w *wire) reset() {
	w.below.(*net.TCPConn).SetLinger(0)
	w.below.Close()
}

// records keeps what the proxy logs.
type records struct {
	mu   sync.Mutex
	all  []map[string]any
	text bytes.Buffer
}

func (l *records) Enabled(context.Context, slog.Level) bool { return true }
func (l *records) WithAttrs([]slog.Attr) slog.Handler       { panic("not used") }
func (l *records) WithGroup(string) slog.Handler            { panic("not used") }

func (l *records) Handle(_ context.Context, r slog.Record) error {
	m := map[string]any{"msg": r.Message}
	r.Attrs(func(a slog.Attr) bool { m[a.Key] = a.Value.Any(); return true })
	l.mu.Lock()
	defer l.mu.Unlock()
	l.all = append(l.all, m)
	fmt.Fprintln(&l.text, m)
	return nil
}

// ended waits for the n-th session's end, from 0, and returns who ended it
// and why.
func (r *rig) ended(n int) string {
	r.Helper()
	var got string
	await(r.T, "a session's end in the log", func() bool {
		r.log.mu.Lock()
		defer r.log.mu.Unlock()
		i := 0
		for _, m := range r.log.all {
			if m["msg"] != "wsproxy: session ended" {
				continue
			}
			if i++; i > n {
				got = fmt.Sprint(m["by"], ": ", m["reason"], " ", m["code"])
				return true
			}
		}
		return false
	})
	return got
}

// await waits until something holds.
func await(t *testing.T, what string, holds func() bool) {
	t.Helper()
	deadline := time.After(patience)
	for !holds() {
		select {
		case <-deadline:
			t.Fatalf("waited in vain for %s", what)
		case <-time.After(2 * time.Millisecond):
		}
	}
}

type authority struct {
	cert tls.Certificate // for 127.0.0.1 and the names below .test
	pool *x509.CertPool
}

// identity is both ends' certificate, and who has signed it: itself.
var identity = sync.OnceValue(func() authority {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "attacks"},
		NotBefore: time.Unix(0, 0), NotAfter: time.Unix(1<<33, 0),
		DNSNames: []string{"front.test", "upstream.test"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		panic(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		panic(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(leaf)
	return authority{tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, pool}
})
