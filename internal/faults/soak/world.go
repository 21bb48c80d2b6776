//go:build linux

package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/seed-ffb73231/wsproxy"
	"github.com/seed-ffb73231/wsproxy/internal/faults/wire"
	"github.com/seed-ffb73231/wsproxy/internal/wstest"
)

// Limits of the routes, which the fates use.
const (
	maxMessage   = 1 << 20
	perClient    = 2
	smallMessage = 1 << 10
	slowMessages = 40 // a second
	slowedClose  = 2 * time.Second
)

// routes are the proxies' different options. There is a proxy for each of them,
// with and without TLS, detached and not.
var routes = map[string][]wsproxy.Option{
	"calm": {
		wsproxy.WithPing(5*time.Second, wire.Timeout),
		wsproxy.WithMaxMessageSize(wsproxy.Client, maxMessage),
		wsproxy.WithMaxMessageSize(wsproxy.Upstream, maxMessage),
		wsproxy.WithMaxFrameSize(wsproxy.Client, maxMessage),
	},
	"pinged": {wsproxy.WithPing(20*time.Millisecond, wire.Timeout)},
	"silent": {wsproxy.WithPing(200*time.Millisecond, 5*time.Second)}, // enough for an end on a busy machine
	"idle":   {wsproxy.WithIdleTimeout(700 * time.Millisecond), wsproxy.WithPing(100*time.Millisecond, wire.Timeout)},
	"aging":  {wsproxy.WithMaxAge(time.Second)},
	"slow":   {wsproxy.WithRateLimit(wsproxy.Client, wsproxy.RateLimit{Messages: slowMessages, Bytes: 400_000, Burst: 100 * time.Millisecond})},
	"strict": {wsproxy.WithRateLimit(wsproxy.Client, wsproxy.RateLimit{Messages: 1, Burst: 10 * time.Second, Close: true})},
	"slowed": {wsproxy.WithRateLimit(wsproxy.Client, wsproxy.RateLimit{Messages: slowMessages}), wsproxy.WithCloseTimeout(slowedClose)},
	"small":  {wsproxy.WithMaxMessageSize(wsproxy.Client, smallMessage)},
	"stuck":  {wsproxy.WithPing(0, 0), wsproxy.WithWriteTimeout(time.Second)},
	"few": {wsproxy.WithMaxSessionsPerClient(perClient, func(r *http.Request) string {
		return r.Header.Get("X-Client")
	})},
	"several": {wsproxy.WithBalance(wsproxy.Rendezvous(func(r *http.Request) string { return r.Header.Get("X-Room") }))},
}

// A world is the proxies, what is in front of and behind them, and the current
// sessions.
type world struct {
	pause    time.Duration // see settings
	problems problems
	variants []*variant
	upstream [2]net.Listener // plain, TLS
	server   [2]*http.Server // the fronts
	client   *tls.Config
	toxics   *toxics

	sessions sync.Map // by id: *session
	lastID   atomic.Uint64
	serving  sync.WaitGroup
}

// A variant says how a session is connected, and through which proxy.
type variant struct {
	tls, detach bool
	front       string // address
	proxies     map[string]*counted
}

func (v *variant) String() string {
	name := "plain"
	if v.tls {
		name = "tls"
	}
	if v.detach {
		name += ", detached"
	}
	return name
}

func index(tls bool) int {
	if tls {
		return 1
	}
	return 0
}

// newWorld starts a world.
func newWorld(pause time.Duration) (*world, error) {
	w := &world{pause: pause}
	w.client = wstest.ClientConfig("front.test")
	muxes := [2]mux{make(mux), make(mux)}
	var fronts [2]net.Listener
	var err error
	for i := range 2 {
		for _, l := range []*net.Listener{&fronts[i], &w.upstream[i]} {
			if *l, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
				return nil, err
			}
			if i == 1 {
				*l = tls.NewListener(*l, wstest.ServerConfig())
			}
		}
	}
	if w.toxics, err = newToxics(fronts, w.upstream); err != nil {
		return nil, err
	}
	for i, detach := range []bool{false, true, false, true} {
		v := &variant{tls: i >= 2, detach: detach, proxies: make(map[string]*counted)}
		v.front = fronts[index(v.tls)].Addr().String()
		for name, options := range routes {
			p, err := w.newProxy(v, name, options)
			if err != nil {
				return nil, err
			}
			v.proxies[name] = p
			muxes[index(v.tls)][fmt.Sprintf("%v/%s", detach, name)] = w.cancellable(p.proxy)
		}
		w.variants = append(w.variants, v)
	}
	for i := range 2 {
		s := &http.Server{Handler: muxes[i], ReadHeaderTimeout: wire.Timeout, ErrorLog: log.New(w.problems.serverLog(), "", 0)}
		w.server[i] = s
		w.serving.Go(func() { s.Serve(fronts[i]) })
		w.serving.Go(func() { w.serveUpstream(w.upstream[i]) })
	}
	return w, nil
}

// A mux selects a proxy by the first two parts of a path, and leaves the path
// unchanged; an http.ServeMux redirects irregular paths.
type mux map[string]http.Handler

func (m mux) ServeHTTP(rw http.ResponseWriter, r *http.Request) {
	parts := strings.SplitN(r.RequestURI, "/", 4)
	if len(parts) < 4 || m[parts[1]+"/"+parts[2]] == nil {
		http.NotFound(rw, r)
		return
	}
	m[parts[1]+"/"+parts[2]].ServeHTTP(rw, r)
}

// newProxy creates one proxy.
func (w *world) newProxy(v *variant, route string, options []wsproxy.Option) (*counted, error) {
	c := newCounted(&w.problems)
	scheme := "http"
	if v.tls {
		scheme = "https"
	}
	if v.detach {
		options = append(options[:len(options):len(options)], wsproxy.WithDetach())
	}
	options = append([]wsproxy.Option{
		wsproxy.WithTLSConfig(w.client),
		wsproxy.WithLogger(slog.New(c)),
		wsproxy.WithHandshakeTimeout(wire.Timeout),
		wsproxy.WithCloseTimeout(wire.Timeout / 2),
		wsproxy.WithRewrite(func(pr *httputil.ProxyRequest) {
			if name := pr.In.Header.Get("X-Toxic"); name != "" {
				pr.Out.URL.Host = w.toxics.address(name, v.tls)
			}
		}),
		wsproxy.WithOnOpen(func(ws *wsproxy.Session, r *http.Request) error {
			c.opened(ws)
			s := w.session(r.URL.Path)
			if s == nil {
				return errors.New("no such session")
			}
			return s.onOpen(ws, r)
		}),
		wsproxy.WithOnClose(c.closed),
	}, options...)
	target := scheme + "://" + w.upstream[index(v.tls)].Addr().String()
	if route == "several" {
		options = append(options, wsproxy.WithUpstreams(wsproxy.Member{Target: target + "/a"}, wsproxy.Member{Target: target + "/b"}, wsproxy.Member{Target: target + "/c"}))
		target = ""
	}
	var err error
	c.proxy, err = wsproxy.New(target, options...)
	return c, err
}

// session returns the session that a request's path names.
func (w *world) session(path string) *session {
	id, err := strconv.ParseUint(path[strings.LastIndexByte(path, '/')+1:], 10, 64)
	if err != nil {
		return nil
	}
	s, _ := w.sessions.Load(id)
	found, _ := s.(*session)
	return found
}

// cancellable gives each request a context that its session can end.
func (w *world) cancellable(next http.Handler) http.Handler {
	return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if s := w.session(r.URL.Path); s != nil {
			ctx, cancel := context.WithCancel(r.Context())
			defer cancel()
			s.cancel.Store(&cancel)
			r = r.WithContext(ctx)
		}
		next.ServeHTTP(rw, r)
	})
}

// serveUpstream is the upstream: each session decides how it answers.
func (w *world) serveUpstream(l net.Listener) {
	var conns sync.WaitGroup
	defer conns.Wait()
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		conns.Go(func() {
			r, br, err := wire.ReadRequest(c)
			if err != nil {
				c.Close()
				return
			}
			s := w.session(r.URL.Path)
			if s == nil {
				c.Close()
				return
			}
			s.answer(s, c, br, r)
		})
	}
}

// dial connects a session's client to its front server, through a toxic if one
// is named.
func (w *world) dial(s *session, toxic string) (net.Conn, error) {
	v, addr := s.v, s.v.front
	if toxic != "" {
		addr = w.toxics.frontAddress(toxic, v.tls)
	}
	d := net.Dialer{Timeout: wire.Timeout}
	d.SetMultipathTCP(s.multipath)
	if s.small {
		d.Control = func(_, _ string, raw syscall.RawConn) error {
			return raw.Control(func(fd uintptr) {
				syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVBUF, 4<<10)
			})
		}
	}
	c, err := d.Dial("tcp", addr)
	if err != nil || !v.tls {
		return c, err
	}
	c.SetDeadline(time.Now().Add(wire.Timeout))
	t := tls.Client(c, w.client)
	if err := t.Handshake(); err != nil {
		c.Close()
		return nil, err
	}
	return t, nil
}

// close ends it all.
func (w *world) close() {
	for i := range 2 {
		w.server[i].Close()
		w.upstream[i].Close()
	}
	w.toxics.close()
	w.serving.Wait()
}

// problems are what was found to be wrong.
type problems struct {
	mu   sync.Mutex
	n    int
	list []string
}

const mostProblems = 50 // that are told of

func (p *problems) add(format string, args ...any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.n++; p.n <= mostProblems {
		p.list = append(p.list, time.Now().Format("15:04:05 ")+fmt.Sprintf(format, args...))
	}
}

// take returns the problems since the last call.
func (p *problems) take() (list []string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	list, p.list = p.list, nil
	return list
}

// total returns the number of all problems.
func (p *problems) total() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.n
}

// serverLog receives the http.Server's log: failed TLS handshakes are expected,
// panics are not.
func (p *problems) serverLog() io.Writer {
	return writerFunc(func(b []byte) {
		if bytes.Contains(b, []byte("panic")) {
			p.add("%s", b)
		}
	})
}

type writerFunc func([]byte)

func (f writerFunc) Write(b []byte) (int, error) { f(b); return len(b), nil }
