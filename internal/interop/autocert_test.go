package interop

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
	"golang.org/x/crypto/acme/autocert"

	"github.com/seed-ffb73231/wsproxy"
)

// A server that gets its certificates by autocert has the proxy in it like any
// other: over HTTP/1.1, although autocert's configuration offers HTTP/2.
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

	// What autocert would get from an authority, it has in its cache.
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), DNSNames: []string{name}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(90 * 24 * time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	var cached bytes.Buffer
	pem.Encode(&cached, &pem.Block{Type: "EC PRIVATE KEY", Bytes: keyDER})
	pem.Encode(&cached, &pem.Block{Type: "CERTIFICATE", Bytes: der})
	cache := autocert.DirCache(t.TempDir())
	if err := cache.Put(t.Context(), name, cached.Bytes()); err != nil {
		t.Fatal(err)
	}
	acme := &autocert.Manager{Prompt: autocert.AcceptTOS, HostPolicy: autocert.HostWhitelist(name), Cache: cache}
	server := httptest.NewUnstartedServer(proxy)
	server.TLS = acme.TLSConfig()
	server.EnableHTTP2 = true
	server.StartTLS()
	defer server.Close()
	// httptest puts a certificate of its own in; autocert's comes first.
	roots := x509.NewCertPool()
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	roots.AddCert(leaf)
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, ServerName: name}}}
	c, _, err := websocket.Dial(t.Context(), "wss"+strings.TrimPrefix(server.URL, "https"), &websocket.DialOptions{HTTPClient: client})
	if err != nil {
		t.Fatal(err)
	}
	defer c.CloseNow()
	if _, got, err := c.Read(t.Context()); err != nil || string(got) != "https" {
		t.Errorf("got %q, %v, want https", got, err)
	}
}
