// Wss serves a web page that connects to a plain WebSocket server over TLS. One
// process runs an https server with the page and the proxy, and behind the
// proxy an upstream without TLS that echoes messages.
//
//	go run ./examples/wss
//
// It creates a certificate authority for this run. Trust that authority, as the
// program explains, or accept the browser's warning.
package main

import (
	"context"
	"crypto/tls"
	"embed"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"github.com/seed-ffb73231/wsproxy"
)

//go:embed page
var files embed.FS

// contentPolicy lets the page load its own three files and connect to its own
// server, and nothing else. 'self' covers wss as well as https (CSP Level 3,
// 6.7.2.8).
const contentPolicy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; " +
	"base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

type settings struct {
	addr         string
	ping, answer time.Duration
	idle         time.Duration
}

func main() {
	var s settings
	flag.StringVar(&s.addr, "addr", "127.0.0.1:8443", "`address` to listen on")
	flag.DurationVar(&s.ping, "ping", 25*time.Second, "ping a peer that has been silent for this long; 0 disables pings")
	flag.DurationVar(&s.answer, "ping-timeout", 10*time.Second, "drop a peer that does not answer a ping within this time")
	flag.DurationVar(&s.idle, "idle", 0, "end a session without messages for this long; 0 disables the limit")
	flag.Parse()
	if flag.NArg() > 0 {
		flag.Usage()
		os.Exit(2)
	}
	if err := run(s); err != nil {
		fmt.Fprintln(os.Stderr, "wss:", err)
		os.Exit(1)
	}
}

func run(s settings) error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()

	// 1. The upstream: a WebSocket server without TLS.
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	upstream := &http.Server{Handler: http.HandlerFunc(echo), ReadHeaderTimeout: 5 * time.Second}
	defer upstream.Close()
	go upstream.Serve(inner)

	// 2. The proxy, on a route beside the page.
	proxy, err := wsproxy.New("ws://"+inner.Addr().String(),
		wsproxy.WithPing(s.ping, s.answer),
		wsproxy.WithIdleTimeout(s.idle))
	if err != nil {
		return err
	}
	defer proxy.Close()
	authority, certificate, err := newCertificate(hosts(s.addr))
	if err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.Handle("/websocket", proxy)
	mux.Handle("/", page())
	mux.HandleFunc("GET /settings", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		json.NewEncoder(w).Encode(map[string]any{
			"ping":         s.ping.Milliseconds(),
			"pingTimeout":  s.answer.Milliseconds(),
			"idle":         s.idle.Milliseconds(),
			"subprotocols": subprotocols,
			"maxMessage":   maxMessage,
		})
	})
	mux.HandleFunc("GET /ca.pem", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/x-x509-ca-cert") // phones offer to install this
		w.Write(authority)
	})

	// 3. The https server. HTTP/2 stays on: for a WebSocket, browsers open a
	// separate connection with HTTP/1.1.
	ln, err := net.Listen("tcp", s.addr)
	if err != nil {
		return fmt.Errorf("%w (-addr 127.0.0.1:0 uses any free port)", err)
	}
	server := &http.Server{
		Handler:           secure(mux),
		TLSConfig:         &tls.Config{Certificates: []tls.Certificate{certificate}, MinVersion: tls.VersionTLS12},
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       10 * time.Second, // this and the next are the page's: a session
		WriteTimeout:      10 * time.Second, // leaves them behind with its handshake
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    64 << 10,
	}
	defer server.Close()
	failed := make(chan error, 1)
	go func() { failed <- server.ServeTLS(ln, "", "") }()

	dir, err := os.MkdirTemp("", "wsproxy-wss-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	ca := filepath.Join(dir, "ca.pem")
	if err := os.WriteFile(ca, authority, 0o644); err != nil {
		return err
	}
	url := publicURL(s.addr, ln.Addr())
	say("page", "%s", url)
	say("CA", "%s (also %sca.pem)", ca, url)
	say("browser", "import this file as a certificate authority (Chromium: chrome://certificate-manager, Firefox: Settings, Certificates), or accept the warning")
	say("curl", "curl --cacert %s %ssettings", ca, url)
	say("", "Press Ctrl-C to exit; open pages get a Close frame with code 1001.")

	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
	}
	stop() // a second Ctrl-C doesn't wait

	// 4. The end. http.Server.Shutdown does not handle WebSockets, so the proxy
	// ends its sessions itself. It also waits for a spare HTTP/2 connection of a
	// browser's, but no more than 10 s.
	ctx, cancel := context.WithTimeout(context.Background(), 15*time.Second)
	defer cancel()
	if err := errors.Join(proxy.Shutdown(ctx), server.Shutdown(ctx)); err != nil {
		return err
	}
	say("proxy", "shut down")
	return nil
}

func page() http.Handler {
	dir, err := fs.Sub(files, "page")
	if err != nil {
		panic(err) // the name is a constant
	}
	return http.FileServerFS(dir)
}

// secure sets header fields that isolate the page.
func secure(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", contentPolicy)
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Cache-Control", "no-store") // the next run is another program
		next.ServeHTTP(w, r)
	})
}

// hosts returns the names and addresses of the certificate: this machine's own,
// and the host of -addr if there is one.
func hosts(addr string) []string {
	hosts := []string{"localhost", "127.0.0.1", "::1"}
	host, _, err := net.SplitHostPort(addr)
	if err != nil || host == "" || slices.Contains(hosts, host) {
		return hosts
	}
	if ip, err := netip.ParseAddr(host); err == nil && ip.IsUnspecified() {
		return hosts
	}
	return append(hosts, host)
}

// publicURL returns the page's URL, with the name that a person would type.
func publicURL(addr string, bound net.Addr) string {
	port := bound.(*net.TCPAddr).Port
	host := "localhost"
	if all := hosts(addr); len(all) > 3 {
		host = all[3]
	}
	return fmt.Sprintf("https://%s/", net.JoinHostPort(host, fmt.Sprint(port)))
}

func say(who, format string, args ...any) {
	fmt.Printf("%-9s %s\n", who, fmt.Sprintf(format, args...))
}
