package interop

import (
	"context"
	"crypto/x509"
	"log/slog"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/seed-ffb73231/wsproxy"
)

// A front is a proxy on its own port, and its log.
type front struct {
	proxy    *wsproxy.Proxy
	url      string // ws or wss
	origin   string // of its own pages
	root     *x509.Certificate
	sessions *sessionLog
}

// newFront puts a proxy in front of an upstream, over TLS if secure. At the
// test's end it must shut down without having to cut a session.
func newFront(t *testing.T, upstream string, secure bool, options ...wsproxy.Option) *front {
	log := &sessionLog{t: t, changed: make(chan struct{}), records: make(map[string]record)}
	options = append([]wsproxy.Option{
		wsproxy.WithLogger(slog.New(log)),
		// The proxy cannot repair a session whose end hangs.
		wsproxy.WithCloseTimeout(2 * limit),
	}, options...)
	proxy, err := wsproxy.New(upstream, options...)
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewUnstartedServer(proxy)
	if secure {
		server.StartTLS()
	} else {
		server.Start()
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), limit)
		defer cancel()
		if err := proxy.Shutdown(ctx); err != nil {
			t.Errorf("Shutdown: %v", err)
		}
		server.Close()
	})
	return &front{
		proxy:    proxy,
		url:      "ws" + strings.TrimPrefix(server.URL, "http"),
		origin:   server.URL,
		root:     server.Certificate(),
		sessions: log,
	}
}

// A record is the proxy's log record of a session that is over, or of a failed
// handshake.
type record struct {
	client     string
	by, reason string
	code       int
	from       [2]counts // the client, the upstream

	side, op string // of a handshake
	status   int
}

type counts struct{ frames, messages, bytes uint64 }

// refused is the prefix of the paths of handshakes that are expected to fail.
const refused = "/refused/"

// A sessionLog is a [slog.Handler] that stores the records of sessions by their
// requests' paths. A failed handshake fails the test, unless its path begins
// with [refused].
type sessionLog struct {
	t       *testing.T
	mu      sync.Mutex
	changed chan struct{}     // guarded by mu; closed, and made anew, at every change
	records map[string]record // guarded by mu
}

// Enabled skips the records of a session's start.
func (l *sessionLog) Enabled(_ context.Context, level slog.Level) bool {
	return level >= slog.LevelInfo
}

func (l *sessionLog) WithAttrs([]slog.Attr) slog.Handler { return l }
func (l *sessionLog) WithGroup(string) slog.Handler      { return l }

func (l *sessionLog) Handle(_ context.Context, r slog.Record) error {
	var path string
	var is record
	var attrs []slog.Attr
	r.Attrs(func(a slog.Attr) bool {
		attrs = append(attrs, a)
		switch a.Key {
		case "path":
			path = a.Value.String()
		case "client":
			is.client = a.Value.String()
		case "by":
			is.by = a.Value.String()
		case "reason":
			is.reason = a.Value.String()
		case "code":
			is.code = int(a.Value.Int64())
		case "from_client":
			is.from[0] = countsOf(a.Value)
		case "from_upstream":
			is.from[1] = countsOf(a.Value)
		case "side":
			is.side = a.Value.String()
		case "op":
			is.op = a.Value.String()
		case "status":
			is.status = int(a.Value.Int64())
		}
		return true
	})
	if r.Level >= slog.LevelWarn && !strings.HasPrefix(path, refused) {
		l.t.Errorf("%s: %v", r.Message, attrs)
		return nil
	}
	if path == "" {
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.records[path] = is
	close(l.changed)
	l.changed = make(chan struct{})
	return nil
}

func countsOf(group slog.Value) (c counts) {
	for _, a := range group.Group() {
		switch a.Key {
		case "frames":
			c.frames = a.Value.Uint64()
		case "messages":
			c.messages = a.Value.Uint64()
		case "bytes":
			c.bytes = a.Value.Uint64()
		}
	}
	return c
}

// await returns the record of the session at path once the session is over.
func (l *sessionLog) await(ctx context.Context, path string) (record, error) {
	for {
		l.mu.Lock()
		r, ok := l.records[path]
		changed := l.changed
		l.mu.Unlock()
		if ok {
			return r, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return r, ctx.Err()
		}
	}
}
