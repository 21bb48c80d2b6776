package main

import (
	"net/http"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	wsprometheus "github.com/seed-ffb73231/wsproxy/metrics/prometheus"
)

// metrics serves Prometheus: the metrics of each route's proxy, with the label
// route, and those of the process. Routes come and go, so each scrape has a
// registry of its own.
func (g *gateway) metrics() http.Handler {
	info := prometheus.NewGauge(prometheus.GaugeOpts{
		Name:        "wsproxy_build_info",
		Help:        "1, with the version as a label.",
		ConstLabels: prometheus.Labels{"version": version()},
	})
	info.Set(1)
	old := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "wsproxy_old_sessions",
		Help: "Open sessions of routes that were removed or have a new proxy since; wsproxy_sessions is without them.",
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

// oldSessions returns the number of open sessions of routes that are gone.
func (g *gateway) oldSessions() (n int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for p := range g.old {
		n += p.Stats().Open
	}
	return n
}
