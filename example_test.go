package wsproxy_test

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"expvar"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/netip"
	"net/url"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/coder/websocket"

	"github.com/seed-ffb73231/wsproxy"
)

// echoServer is an upstream: it sends every message back, and the header
// field X-User of its handshake first.
func echoServer() *httptest.Server {
	return httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		conn, err := websocket.Accept(w, r, nil)
		if err != nil {
			return
		}
		defer conn.CloseNow()
		if user := r.Header.Get("X-User"); user != "" {
			conn.Write(r.Context(), websocket.MessageText, []byte("hello, "+user))
		}
		for {
			kind, message, err := conn.Read(r.Context())
			if err != nil {
				return
			}
			conn.Write(r.Context(), kind, message)
		}
	}))
}

// The proxy is an http.Handler. Mount it on a route, and test it with httptest.
func Example() {
	upstream := echoServer()
	defer upstream.Close()

	proxy, err := wsproxy.New(upstream.URL, quiet)
	if err != nil {
		log.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.Handle("/websocket", proxy)
	front := httptest.NewServer(mux)
	defer front.Close()

	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	conn, _, err := websocket.Dial(ctx, front.URL+"/websocket", nil)
	if err != nil {
		log.Fatal(err)
	}
	if err := conn.Write(ctx, websocket.MessageText, []byte("through the proxy")); err != nil {
		log.Fatal(err)
	}
	kind, message, err := conn.Read(ctx)
	fmt.Println(kind, string(message), err)
	fmt.Println(conn.Close(websocket.StatusNormalClosure, ""))
	// Output:
	// MessageText through the proxy <nil>
	// <nil>
}

// quiet discards the records, for examples that print their own output.
var quiet = wsproxy.WithLogger(slog.New(slog.DiscardHandler))

// open opens a WebSocket with the header, or prints the status that refuses it.
func open(url string, header http.Header) *websocket.Conn {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	conn, resp, err := websocket.Dial(ctx, url, &websocket.DialOptions{HTTPHeader: header})
	switch {
	case err == nil:
		return conn
	case resp == nil:
		log.Fatal(err)
	}
	fmt.Println(resp.Status)
	return nil
}

// A hook checks a token before the upstream is dialled. It keeps the user's name
// with the session, tells the upstream, and ends the session when the token
// expires.
func ExampleWithOnOpen() {
	upstream := echoServer()
	defer upstream.Close()

	type userKey struct{}
	proxy, err := wsproxy.New(upstream.URL, quiet,
		wsproxy.WithOnOpen(func(s *wsproxy.Session, r *http.Request) error {
			if r.Header.Get("Authorization") != "Bearer ada's token" { // here, a token would be verified
				return &wsproxy.Refusal{
					Status: http.StatusUnauthorized,
					Header: http.Header{"WWW-Authenticate": {"Bearer"}},
				}
			}
			s.Set(userKey{}, "ada")
			r.Header.Set("X-User", "ada")
			return s.SetExpiry(time.Now().Add(time.Hour), 4401, "token expired")
		}))
	if err != nil {
		log.Fatal(err)
	}
	front := httptest.NewServer(proxy)
	defer front.Close()

	open(front.URL, nil)
	conn := open(front.URL, http.Header{"Authorization": {"Bearer ada's token"}})
	defer conn.CloseNow()
	_, message, err := conn.Read(context.Background())
	fmt.Println(string(message), err)
	for s := range proxy.Sessions() {
		fmt.Println("open:", s.Value(userKey{}))
	}
	// Output:
	// 401 Unauthorized
	// hello, ada <nil>
	// open: ada
}

// A hook gets each session that has ended: which side ended it, why, and with
// which code.
func ExampleWithOnClose() {
	upstream := echoServer()
	defer upstream.Close()

	ended := make(chan error, 1)
	proxy, err := wsproxy.New(upstream.URL, quiet,
		wsproxy.WithOnClose(func(s *wsproxy.Session) { ended <- s.Err() }))
	if err != nil {
		log.Fatal(err)
	}
	front := httptest.NewServer(proxy)
	defer front.Close()

	conn := open(front.URL, nil)
	if err := conn.Close(websocket.StatusNormalClosure, ""); err != nil {
		log.Fatal(err)
	}
	var end *wsproxy.SessionError
	if errors.As(<-ended, &end) {
		fmt.Println(end.By, end.Reason, int(end.Code))
	}
	// Output: client closed 1000
}

// The handler answers refused clients with JSON. The proxy has set the header
// fields that go with the status.
func ExampleWithErrorHandler() {
	proxy, err := wsproxy.New("http://127.0.0.1:9000", quiet,
		wsproxy.WithErrorHandler(func(w http.ResponseWriter, r *http.Request, e *wsproxy.Error) {
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(e.Status)
			json.NewEncoder(w).Encode(map[string]any{"status": e.Status, "kind": e.Kind()}) // not e itself: its text is meant for logs
		}))
	if err != nil {
		log.Fatal(err)
	}
	front := httptest.NewServer(proxy)
	defer front.Close()

	resp, err := http.Get(front.URL)
	if err != nil {
		log.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	fmt.Println(resp.Status, resp.Header.Get("Upgrade"))
	fmt.Print(string(body), err)
	// Output:
	// 426 Upgrade Required websocket
	// {"kind":"bad handshake","status":426}
	// <nil>
}

// The limit counts sessions by the value of a cookie. Requests without the cookie
// are not counted.
func ExampleWithMaxSessionsPerClient() {
	upstream := echoServer()
	defer upstream.Close()

	proxy, err := wsproxy.New(upstream.URL, quiet,
		wsproxy.WithMaxSessionsPerClient(2, func(r *http.Request) string {
			cookie, err := r.Cookie("user")
			if err != nil {
				return ""
			}
			return cookie.Value
		}))
	if err != nil {
		log.Fatal(err)
	}
	defer proxy.Close()
	front := httptest.NewServer(proxy)
	defer front.Close()

	for range 2 {
		defer open(front.URL, http.Header{"Cookie": {"user=ada"}}).CloseNow()
	}
	open(front.URL, http.Header{"Cookie": {"user=ada"}})
	defer open(front.URL, nil).CloseNow()
	fmt.Println(proxy.Stats().Open, "open")
	// Output:
	// 429 Too Many Requests
	// 3 open
}

// A handler around the proxy adds a header field to the 101 and to refusals.
func ExampleProxy_ServeHTTP() {
	upstream := echoServer()
	defer upstream.Close()

	proxy, err := wsproxy.New(upstream.URL, quiet)
	if err != nil {
		log.Fatal(err)
	}
	front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Served-By", "front-1")
		proxy.ServeHTTP(w, r)
	}))
	defer front.Close()

	conn, resp, err := websocket.Dial(context.Background(), front.URL, nil)
	if err != nil {
		log.Fatal(err)
	}
	defer conn.CloseNow()
	fmt.Println(resp.StatusCode, resp.Header.Get("X-Served-By"))
	resp, err = http.Get(front.URL)
	if err != nil {
		log.Fatal(err)
	}
	defer resp.Body.Close()
	fmt.Println(resp.StatusCode, resp.Header.Get("X-Served-By"))
	// Output:
	// 101 front-1
	// 426 front-1
}

// One route serves WebSockets and ordinary requests of the same upstream.
func ExampleWithFallback() {
	upstream := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Upgrade") == "" {
			fmt.Fprint(w, "polled")
			return
		}
		conn, err := websocket.Accept(w, r, nil)
		if err != nil {
			return
		}
		conn.Write(r.Context(), websocket.MessageText, []byte("pushed"))
		conn.Close(websocket.StatusNormalClosure, "")
	}))
	defer upstream.Close()

	target, err := url.Parse(upstream.URL)
	if err != nil {
		log.Fatal(err)
	}
	proxy, err := wsproxy.New(target.String(), quiet, wsproxy.WithFallback(&httputil.ReverseProxy{
		Rewrite: func(pr *httputil.ProxyRequest) {
			pr.SetURL(target)
			pr.SetXForwarded()
			pr.Out.Host = pr.In.Host
		},
	}))
	if err != nil {
		log.Fatal(err)
	}
	front := httptest.NewServer(proxy)
	defer front.Close()

	resp, err := http.Get(front.URL + "/socket.io/")
	if err != nil {
		log.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	fmt.Println(string(body), err)
	conn := open(front.URL+"/socket.io/", nil)
	defer conn.CloseNow()
	_, message, err := conn.Read(context.Background())
	fmt.Println(string(message), err)
	// Output:
	// polled <nil>
	// pushed <nil>
}

// The program connects to the upstream itself. Here, every name leads to one
// address.
func ExampleWithDialContext() {
	upstream := echoServer()
	defer upstream.Close()

	var dialer net.Dialer
	proxy, err := wsproxy.New("http://chat.internal", quiet,
		wsproxy.WithDialContext(func(ctx context.Context, network, address string) (net.Conn, error) {
			fmt.Println("dial", network, address)
			return dialer.DialContext(ctx, network, upstream.Listener.Addr().String())
		}))
	if err != nil {
		log.Fatal(err)
	}
	front := httptest.NewServer(proxy)
	defer front.Close()

	conn := open(front.URL, nil)
	fmt.Println(conn.Close(websocket.StatusNormalClosure, ""))
	// Output:
	// dial tcp chat.internal:80
	// <nil>
}

// A function selects the first of the available members.
func ExampleBalanceFunc() {
	first, second := echoServer(), echoServer()
	defer first.Close()
	defer second.Close()
	proxy, err := wsproxy.New("", quiet,
		wsproxy.WithUpstreams(
			wsproxy.Member{Target: first.URL, MaxSessions: 2},
			wsproxy.Member{Target: second.URL}),
		wsproxy.WithBalance(wsproxy.BalanceFunc(func(r *http.Request, members []wsproxy.MemberState) int {
			return 0 // full members are not in the list
		})))
	if err != nil {
		log.Fatal(err)
	}
	defer proxy.Close()
	front := httptest.NewServer(proxy)
	defer front.Close()

	for range 3 {
		defer open(front.URL, nil).CloseNow()
	}
	for _, m := range proxy.Stats().Members {
		fmt.Println(m.Sessions)
	}
	// Output:
	// 2
	// 1
}

// A Source reads the members from a file.
func ExampleWithSource() {
	file := filepath.Join(os.TempDir(), "wsproxy-example-members")
	if err := os.WriteFile(file, []byte("http://10.0.0.1:9000\nhttp://10.0.0.2:9000\n"), 0o600); err != nil {
		log.Fatal(err)
	}
	defer os.Remove(file)
	proxy, err := wsproxy.New("", quiet, wsproxy.WithSource(10*time.Second,
		func(ctx context.Context) (members []wsproxy.Member, err error) {
			text, err := os.ReadFile(file)
			for target := range strings.FieldsSeq(string(text)) {
				members = append(members, wsproxy.Member{Target: target})
			}
			return members, err
		}))
	if err != nil {
		log.Fatal(err)
	}
	defer proxy.Close()
	for _, m := range proxy.Stats().Members {
		fmt.Println(m.Name)
	}
	// Output:
	// http://10.0.0.1:9000
	// http://10.0.0.2:9000
}

// The loop closes all sessions of one user.
func ExampleSession_Close() {
	upstream := echoServer()
	defer upstream.Close()

	type userKey struct{}
	proxy, err := wsproxy.New(upstream.URL, quiet,
		wsproxy.WithOnOpen(func(s *wsproxy.Session, r *http.Request) error {
			s.Set(userKey{}, r.URL.Query().Get("user")) // in a real program, from a cookie or token
			return nil
		}))
	if err != nil {
		log.Fatal(err)
	}
	front := httptest.NewServer(proxy)
	defer front.Close()

	conn := open(front.URL+"/?user=mallory", nil)
	for s := range proxy.Sessions() {
		if s.Value(userKey{}) == "mallory" {
			s.Close(websocket.StatusPolicyViolation, "signed out")
		}
	}
	_, _, err = conn.Read(context.Background())
	var closed websocket.CloseError
	fmt.Println(errors.As(err, &closed), int(closed.Code), closed.Reason)
	// Output: true 1008 signed out
}

// On SIGTERM, the program drains its sessions and then stops the server.
func ExampleShutdownServer() {
	proxy, err := wsproxy.New("http://127.0.0.1:9000")
	if err != nil {
		log.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.Handle("/websocket", proxy)
	server := &http.Server{Addr: ":8080", Handler: mux, ReadHeaderTimeout: 10 * time.Second}

	signalled, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	go func() {
		if err := server.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
			log.Fatal(err)
		}
	}()
	<-signalled.Done()

	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if err := wsproxy.ShutdownServer(ctx, server, proxy); err != nil {
		log.Print(err) // it says how many sessions were cut
	}
}

// The server uses the certificate that an ACME client keeps on disk.
func ExampleLoadCertificates() {
	proxy, err := wsproxy.New("http://127.0.0.1:9000")
	if err != nil {
		log.Fatal(err)
	}
	certs, err := wsproxy.LoadCertificates(wsproxy.CertificateFiles{
		Cert: "/etc/letsencrypt/live/chat.example.com/fullchain.pem",
		Key:  "/etc/letsencrypt/live/chat.example.com/privkey.pem",
	})
	if err != nil {
		log.Fatal(err)
	}
	server := &http.Server{
		Addr:              ":443",
		Handler:           proxy,
		TLSConfig:         &tls.Config{GetCertificate: certs.GetCertificate},
		ReadHeaderTimeout: 10 * time.Second,
	}
	log.Fatal(server.ListenAndServeTLS("", ""))
}

// The proxy uses the address of the connection, although middleware replaces
// RemoteAddr.
func ExampleConnContext() {
	proxy, err := wsproxy.New("http://127.0.0.1:9000",
		wsproxy.WithTrustedProxies(netip.MustParsePrefix("10.0.0.0/8")))
	if err != nil {
		log.Fatal(err)
	}
	realIP := func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if address := r.Header.Get("X-Real-Ip"); address != "" {
				r.RemoteAddr = address
			}
			next.ServeHTTP(w, r)
		})
	}
	server := &http.Server{
		Addr:              ":8080",
		Handler:           realIP(proxy),
		ConnContext:       wsproxy.ConnContext,
		ReadHeaderTimeout: 10 * time.Second,
	}
	log.Fatal(server.ListenAndServe())
}

// A rewrite hook passes the user's name to the upstream. The server's own
// middleware has found it out.
func ExampleWithRewrite() {
	upstream := echoServer()
	defer upstream.Close()

	type userKey struct{}
	proxy, err := wsproxy.New(upstream.URL,
		quiet,
		wsproxy.WithRewrite(func(pr *httputil.ProxyRequest) {
			pr.Out.Header.Del("Cookie")
			pr.Out.Header.Set("X-User", pr.In.Context().Value(userKey{}).(string))
		}))
	if err != nil {
		log.Fatal(err)
	}
	front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		// Here, a cookie would be checked.
		proxy.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), userKey{}, "ada")))
	}))
	defer front.Close()

	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	conn, _, err := websocket.Dial(ctx, front.URL, nil)
	if err != nil {
		log.Fatal(err)
	}
	defer conn.CloseNow()
	_, message, err := conn.Read(ctx)
	fmt.Println(string(message), err)
	// Output: hello, ada <nil>
}

// Sessions of the same room go to the same member, at every proxy.
func ExampleRendezvous() {
	var members []wsproxy.Member
	for range 3 {
		upstream := echoServer()
		defer upstream.Close()
		members = append(members, wsproxy.Member{Target: upstream.URL})
	}
	proxy, err := wsproxy.New("",
		quiet,
		wsproxy.WithUpstreams(members...),
		wsproxy.WithBalance(wsproxy.Rendezvous(func(r *http.Request) string {
			return r.URL.Query().Get("room")
		})))
	if err != nil {
		log.Fatal(err)
	}
	front := httptest.NewServer(proxy)
	defer front.Close()
	defer proxy.Close()

	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	for range 10 {
		conn, _, err := websocket.Dial(ctx, front.URL+"/?room=lobby", nil)
		if err != nil {
			log.Fatal(err)
		}
		defer conn.CloseNow()
	}
	for _, m := range proxy.Stats().Members {
		if m.Sessions > 0 {
			fmt.Println(m.Sessions, "of 10 sessions")
		}
	}
	// Output: 10 of 10 sessions
}

// A client stays while its upstream restarts. The next one is told what it has to
// know before it gets anything of the client's.
func ExampleWithResume() {
	var restarts atomic.Bool
	upstream := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		conn, err := websocket.Accept(w, r, nil)
		if err != nil {
			return
		}
		defer conn.CloseNow()
		for {
			kind, message, err := conn.Read(r.Context())
			if err != nil {
				return
			}
			conn.Write(r.Context(), kind, append([]byte("got "), message...))
			if restarts.CompareAndSwap(false, true) {
				conn.Close(websocket.StatusServiceRestart, "restart")
			}
		}
	}))
	defer upstream.Close()
	proxy, err := wsproxy.New(upstream.URL, quiet, wsproxy.WithResume(wsproxy.Resume{
		OnResume: func(ctx context.Context, s *wsproxy.Session, attempt int) error {
			return s.Send(ctx, wsproxy.Upstream, websocket.MessageText, []byte("subscribe again"))
		}}))
	if err != nil {
		log.Fatal(err)
	}
	defer proxy.Close()
	front := httptest.NewServer(proxy)
	defer front.Close()

	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	conn, _, err := websocket.Dial(ctx, front.URL, nil)
	if err != nil {
		log.Fatal(err)
	}
	defer conn.CloseNow()
	for _, text := range []string{"subscribe", "hello"} {
		if err := conn.Write(ctx, websocket.MessageText, []byte(text)); err != nil {
			log.Fatal(err)
		}
		_, answer, err := conn.Read(ctx)
		if err != nil {
			log.Fatal(err)
		}
		fmt.Printf("%s\n", answer)
		if text == "subscribe" {
			_, answer, _ = conn.Read(ctx)
			fmt.Printf("%s\n", answer)
		}
	}
	// Output:
	// got subscribe
	// got subscribe again
	// got hello
}

// Shutdown tells both sides of every session.
func ExampleProxy_Shutdown() {
	upstream := echoServer()
	defer upstream.Close()
	proxy, err := wsproxy.New(upstream.URL, quiet)
	if err != nil {
		log.Fatal(err)
	}
	front := httptest.NewServer(proxy)
	defer front.Close()

	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	conn, _, err := websocket.Dial(ctx, front.URL, nil)
	if err != nil {
		log.Fatal(err)
	}
	defer conn.CloseNow()
	done := make(chan error, 1)
	go func() { done <- proxy.Shutdown(ctx) }()
	_, _, err = conn.Read(ctx)
	fmt.Println(websocket.CloseStatus(err))
	fmt.Println(<-done)

	_, resp, _ := websocket.Dial(ctx, front.URL, nil)
	fmt.Println(resp.Status)
	// Output:
	// StatusGoingAway
	// <nil>
	// 503 Service Unavailable
}

// New reports all mistakes at once.
func ExampleNew() {
	_, err := wsproxy.New("ftp://example.com",
		wsproxy.WithPing(-time.Second, 0),
		wsproxy.WithOrigins("https://*"))
	fmt.Println(err)
	var mistake *wsproxy.OptionError
	fmt.Println(errors.As(err, &mistake), mistake.Option)
	// Output:
	// wsproxy: target: "ftp://example.com": unknown scheme; want http, https, ws, wss or unix
	// wsproxy: WithPing: "-1s": negative interval
	// wsproxy: WithOrigins: "https://*": allows every page on the internet; use WithInsecureAnyOrigin for that
	// true target
}

// expvar publishes the proxy's counters at /debug/vars.
func ExampleProxy_Stats() {
	proxy, err := wsproxy.New("http://127.0.0.1:9000")
	if err != nil {
		log.Fatal(err)
	}
	expvar.Publish("websockets", expvar.Func(func() any { return proxy.Stats() }))
}
