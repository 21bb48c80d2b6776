package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"

	"github.com/seed-ffb73231/wsproxy"
)

// admin answers operators and balancers. It has no login: its listener is
// theirs alone.
func (g *gateway) admin() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, r *http.Request) {
		if g.leaving.Load() {
			http.Error(w, "draining", http.StatusServiceUnavailable)
			return
		}
		io.WriteString(w, "ok\n")
	})
	mux.HandleFunc("GET /stats", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		e := json.NewEncoder(w)
		e.SetIndent("", "  ")
		e.Encode(g.stats()) // who has left doesn't want it
	})
	return mux
}

// stats are what /stats shows.
type stats struct {
	Draining bool         `json:"draining"`
	Open     int          `json:"open"` // sessions, those of routes that are gone included
	Routes   []routeStats `json:"routes"`
	Old      int          `json:"old"` // sessions of routes that are gone, or have another proxy now
}

// routeStats are a route's [wsproxy.Stats].
type routeStats struct {
	Path          string                `json:"path"`
	Open          int                   `json:"open"`
	Handshakes    int                   `json:"handshakes"`
	Opened        uint64                `json:"opened"`
	Ended         map[string]uint64     `json:"ended"`   // what has happened at all
	Refused       map[string]uint64     `json:"refused"` // the same
	FromClients   wsproxy.Counts        `json:"from_clients"`
	FromUpstreams wsproxy.Counts        `json:"from_upstreams"`
	Members       []wsproxy.MemberState `json:"members"`
	Retries       uint64                `json:"retries"`
	Drain         wsproxy.DrainStats    `json:"drain,omitzero"`
}

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
			Refused:       make(map[string]uint64),
			FromClients:   st.FromClients,
			FromUpstreams: st.FromUpstreams,
			Members:       st.Members,
			Retries:       st.Retries,
			Drain:         st.Drain,
		}
		for outcome, n := range st.Ended {
			if n > 0 {
				one.Ended[fmt.Sprint(outcome.Reason, " by ", outcome.By)] = n
			}
		}
		for kind, n := range st.Refused {
			if n > 0 {
				one.Refused[kind] = n
			}
		}
		all.Routes = append(all.Routes, one)
	}
	return all
}
