// Package wsotel exports traces and metrics of a
// [github.com/seed-ffb73231/wsproxy.Proxy] to OpenTelemetry: a trace of each
// session, and metrics of all sessions.
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
// A session that the preceding hooks have admitted is a span "websocket
// session" of kind server, from its handshake until both connections are
// closed. Its child is the span "websocket handshake" of kind client, which is
// the parent of the upstream's own spans: the header field traceparent of the
// request to the upstream names it (or the fields that [Config].Propagator
// sets).
//
// Spans are exported when they end, and both end with the session. Some
// backends do not accept spans of many hours ([wsproxy.WithMaxAge]).
//
// If middleware around the proxy has a span, it is the parent of the session's.
// If there is none, the session starts a trace of its own. A trace that the
// client names is linked, not joined, because clients could otherwise choose
// what is sampled and write into other traces. Their traceparent, tracestate
// and baggage do not reach the upstream, and they cannot have the proxy's own
// removed by naming it in Connection. [Config].TrustClients changes that, for
// proxies that strangers cannot reach.
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
// with 5xx; error.type is then the reason, or the [wsproxy.Error.Kind]. Down is
// an error because the upstream is at fault, as with lost; removed is not,
// because the operator wanted it, as with drained. A failed handshake is always
// an error of its own span. A handshake that was tried with several members is
// one span, and not an error if the last of them accepted it.
//
// # Metrics
//
//	wsproxy.session.count          up-down counter  open sessions
//	wsproxy.session.opened         counter
//	wsproxy.session.duration       histogram, s     wsproxy.end.by, wsproxy.end.reason, error.type
//	wsproxy.handshake.count        up-down counter  handshakes under way
//	wsproxy.handshake.failed       counter          error.type; including refused ones
//	wsproxy.handshake.retries      counter          retried with another member
//	wsproxy.member.session.count   up-down counter  wsproxy.member; including handshakes under way
//	wsproxy.member.up              up-down counter  wsproxy.member; 1, or 0: it gets no new sessions for now
//	wsproxy.io                     counter, By      wsproxy.from; on the wire
//	wsproxy.messages               counter          wsproxy.from
//	wsproxy.frames                 counter          wsproxy.from
//	wsproxy.pings                  counter          wsproxy.from; the peers' own
//	wsproxy.session.resumes        counter          that went on with another upstream
//	wsproxy.session.resumes_failed counter          for which none was found
//	wsproxy.messages_sent          counter          wsproxy.to; added by [wsproxy.Session.Send]
//	wsproxy.compressed.messages    counter          wsproxy.side; packed or unpacked by the proxy
//	wsproxy.compressed.io          counter, By      wsproxy.side; of these, on the wire
//	wsproxy.compressed.unpacked    counter, By      wsproxy.side; of these, of payload
//	wsproxy.messages_untapped      counter          passed over by [wsproxy.WithTap]
//	wsproxy.session.pings_ignored  counter          wsproxy.side; ended sessions in which the side answered none of the proxy's pings
//
// Each bears the proxy's wsproxy.name, too, if it has one. The values of all
// attributes but wsproxy.member come from small fixed sets. That one is the Name
// of a [wsproxy.MemberState]: there are as many as the set has, and they come
// from the operator, or from the operator's [wsproxy.Source]. No client has a
// say in any. The duration is recorded by [Options], all else read by [Observe]
// from [wsproxy.Proxy.Stats].
//
// A removed member is no longer reported, even if it has sessions left;
// wsproxy.session.count includes those. If members are addresses that never
// occur again ([wsproxy.LookupHost]), the backend stores more and more series.
// The SDK has a limit, by default of 2,000 series per metric, and combines
// those beyond it.
//
// A member is not up while [wsproxy.WithHealthCheck] has marked it down, and
// while the proxy backs off from it because handshakes have failed
// ([wsproxy.WithUpstreams]). A backoff ends after at most 30 s, even if no
// handshake has succeeded since, and never applies to a single member. A member
// that has reached its MaxSessions is up.
//
// The round trips of the proxy's pings are not exported: OpenTelemetry's API
// does not accept histograms that were counted elsewhere.
package wsotel

import (
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
)

const scope = "github.com/seed-ffb73231/wsproxy/metrics/otel"

// A Config configures [Options] and [Observe]. The zero value is ready to use.
type Config struct {
	// Name distinguishes several proxies: it is the attribute wsproxy.name of
	// spans and metrics. If it is "", they have no such attribute.
	Name string

	// TracerProvider and MeterProvider receive the spans and the metrics. nil
	// stands for otel's global ones.
	TracerProvider trace.TracerProvider
	MeterProvider  metric.MeterProvider

	// Propagator reads the client's trace context and writes the upstream's.
	// nil stands for otel's global one, which does nothing unless it was set;
	// what clients send then reaches the upstream.
	Propagator propagation.TextMapPropagator

	// TrustClients makes sessions join the traces that clients name, and
	// forwards the clients' baggage to the upstream. Anyone who can reach the
	// proxy then chooses trace IDs and what is sampled.
	TrustClients bool
}

// withDefaults returns the configuration without nil fields.
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
