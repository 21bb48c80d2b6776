package wsproxy_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/seed-ffb73231/wsproxy"
	"github.com/seed-ffb73231/wsproxy/internal/wstest"
)

// issueCert has the tests' authority sign a certificate with a new key.
func issueCert(notBefore, notAfter time.Time, names []string, ips ...net.IP) tls.Certificate {
	return wstest.CA().Sign(&x509.Certificate{
		Subject: pkix.Name{CommonName: "leaf"}, NotBefore: notBefore, NotAfter: notAfter,
		DNSNames: names, IPAddresses: ips,
	})
}

// A71 to A75, F6: TLS with the upstream.
func TestUpstreamTLS(t *testing.T) {
	t.Attr("case", "A71 A72 A73 A74 A75 A76 A79 F6")
	t.Parallel()
	const name = "upstream.test"
	long, later := time.Unix(0, 0), time.Unix(1<<33, 0)
	ours := &tls.Config{RootCAs: wstest.CA().Pool()}
	for _, row := range []struct {
		id, name, target string
		client           *tls.Config
		server           *tls.Config
		want             int    // status
		kind             string // of error
		sni              string
	}{
		{"A71", "right name", "https://" + name + ":9443", ours, &tls.Config{}, 101, "", name},
		{"A71", "system's roots by default", "https://" + name, &tls.Config{}, &tls.Config{}, 502, "unknown authority", name},
		{"A71", "the client's Host is no name for it", "https://other.test", ours, &tls.Config{Certificates: []tls.Certificate{issueCert(long, later, []string{"front.test"})}}, 502, "wrong name", "other.test"},
		{"A72", "ServerName given", "https://192.0.2.7", &tls.Config{RootCAs: wstest.CA().Pool(), ServerName: name}, &tls.Config{}, 101, "", name},
		{"A72", "ServerName given and wrong", "https://" + name, &tls.Config{RootCAs: wstest.CA().Pool(), ServerName: "other.test"}, &tls.Config{}, 502, "wrong name", "other.test"},
		{"A72", "address", "https://192.0.2.7", ours, &tls.Config{Certificates: []tls.Certificate{issueCert(long, later, nil, net.IPv4(192, 0, 2, 7))}}, 101, "", ""},
		{"A72", "IPv6 address", "wss://[2001:db8::7]:443", ours, &tls.Config{Certificates: []tls.Certificate{issueCert(long, later, nil, net.ParseIP("2001:db8::7"))}}, 101, "", ""},
		{"A72", "address not in the certificate", "https://192.0.2.7", ours, &tls.Config{}, 502, "wrong name", ""},
		{"A73", "wildcard", "https://a.example.test", ours, &tls.Config{Certificates: []tls.Certificate{issueCert(long, later, []string{"*.example.test"})}}, 101, "", "a.example.test"},
		{"A73", "wildcard too deep", "https://a.b.example.test", ours, &tls.Config{Certificates: []tls.Certificate{issueCert(long, later, []string{"*.example.test"})}}, 502, "wrong name", "a.b.example.test"},
		{"A73", "expired", "https://" + name, ours, &tls.Config{Certificates: []tls.Certificate{issueCert(long, time.Unix(1, 0), []string{name})}}, 502, "expired", name},
		{"A73", "not valid yet", "https://" + name, ours, &tls.Config{Certificates: []tls.Certificate{issueCert(later, later, []string{name})}}, 502, "expired", name},
		{"A73", "verified by the user's own", "https://other.test", &tls.Config{InsecureSkipVerify: true, VerifyConnection: func(tls.ConnectionState) error { return nil }}, &tls.Config{}, 101, "", "other.test"},
		{"A79", "IPv6 address with a zone", "wss://[fe80::7%25eth0]", ours, &tls.Config{Certificates: []tls.Certificate{issueCert(long, later, nil, net.ParseIP("fe80::7"))}}, 101, "", ""},
		{"A79", "name with a NUL", "https://" + name, ours, &tls.Config{Certificates: []tls.Certificate{issueCert(long, later, []string{name + "\x00.evil.test"})}}, 502, "wrong name", name},
		{"A74", "picks HTTP/1.1", "https://" + name, &tls.Config{RootCAs: wstest.CA().Pool(), NextProtos: []string{"h2", "http/1.1"}}, &tls.Config{NextProtos: []string{"h2", "http/1.1"}}, 101, "", name},
		{"A74", "only another protocol", "https://" + name, ours, &tls.Config{NextProtos: []string{"h3"}}, 502, "alert", name},
		{"A74", "TLS 1.1", "https://" + name, ours, &tls.Config{MaxVersion: tls.VersionTLS11}, 502, "alert", name},
		{"A76", "client certificate", "https://" + name, &tls.Config{RootCAs: wstest.CA().Pool(), Certificates: []tls.Certificate{wstest.Cert()}}, &tls.Config{ClientAuth: tls.RequireAnyClientCert}, 101, "", name},
		{"A76", "no client certificate", "https://" + name, ours, &tls.Config{ClientAuth: tls.RequireAnyClientCert}, 502, "alert", name},
		{"F14", "callback panics", "https://" + name, &tls.Config{RootCAs: wstest.CA().Pool(), VerifyConnection: func(tls.ConnectionState) error { panic("callback") }}, &tls.Config{}, 500, "panic", name},
	} {
		t.Run(row.id+" "+row.name, func(t *testing.T) {
			r := newRigTo(t, wstest.TCP, row.target, wsproxy.WithTLSConfig(row.client), wsproxy.WithInsecureAnyOrigin())
			c := r.client()
			c.Send(wstest.Request("/", "") + secondRequest)
			u := r.upstream()
			hello := make(chan *tls.ClientHelloInfo, 1)
			if row.server.Certificates == nil {
				row.server.Certificates = []tls.Certificate{wstest.Cert()}
			}
			row.server.GetConfigForClient = func(h *tls.ClientHelloInfo) (*tls.Config, error) { hello <- h; return nil, nil }
			secure := tls.Server(u.Conn, row.server)
			done := make(chan struct{})
			go func() {
				defer close(done)
				if req, err := http.ReadRequest(bufio.NewReader(secure)); err == nil {
					io.WriteString(secure, wstest.AnswerTo(req, ""))
				}
			}()
			if row.want == 101 {
				if resp := c.ReadResponse(); resp.StatusCode != 101 {
					t.Errorf("client: got %d, want 101", resp.StatusCode)
				}
			} else {
				c.WantRefusal(row.want)
				wstest.Receive(t, done)
				u.WantGone()
				m := r.logs.Wait(t, 0)
				// In TLS 1.3, a missing client certificate is reported only
				// after the handshake.
				if m["op"] != "tls" && row.name != "no client certificate" || m["kind"] != row.kind {
					t.Errorf("logged %v, want an error of TLS: %s", m, row.kind)
				}
			}
			h := wstest.Receive(t, hello)
			if h.ServerName != row.sni || !slices.Equal(h.SupportedProtos, []string{"http/1.1"}) {
				t.Errorf("upstream: got SNI %q and ALPN %q, want %q and http/1.1 alone", h.ServerName, h.SupportedProtos, row.sni)
			}
		})
	}
	t.Run("A75 plain text before the handshake", func(t *testing.T) {
		r := newRigTo(t, wstest.TCP, "https://upstream.test")
		c := r.client()
		c.Send(wstest.Request("/", "") + secondRequest)
		u := r.upstream()
		u.Send("HTTP/1.1 101 Switching Protocols\r\n\r\n")
		c.WantRefusal(502)
		u.WantGone()
		if m := r.logs.Wait(t, 0); m["kind"] != "not TLS" {
			t.Errorf("logged %v, want kind not TLS", m)
		}
	})
}

// The configuration is cloned: later changes to it have no effect.
func TestTLSConfigCloned(t *testing.T) {
	t.Parallel()
	config := &tls.Config{RootCAs: wstest.CA().Pool(), ServerName: "upstream.test"}
	r := newRig(t, wstest.TLS, wsproxy.WithTLSConfig(config))
	config.ServerName, config.RootCAs = "other.test", nil
	r.open("", "")
}

// Only the option with Insecure in its name accepts any certificate.
func TestInsecureSkipVerify(t *testing.T) {
	t.Parallel()
	r := newRigTo(t, wstest.TLS, "https://other.test", wsproxy.WithInsecureSkipVerify(), wsproxy.WithInsecureAnyOrigin())
	r.open("", "")
}

// A72: an upstream behind a unix socket is verified by its name.
func TestTLSOverUnixSocket(t *testing.T) {
	t.Attr("case", "A72")
	t.Parallel()
	for _, row := range []struct {
		target string
		want   int
	}{{"https://upstream.test", 101}, {"https://other.test", 502}} {
		r := newRigTo(t, wstest.TCP, row.target, wsproxy.WithInsecureAnyOrigin())
		r.back.Close()
		r.back = wstest.Listen(t, wstest.Unix)
		c := r.client()
		c.Send(wstest.Request("/", ""))
		conn, err := r.back.Accept()
		if err != nil {
			t.Fatal(err)
		}
		u := wstest.NewWire(t, tls.Server(conn, &tls.Config{Certificates: []tls.Certificate{wstest.Cert()}}), false)
		if row.want == 101 {
			u.Answer("")
			if resp := c.ReadResponse(); resp.StatusCode != 101 {
				t.Fatalf("client: got %d, want 101", resp.StatusCode)
			}
		} else {
			u.WantGone()
			c.WantRefusal(502)
		}
	}
}

// A77: TLS sessions are resumed only if the same proxy has verified them
// before.
func TestResumption(t *testing.T) {
	t.Attr("case", "A77")
	t.Parallel()
	shared := tls.NewLRUClientSessionCache(10)
	trusting := &tls.Config{RootCAs: wstest.CA().Pool(), ClientSessionCache: shared}
	server := &tls.Config{Certificates: []tls.Certificate{wstest.Cert()}}
	open := func(r *rig) (resumed bool) {
		t.Helper()
		c := r.client()
		c.Send(wstest.Request("/", ""))
		conn, err := r.back.Accept()
		if err != nil {
			t.Fatal(err)
		}
		secure := tls.Server(conn, server)
		u := wstest.NewWire(t, secure, false)
		u.Answer("")
		c.ReadResponse()
		u.SendClose(1000, "") // the TLS session is stored when something is read
		c.WantClose(1000)
		c.SendClose(1000, "")
		u.WantClose(1000)
		u.Close()
		r.wantReturned()
		return secure.ConnectionState().DidResume
	}
	proxy := func(target string, config *tls.Config) *rig {
		return newRigTo(t, wstest.TCP, target, wsproxy.WithTLSConfig(config), wsproxy.WithInsecureAnyOrigin())
	}
	a := proxy("https://upstream.test", trusting)
	if open(a) {
		t.Error("the first session is a resumed one")
	}
	if !open(a) {
		t.Error("the second session of a proxy is not resumed")
	}
	if open(proxy("https://upstream.test", trusting)) {
		t.Error("a session is resumed in another proxy")
	}
	withCert := proxy("https://upstream.test", &tls.Config{RootCAs: wstest.CA().Pool(), Certificates: []tls.Certificate{wstest.Cert()}})
	open(withCert)
	if open(withCert) {
		t.Error("a session is resumed that has a client certificate")
	}
	picky := proxy("https://upstream.test", &tls.Config{RootCAs: wstest.CA().Pool(), VerifyPeerCertificate: func([][]byte, [][]*x509.Certificate) error { return nil }})
	open(picky)
	if open(picky) {
		t.Error("a session is resumed past VerifyPeerCertificate")
	}
}

// writeCert replaces a certificate's files.
func writeCert(t *testing.T, files wsproxy.CertificateFiles, cert tls.Certificate) {
	t.Helper()
	chain, key := wstest.PEM(cert)
	writeFile(t, files.Cert, chain)
	writeFile(t, files.Key, key)
}

func writeFile(t *testing.T, path string, data []byte) {
	t.Helper()
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

func certFiles(dir, name string) wsproxy.CertificateFiles {
	return wsproxy.CertificateFiles{Cert: filepath.Join(dir, name+".pem"), Key: filepath.Join(dir, name+".key")}
}

// Which certificate is served to which client, and after which changes of the
// files.
func TestCertificates(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		a, b := certFiles(dir, "a"), certFiles(dir, "b")
		long, later := time.Unix(0, 0), time.Unix(1<<33, 0)
		issue := func(names ...string) tls.Certificate { return issueCert(long, later, names) }
		certA, certB := issue("a.test"), issue("b.test", "*.b.test")
		writeCert(t, a, certA)
		writeCert(t, b, certB)
		certs, err := wsproxy.LoadCertificates(a, b)
		if err != nil {
			t.Fatal(err)
		}
		logs := new(wstest.Logs)
		certs.Logger = slog.New(logs)
		// served returns the certificate that a client gets for the server
		// name.
		served := func(name string) []byte {
			t.Helper()
			x, y := wstest.MemPair(wstest.MemBuffer)
			server := tls.Server(x, &tls.Config{GetCertificate: certs.GetCertificate})
			go server.Handshake()
			client := tls.Client(y, &tls.Config{ServerName: name, InsecureSkipVerify: true})
			if err := client.Handshake(); err != nil {
				t.Fatal(err)
			}
			return client.ConnectionState().PeerCertificates[0].Raw
		}
		want := func(name string, cert tls.Certificate) {
			t.Helper()
			if !slices.Equal(served(name), cert.Certificate[0]) {
				t.Errorf("a client that asks for %q gets another certificate", name)
			}
		}
		records := func() int { return len(logs.Records()) }
		want("a.test", certA)
		want("b.test", certB)
		want("x.B.test", certB)
		want("other.test", certA) // the first of all
		want("", certA)

		// Replaced: the first handshake that comes 10 s later uses the new one.
		newA := issue("a.test")
		writeCert(t, a, newA)
		wstest.Elapse(9 * time.Second)
		want("a.test", certA)
		wstest.Elapse(time.Second)
		want("a.test", newA)
		want("b.test", certB)
		if m := logs.Wait(t, 0); m["msg"] != "wsproxy: certificate replaced" || m["cert"] != a.Cert {
			t.Errorf("logged %v, want that %s was replaced", m, a.Cert)
		}

		// Half replaced: the current one stays, one record is logged, and the
		// other pair is replaced all the same.
		third, newB := issue("a.test"), issue("b.test")
		chain, _ := wstest.PEM(third)
		writeFile(t, a.Cert, chain)
		writeCert(t, b, newB)
		for range 3 {
			wstest.Elapse(10 * time.Second)
			want("a.test", newA)
			want("b.test", newB)
		}
		if m := logs.Wait(t, 1); m["msg"] != "wsproxy: certificate not replaced" || m["level"] != slog.LevelError || m["cert"] != a.Cert {
			t.Errorf("logged %v, want that %s was not replaced", m, a.Cert)
		}
		if n := records(); n != 3 {
			t.Errorf("got %d records, want 3: %s", n, logs)
		}
		writeCert(t, a, third)
		wstest.Elapse(10 * time.Second)
		want("a.test", third)

		// Reload returns the error at once.
		if err := os.Remove(b.Key); err != nil {
			t.Fatal(err)
		}
		fourth := issue("a.test")
		writeCert(t, a, fourth)
		if err := certs.Reload(); err == nil || !strings.Contains(err.Error(), b.Key) || strings.Contains(err.Error(), a.Cert) {
			t.Errorf("Reload returned %v, want that %s is missing", err, b.Key)
		}
		want("a.test", fourth)
		want("b.test", newB)
		writeCert(t, b, certB)
		if err := certs.Reload(); err != nil {
			t.Errorf("Reload returned %v", err)
		}
		want("b.test", certB)
	})
}

// LoadCertificates reports all files that are invalid.
func TestLoadCertificatesMistakes(t *testing.T) {
	t.Parallel()
	if _, err := wsproxy.LoadCertificates(); err == nil {
		t.Error("no error for no files")
	}
	dir := t.TempDir()
	good, bad := certFiles(dir, "good"), certFiles(dir, "bad")
	writeCert(t, good, wstest.Cert())
	writeCert(t, bad, wstest.Cert())
	os.WriteFile(bad.Key, []byte("secret"), 0o600)
	_, err := wsproxy.LoadCertificates(good, bad, certFiles(dir, "missing"))
	if err == nil || !strings.Contains(err.Error(), bad.Key) || !strings.Contains(err.Error(), "missing.pem") ||
		strings.Contains(err.Error(), good.Cert) || strings.Contains(err.Error(), "secret") {
		t.Errorf("got %v, want what is wrong with bad.key and missing.pem", err)
	}
}

// Certificates are replaced under 100 sessions: all sessions continue, and new
// handshakes use the new certificate.
func TestReplaceUnderSessions(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	files := certFiles(dir, "front")
	issue := func() tls.Certificate {
		return issueCert(time.Unix(0, 0), time.Unix(1<<33, 0), []string{"front.test"})
	}
	writeCert(t, files, issue())
	certs, err := wsproxy.LoadCertificates(files)
	if err != nil {
		t.Fatal(err)
	}
	certs.Logger = slog.New(slog.DiscardHandler)

	r := &rig{t: t, legs: bothLegs(wstest.TCP), logs: new(wstest.Logs), returned: make(chan struct{}, 1000)}
	r.front, r.back = wstest.Listen(t, wstest.TCP), wstest.Listen(t, wstest.TCP)
	r.proxy, err = wsproxy.New("http://"+r.back.Addr().String(), wsproxy.WithLogger(slog.New(r.logs)))
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: r.proxy, TLSConfig: &tls.Config{GetCertificate: certs.GetCertificate}, ErrorLog: log.New(io.Discard, "", 0)}
	go server.ServeTLS(r.front, "", "")
	t.Cleanup(func() { r.proxy.Close(); server.Close() })
	go http.Serve(r.back, http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		conn, brw, err := w.(http.Hijacker).Hijack()
		if err != nil {
			return
		}
		defer conn.Close()
		io.WriteString(conn, wstest.AnswerTo(req, ""))
		u := &wstest.Wire{Conn: conn, T: t, In: brw.Reader}
		for {
			f, err := u.ReadFrame()
			if err != nil {
				return
			}
			io.WriteString(conn, u.Frame(f.First, f.Payload))
		}
	}))
	open := func() (*wstest.Wire, []byte) {
		conn, err := wstest.Dial(t.Context(), r.front)
		if err != nil {
			t.Fatal(err)
		}
		secure := tls.Client(conn, &tls.Config{RootCAs: wstest.CA().Pool(), ServerName: "front.test"})
		c := wstest.NewWire(t, secure, true)
		c.Send(wstest.Request("/", ""))
		if resp := c.ReadResponse(); resp.StatusCode != 101 {
			t.Fatalf("client was answered %d, want 101", resp.StatusCode)
		}
		return c, secure.ConnectionState().PeerCertificates[0].Raw
	}
	const sessions = 100
	clients := make([]*wstest.Wire, sessions)
	stop := make(chan struct{})
	var busy sync.WaitGroup
	for i := range clients {
		clients[i], _ = open()
	}
	for i, c := range clients {
		busy.Go(func() { // each sends messages all the time
			for n := 0; ; n++ {
				message := strings.Repeat("x", i+n%10)
				c.SendText(message)
				if f, err := c.ReadFrame(); err != nil || f.Payload != message {
					t.Errorf("session %d: got %.20q, %v, want its message back", i, f.Payload, err)
					return
				}
				select {
				case <-stop:
					return
				default:
				}
			}
		})
	}
	for range 3 {
		renewed := issue()
		writeCert(t, files, renewed)
		if err := certs.Reload(); err != nil {
			t.Fatal(err)
		}
		if _, got := open(); !slices.Equal(got, renewed.Certificate[0]) {
			t.Error("a new handshake gets an old certificate")
		}
	}
	close(stop)
	busy.Wait()
	if len(r.logs.Records()) > 0 {
		t.Errorf("sessions ended: %s", r.logs)
	}
}

// hangingUp is an upstream that closes its connections.
func hangingUp(t *testing.T) string {
	ln := wstest.Listen(t, wstest.TCP)
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			http.ReadRequest(bufio.NewReader(c)) // or the close would be a reset
			c.Close()
		}
	}()
	return ln.Addr().String()
}

// A failure to reach the upstream also has a kind.
func TestErrorKinds(t *testing.T) {
	t.Parallel()
	closed := wstest.Listen(t, wstest.TCP)
	closed.Close()
	for _, row := range []struct {
		target, want string
		options      []wsproxy.Option
	}{
		{"http://" + closed.Addr().String(), "refused", nil},
		{"http://no-such-name.invalid", "name lookup", nil},
		{"unix:" + filepath.Join(t.TempDir(), "none"), "refused", nil},
		{"http://" + hangingUp(t), "closed", nil},
		{"http://upstream.test", "panic", []wsproxy.Option{wsproxy.WithDialContext(func(context.Context, string, string) (net.Conn, error) { panic("x") })}},
	} {
		r := newRigTo(t, wstest.TCP, row.target, append([]wsproxy.Option{wsproxy.WithDialContext(new(net.Dialer).DialContext)}, row.options...)...)
		c := r.client()
		c.Send(wstest.Request("/", ""))
		c.ReadResponse()
		if m := r.logs.Wait(t, 0); m["kind"] != row.want {
			t.Errorf("%s: logged %v, want kind %q", row.target, m, row.want)
		}
	}
}

// Every kind of error has a counter from the start.
func TestKindsCounted(t *testing.T) {
	t.Parallel()
	source, err := os.ReadFile("kind.go")
	if err != nil {
		t.Fatal(err)
	}
	p, err := wsproxy.New("http://upstream.test")
	if err != nil {
		t.Fatal(err)
	}
	refused := p.Stats().Failed
	kinds := regexp.MustCompile(`(?m)^\tKind\w+ +Kind = "(.*?)" +// .`).FindAllStringSubmatch(string(source), -1)
	if len(kinds) < 20 || strings.Count(string(source), " Kind = ") != len(kinds) {
		t.Errorf("found %d kinds with a line that says what they mean", len(kinds))
	}
	for _, m := range kinds {
		if _, ok := refused[wsproxy.Kind(m[1])]; !ok {
			t.Errorf("no counter for %q", m[1])
		}
		delete(refused, wsproxy.Kind(m[1]))
	}
	if len(refused) > 0 {
		t.Errorf("counters for what is no kind: %v", refused)
	}
}

// A logger may call the Certificates: no lock is held meanwhile.
func TestCertificatesLoggerCallsBack(t *testing.T) {
	t.Parallel()
	files := certFiles(t.TempDir(), "cert")
	writeCert(t, files, wstest.Cert())
	c, err := wsproxy.LoadCertificates(files)
	if err != nil {
		t.Fatal(err)
	}
	called := make(chan error, 10)
	c.Logger = slog.New(hooking{func() { called <- c.Reload() }})
	os.WriteFile(files.Key, []byte("broken"), 0o600)
	go c.Reload()
	select {
	case err := <-called:
		if err == nil {
			t.Error("a key that is broken is none for Reload in the logger")
		}
	case <-time.After(wstest.Timeout):
		t.Fatal("Reload in the logger doesn't return")
	}
}
