package main

import (
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/seed-ffb73231/wsproxy/console"
)

// admin serves operators and balancers. It has no login: only they should be
// able to reach its listener.
func (g *gateway) admin() http.Handler {
	// /healthz reveals nothing, and balancers may use any host name.
	open := http.NewServeMux()
	open.HandleFunc("GET /healthz", func(w http.ResponseWriter, r *http.Request) {
		if g.leaving.Load() {
			http.Error(w, "draining", http.StatusServiceUnavailable)
			return
		}
		io.WriteString(w, "ok\n")
	})
	mux := http.NewServeMux()
	mux.HandleFunc("GET /stats", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		e := json.NewEncoder(w)
		e.SetIndent("", "  ")
		e.Encode(g.stats()) // who has left doesn't want it
	})
	mux.Handle("GET /metrics", g.metrics())
	page := console.RoutesHandler(g.consoleRoutes, &console.Options{
		Title:  "wsproxy",
		Notice: "There is no login: whoever reaches this page can end sessions.",
	})
	mux.HandleFunc("/console/", func(w http.ResponseWriter, r *http.Request) {
		if !g.mayUseConsole(r) {
			http.Error(w, "the console is only for local connections, or off: see the key console of the config file", http.StatusForbidden)
			return
		}
		page.ServeHTTP(w, r)
	})
	mux.Handle("GET /{$}", http.RedirectHandler("/console/", http.StatusSeeOther))
	open.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		if !g.calledRightly(r) {
			http.Error(w, "unknown host: see admin_hosts", http.StatusForbidden)
			return
		}
		mux.ServeHTTP(w, r)
	})
	return open
}

// mayUseConsole reports whether a request may use the console. By default its
// connection must be local: the console can end sessions, and the admin address
// may be reachable for everyone who reads the metrics.
func (g *gateway) mayUseConsole(r *http.Request) bool {
	g.mu.Lock()
	who := g.console
	g.mu.Unlock()
	switch local := r.Context().Value(http.LocalAddrContextKey).(type) {
	case *net.TCPAddr:
		return who == "all" || who == "local" && local.IP.IsLoopback()
	case *net.UnixAddr:
		return who != "off"
	}
	return who == "all"
}

// consoleRoutes returns the routes that the console shows: the current ones, and
// old ones that still have sessions.
func (g *gateway) consoleRoutes() []console.Route {
	g.mu.Lock()
	defer g.mu.Unlock()
	var routes []console.Route
	for _, r := range g.routes {
		routes = append(routes, console.Route{Name: r.pattern, Proxy: r.proxy})
	}
	for p, name := range g.old {
		routes = append(routes, console.Route{Name: name, Proxy: p})
	}
	slices.SortFunc(routes, func(a, b console.Route) int { return strings.Compare(a.Name, b.Name) })
	return routes
}

// calledRightly reports whether a request uses one of the admin server's own
// names. A web page may have its own name resolve to our address (DNS
// rebinding) and then read the answers. That is impossible with an address or
// localhost, and a browser cannot connect to a unix socket.
func (g *gateway) calledRightly(r *http.Request) bool {
	if local, ok := r.Context().Value(http.LocalAddrContextKey).(net.Addr); ok && local.Network() == "unix" {
		return true
	}
	host := r.Host
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	if _, err := netip.ParseAddr(strings.Trim(host, "[]")); err == nil || host == "localhost" {
		return true
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	return slices.Contains(g.hosts, host)
}

// stats is the document at /stats.
type stats struct {
	Draining bool         `json:"draining"`
	Open     int          `json:"open"` // sessions, those of routes that are gone included
	Routes   []routeStats `json:"routes"`
	Old      int          `json:"old"` // sessions of routes that are gone, or have another proxy now
}

// routeStats are what a route's proxy counts.
type routeStats struct {
	Path          string            `json:"path"`
	Open          int               `json:"open"`
	Handshakes    int               `json:"handshakes"`
	Opened        uint64            `json:"opened"`
	Ended         map[string]uint64 `json:"ended"`  // what has happened at all
	Failed        map[string]uint64 `json:"failed"` // the same
	FromClients   counts            `json:"from_clients"`
	FromUpstreams counts            `json:"from_upstreams"`
	Members       []memberState     `json:"members"`
	Retries       uint64            `json:"retries"`
	Drain         drainStats        `json:"drain,omitzero"`
}

// The library's types with names for JSON.
type (
	counts struct {
		Frames         uint64 `json:"frames"`
		Messages       uint64 `json:"messages"`
		Bytes          uint64 `json:"bytes"`
		Pings          uint64 `json:"pings"`
		LargestMessage uint64 `json:"largest_message"`
	}
	memberState struct {
		Name        string `json:"name"`
		Weight      int    `json:"weight"`
		MaxSessions int    `json:"max_sessions"`
		Sessions    int    `json:"sessions"`
		Down        bool   `json:"down"`
	}
	drainStats struct {
		Began time.Time `json:"began"`
		Total int       `json:"total"`
		Told  int       `json:"told"`
		Cut   int       `json:"cut"`
	}
)

func (g *gateway) stats() stats {
	g.mu.Lock()
	defer g.mu.Unlock()
	all := stats{Draining: g.leaving.Load()}
	for p := range g.old {
		all.Old += p.Stats().Open
	}
	all.Open = all.Old
	for _, r := range g.routes {
		st := r.proxy.Stats()
		all.Open += st.Open
		one := routeStats{
			Path:          r.pattern,
			Open:          st.Open,
			Handshakes:    st.Handshakes,
			Opened:        st.Opened,
			Ended:         make(map[string]uint64),
			Failed:        make(map[string]uint64),
			FromClients:   counts(st.FromClients),
			FromUpstreams: counts(st.FromUpstreams),
			Retries:       st.Retries,
			Drain:         drainStats(st.Drain),
		}
		for _, m := range st.Members {
			one.Members = append(one.Members, memberState(m))
		}
		for outcome, n := range st.Ended {
			if n > 0 {
				one.Ended[outcome.String()] = n
			}
		}
		for kind, n := range st.Failed {
			if n > 0 {
				one.Failed[string(kind)] = n
			}
		}
		all.Routes = append(all.Routes, one)
	}
	return all
}
