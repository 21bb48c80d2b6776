package wscaddy

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap/exp/zapslog"

	"github.com/seed-ffb73231/wsproxy"
	wsprometheus "github.com/seed-ffb73231/wsproxy/metrics/prometheus"
)

// This file keeps proxies, with their sessions, while Caddy's configurations
// come and go.

// proxies holds the proxies of all handlers, those of the running configuration
// and, while it is being loaded, those of the next one.
var proxies = caddy.NewUsagePool()

// draining waits for the proxies that are shutting down.
var draining sync.WaitGroup

// A key identifies a proxy: handlers with the same configuration share it.
type key struct {
	config     string // in JSON
	generation int    // the files that the configuration names have changed so often
}

// A shared is a proxy and what belongs to it, used by one handler or more.
type shared struct {
	proxy *wsproxy.Proxy
	tls   *tls.Config // what came of the files and modules of the configuration
	log   *loggers
	drain time.Duration // the time limit
}

// acquire finds the handler's proxy, or makes it.
func (h *Handler) acquire(ctx caddy.Context, config string) error {
	secure, err := h.tlsConfig(ctx)
	if err != nil {
		return err
	}
	h.logger = ctx.Slogger().Handler()
	for k := (key{config: config}); ; k.generation++ {
		v, loaded, err := proxies.LoadOrNew(k, func() (caddy.Destructor, error) { return h.newShared(secure) })
		if err != nil {
			return err
		}
		s := v.(*shared)
		if loaded && !sameTLS(s.tls, secure) { // a file has changed since
			proxies.Delete(k) // the others that use it
			continue
		}
		h.key, h.shared = k, s
		s.log.add(h)
		return nil
	}
}

// release gives the handler's proxy back. Caddy also calls it if Provision has
// failed.
func (h *Handler) release() error {
	if h.shared == nil {
		return nil
	}
	h.shared.log.remove(h)
	_, err := proxies.Delete(h.key)
	return err
}

func (h *Handler) newShared(secure *tls.Config) (*shared, error) {
	s := &shared{tls: secure, log: new(loggers), drain: h.drainLimit()}
	members, err := h.members()
	if err != nil {
		return nil, err
	}
	options, err := h.options(members, secure)
	if err != nil {
		return nil, err
	}
	s.proxy, err = wsproxy.New("", append(options, wsproxy.WithLogger(slog.New(logHandler{log: s.log})))...)
	return s, explain(err)
}

// Destruct implements [caddy.Destructor]: no handler uses the proxy any more.
// It does not wait for the sessions; when Caddy exits, that is done for all
// proxies at once.
func (s *shared) Destruct() error {
	draining.Go(func() {
		ctx, cancel := context.WithTimeout(context.Background(), s.drain)
		defer cancel()
		logger := slog.New(logHandler{log: s.log})
		open := s.proxy.Stats().Open
		if open > 0 {
			logger.Info("wsproxy: draining", "sessions", open)
		}
		if err := s.proxy.Shutdown(ctx); err != nil {
			logger.Warn("wsproxy: sessions cut", "error", err)
		}
	})
	return nil
}

// sameTLS reports whether the files and modules of two equal configurations
// have the same content.
func sameTLS(a, b *tls.Config) bool {
	if a == nil || b == nil {
		return a == b
	}
	return a.RootCAs.Equal(b.RootCAs) && slices.EqualFunc(a.Certificates, b.Certificates, func(a, b tls.Certificate) bool {
		return slices.EqualFunc(a.Certificate, b.Certificate, bytes.Equal)
	})
}

// register adds the proxy's metrics to those of a configuration.
func (s *shared) register(registry *prometheus.Registry, label string) error {
	name := label
	for n := 2; ; n++ {
		err := registry.Register(collector{wsprometheus.New(s.proxy, prometheus.Labels{"proxy": name}), s.proxy})
		taken, ok := errors.AsType[prometheus.AlreadyRegisteredError](err)
		if !ok {
			return err
		}
		if other, ok := taken.ExistingCollector.(collector); ok && other.proxy == s.proxy {
			return nil
		}
		name = fmt.Sprintf("%s #%d", label, n)
	}
}

// A collector knows its proxy.
type collector struct {
	prometheus.Collector
	proxy *wsproxy.Proxy
}

// loggers are the loggers of the handlers that use a proxy. Records go to the
// newest: Caddy closes the others with their configurations.
type loggers struct {
	mu       sync.Mutex
	handlers []*Handler
	newest   atomic.Pointer[slog.Handler] // nil: none, so Caddy's own
}

func (l *loggers) add(h *Handler) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.handlers = append(l.handlers, h)
	l.newest.Store(&h.logger)
}

func (l *loggers) remove(h *Handler) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.handlers = slices.DeleteFunc(l.handlers, func(other *Handler) bool { return other == h })
	if n := len(l.handlers); n > 0 {
		l.newest.Store(&l.handlers[n-1].logger)
	} else {
		l.newest.Store(nil)
	}
}

// A logHandler passes records to the newest logger.
type logHandler struct {
	log  *loggers
	with []func(slog.Handler) slog.Handler // attributes and groups, in order
}

func (h logHandler) current() slog.Handler {
	var to slog.Handler
	if newest := h.log.newest.Load(); newest != nil {
		to = *newest
	} else {
		to = zapslog.NewHandler(caddy.Log().Core(), zapslog.WithName(string(Handler{}.CaddyModule().ID)))
	}
	for _, with := range h.with {
		to = with(to)
	}
	return to
}

func (h logHandler) Enabled(ctx context.Context, level slog.Level) bool {
	return h.current().Enabled(ctx, level)
}

func (h logHandler) Handle(ctx context.Context, r slog.Record) error {
	return h.current().Handle(ctx, r)
}

func (h logHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return h.and(func(to slog.Handler) slog.Handler { return to.WithAttrs(attrs) })
}

func (h logHandler) WithGroup(name string) slog.Handler {
	return h.and(func(to slog.Handler) slog.Handler { return to.WithGroup(name) })
}

func (h logHandler) and(with func(slog.Handler) slog.Handler) slog.Handler {
	return logHandler{h.log, append(slices.Clip(h.with), with)}
}
