package wsprometheus_test

import (
	"fmt"
	"io"
	"log"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/seed-ffb73231/wsproxy"
	wsprometheus "github.com/seed-ffb73231/wsproxy/metrics/prometheus"
)

// Two proxies in one registry, told apart by a label.
func Example() {
	registry := prometheus.NewRegistry()
	mux := http.NewServeMux()
	for name, target := range map[string]string{"chat": "http://127.0.0.1:9000", "feed": "http://127.0.0.1:9001"} {
		proxy, err := wsproxy.New(target, wsproxy.WithLogger(slog.New(slog.DiscardHandler)))
		if err != nil {
			log.Fatal(err)
		}
		mux.Handle("/"+name, proxy)
		registry.MustRegister(wsprometheus.New(proxy, prometheus.Labels{"proxy": name}))
	}
	mux.Handle("/metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{}))
	server := httptest.NewServer(mux)
	defer server.Close()

	resp, err := http.Get(server.URL + "/metrics")
	if err != nil {
		log.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	for line := range strings.Lines(string(body)) {
		if strings.HasPrefix(line, "wsproxy_sessions{") {
			fmt.Print(line)
		}
	}
	fmt.Println(err)
	// Output:
	// wsproxy_sessions{proxy="chat"} 0
	// wsproxy_sessions{proxy="feed"} 0
	// <nil>
}
