// Package wsotel has OpenTelemetry see what a
// [github.com/seed-ffb73231/wsproxy.Proxy] does: a trace of each session, and
// metrics of all.
//
//	config := wsotel.Config{Name: "chat"}
//	proxy, err := wsproxy.New(target, append(options, wsotel.Options(config)...)...)
//	if err != nil {
//		log.Fatal(err)
//	}
//	_, err = wsotel.Observe(proxy, config)
//
// # Traces
//
// A session that the hooks before it have let in is a span "websocket session"
// of kind server, from its handshake to the end of both connections. Below it
// is the span "websocket handshake" of kind client, which the upstream's own
// spans belong under: the header field traceparent of the upstream's request
// names it (or what [Config].Propagator writes in its place).
//
// Spans are exported when they end, and both end with the session. Some
// backends take no spans of many hours ([wsproxy.WithMaxAge]).
//
// The span of middleware around the proxy becomes the session's parent. If
// there is none, the session begins a trace of its own: a trace that the client
// says it belongs to is linked, not joined, for clients could otherwise choose
// what is sampled, and write into traces of others. Their traceparent,
// tracestate and baggage don't reach the upstream, nor can they have the
// proxy's own removed by naming it in Connection. [Config].TrustClients changes
// that, for proxies that strangers can't reach.
//
// The attributes are those of the semantic conventions where there are any:
// network.peer.address, client.address, url.path, server.address (the
// upstream's, once it has accepted; network.peer.address on that span is its
// [wsproxy.Member]'s Address), http.response.status_code, error.type.
// Besides, on the session: wsproxy.session.id, wsproxy.end.by and
// wsproxy.end.reason as in [wsproxy.SessionError], wsproxy.close.code, and by
// side wsproxy.client.bytes, .messages, .frames and .ping.round_trip (the last
// one, in seconds; absent if there was none), and the same of the upstream.
// None holds a query string or the value of a header field.
//
// A session's status is an error if it ended for one of the reasons lost,
// protocol error, limit, down, cut and panic, or if its handshake was answered
// with 5xx; error.type is then the reason, or what [wsproxy.Error.Kind] says.
// Down is one because the upstream is at fault, as where it is lost; removed is
// none: somebody wanted it so, as with drained. A handshake that came to nothing
// is an error of its own span in any case. One that was tried with several
// members is one span all the same, and no error if the last of them took it.
//
// # Metrics
//
//	wsproxy.session.count          up-down counter  sessions that are open
//	wsproxy.session.opened         counter
//	wsproxy.session.duration       histogram, s     wsproxy.end.by, wsproxy.end.reason, error.type
//	wsproxy.handshake.count        up-down counter  handshakes under way
//	wsproxy.handshake.failed       counter          error.type; refused ones too
//	wsproxy.handshake.retries      counter          tried again with another member
//	wsproxy.member.session.count   up-down counter  wsproxy.member; handshakes under way included
//	wsproxy.member.up              up-down counter  wsproxy.member; 1, or 0: it gets no new sessions for now
//	wsproxy.io                     counter, By      wsproxy.from; on the wire
//	wsproxy.messages               counter          wsproxy.from
//	wsproxy.frames                 counter          wsproxy.from
//	wsproxy.pings                  counter          wsproxy.from; the peers' own
//	wsproxy.session.pings_ignored  counter          wsproxy.side; sessions that ended, whose side answered none of the proxy's
//
// Each bears the proxy's wsproxy.name, too, if it has one. The values of all
// attributes but wsproxy.member come from small fixed sets. That one is the Name
// of a [wsproxy.MemberState]: there are as many as the set has, and they come
// from the operator, or from the operator's [wsproxy.Source]. No client has a
// say in any. The duration is recorded by [Options], all else read by [Observe]
// from [wsproxy.Proxy.Stats].
//
// A member that has left the set is no longer reported, even if it has sessions
// left; wsproxy.session.count has those. Where members are addresses that are
// never the same again ([wsproxy.LookupHost]), the backend has ever more
// series to store. The SDK has a limit, by default of 2,000 series a metric, and
// makes one of those beyond it.
//
// A member is not up while [wsproxy.WithHealthCheck] has it marked down, and
// while it is left alone because handshakes have failed ([wsproxy.WithUpstreams]).
// The latter ends with the time that it is left alone, 30 s at most, even if
// nobody has reached it since, and never happens to an only member. One that has
// its MaxSessions is up.
//
// The round trips of the proxy's pings are no metric: OpenTelemetry's API takes
// no histogram that was counted elsewhere.
package wsotel

import (
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
)

const scope = "github.com/seed-ffb73231/wsproxy/metrics/otel"

// A Config is what [Options] and [Observe] go by. The zero value works.
type Config struct {
	// Name tells several proxies apart: the attribute wsproxy.name of spans and
	// metrics. "": they have none.
	Name string

	// TracerProvider and MeterProvider get the spans and the metrics. nil:
	// otel's global ones.
	TracerProvider trace.TracerProvider
	MeterProvider  metric.MeterProvider

	// Propagator reads the client's trace context and writes the upstream's.
	// nil: otel's global one, which does nothing unless it was set; what
	// clients send then reaches the upstream.
	Propagator propagation.TextMapPropagator

	// TrustClients has sessions join the traces that clients say they belong
	// to, and their baggage go on to the upstream. Whoever can reach the proxy
	// then chooses trace IDs and what is sampled.
	TrustClients bool
}

// withDefaults returns the configuration with nothing left nil.
func (c Config) withDefaults() Config {
	if c.TracerProvider == nil {
		c.TracerProvider = otel.GetTracerProvider()
	}
	if c.MeterProvider == nil {
		c.MeterProvider = otel.GetMeterProvider()
	}
	if c.Propagator == nil {
		c.Propagator = otel.GetTextMapPropagator()
	}
	return c
}

// named returns the attributes, and the proxy's name if it has one.
func (c Config) named(attrs ...attribute.KeyValue) []attribute.KeyValue {
	if c.Name != "" {
		attrs = append(attrs, attribute.String("wsproxy.name", c.Name))
	}
	return attrs
}
