package wsotel_test

import (
	"context"
	"fmt"
	"log"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"time"

	"github.com/coder/websocket"
	"go.opentelemetry.io/otel/propagation"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"github.com/seed-ffb73231/wsproxy"
	wsotel "github.com/seed-ffb73231/wsproxy/metrics/otel"
)

// A session is traced, and the upstream gets the trace context.
func Example() {
	upstream := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Println("upstream got a traceparent:", r.Header.Get("Traceparent") != "")
		conn, err := websocket.Accept(w, r, nil)
		if err != nil {
			return
		}
		conn.Close(websocket.StatusNormalClosure, "")
	}))
	defer upstream.Close()

	exporter := tracetest.NewInMemoryExporter() // in its place: that of your backend
	config := wsotel.Config{
		Name:           "chat",
		TracerProvider: sdktrace.NewTracerProvider(sdktrace.WithSyncer(exporter)),
		Propagator:     propagation.TraceContext{},
	}
	options := []wsproxy.Option{wsproxy.WithLogger(slog.New(slog.DiscardHandler))}
	proxy, err := wsproxy.New(upstream.URL, append(options, wsotel.Options(config)...)...)
	if err != nil {
		log.Fatal(err)
	}
	if _, err := wsotel.Observe(proxy, config); err != nil {
		log.Fatal(err)
	}
	front := httptest.NewServer(proxy)
	defer front.Close()

	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	conn, _, err := websocket.Dial(ctx, front.URL, nil)
	if err != nil {
		log.Fatal(err)
	}
	_, _, err = conn.Read(ctx)
	fmt.Println(websocket.CloseStatus(err))
	if err := proxy.Shutdown(ctx); err != nil {
		log.Fatal(err)
	}
	for _, span := range exporter.GetSpans() {
		fmt.Println(span.Name, span.SpanKind)
	}
	// Output:
	// upstream got a traceparent: true
	// StatusNormalClosure
	// websocket handshake client
	// websocket session server
}
