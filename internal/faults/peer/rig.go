// Package peer scripts the peers of a proxy under test: a client and an
// upstream that are both raw byte streams under the test's control, over real
// sockets, plain or with TLS. Between them is a real http.Server with the
// proxy. At the end of a case, the accounts must balance: see account.go.
package peer

import (
	"crypto/tls"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"runtime/debug"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/seed-ffb73231/wsproxy"
	"github.com/seed-ffb73231/wsproxy/internal/wstest"
)

// Legs says what the two connections of a session are made of.
type Legs struct {
	Client, Upstream wstest.Kind // TCP or TLS
	Detach           bool        // WithDetach
}

// Name names the legs in a test's name.
func (l Legs) Name() string {
	s := string(l.Client + "-" + l.Upstream)
	if l.Detach {
		s += "-detached"
	}
	return s
}

// Kinds are the combinations that Each runs.
var Kinds = []Legs{
	{wstest.TCP, wstest.TCP, false},
	{wstest.TCP, wstest.TCP, true},
	{wstest.TLS, wstest.TCP, true},
	{wstest.TCP, wstest.TLS, false},
	{wstest.TLS, wstest.TLS, false},
}

// Few are those that differ most, for slow tests.
var Few = []Legs{
	{wstest.TCP, wstest.TCP, false},
	{wstest.TLS, wstest.TLS, true},
}

// Each runs a test over legs of each kind.
func Each(t *testing.T, f func(t *testing.T, legs Legs)) { each(t, Kinds, f) }

// EachOfFew runs a test over legs of few kinds.
func EachOfFew(t *testing.T, f func(t *testing.T, legs Legs)) { each(t, Few, f) }

func each(t *testing.T, kinds []Legs, f func(t *testing.T, legs Legs)) {
	for _, l := range kinds {
		t.Run(l.Name(), func(t *testing.T) { f(t, l) })
	}
}

// EachSide runs a test with either side as the one that misbehaves, over legs
// of each kind.
func EachSide(t *testing.T, f func(t *testing.T, legs Legs, faulty wsproxy.Side)) {
	eachSide(t, Kinds, f)
}

// EachSideOfFew is EachSide over legs of few kinds.
func EachSideOfFew(t *testing.T, f func(t *testing.T, legs Legs, faulty wsproxy.Side)) {
	eachSide(t, Few, f)
}

func eachSide(t *testing.T, kinds []Legs, f func(t *testing.T, legs Legs, faulty wsproxy.Side)) {
	for _, side := range []wsproxy.Side{wsproxy.Client, wsproxy.Upstream} {
		t.Run(side.String(), func(t *testing.T) {
			each(t, kinds, func(t *testing.T, l Legs) { f(t, l, side) })
		})
	}
}

// Told returns the close code that the opposite side gets when this one is
// lost.
func Told(lost wsproxy.Side) int {
	if lost == wsproxy.Client {
		return 1001
	}
	return 1011
}

// Config configures a rig. The zero Config is plain TCP on loopback.
type Config struct {
	Legs
	Options []wsproxy.Option
	Wrap    func(http.Handler) http.Handler // middleware
	Server  func(*http.Server)              // changes the server
	Cert    *tls.Certificate                // of the upstream; nil: a trusted one

	// Listen replaces the rig's listener for the side's connections: those that
	// clients, or the proxy, make.
	Listen func(wsproxy.Side) (net.Listener, error)
	// Dial connects clients to the front server.
	Dial func(address string) (net.Conn, error)
	// Via puts something in front of the side's listener; it returns the
	// address to connect to instead.
	Via func(side wsproxy.Side, address string) string
	// Target is the proxy's target instead of the listener's address.
	Target string
}

// A Rig is a proxy under test.
type Rig struct {
	t     testing.TB
	cfg   Config
	logs  *wstest.Logs
	base  counts
	front net.Listener
	back  net.Listener
	to    string // where clients connect to

	Proxy  *wsproxy.Proxy
	Server *http.Server

	entered, left atomic.Int64 // ServeHTTP
}

// New starts a proxy on a server of its own. At the end of the test, it is
// stopped and its accounts are checked.
func New(t testing.TB, cfg Config) *Rig {
	t.Helper()
	if cfg.Client == "" {
		cfg.Client = wstest.TCP
	}
	if cfg.Upstream == "" {
		cfg.Upstream = wstest.TCP
	}
	cert() // or its making would take part
	// A connection that is merely dropped must not go unnoticed because its
	// finalizer closes it.
	percent := debug.SetGCPercent(-1)
	t.Cleanup(func() { debug.SetGCPercent(percent) })
	r := &Rig{t: t, cfg: cfg, logs: &wstest.Logs{Least: slog.LevelDebug}, base: count()}
	r.front, r.back = r.listen(wsproxy.Client), r.listen(wsproxy.Upstream)
	r.to = r.via(wsproxy.Client, r.front)

	target := cfg.Target
	if target == "" {
		scheme := "http"
		if cfg.Upstream == wstest.TLS {
			scheme = "https"
		}
		target = scheme + "://" + r.via(wsproxy.Upstream, r.back)
	}
	options := []wsproxy.Option{
		wsproxy.WithLogger(slog.New(r.logs)),
		wsproxy.WithInsecureAnyOrigin(),
		wsproxy.WithTLSConfig(wstest.ClientConfig("")),
	}
	if cfg.Detach {
		options = append(options, wsproxy.WithDetach())
	}
	p, err := wsproxy.New(target, append(options, cfg.Options...)...)
	if err != nil {
		t.Fatal(err)
	}
	r.Proxy = p
	handler := http.Handler(p)
	if cfg.Wrap != nil {
		handler = cfg.Wrap(handler)
	}
	r.Server = &http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			r.entered.Add(1)
			defer r.left.Add(1)
			handler.ServeHTTP(w, req)
		}),
		ErrorLog: log.New(io.Discard, "", 0),
	}
	if cfg.Server != nil {
		cfg.Server(r.Server)
	}
	front := r.front
	if cfg.Client == wstest.TLS {
		front = tls.NewListener(front, &tls.Config{Certificates: []tls.Certificate{cert()}})
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		r.Server.Serve(front)
	}()
	t.Cleanup(func() { r.settle(done) })
	return r
}

func (r *Rig) listen(side wsproxy.Side) net.Listener {
	r.t.Helper()
	listen := r.cfg.Listen
	if listen == nil {
		listen = func(wsproxy.Side) (net.Listener, error) { return net.Listen("tcp", "127.0.0.1:0") }
	}
	ln, err := listen(side)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { ln.Close() })
	return ln
}

func (r *Rig) via(side wsproxy.Side, ln net.Listener) string {
	if r.cfg.Via != nil {
		return r.cfg.Via(side, ln.Addr().String())
	}
	return ln.Addr().String()
}

// Connect connects a client to the front server; TLS is done, HTTP has not
// started.
func (r *Rig) Connect() *wstest.Wire {
	r.t.Helper()
	dial := r.cfg.Dial
	if dial == nil {
		dial = func(address string) (net.Conn, error) { return net.Dial("tcp", address) }
	}
	c, err := dial(r.to)
	if err != nil {
		r.t.Fatal(err)
	}
	if r.cfg.Client == wstest.TLS {
		c = tls.Client(c, wstest.ClientConfig("front.test"))
	}
	return wstest.NewWire(r.t, c, true)
}

// Back is the upstream's listener; closing it makes the upstream refuse
// connections.
func (r *Rig) Back() net.Listener { return r.back }

// AcceptRaw waits for the proxy to connect to the upstream; no protocol above
// TCP has started.
func (r *Rig) AcceptRaw() *wstest.Wire {
	r.t.Helper()
	return wstest.NewWire(r.t, wstest.Accept(r.t, r.back), false)
}

// Accept is AcceptRaw with TLS, where the leg is in TLS.
func (r *Rig) Accept() *wstest.Wire {
	r.t.Helper()
	w := r.AcceptRaw()
	if r.cfg.Upstream != wstest.TLS {
		return w
	}
	own := cert()
	if r.cfg.Cert != nil {
		own = *r.cfg.Cert
	}
	return wstest.NewWire(r.t, tls.Server(w.Conn, &tls.Config{Certificates: []tls.Certificate{own}}), false)
}

// NoDial checks that nothing connects to the upstream.
func (r *Rig) NoDial() {
	r.t.Helper()
	ln, ok := r.back.(*net.TCPListener)
	if !ok {
		r.t.Fatalf("%T has no deadline", r.back)
	}
	ln.SetDeadline(longAgo)
	if c, err := ln.Accept(); err == nil {
		c.Close()
		r.t.Error("the upstream was connected to, want nothing dialled")
	} else if !strings.Contains(err.Error(), "timeout") {
		r.t.Error(err)
	}
	ln.SetDeadline(never)
}

// Open performs both handshakes.
func (r *Rig) Open() (client, upstream *wstest.Wire) {
	r.t.Helper()
	client = r.Connect()
	client.Send(Request("/", ""))
	upstream = r.Accept()
	Accept(upstream, "")
	client.WantStatus(http.StatusSwitchingProtocols)
	return client, upstream
}

// OpenSide is Open for a test about one side, which comes first.
func (r *Rig) OpenSide(side wsproxy.Side) (this, across *wstest.Wire) {
	r.t.Helper()
	client, upstream := r.Open()
	if side == wsproxy.Client {
		return client, upstream
	}
	return upstream, client
}

// Address is the address for clients that the rig does not create.
func (r *Rig) Address() string { return r.to }

// cert is used by both legs of a rig, also on the tests' own networks.
var cert = sync.OnceValue(func() tls.Certificate {
	return wstest.CA().Issue("front.test", "upstream.test", "127.0.0.1", "10.221.2.2")
})

// Request is [wstest.Request] with [wstest.Secret] in it.
func Request(path, lines string) string {
	return wstest.Request(path+"?token="+wstest.Secret, "Authorization: Bearer "+wstest.Secret+"\r\n"+lines)
}

// Answer is [wstest.Answer] with [wstest.Secret] in it.
func Answer(key, lines string) string {
	return wstest.Answer(key, "Set-Cookie: id="+wstest.Secret+"\r\n"+lines)
}

// Accept reads the request and sends the [Answer].
func Accept(upstream *wstest.Wire, lines string) *http.Request {
	req := upstream.ReadRequest()
	upstream.Send(Answer(req.Header.Get("Sec-WebSocket-Key"), lines))
	return req
}
