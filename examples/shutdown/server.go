package main

import (
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"sync/atomic"
	"time"

	"github.com/coder/websocket"

	"github.com/seed-ffb73231/wsproxy"
)

// serve is a program as a container runs it. SIGTERM ends ctx. Then serve is not
// ready, waits for a grace period, drains, and returns.
func serve(ctx context.Context, s settings) error {
	window := s.window
	if s.atOnce {
		window = time.Millisecond // 0 would leave it to the deadline
	}
	proxy, err := wsproxy.New(s.upstream,
		wsproxy.WithDrain(window, websocket.StatusGoingAway),
		wsproxy.WithLogger(slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))))
	if err != nil {
		return err
	}
	defer proxy.Close()
	var leaving atomic.Bool
	mux := http.NewServeMux()
	mux.Handle("/websocket", proxy)
	// The balancer asks this. Use it for readiness only: a liveness probe that
	// fails during the drain would kill the program.
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, r *http.Request) {
		if leaving.Load() {
			http.Error(w, "shutting down", http.StatusServiceUnavailable)
			return
		}
		io.WriteString(w, "ready\n")
	})
	ln, err := net.Listen("tcp", s.addr)
	if err != nil {
		return err
	}
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	defer server.Close()
	failed := make(chan error, 1)
	go func() { failed <- server.Serve(ln) }()
	say("server", "listens on %s", ln.Addr())

	orphaned := make(chan struct{})
	if s.child {
		go func() {
			io.Copy(io.Discard, os.Stdin)
			close(orphaned)
		}()
	}
	select {
	case err := <-failed:
		return err
	case <-orphaned:
		return nil
	case <-ctx.Done():
	}

	// 1. Not ready. Until the balancer notices, it still sends clients here.
	// They are served, because clients that are refused now would be lost.
	ctx, cancel := context.WithTimeout(context.Background(), s.timeout)
	defer cancel()
	leaving.Store(true)
	say("server", "not ready; %d sessions", proxy.Stats().Open)
	time.Sleep(s.grace)

	// 2. The drain. Until the proxy's last session is over, the server still
	// answers /readyz, and new sessions with 503.
	watched := make(chan struct{})
	watching, stopWatching := context.WithCancel(ctx)
	go func() {
		defer close(watched)
		watch(watching, proxy, s.window/5)
	}()
	err = wsproxy.ShutdownServer(ctx, server, proxy)
	stopWatching()
	<-watched
	drain := proxy.Stats().Drain
	say("server", "drained in %v: %d of %d sessions told, %d cut",
		time.Since(drain.Began).Round(10*time.Millisecond), drain.Told, drain.Total, drain.Cut)
	return err
}

// watch prints the drain's progress until ctx ends.
func watch(ctx context.Context, proxy *wsproxy.Proxy, interval time.Duration) {
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
			st := proxy.Stats()
			say("server", "draining: %d of %d sessions told, %d still open", st.Drain.Told, st.Drain.Total, st.Open)
		case <-ctx.Done():
			return
		}
	}
}
