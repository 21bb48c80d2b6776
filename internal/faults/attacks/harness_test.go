package attacks

import (
	"crypto/tls"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/seed-ffb73231/wsproxy"
	"github.com/seed-ffb73231/wsproxy/internal/wstest"
)

// A rig is a proxy between raw connections: the tests play both peers.
type rig struct {
	*testing.T
	secure bool // TLS on both legs
	proxy  *wsproxy.Proxy
	log    *wstest.Logs
	front  net.Listener
	back   net.Listener // below TLS
	dials  chan net.Conn
}

// eachLeg runs a test with both legs plain and with both over TLS.
func eachLeg(t *testing.T, f func(t *testing.T, secure bool)) {
	t.Run("plain", func(t *testing.T) { f(t, false) })
	t.Run("tls", func(t *testing.T) { f(t, true) })
}

// newRig starts a proxy with the options. It accepts pages of any origin,
// because most tests are about something else.
func newRig(t *testing.T, secure bool, options ...wsproxy.Option) *rig {
	t.Helper()
	return newStrictRig(t, secure, append([]wsproxy.Option{wsproxy.WithInsecureAnyOrigin()}, options...)...)
}

// newStrictRig is newRig with only the origins that the options allow.
func newStrictRig(t *testing.T, secure bool, options ...wsproxy.Option) *rig {
	t.Helper()
	r := &rig{T: t, secure: secure, log: &wstest.Logs{Least: slog.LevelDebug}, front: wstest.Listen(t, wstest.TCP), back: wstest.Listen(t, wstest.TCP), dials: make(chan net.Conn, 1000)}
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
		wsproxy.WithTLSConfig(wstest.ClientConfig("")),
	}, options...)...)
	if err != nil {
		t.Fatal(err)
	}
	r.serve(&http.Server{Handler: r.proxy})
	t.Cleanup(func() { r.proxy.Close() })
	return r
}

// on returns the rig for a subtest.
func (r *rig) on(t *testing.T) *rig {
	c := *r
	c.T = t
	return &c
}

// kind returns the kind of both legs.
func (r *rig) kind() wstest.Kind {
	if r.secure {
		return wstest.TLS
	}
	return wstest.TCP
}

// target returns the URL of the rig's own upstream.
func (r *rig) target() string {
	if r.secure {
		return "https://" + r.back.Addr().String()
	}
	return "http://" + r.back.Addr().String()
}

// serve has a server accept the rig's clients until the test is over.
func (r *rig) serve(s *http.Server) {
	front := r.kind().Secure(r.front)
	s.ErrorLog = wstest.ErrorLog()
	go s.Serve(front)
	r.Cleanup(func() { s.Close() })
}

// reserve puts another server, with other settings, in front of the same proxy.
func (r *rig) reserve(s *http.Server) {
	r.front = wstest.Listen(r.T, wstest.TCP)
	r.serve(s)
}

// client connects to the front server.
func (r *rig) client() *wstest.Wire {
	r.Helper()
	return r.kind().Connect(r.T, r.front)
}

// upstream waits for the proxy's connection.
func (r *rig) upstream() *wstest.Wire {
	r.Helper()
	c := wstest.Receive(r.T, r.dials)
	if r.secure {
		c = tls.Server(c, wstest.ServerConfig())
	}
	return wstest.NewWire(r.T, c, false)
}

// open performs both handshakes, with the additional lines.
func (r *rig) open(requestLines, answerLines string) (client, upstream *wstest.Wire) {
	r.Helper()
	client = r.client()
	client.Send(handshake(requestLines))
	upstream = r.upstream()
	upstream.Send(answer(upstream.ReadHead(), answerLines))
	if head := client.ReadHead(); !strings.HasPrefix(head, "HTTP/1.1 101 ") {
		r.Fatalf("the client was answered %q, want 101", head)
	}
	return client, upstream
}

// wantNoDial checks that the upstream was not dialled. Earlier handshakes
// cannot dial any later: their clients have been answered.
func (r *rig) wantNoDial() {
	r.Helper()
	client := r.client()
	client.Send(edited("GET /", "GET /last"))
	u := r.upstream()
	if head := u.ReadHead(); !strings.HasPrefix(head, "GET /last ") {
		r.Errorf("upstream: got %.300q, want nothing for what was refused", head)
	}
	u.Close()
	client.Rest()
}

// wantRest expects these bytes and then the end, by a FIN or a reset.
func wantRest(w *wstest.Wire, s string) {
	w.T.Helper()
	if got := w.Rest(); got != s {
		w.T.Errorf("%s: got %.300q and the end, want %.300q", w.Who(), got, s)
	}
}

// ended waits for the end of session n, counted from 0, and returns who ended
// it and why.
func (r *rig) ended(n int) string {
	r.Helper()
	m := r.log.WaitFor(r.T, "wsproxy: session ended", n)
	return fmt.Sprint(m["by"], ": ", m["reason"], " ", m["code"])
}

// await waits until a condition holds.
func await(t *testing.T, what string, holds func() bool) {
	t.Helper()
	wstest.Await(t, holds, func() string { return "waited in vain for " + what })
}
