package interop

import (
	"crypto/tls"
	"crypto/x509"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
	"golang.org/x/crypto/acme/autocert"

	"github.com/seed-ffb73231/wsproxy"
	"github.com/seed-ffb73231/wsproxy/internal/wstest"
)

// The proxy works in a server that gets its certificates from autocert: over
// HTTP/1.1, although autocert's configuration offers HTTP/2.
func TestAutocert(t *testing.T) {
	const name = "chat.example.com"
	upstream := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, err := websocket.Accept(w, r, nil)
		if err != nil {
			return
		}
		defer c.CloseNow()
		c.Write(r.Context(), websocket.MessageText, []byte(r.Header.Get("X-Forwarded-Proto")))
		c.Close(websocket.StatusNormalClosure, "")
	}))
	defer upstream.Close()
	proxy, err := wsproxy.New(upstream.URL)
	if err != nil {
		t.Fatal(err)
	}

	// autocert's cache holds the certificate that it would otherwise request.
	authority := wstest.NewAuthority()
	chain, private := wstest.PEM(authority.Sign(&x509.Certificate{
		DNSNames: []string{name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(90 * 24 * time.Hour),
	}))
	cache := autocert.DirCache(t.TempDir())
	if err := cache.Put(t.Context(), name, append(private, chain...)); err != nil {
		t.Fatal(err)
	}
	acme := &autocert.Manager{Prompt: autocert.AcceptTOS, HostPolicy: autocert.HostWhitelist(name), Cache: cache}
	server := httptest.NewUnstartedServer(proxy)
	server.TLS = acme.TLSConfig()
	server.EnableHTTP2 = true
	server.StartTLS()
	defer server.Close()
	// httptest adds a certificate of its own; autocert's comes first.
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: authority.Pool(), ServerName: name}}}
	c, _, err := websocket.Dial(t.Context(), "wss"+strings.TrimPrefix(server.URL, "https"), &websocket.DialOptions{HTTPClient: client})
	if err != nil {
		t.Fatal(err)
	}
	defer c.CloseNow()
	if _, got, err := c.Read(t.Context()); err != nil || string(got) != "https" {
		t.Errorf("got %q, %v, want https", got, err)
	}
}
