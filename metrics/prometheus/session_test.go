package wsprometheus_test

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/prometheus/client_golang/prometheus/testutil"
	dto "github.com/prometheus/client_model/go"

	"github.com/seed-ffb73231/wsproxy"
	wsprometheus "github.com/seed-ffb73231/wsproxy/metrics/prometheus"
)

// limit is the time limit of any wait.
const limit = 30 * time.Second

// A site is an upstream that echoes, but answers 403 at /forbidden and 200 at
// /health, behind a proxy.
type site struct {
	proxy    *wsproxy.Proxy
	url      string
	upstream string                // its URL
	sessions chan *wsproxy.Session // as they come
}

func newSite(t *testing.T, options ...wsproxy.Option) *site {
	t.Helper()
	upstream := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/forbidden":
			http.Error(w, "no", http.StatusForbidden)
			return
		case "/health":
			return
		}
		conn, err := websocket.Accept(w, r, nil)
		if err != nil {
			return
		}
		defer conn.CloseNow()
		for {
			kind, message, err := conn.Read(context.Background())
			if err != nil {
				return
			}
			conn.Write(context.Background(), kind, message)
		}
	}))
	t.Cleanup(upstream.Close)
	s := &site{upstream: upstream.URL, sessions: make(chan *wsproxy.Session, 1000)}
	proxy, err := wsproxy.New(upstream.URL, append(options,
		wsproxy.WithLogger(slog.New(slog.DiscardHandler)),
		wsproxy.WithOnOpen(func(session *wsproxy.Session, _ *http.Request) error {
			s.sessions <- session
			return nil
		}))...)
	if err != nil {
		t.Fatal(err)
	}
	front := httptest.NewServer(proxy)
	t.Cleanup(func() {
		proxy.Close()
		front.Close()
	})
	s.proxy, s.url = proxy, front.URL
	return s
}

// open opens a session and has a message echoed.
func (s *site) open(t *testing.T) (*websocket.Conn, *wsproxy.Session) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	conn, _, err := websocket.Dial(ctx, s.url+"/chat?token=secret", nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.CloseNow() })
	if err := conn.Write(ctx, websocket.MessageText, []byte("hello")); err != nil {
		t.Fatal(err)
	}
	if _, _, err := conn.Read(ctx); err != nil {
		t.Fatal(err)
	}
	return conn, <-s.sessions
}

// compare ignores outcomes and kinds that are still 0.
func compare(t *testing.T, g prometheus.Gatherer, want string, names ...string) {
	t.Helper()
	happened := prometheus.GathererFunc(func() ([]*dto.MetricFamily, error) {
		families, err := g.Gather()
		for _, f := range families {
			if name := f.GetName(); name == "wsproxy_sessions_ended_total" || name == "wsproxy_handshakes_failed_total" {
				f.Metric = slices.DeleteFunc(f.Metric, func(m *dto.Metric) bool { return m.GetCounter().GetValue() == 0 })
			}
		}
		return slices.DeleteFunc(families, func(f *dto.MetricFamily) bool { return len(f.Metric) == 0 }), err
	})
	if err := testutil.GatherAndCompare(happened, strings.NewReader(want), names...); err != nil {
		t.Error(err)
	}
}

// Events in sessions are counted under the label of their proxy.
func TestSessions(t *testing.T) {
	chat, feed := newSite(t), newSite(t)
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(
		wsprometheus.New(chat.proxy, prometheus.Labels{"proxy": "chat"}),
		wsprometheus.New(feed.proxy, prometheus.Labels{"proxy": "feed"}))
	const sessions = `
# HELP wsproxy_sessions Open sessions.
# TYPE wsproxy_sessions gauge
`
	compare(t, registry, sessions+`
wsproxy_sessions{proxy="chat"} 0
wsproxy_sessions{proxy="feed"} 0
`, "wsproxy_sessions", "wsproxy_sessions_ended_total", "wsproxy_handshakes_failed_total")

	// Each outcome and kind exists from the start: otherwise the first event
	// would not be an increase.
	for _, name := range []string{"wsproxy_sessions_ended_total", "wsproxy_handshakes_failed_total"} {
		if n, err := testutil.GatherAndCount(registry, name); err != nil || n < 2*16 {
			t.Errorf("%s: got %d series, %v, want one for each", name, n, err)
		}
	}

	conn, session := chat.open(t)
	reading, other := feed.open(t)
	reading.CloseRead(t.Context()) // it answers a Close
	compare(t, registry, sessions+`
wsproxy_sessions{proxy="chat"} 1
wsproxy_sessions{proxy="feed"} 1
`, "wsproxy_sessions")

	if err := conn.Close(websocket.StatusNormalClosure, ""); err != nil {
		t.Fatal(err)
	}
	<-session.Done()
	if _, resp, _ := websocket.Dial(t.Context(), chat.url+"/forbidden", nil); resp == nil || resp.StatusCode != http.StatusForbidden {
		t.Fatalf("got %v, want the upstream's 403", resp)
	}
	resp, err := http.Get(chat.url)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if err := feed.proxy.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	<-other.Done()
	// The client's Close is a frame of the session; the proxy's own is not.
	compare(t, registry, sessions+`
wsproxy_sessions{proxy="chat"} 0
wsproxy_sessions{proxy="feed"} 0
# HELP wsproxy_sessions_ended_total Ended sessions, by the side that caused the end and the reason.
# TYPE wsproxy_sessions_ended_total counter
wsproxy_sessions_ended_total{by="client",proxy="chat",reason="closed"} 1
wsproxy_sessions_ended_total{by="proxy",proxy="feed",reason="drained"} 1
# HELP wsproxy_handshakes_failed_total Failed and refused handshakes, by kind.
# TYPE wsproxy_handshakes_failed_total counter
wsproxy_handshakes_failed_total{kind="bad handshake",proxy="chat"} 1
wsproxy_handshakes_failed_total{kind="refusal",proxy="chat"} 1
# HELP wsproxy_received_bytes_total Bytes relayed from a side, on the wire.
# TYPE wsproxy_received_bytes_total counter
wsproxy_received_bytes_total{from="client",proxy="chat"} 19
wsproxy_received_bytes_total{from="client",proxy="feed"} 11
wsproxy_received_bytes_total{from="upstream",proxy="chat"} 11
wsproxy_received_bytes_total{from="upstream",proxy="feed"} 7
# HELP wsproxy_drain_told_sessions Sessions that have been told to end since the shutdown began, or ended by themselves.
# TYPE wsproxy_drain_told_sessions gauge
wsproxy_drain_told_sessions{proxy="chat"} 0
wsproxy_drain_told_sessions{proxy="feed"} 1
`, "wsproxy_sessions", "wsproxy_sessions_ended_total", "wsproxy_handshakes_failed_total", "wsproxy_received_bytes_total", "wsproxy_drain_told_sessions")
}

// Registration rejects an invalid label, a label that a metric already has, and
// two proxies with the same labels.
func TestBadLabels(t *testing.T) {
	s := newSite(t)
	for _, labels := range []prometheus.Labels{{"__name__": ""}, {"reason": ""}, {"side": ""}, {"member": ""}} {
		if err := prometheus.NewRegistry().Register(wsprometheus.New(s.proxy, labels)); err == nil {
			t.Errorf("%v: no error", labels)
		}
	}
	registry := prometheus.NewRegistry()
	registry.MustRegister(wsprometheus.New(s.proxy, nil))
	if err := registry.Register(wsprometheus.New(s.proxy, nil)); err == nil {
		t.Error("the same labels twice: no error")
	}
}

// Scrapes may come at any time and concurrently.
func TestConcurrentScrapes(t *testing.T) {
	s := newSite(t, wsproxy.WithPing(time.Millisecond, limit))
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(wsprometheus.New(s.proxy, nil))
	handler := promhttp.HandlerFor(registry, promhttp.HandlerOpts{})
	done := make(chan struct{})
	var scrapers sync.WaitGroup
	for range 4 {
		scrapers.Go(func() {
			for {
				w := httptest.NewRecorder()
				handler.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", nil))
				if w.Code != http.StatusOK {
					body, _ := io.ReadAll(w.Body)
					t.Errorf("%d: %s", w.Code, body)
				}
				select {
				case <-done:
					return
				default:
				}
			}
		})
	}
	const n = 20
	for range n {
		conn, session := s.open(t)
		conn.CloseNow()
		<-session.Done()
	}
	close(done)
	scrapers.Wait()
	compare(t, registry, fmt.Sprintf(`
# HELP wsproxy_sessions_opened_total Sessions opened so far.
# TYPE wsproxy_sessions_opened_total counter
wsproxy_sessions_opened_total %d
`, n), "wsproxy_sessions_opened_total")
}
