//go:build linux

package floods_test

import (
	"crypto/tls"
	"encoding/json"
	"errors"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"os"
	"runtime"
	"time"

	"github.com/seed-ffb73231/wsproxy"
	"github.com/seed-ffb73231/wsproxy/internal/faults/wire"
	"github.com/seed-ffb73231/wsproxy/internal/relay"
	"github.com/seed-ffb73231/wsproxy/internal/wstest"
)

// Time limits of the proxy under flood, short to keep the tests short.
const (
	writeTimeout      = 20 * time.Second
	handshakeTimeout  = 20 * time.Second
	readHeaderTimeout = 20 * time.Second
	maxHeaderBytes    = 64 << 10
	maxFrame          = 1 << 20
	maxHandshakes     = 200
	slowedClose       = 2 * time.Second // the close timeout of those that are slowed down
)

// runProxy is the process under flood. FLOOD and GOOD are upstreams.
func runProxy() error {
	slow := wsproxy.RateLimit{Bytes: 2000, Burst: time.Second}
	paths := map[string][]wsproxy.Option{
		"plain":      nil,
		"detached":   {wsproxy.WithDetach()},
		"hooked":     {wsproxy.WithOnOpen(func(_ *wsproxy.Session, r *http.Request) error { r.Header.Set("X-Hook", "1"); return nil })},
		"limited":    {wsproxy.WithRateLimit(wsproxy.Client, slow), wsproxy.WithRateLimit(wsproxy.Upstream, slow)},
		"slowed":     {wsproxy.WithRateLimit(wsproxy.Client, wsproxy.RateLimit{Messages: 10}), wsproxy.WithCloseTimeout(slowedClose)},
		"strict":     {wsproxy.WithRateLimit(wsproxy.Client, wsproxy.RateLimit{Messages: 10, Close: true})},
		"small":      {wsproxy.WithMaxFrameSize(wsproxy.Client, maxFrame), wsproxy.WithMaxMessageSize(wsproxy.Client, maxFrame)},
		"handshakes": {wsproxy.WithMaxHandshakes(maxHandshakes)},
		"good":       nil,
	}
	mux := http.NewServeMux()
	proxies := make(map[string]*wsproxy.Proxy)
	for name, options := range paths {
		target := os.Getenv("FLOOD")
		if name == "good" {
			target = os.Getenv("GOOD")
		}
		options = append(options,
			wsproxy.WithWriteTimeout(writeTimeout),
			wsproxy.WithHandshakeTimeout(handshakeTimeout),
			wsproxy.WithLogger(slog.New(slog.DiscardHandler)))
		p, err := wsproxy.New("http://"+target, options...)
		if err != nil {
			return err
		}
		proxies[name] = p
		mux.Handle("/"+name+"/", p)
	}
	var fronts [2]net.Listener
	var err error
	for i := range fronts {
		if fronts[i], err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
			return err
		}
	}
	s := &http.Server{Handler: mux, ReadHeaderTimeout: readHeaderTimeout, MaxHeaderBytes: maxHeaderBytes, ErrorLog: log.New(io.Discard, "", 0)}
	go s.Serve(fronts[0])
	go s.Serve(tls.NewListener(fronts[1], wstest.ServerConfig()))
	return greet(hello{
		Plain:     fronts[0].Addr().String(),
		TLS:       fronts[1].Addr().String(),
		Authority: wstest.CA().PEM(),
	}, control(proxies), func() {
		for _, p := range proxies {
			p.Close()
		}
	})
}

// A state is what a proxy's process reports about itself.
type state struct {
	Memory     int // bytes of heap and stacks in use
	RSS        int // bytes
	Files      int
	Goroutines int
	Events     relay.Census
	Proxies    map[string]proxyState
}

type proxyState struct {
	Open, Handshakes int
	Opened           uint64
	Ended            map[string]uint64 // by side and reason
	Failed           map[wsproxy.Kind]uint64
}

// control answers with the state; /live collects garbage before.
func control(proxies map[string]*wsproxy.Proxy) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/live" {
			for range 3 {
				runtime.GC()
			}
		}
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		st := state{
			Memory: int(m.HeapAlloc + m.StackInuse), RSS: wire.RSS(0), Files: wire.Files(0),
			Goroutines: runtime.NumGoroutine(), Events: relay.CountEvents(), Proxies: make(map[string]proxyState),
		}
		for name, p := range proxies {
			ps := p.Stats()
			one := proxyState{Open: ps.Open, Handshakes: ps.Handshakes, Opened: ps.Opened, Ended: make(map[string]uint64), Failed: ps.Failed}
			for o, n := range ps.Ended {
				one.Ended[o.String()] = n
			}
			st.Proxies[name] = one
		}
		if err := json.NewEncoder(w).Encode(st); err != nil && !errors.Is(err, net.ErrClosed) {
			log.Print(err)
		}
	})
}

func (c *child) state(path string) (st state) {
	c.t.Helper()
	c.ask(path, &st)
	return st
}
