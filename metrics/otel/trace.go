package wsotel

import (
	"cmp"
	"context"
	"errors"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/propagation"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"

	"github.com/seed-ffb73231/wsproxy"
)

// Options returns the options that make a proxy trace its sessions and record
// their durations. Their hooks are added to others. Sessions that a hook of an
// earlier option refuses are not traced.
func Options(c Config) []wsproxy.Option {
	c = c.withDefaults()
	t := &tracing{Config: c, tracer: c.TracerProvider.Tracer(scope, trace.WithSchemaURL(semconv.SchemaURL))}
	var err error
	t.duration, err = c.MeterProvider.Meter(scope, metric.WithSchemaURL(semconv.SchemaURL)).Float64Histogram("wsproxy.session.duration",
		metric.WithUnit("s"),
		metric.WithDescription("Duration of ended sessions."),
		metric.WithExplicitBucketBoundaries(1, 10, 60, 600, 3600, 6*3600, 24*3600))
	if err != nil {
		otel.Handle(err) // what there is instead does nothing
	}
	return []wsproxy.Option{wsproxy.WithOnOpen(t.open), wsproxy.WithOnClose(t.close)}
}

// tracing is the state that the hooks share. It is the key under which a
// session holds its spans.
type tracing struct {
	Config
	tracer   trace.Tracer
	duration metric.Float64Histogram
}

type spans struct {
	session, handshake trace.Span
}

// open starts the spans of a session and passes the trace context to the
// upstream.
func (t *tracing) open(s *wsproxy.Session, r *http.Request) error {
	ctx, now := r.Context(), trace.WithTimestamp(time.Now())
	options := []trace.SpanStartOption{now, trace.WithSpanKind(trace.SpanKindServer)}
	if !trace.SpanContextFromContext(ctx).IsValid() { // no middleware has read the client's
		clients := t.Propagator.Extract(ctx, propagation.HeaderCarrier(r.Header))
		if sc := trace.SpanContextFromContext(clients); t.TrustClients {
			ctx = clients
		} else if sc.IsValid() {
			// Its state may be many times as long, and is not needed here.
			options = append(options, trace.WithLinks(trace.Link{SpanContext: sc.WithTraceState(trace.TraceState{})}))
		}
	}
	attrs := t.named(
		semconv.NetworkProtocolName("websocket"),
		semconv.URLPath(valid(s.Path())),
		attribute.Int64("wsproxy.session.id", int64(s.ID())))
	attrs = append(attrs, address(semconv.NetworkPeerAddressKey, semconv.NetworkPeerPortKey, r.RemoteAddr)...)
	attrs = append(attrs, address(semconv.ClientAddressKey, semconv.ClientPortKey, s.Client())...)
	ctx, session := t.tracer.Start(ctx, "websocket session", append(options, trace.WithAttributes(attrs...))...)
	ctx, handshake := t.tracer.Start(ctx, "websocket handshake", now,
		trace.WithSpanKind(trace.SpanKindClient),
		trace.WithAttributes(t.named(semconv.HTTPRequestMethodGet)...))
	t.inject(ctx, r.Header)
	s.Set(t, &spans{session, handshake})
	return nil
}

// inject replaces the client's trace context with the span's.
func (t *tracing) inject(ctx context.Context, h http.Header) {
	for _, f := range t.Propagator.Fields() {
		h.Del(f) // or a tracestate of the client's may stay, with a traceparent of ours
	}
	t.Propagator.Inject(ctx, propagation.HeaderCarrier(h))
}

// close ends the spans of a session that is over.
func (t *tracing) close(s *wsproxy.Session) {
	sp, ok := s.Value(t).(*spans)
	if !ok {
		return // a hook before ours has refused it
	}
	now := time.Now()
	defer sp.session.End(trace.WithTimestamp(now))
	defer func() { sp.handshake.End(trace.WithTimestamp(now)) }()
	target, member, _ := strings.Cut(s.Upstream(), "#")
	if u, err := url.Parse(target); err == nil && u.Host != "" {
		sp.handshake.SetAttributes(address(semconv.ServerAddressKey, semconv.ServerPortKey, u.Host)...)
		if _, err := netip.ParseAddrPort(member); err == nil { // or it is a name
			sp.handshake.SetAttributes(address(semconv.NetworkPeerAddressKey, semconv.NetworkPeerPortKey, member)...)
		}
	}

	if failed, ok := errors.AsType[*wsproxy.Error](s.Err()); ok {
		fail(sp.handshake, string(failed.Kind()), failed)
		if failed.Status != 0 {
			sp.session.SetAttributes(semconv.HTTPResponseStatusCode(failed.Status))
		}
		if errors.Is(failed, wsproxy.ErrRefused) {
			sp.handshake.SetAttributes(semconv.HTTPResponseStatusCode(failed.Status))
		}
		if failed.Status >= 500 {
			fail(sp.session, string(failed.Kind()), failed)
		}
		return
	}

	end, ok := errors.AsType[*wsproxy.SessionError](s.Err())
	began := s.Start()
	if !ok || began.IsZero() { // a panic in middleware, on the way to the 101
		fail(sp.handshake, string(wsproxy.ReasonPanic), s.Err())
		fail(sp.session, string(wsproxy.ReasonPanic), s.Err())
		return
	}
	opened := trace.WithTimestamp(began)
	sp.handshake.SetAttributes(semconv.HTTPResponseStatusCode(http.StatusSwitchingProtocols))
	sp.handshake.End(opened) // the first one counts
	how := []attribute.KeyValue{
		attribute.String("wsproxy.end.by", end.By.String()),
		attribute.String("wsproxy.end.reason", string(end.Reason)),
	}
	switch end.Reason {
	case wsproxy.ReasonLost, wsproxy.ReasonProtocolError, wsproxy.ReasonLimit, wsproxy.ReasonDown, wsproxy.ReasonCut, wsproxy.ReasonPanic:
		fail(sp.session, string(end.Reason), end)
		how = append(how, semconv.ErrorTypeKey.String(string(end.Reason)))
	}
	sp.session.SetAttributes(how...)
	if end.Code != 0 {
		sp.session.SetAttributes(attribute.Int("wsproxy.close.code", int(end.Code)))
	}
	for _, side := range []wsproxy.Side{wsproxy.Client, wsproxy.Upstream} {
		n, prefix := s.Counts(side), "wsproxy."+side.String()
		sp.session.SetAttributes(
			attribute.Int64(prefix+".bytes", int64(n.Bytes)),
			attribute.Int64(prefix+".messages", int64(n.Messages)),
			attribute.Int64(prefix+".frames", int64(n.Frames)))
		if d := s.RoundTrip(side); d > 0 {
			sp.session.SetAttributes(attribute.Float64(prefix+".ping.round_trip", d.Seconds()))
		}
	}
	// The span goes along as an exemplar.
	t.duration.Record(trace.ContextWithSpan(context.Background(), sp.session), now.Sub(began).Seconds(), metric.WithAttributes(t.named(how...)...))
}

// fail marks a span as failed. It uses the first line of an error's text: that
// of a panic is followed by a stack.
func fail(s trace.Span, kind string, err error) {
	text, _, _ := strings.Cut(err.Error(), "\n")
	s.SetStatus(codes.Error, valid(text))
	s.SetAttributes(semconv.ErrorTypeKey.String(kind))
}

// address returns the attributes for a host that may come with a port.
func address(name, port attribute.Key, hostport string) []attribute.KeyValue {
	host, p, err := net.SplitHostPort(hostport)
	attrs := []attribute.KeyValue{name.String(valid(cmp.Or(host, hostport)))}
	if n, e := strconv.Atoi(p); err == nil && e == nil {
		attrs = append(attrs, port.Int(n))
	}
	return attrs
}

// valid replaces what is not UTF-8. In the exporters' encoding, one invalid
// string makes the export of all spans in the batch fail.
func valid(s string) string { return strings.ToValidUTF8(s, "\uFFFD") }
