package main

import (
	"net/http"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	wsprometheus "github.com/seed-ffb73231/wsproxy/metrics/prometheus"
)

// metrics serves metrics for Prometheus: those of each route's proxy, with the
// label route, and those of the process. The routes can change, so each scrape
// creates a registry.
func (g *gateway) metrics() http.Handler {
	info := prometheus.NewGauge(prometheus.GaugeOpts{
		Name:        "wsproxy_build_info",
		Help:        "Always 1; the label is the version.",
		ConstLabels: prometheus.Labels{"version": version()},
	})
	info.Set(1)
	old := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "wsproxy_old_sessions",
		Help: "Open sessions of routes that were removed or replaced; wsproxy_sessions does not include them.",
	}, func() float64 { return float64(g.oldSessions()) })
	always := []prometheus.Collector{info, old,
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{})}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		registry := prometheus.NewRegistry()
		registry.MustRegister(always...)
		g.mu.Lock()
		for _, r := range g.routes {
			registry.MustRegister(wsprometheus.New(r.proxy, prometheus.Labels{"route": r.pattern}))
		}
		g.mu.Unlock()
		promhttp.HandlerFor(registry, promhttp.HandlerOpts{}).ServeHTTP(w, r)
	})
}

// oldSessions returns the number of open sessions of routes that were removed or
// replaced.
func (g *gateway) oldSessions() (n int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for p := range g.old {
		n += p.Stats().Open
	}
	return n
}
