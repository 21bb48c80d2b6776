// Package wsprometheus shows to Prometheus what a
// [github.com/seed-ffb73231/wsproxy.Proxy] does: one collector for each proxy,
// which reads [wsproxy.Proxy.Stats] once a scrape.
//
//	registry.MustRegister(wsprometheus.New(proxy, nil))
//
// Several proxies go into one registry by a label that tells them apart:
//
//	registry.MustRegister(
//		wsprometheus.New(chat, prometheus.Labels{"proxy": "chat"}),
//		wsprometheus.New(feed, prometheus.Labels{"proxy": "feed"}))
//
// # Metrics
//
//	wsproxy_sessions                              gauge      that are open
//	wsproxy_handshakes                            gauge      under way
//	wsproxy_sessions_opened_total                 counter
//	wsproxy_sessions_ended_total{by,reason}       counter
//	wsproxy_handshakes_failed_total{kind}         counter    refused ones too
//	wsproxy_session_duration_seconds              histogram  of those that ended
//	wsproxy_received_bytes_total{from}            counter    on the wire
//	wsproxy_received_messages_total{from}         counter
//	wsproxy_received_frames_total{from}           counter
//	wsproxy_received_pings_total{from}            counter    the peers' own
//	wsproxy_largest_message_bytes{from}           gauge      of all so far
//	wsproxy_ping_round_trip_seconds{side}         histogram  of the proxy's pings
//	wsproxy_drain_began_timestamp_seconds         gauge      0: it hasn't
//	wsproxy_drain_sessions                        gauge      open at that time
//	wsproxy_drain_told_sessions                   gauge      of these
//	wsproxy_drain_cut_sessions                    gauge      when the time was up
//
// by, from and side are "client" or "upstream"; by is "proxy" as well. reason
// is a [wsproxy.Reason], and kind what [wsproxy.Error.Kind] says. These are
// small fixed sets: no client has a say in any label. A pair of by and reason,
// and a kind, first show up when they first happen.
//
// An alert for an upstream that drops its sessions, one for handshakes that
// fail on the way to it, and the 95th percentile of its round trips:
//
//	sum(rate(wsproxy_sessions_ended_total{by="upstream",reason=~"lost|protocol error"}[5m])) > 1
//	sum(rate(wsproxy_handshakes_failed_total{kind=~"refused|timeout|reset|closed|bad answer"}[5m])) > 1
//	histogram_quantile(0.95, sum by (le) (rate(wsproxy_ping_round_trip_seconds_bucket{side="upstream"}[5m])))
package wsprometheus

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/seed-ffb73231/wsproxy"
)

type collector struct {
	stats func() wsproxy.Stats
	all   []*prometheus.Desc

	sessions, handshakes, opened, ended, failed, duration *prometheus.Desc
	bytes, messages, frames, pings, largest, roundTrip    *prometheus.Desc
	drainBegan, drainTotal, drainTold, drainCut           *prometheus.Desc
}

// New makes a collector of what the proxy does. Each of its metrics bears the
// labels, which may be nil; among proxies in one registry the values differ
// and the names don't. A name that is no label's, or one of the metrics' own,
// is an error of [prometheus.Registerer.Register]. The collector may be used by
// many goroutines at once.
func New(proxy *wsproxy.Proxy, labels prometheus.Labels) prometheus.Collector {
	return newCollector(proxy.Stats, labels)
}

func newCollector(stats func() wsproxy.Stats, labels prometheus.Labels) *collector {
	c := &collector{stats: stats}
	desc := func(name, help string, own ...string) *prometheus.Desc {
		d := prometheus.NewDesc("wsproxy_"+name, help, own, labels)
		c.all = append(c.all, d)
		return d
	}
	c.sessions = desc("sessions", "Sessions that are open.")
	c.handshakes = desc("handshakes", "Handshakes under way.")
	c.opened = desc("sessions_opened_total", "Sessions that were opened.")
	c.ended = desc("sessions_ended_total", "Sessions that ended, by who ended them and why.", "by", "reason")
	c.failed = desc("handshakes_failed_total", "Handshakes that came to nothing, by what was the matter.", "kind")
	c.duration = desc("session_duration_seconds", "How long the sessions lasted that ended.")
	c.bytes = desc("received_bytes_total", "Bytes relayed from a side, on the wire.", "from")
	c.messages = desc("received_messages_total", "Messages relayed from a side.", "from")
	c.frames = desc("received_frames_total", "Frames relayed from a side.", "from")
	c.pings = desc("received_pings_total", "Pings of a side's own, relayed.", "from")
	c.largest = desc("largest_message_bytes", "Payload of the largest message that a side has sent so far.", "from")
	c.roundTrip = desc("ping_round_trip_seconds", "How long a side took to answer the proxy's pings.", "side")
	c.drainBegan = desc("drain_began_timestamp_seconds", "When the shutdown began, in Unix time; 0 while it hasn't.")
	c.drainTotal = desc("drain_sessions", "Sessions that were open when the shutdown began.")
	c.drainTold = desc("drain_told_sessions", "Of these, have been told to end, or ended by themselves.")
	c.drainCut = desc("drain_cut_sessions", "Sessions that were cut when the shutdown's time was up.")
	return c
}

// Describe implements [prometheus.Collector].
func (c *collector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range c.all {
		ch <- d
	}
}

// Collect implements [prometheus.Collector].
func (c *collector) Collect(ch chan<- prometheus.Metric) {
	send := func(d *prometheus.Desc, t prometheus.ValueType, v float64, own ...string) {
		ch <- prometheus.MustNewConstMetric(d, t, v, own...)
	}
	gauge := func(d *prometheus.Desc, v int) { send(d, prometheus.GaugeValue, float64(v)) }
	counter := func(d *prometheus.Desc, v uint64, own ...string) {
		send(d, prometheus.CounterValue, float64(v), own...)
	}
	st := c.stats()
	gauge(c.sessions, st.Open)
	gauge(c.handshakes, st.Handshakes)
	counter(c.opened, st.Opened)
	for o, n := range st.Ended {
		counter(c.ended, n, o.By.String(), string(o.Reason))
	}
	for kind, n := range st.Refused {
		counter(c.failed, n, kind)
	}
	ch <- histogram(c.duration, st.Durations)
	for side, n := range [2]wsproxy.Counts{wsproxy.Client: st.FromClients, wsproxy.Upstream: st.FromUpstreams} {
		name := wsproxy.Side(side).String()
		counter(c.bytes, n.Bytes, name)
		counter(c.messages, n.Messages, name)
		counter(c.frames, n.Frames, name)
		counter(c.pings, n.Pings, name)
		send(c.largest, prometheus.GaugeValue, float64(n.LargestMessage), name)
		ch <- histogram(c.roundTrip, st.RoundTrips[side], name)
	}
	began := 0.0
	if !st.Drain.Began.IsZero() {
		began = float64(st.Drain.Began.UnixNano()) / float64(time.Second)
	}
	send(c.drainBegan, prometheus.GaugeValue, began)
	gauge(c.drainTotal, st.Drain.Total)
	gauge(c.drainTold, st.Drain.Told)
	gauge(c.drainCut, st.Drain.Cut)
}

// histogram makes Prometheus' histogram, whose buckets hold the smaller ones,
// of one whose buckets don't.
func histogram(d *prometheus.Desc, h wsproxy.Histogram, own ...string) prometheus.Metric {
	var count uint64
	buckets := make(map[float64]uint64, len(h.Bounds))
	for i, n := range h.Counts {
		count += n
		if i < len(h.Bounds) { // the last one is what count says
			buckets[h.Bounds[i].Seconds()] = count
		}
	}
	return prometheus.MustNewConstHistogram(d, count, h.Sum.Seconds(), buckets, own...)
}
