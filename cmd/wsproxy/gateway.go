package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"reflect"
	"sync"
	"sync/atomic"
	"time"

	"github.com/seed-ffb73231/wsproxy"
)

// A gateway is a config in use. One goroutine calls commit and shutdown;
// prepare may run in any one goroutine while no commit runs. The handlers run
// in many.
type gateway struct {
	log     *slog.Logger
	public  *http.Server
	private *http.Server // the admin's
	failed  chan error   // a listener's

	sockets []socket // that systemd has passed

	mux         atomic.Pointer[http.ServeMux]
	certificate atomic.Pointer[func(*tls.ClientHelloInfo) (*tls.Certificate, error)]
	leaving     atomic.Bool // not ready

	// Owned by the goroutine that calls commit and shutdown.
	config     *config
	listeners  map[address]net.Listener
	selfSigned *tls.Certificate // nil: not needed so far

	mu      sync.Mutex
	hosts   []string                  // guarded by mu; names by which the admin's server may be called
	console string                    // guarded by mu; the config's
	routes  []*running                // guarded by mu
	old     map[*wsproxy.Proxy]string // guarded by mu; proxies that no route uses, but that still have sessions, and names for them
	retired int                       // guarded by mu; how many have been there
}

// A running is a route with its proxy.
type running struct {
	*route
	proxy *wsproxy.Proxy
}

// newGateway returns a gateway without routes and listeners. Sockets are those
// that systemd has passed.
func newGateway(log *slog.Logger, sockets []socket) *gateway {
	g := &gateway{
		log:       log,
		sockets:   sockets,
		failed:    make(chan error, 1),
		listeners: make(map[address]net.Listener),
		old:       make(map[*wsproxy.Proxy]string),
	}
	complaints := slog.NewLogLogger(log.Handler(), slog.LevelWarn)
	g.public = &http.Server{
		Handler:           http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { g.mux.Load().ServeHTTP(w, r) }),
		ReadHeaderTimeout: 10 * time.Second, // clients that never finish a handshake
		ReadTimeout:       10 * time.Second, // and bodies, where there should be none; it ends with the handshake
		IdleTimeout:       2 * time.Minute,  // between requests that are none
		MaxHeaderBytes:    64 << 10,
		ErrorLog:          complaints,
		TLSConfig: &tls.Config{GetCertificate: func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
			return (*g.certificate.Load())(hello)
		}},
		Protocols: new(http.Protocols),
	}
	g.public.Protocols.SetHTTP1(true) // what WebSockets are opened by
	g.private = &http.Server{
		Handler:           g.admin(),
		ReadHeaderTimeout: 10 * time.Second,
		ReadTimeout:       10 * time.Second,
		WriteTimeout:      10 * time.Second,
		MaxHeaderBytes:    64 << 10,
		ErrorLog:          complaints,
	}
	return g
}

// A change is a config that is ready for use.
type change struct {
	config     *config
	before     map[string]*running
	routes     []*running
	renewed    []*running // those with a new proxy
	listeners  *listeners
	selfSigned *tls.Certificate // nil: not needed
}

// prepare prepares a config, the first one or a later one. It does everything
// that may take time (name servers) or fail, and changes nothing yet.
func (g *gateway) prepare(read func() (*config, error)) (*change, error) {
	c, err := read()
	switch {
	case err != nil:
		return nil, err
	case g.config != nil && c.json != g.config.json:
		return nil, errors.New("log cannot change at run time")
	}
	ch := &change{config: c, before: make(map[string]*running), selfSigned: g.selfSigned}
	if c.selfSigned && ch.selfSigned == nil {
		if ch.selfSigned, err = selfSigned(c.tlsHosts()); err != nil {
			return nil, err
		}
	}
	for _, r := range g.routes {
		ch.before[r.pattern] = r
	}
	if ch.routes, ch.renewed, err = g.renew(c, ch.before); err != nil {
		return nil, err
	}
	if ch.listeners, err = g.open(c); err != nil {
		ch.drop()
		return nil, err
	}
	return ch, nil
}

// drop closes what prepare has created, if the change is not used.
func (ch *change) drop() {
	for _, r := range ch.renewed {
		r.proxy.Close()
	}
}

// commit applies a change. If it returns an error, nothing has changed. Routes
// and listeners that stay keep their sessions.
func (g *gateway) commit(ch *change) error {
	c, before := ch.config, ch.before
	if err := g.unblock(ch.listeners, c); err != nil {
		ch.drop()
		return err
	}
	mux := http.NewServeMux()
	for _, r := range ch.routes {
		mux.Handle(r.pattern, r.proxy)
		if old := before[r.pattern]; old != nil && old.proxy == r.proxy {
			delete(before, r.pattern) // which are those that go, in the end
			if !reflect.DeepEqual(old.members, r.members) {
				if err := r.proxy.SetUpstreams(r.members...); err != nil { // checked before
					g.log.Error("upstreams not changed", "route", r.pattern, "error", err)
				}
			}
		}
	}
	switch {
	case c.selfSigned:
		if g.selfSigned == nil {
			g.log.Info("certificate made", "sha256", fingerprint(ch.selfSigned), "expires", ch.selfSigned.Leaf.NotAfter)
		}
		g.selfSigned = ch.selfSigned
		get := func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return ch.selfSigned, nil }
		g.certificate.Store(&get)
	case c.certificates != nil:
		c.certificates.Logger = g.log
		get := c.certificates.GetCertificate
		g.certificate.Store(&get)
	}
	g.mux.Store(mux)
	g.mu.Lock()
	g.hosts, g.console = c.adminHosts, c.console
	g.routes = ch.routes
	for _, r := range before {
		g.retired++
		g.old[r.proxy] = fmt.Sprintf("%s (old %d)", r.pattern, g.retired)
	}
	g.mu.Unlock()
	g.config = c
	for _, r := range before {
		go g.retire(r, c.shutdownTimeout)
	}
	g.takeOver(ch.listeners, c)
	return nil
}

// renew returns the config's routes, with their current proxies, or with new
// ones if their settings have changed.
func (g *gateway) renew(c *config, before map[string]*running) (routes, renewed []*running, err error) {
	var making sync.WaitGroup // each may have to wait for a name server
	errs := make([]error, len(c.routes))
	for i, r := range c.routes {
		n := &running{route: r}
		routes = append(routes, n)
		if old := before[r.pattern]; old != nil && reflect.DeepEqual(old.settings, r.settings) {
			n.proxy = old.proxy
			continue
		}
		renewed = append(renewed, n)
		making.Go(func() {
			if n.proxy, errs[i] = r.proxy(g.log); errs[i] != nil {
				errs[i] = fmt.Errorf("route %s: %w", r.pattern, errs[i])
			}
		})
	}
	making.Wait()
	if err := errors.Join(errs...); err != nil {
		for _, r := range renewed {
			if r.proxy != nil {
				r.proxy.Close()
			}
		}
		return nil, nil, err
	}
	return routes, renewed, nil
}

// retire drains a proxy whose route was removed or has a new proxy.
func (g *gateway) retire(r *running, timeout time.Duration) {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	err := r.proxy.Shutdown(ctx)
	drain := r.proxy.Stats().Drain
	if err != nil {
		g.log.Warn("route cut", "route", r.pattern, "sessions", drain.Total, "cut", drain.Cut)
	} else {
		g.log.Info("route drained", "route", r.pattern, "sessions", drain.Total)
	}
	g.mu.Lock()
	delete(g.old, r.proxy)
	g.mu.Unlock()
}

// shutdown stops the gateway: it reports that it is not ready, drains the
// proxies, and stops the servers. When ctx ends, it cuts the remaining sessions
// and returns early.
func (g *gateway) shutdown(ctx context.Context) error {
	g.leaving.Store(true)
	g.log.Info("not ready", "delay", g.config.shutdownDelay)
	g.tell(stopping(g.config.shutdownDelay + g.config.shutdownTimeout + 10*time.Second)...)
	// Until balancers notice, they still send clients here.
	select {
	case <-time.After(g.config.shutdownDelay):
	case <-ctx.Done():
	}
	drain, cancel := context.WithTimeout(ctx, g.config.shutdownTimeout)
	defer cancel()
	g.mu.Lock()
	proxies := make([]*wsproxy.Proxy, 0, len(g.routes)+len(g.old))
	for _, r := range g.routes {
		proxies = append(proxies, r.proxy)
	}
	for p := range g.old {
		proxies = append(proxies, p)
	}
	g.mu.Unlock()
	err := wsproxy.ShutdownServer(drain, g.public, proxies...)
	told, cut := 0, 0
	for _, p := range proxies {
		told, cut = told+p.Stats().Drain.Total, cut+p.Stats().Drain.Cut
	}
	g.log.Info("drained", "sessions", told, "cut", cut)
	// Until now the admin server still answers.
	return errors.Join(err, g.private.Close())
}
