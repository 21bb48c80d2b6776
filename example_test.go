package wsproxy_test

import (
	"context"
	"errors"
	"expvar"
	"fmt"
	"log"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
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

// The proxy is an http.Handler: it mounts on a route, and is tested with
// httptest.
func Example() {
	upstream := echoServer()
	defer upstream.Close()

	proxy, err := wsproxy.New(upstream.URL, wsproxy.WithLogger(slog.New(slog.DiscardHandler)))
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

// A rewrite hook tells the upstream who is there, after the server's own
// middleware has found that out.
func ExampleWithRewrite() {
	upstream := echoServer()
	defer upstream.Close()

	type userKey struct{}
	proxy, err := wsproxy.New(upstream.URL,
		wsproxy.WithLogger(slog.New(slog.DiscardHandler)),
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

// The same room goes to the same member, whoever asks and at whichever proxy.
func ExampleRendezvous() {
	var members []wsproxy.Member
	for range 3 {
		upstream := echoServer()
		defer upstream.Close()
		members = append(members, wsproxy.Member{Target: upstream.URL})
	}
	proxy, err := wsproxy.New("",
		wsproxy.WithLogger(slog.New(slog.DiscardHandler)),
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

// Shutdown tells both sides of every session.
func ExampleProxy_Shutdown() {
	upstream := echoServer()
	defer upstream.Close()
	proxy, err := wsproxy.New(upstream.URL, wsproxy.WithLogger(slog.New(slog.DiscardHandler)))
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

// All mistakes are found at once, before anything is served.
func ExampleNew() {
	_, err := wsproxy.New("ftp://example.com",
		wsproxy.WithPing(-time.Second, 0),
		wsproxy.WithOrigins("https://*"))
	fmt.Println(err)
	var mistake *wsproxy.OptionError
	fmt.Println(errors.As(err, &mistake), mistake.Option)
	// Output:
	// wsproxy: target: "ftp://example.com": unknown scheme: want http, https, ws, wss or unix
	// wsproxy: WithPing: "-1s": interval is negative
	// wsproxy: WithOrigins: "https://*": lets in every page on the internet: WithInsecureAnyOrigin says so
	// true target
}

// The counters of a proxy among the program's other variables, at /debug/vars.
func ExampleProxy_Stats() {
	proxy, err := wsproxy.New("http://127.0.0.1:9000")
	if err != nil {
		log.Fatal(err)
	}
	expvar.Publish("websockets", expvar.Func(func() any { return proxy.Stats() }))
}
