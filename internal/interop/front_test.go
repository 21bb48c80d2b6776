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

// A front is a proxy on a port of its own, and what it has logged.
type front struct {
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
		// A session whose end hangs is not to be mended by the proxy.
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
		url:      "ws" + strings.TrimPrefix(server.URL, "http"),
		origin:   server.URL,
		root:     server.Certificate(),
		sessions: log,
	}
}

// A record is what the proxy says of a session that is over.
type record struct {
	by, reason string
	code       int
	from       [2]counts // the client, the upstream
}

type counts struct{ frames, messages, bytes uint64 }

// A sessionLog is a [slog.Handler] that keeps the records of sessions by
// their requests' paths. A handshake that came to nothing fails the test.
type sessionLog struct {
	t       *testing.T
	mu      sync.Mutex
	changed chan struct{}     // guarded by mu; closed, and made anew, at every change
	records map[string]record // guarded by mu
}

func (l *sessionLog) Enabled(context.Context, slog.Level) bool { return true }
func (l *sessionLog) WithAttrs([]slog.Attr) slog.Handler       { return l }
func (l *sessionLog) WithGroup(string) slog.Handler            { return l }

func (l *sessionLog) Handle(_ context.Context, r slog.Record) error {
	values := make(map[string]slog.Value)
	r.Attrs(func(a slog.Attr) bool {
		values[a.Key] = a.Value
		return true
	})
	if r.Level >= slog.LevelWarn {
		l.t.Errorf("%s: %v", r.Message, values)
		return nil
	}
	path, ok := values["path"]
	if !ok {
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.records[path.String()] = record{
		by:     values["by"].String(),
		reason: values["reason"].String(),
		code:   int(values["code"].Int64()),
		from:   [2]counts{countsOf(values["from_client"]), countsOf(values["from_upstream"])},
	}
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

// await returns the record of the session at path, once it is over.
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
