package wsotel

import (
	"context"
	"errors"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"

	"github.com/seed-ffb73231/wsproxy"
)

// Observe makes the proxy's statistics available to the MeterProvider, which
// reads them whenever metrics are collected. Unregister the registration if the
// process outlives the proxy. Several proxies each need a [Config].Name.
func Observe(proxy *wsproxy.Proxy, c Config) (metric.Registration, error) {
	c = c.withDefaults()
	meter := c.MeterProvider.Meter(scope, metric.WithSchemaURL(semconv.SchemaURL))
	var (
		all  []metric.Observable
		errs []error
	)
	gauge := func(name, unit, description string) metric.Int64Observable {
		i, err := meter.Int64ObservableUpDownCounter(name, metric.WithUnit(unit), metric.WithDescription(description))
		all, errs = append(all, i), append(errs, err)
		return i
	}
	counter := func(name, unit, description string) metric.Int64Observable {
		i, err := meter.Int64ObservableCounter(name, metric.WithUnit(unit), metric.WithDescription(description))
		all, errs = append(all, i), append(errs, err)
		return i
	}
	sessions := gauge("wsproxy.session.count", "{session}", "Open sessions.")
	opened := counter("wsproxy.session.opened", "{session}", "Sessions opened so far.")
	handshakes := gauge("wsproxy.handshake.count", "{handshake}", "Handshakes under way.")
	failed := counter("wsproxy.handshake.failed", "{handshake}", "Failed and refused handshakes, by kind.")
	retries := counter("wsproxy.handshake.retries", "{retry}", "Handshakes retried with another member.")
	resumes := counter("wsproxy.session.resumes", "{resume}", "Times that a session has gone on with another upstream.")
	resumesFailed := counter("wsproxy.session.resumes_failed", "{session}", "Sessions that lost their upstream and found no other one.")
	memberSessions := gauge("wsproxy.member.session.count", "{session}", "A member's sessions, including handshakes under way.")
	memberUp := gauge("wsproxy.member.up", "{member}", "Whether a member may get new sessions: 1, or 0 while it is down or backed off.")
	io := counter("wsproxy.io", "By", "Bytes relayed from a side, on the wire.")
	messages := counter("wsproxy.messages", "{message}", "Messages relayed from a side.")
	frames := counter("wsproxy.frames", "{frame}", "Frames relayed from a side.")
	pings := counter("wsproxy.pings", "{ping}", "Pings relayed from a side.")
	sent := counter("wsproxy.messages_sent", "{message}", "Messages added by the program, to a side.")
	packed := counter("wsproxy.compressed.messages", "{message}", "Messages that the proxy has packed for a side, or unpacked.")
	packedIO := counter("wsproxy.compressed.io", "By", "Bytes of these messages, on the wire.")
	unpacked := counter("wsproxy.compressed.unpacked", "By", "Bytes of payload of these messages, unpacked.")
	untapped := counter("wsproxy.messages_untapped", "{message}", "Messages that taps did not get, because too many were waiting.")
	ignored := counter("wsproxy.session.pings_ignored", "{session}", "Ended sessions in which the side answered none of the proxy's pings.")
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return meter.RegisterCallback(func(_ context.Context, o metric.Observer) error {
		observe := func(i metric.Int64Observable, n uint64, attrs ...attribute.KeyValue) {
			o.ObserveInt64(i, int64(n), metric.WithAttributes(c.named(attrs...)...))
		}
		st := proxy.Stats()
		observe(sessions, uint64(st.Open))
		observe(opened, st.Opened)
		observe(handshakes, uint64(st.Handshakes))
		for kind, n := range st.Failed {
			observe(failed, n, semconv.ErrorTypeKey.String(string(kind)))
		}
		observe(retries, st.Retries)
		observe(resumes, st.Resumes)
		observe(resumesFailed, st.ResumesFailed)
		for _, m := range st.Members {
			member, up := attribute.String("wsproxy.member", valid(m.Name)), uint64(1)
			if m.Down {
				up = 0
			}
			observe(memberSessions, uint64(m.Sessions), member)
			observe(memberUp, up, member)
		}
		for side, n := range [2]wsproxy.Counts{wsproxy.Client: st.FromClients, wsproxy.Upstream: st.FromUpstreams} {
			from := attribute.String("wsproxy.from", wsproxy.Side(side).String())
			observe(io, n.Bytes, from)
			observe(messages, n.Messages, from)
			observe(frames, n.Frames, from)
			observe(pings, n.Pings, from)
			observe(sent, st.Sent[side], attribute.String("wsproxy.to", wsproxy.Side(side).String()))
			on := attribute.String("wsproxy.side", wsproxy.Side(side).String())
			observe(packed, st.Compressed[side].Messages, on)
			observe(packedIO, st.Compressed[side].Bytes, on)
			observe(unpacked, st.Compressed[side].Unpacked, on)
			observe(ignored, st.IgnoredPings[side], on)
		}
		observe(untapped, st.Untapped)
		return nil
	}, all...)
}
