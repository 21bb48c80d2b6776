package browser

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/seed-ffb73231/wsproxy"
)

// A site is a server with an empty page and a proxy, and an echoing upstream
// behind it.
type site struct {
	address  string // that it listens on
	arrivals atomic.Int64
	records  chan map[string]string // what the proxy has logged
}

// newSite creates a site. Without a certificate it serves plain HTTP.
func newSite(t *testing.T, certificate *tls.Certificate, options ...wsproxy.Option) *site {
	t.Helper()
	s := &site{records: make(chan map[string]string, 100)}
	upstream := httptest.NewServer(http.HandlerFunc(s.echo))
	t.Cleanup(upstream.Close)
	proxy, err := wsproxy.New(upstream.URL, append(options, wsproxy.WithLogger(slog.New(recorder(s.records))))...)
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.Handle("/websocket", proxy)
	mux.HandleFunc("/{$}", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		fmt.Fprintf(w, `<!doctype html><link rel="icon" href="data:,"><title>site</title><script>%s</script>`, script)
	})
	server := httptest.NewUnstartedServer(mux)
	server.Config.ErrorLog = log.New(io.Discard, "", 0) // handshakes that are meant to fail
	if certificate == nil {
		server.Start()
	} else {
		server.EnableHTTP2 = true
		server.TLS = &tls.Config{Certificates: []tls.Certificate{*certificate}}
		server.StartTLS()
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), limit)
		defer cancel()
		if err := proxy.Shutdown(ctx); err != nil {
			t.Errorf("Shutdown: %v", err)
		}
		server.CloseClientConnections()
		server.Close()
	})
	s.address = server.Listener.Addr().String()
	return s
}

// at returns the site's URL with a name that resolves to it.
func (s *site) at(scheme, host, path string) string { return at(scheme, host, s.address, path) }

func at(scheme, host, address, path string) string {
	_, port, _ := net.SplitHostPort(address)
	return scheme + "://" + net.JoinHostPort(host, port) + path
}

func (s *site) echo(w http.ResponseWriter, r *http.Request) {
	s.arrivals.Add(1)
	conn, err := websocket.Accept(w, r, &websocket.AcceptOptions{
		InsecureSkipVerify: true, // whom the proxy lets in is what is tested
	})
	if err != nil {
		return
	}
	defer conn.CloseNow()
	for {
		kind, message, err := conn.Read(r.Context())
		if err != nil {
			return
		}
		if err := conn.Write(r.Context(), kind, message); err != nil {
			return
		}
	}
}

// untouched checks that no handshake has reached the upstream. A handshake that
// does so does it before the browser learns the result.
func (s *site) untouched(t *testing.T) {
	t.Helper()
	if n := s.arrivals.Load(); n != 0 {
		t.Errorf("%d handshakes have reached the upstream, want none", n)
	}
}

// record returns the proxy's next log record.
func (s *site) record(t *testing.T) map[string]string {
	t.Helper()
	select {
	case r := <-s.records:
		return r
	case <-time.After(limit):
		t.Fatal("the proxy has logged nothing")
		return nil
	}
}

// A recorder is a [slog.Handler] that passes records on, with their message
// under "msg".
type recorder chan<- map[string]string

func (recorder) Enabled(_ context.Context, l slog.Level) bool { return l >= slog.LevelInfo }
func (c recorder) WithAttrs([]slog.Attr) slog.Handler         { return c }
func (c recorder) WithGroup(string) slog.Handler              { return c }

func (c recorder) Handle(_ context.Context, r slog.Record) error {
	values := map[string]string{"msg": r.Message}
	r.Attrs(func(a slog.Attr) bool {
		values[a.Key] = a.Value.String()
		return true
	})
	c <- values
	return nil
}
