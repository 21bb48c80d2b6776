package interop

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/go-chi/chi/v5"
	"github.com/go-chi/chi/v5/middleware"
	"github.com/gorilla/handlers"

	"github.com/seed-ffb73231/wsproxy"
)

// TestMiddleware runs the proxy behind common middleware, and behind a proxy
// that terminates TLS, which the test plays: a page loaded over https opens a
// WebSocket.
func TestMiddleware(t *testing.T) {
	local := wsproxy.WithTrustedProxies(netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128"))
	realIP := func(proxy http.Handler) http.Handler {
		router := chi.NewRouter()
		//lint:ignore SA1019 programs have it, deprecated or not
		router.Use(middleware.RealIP, middleware.Logger, middleware.Recoverer, middleware.StripSlashes)
		router.Handle("/websocket", proxy)
		return router
	}
	gorilla := func(proxy http.Handler) http.Handler {
		return handlers.ProxyHeaders(handlers.CombinedLoggingHandler(io.Discard, handlers.CompressHandler(handlers.RecoveryHandler()(proxy))))
	}
	for _, row := range []struct {
		name    string
		mount   func(http.Handler) http.Handler
		keep    bool // the connection's address
		trusted bool
		opens   bool
		peer    string // what the upstream is told in X-Forwarded-For
	}{
		{"chi", realIP, true, true, true, "203.0.113.7, 127.0.0.1"},
		{"chi, address not kept", realIP, false, true, false, ""},
		{"gorilla", gorilla, true, true, true, "203.0.113.7, 127.0.0.1"},
		{"gorilla, by its word", gorilla, false, false, true, "203.0.113.7"},
	} {
		t.Run(row.name, func(t *testing.T) {
			told := make(chan http.Header, 1)
			upstream := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				told <- r.Header
				if c, err := websocket.Accept(w, r, &websocket.AcceptOptions{InsecureSkipVerify: true}); err == nil {
					c.CloseNow()
				}
			}))
			defer upstream.Close()
			options := []wsproxy.Option{wsproxy.WithLogger(slog.New(slog.DiscardHandler))}
			if row.trusted {
				options = append(options, local)
			}
			proxy, err := wsproxy.New(upstream.URL, options...)
			if err != nil {
				t.Fatal(err)
			}
			defer proxy.Close()
			server := httptest.NewUnstartedServer(row.mount(proxy))
			if row.keep {
				server.Config.ConnContext = wsproxy.ConnContext
			}
			server.Start()
			defer server.Close()
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			c, _, err := websocket.Dial(ctx, server.URL+"/websocket", &websocket.DialOptions{
				Host: "chat.example.com",
				HTTPHeader: http.Header{"Origin": {"https://chat.example.com"}, "X-Forwarded-Proto": {"https"},
					"X-Forwarded-For": {"203.0.113.7"}, "X-Real-Ip": {"203.0.113.7"}},
			})
			if (err == nil) != row.opens {
				t.Fatalf("got %v, want it to open: %v", err, row.opens)
			}
			if err != nil {
				return
			}
			c.CloseNow()
			h := <-told
			if h.Get("X-Forwarded-For") != row.peer || h.Get("X-Forwarded-Proto") != "https" {
				t.Errorf("the upstream was told %v, want %q and https", h, row.peer)
			}
		})
	}
}
