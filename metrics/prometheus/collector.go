// Package wsprometheus exports the metrics of a
// [github.com/seed-ffb73231/wsproxy.Proxy] to Prometheus: one collector for
// each proxy, which reads [wsproxy.Proxy.Stats] once per scrape.
//
//	registry.MustRegister(wsprometheus.New(proxy, nil))
//
// To use several proxies with one registry, give each a label of its own:
//
//	registry.MustRegister(
//		wsprometheus.New(chat, prometheus.Labels{"proxy": "chat"}),
//		wsprometheus.New(feed, prometheus.Labels{"proxy": "feed"}))
//
// # Metrics
//
//	wsproxy_sessions                              gauge      open sessions
//	wsproxy_handshakes                            gauge      under way
//	wsproxy_sessions_opened_total                 counter
//	wsproxy_sessions_ended_total{by,reason}       counter
//	wsproxy_handshakes_failed_total{kind}         counter    including refused ones
//	wsproxy_retries_total                         counter    handshakes retried with another member
//	wsproxy_resumes_total                         counter    sessions that went on with another upstream
//	wsproxy_resumes_failed_total                  counter    sessions for which none was found
//	wsproxy_member_sessions{member}               gauge      including handshakes under way
//	wsproxy_member_up{member}                     gauge      1, or 0: it gets no new sessions for now
//	wsproxy_session_duration_seconds              histogram  of those that ended
//	wsproxy_received_bytes_total{from}            counter    on the wire
//	wsproxy_received_messages_total{from}         counter
//	wsproxy_received_frames_total{from}           counter
//	wsproxy_received_pings_total{from}            counter    the peers' own
//	wsproxy_sent_messages_total{to}               counter    added by [wsproxy.Session.Send]
//	wsproxy_compressed_messages_total{side}       counter    packed or unpacked by the proxy
//	wsproxy_compressed_bytes_total{side}          counter    of these, on the wire
//	wsproxy_compressed_unpacked_bytes_total{side} counter    of these, of payload
//	wsproxy_untapped_messages_total               counter    passed over by [wsproxy.WithTap]
//	wsproxy_largest_message_bytes{from}           gauge      of all so far
//	wsproxy_ping_round_trip_seconds{side}         histogram  of the proxy's pings
//	wsproxy_pings_ignored_total{side}             counter    ended sessions in which the side answered none of them
//	wsproxy_drain_began_timestamp_seconds         gauge      0: not begun
//	wsproxy_drain_sessions                        gauge      open at that time
//	wsproxy_drain_told_sessions                   gauge      of these
//	wsproxy_drain_cut_sessions                    gauge      when the time was over
//
// by, from, to and side are "client" or "upstream"; by may also be "proxy". reason
// is a [wsproxy.Reason], and kind is a [wsproxy.Kind]. These are small fixed
// sets, and all of their values are present from the start, with 0. member is
// the Name of a [wsproxy.MemberState]: there are as many as the set has
// members, and they come from the operator, or from the operator's
// [wsproxy.Source]. No client can influence a label.
//
// When the set changes, so do the series of members. A removed member is absent
// from the next scrape, even if it has sessions left; wsproxy_sessions includes
// those. Prometheus keeps what it has stored, and each name makes two series:
// keep that in mind if members are addresses that never occur again
// ([wsproxy.LookupHost]).
//
// A member is not up while [wsproxy.WithHealthCheck] has marked it down, and
// while the proxy backs off from it because handshakes have failed
// ([wsproxy.WithUpstreams]). A backoff ends after at most 30 s, even if no
// handshake has succeeded since, and never applies to a single member, so use
// the average over time. A member that has reached its MaxSessions is up.
//
// Alerts for an upstream that drops its sessions, for handshakes that fail on
// the way to it (if another member accepts them, they are retries, not
// failures), and for a member that is down half of the time or longer; and the
// 95th percentile of the upstream's round trips:
//
//	sum(rate(wsproxy_sessions_ended_total{by="upstream",reason=~"lost|protocol error"}[5m])) > 1
//	sum(rate(wsproxy_handshakes_failed_total{kind=~"refused|timeout|reset|closed|bad answer|no upstream"}[5m])) > 1
//	avg_over_time(wsproxy_member_up[5m]) <= 0.5
//	histogram_quantile(0.95, sum by (le) (rate(wsproxy_ping_round_trip_seconds_bucket{side="upstream"}[5m])))
package wsprometheus

import (
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/seed-ffb73231/wsproxy"
)

type collector struct {
	stats func() wsproxy.Stats
	all   []*prometheus.Desc

	sessions, handshakes, opened, ended, failed, duration *prometheus.Desc
	retries, memberSessions, memberUp                     *prometheus.Desc
	bytes, messages, frames, pings, largest, roundTrip    *prometheus.Desc
	sent, packed, packedBytes, unpacked, untapped         *prometheus.Desc
	ignored, resumes, resumesFailed                       *prometheus.Desc
	drainBegan, drainTotal, drainTold, drainCut           *prometheus.Desc
}

// New returns a collector for the proxy. Each of its metrics has the labels,
// which may be nil. Proxies in one registry need the same label names with
// different values. An invalid label name, or one that the metrics use
// themselves, is an error of [prometheus.Registerer.Register]. The collector is
// safe for concurrent use.
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
	c.sessions = desc("sessions", "Open sessions.")
	c.handshakes = desc("handshakes", "Handshakes under way.")
	c.opened = desc("sessions_opened_total", "Sessions opened so far.")
	c.ended = desc("sessions_ended_total", "Ended sessions, by the side that caused the end and the reason.", "by", "reason")
	c.failed = desc("handshakes_failed_total", "Failed and refused handshakes, by kind.", "kind")
	c.retries = desc("retries_total", "Handshakes retried with another member.")
	c.resumes = desc("resumes_total", "Times that a session has gone on with another upstream.")
	c.resumesFailed = desc("resumes_failed_total", "Sessions that lost their upstream and found no other one.")
	c.memberSessions = desc("member_sessions", "A member's sessions, including handshakes under way.", "member")
	c.memberUp = desc("member_up", "Whether a member may get new sessions: 1, or 0 while it is down or backed off.", "member")
	c.duration = desc("session_duration_seconds", "Duration of ended sessions.")
	c.bytes = desc("received_bytes_total", "Bytes relayed from a side, on the wire.", "from")
	c.messages = desc("received_messages_total", "Messages relayed from a side.", "from")
	c.frames = desc("received_frames_total", "Frames relayed from a side.", "from")
	c.pings = desc("received_pings_total", "Pings relayed from a side.", "from")
	c.sent = desc("sent_messages_total", "Messages added by the program, to a side.", "to")
	c.packed = desc("compressed_messages_total", "Messages that the proxy has packed for a side, or unpacked.", "side")
	c.packedBytes = desc("compressed_bytes_total", "Bytes of these messages, on the wire.", "side")
	c.unpacked = desc("compressed_unpacked_bytes_total", "Bytes of payload of these messages, unpacked.", "side")
	c.untapped = desc("untapped_messages_total", "Messages that taps did not get, because too many were waiting.")
	c.largest = desc("largest_message_bytes", "Payload of the largest message from a side so far.", "from")
	c.roundTrip = desc("ping_round_trip_seconds", "Time that a side took to answer a ping of the proxy.", "side")
	c.ignored = desc("pings_ignored_total", "Ended sessions in which the side answered none of the proxy's pings.", "side")
	c.drainBegan = desc("drain_began_timestamp_seconds", "Unix time at which the shutdown began; 0 before that.")
	c.drainTotal = desc("drain_sessions", "Sessions that were open when the shutdown began.")
	c.drainTold = desc("drain_told_sessions", "Sessions that have been told to end since the shutdown began, or ended by themselves.")
	c.drainCut = desc("drain_cut_sessions", "Sessions that were cut at the end of the shutdown.")
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
	for kind, n := range st.Failed {
		counter(c.failed, n, string(kind))
	}
	counter(c.retries, st.Retries)
	counter(c.resumes, st.Resumes)
	counter(c.resumesFailed, st.ResumesFailed)
	for _, m := range st.Members {
		name, up := label(m.Name), 1.0
		if m.Down {
			up = 0
		}
		send(c.memberSessions, prometheus.GaugeValue, float64(m.Sessions), name)
		send(c.memberUp, prometheus.GaugeValue, up, name)
	}
	ch <- histogram(c.duration, st.Durations)
	for side, n := range [2]wsproxy.Counts{wsproxy.Client: st.FromClients, wsproxy.Upstream: st.FromUpstreams} {
		name := wsproxy.Side(side).String()
		counter(c.bytes, n.Bytes, name)
		counter(c.messages, n.Messages, name)
		counter(c.frames, n.Frames, name)
		counter(c.pings, n.Pings, name)
		counter(c.sent, st.Sent[side], name)
		send(c.largest, prometheus.GaugeValue, float64(n.LargestMessage), name)
		ch <- histogram(c.roundTrip, st.RoundTrips[side], name)
		counter(c.packed, st.Compressed[side].Messages, name)
		counter(c.packedBytes, st.Compressed[side].Bytes, name)
		counter(c.unpacked, st.Compressed[side].Unpacked, name)
		counter(c.ignored, st.IgnoredPings[side], name)
	}
	counter(c.untapped, st.Untapped)
	began := 0.0
	if !st.Drain.Began.IsZero() {
		began = float64(st.Drain.Began.UnixNano()) / float64(time.Second)
	}
	send(c.drainBegan, prometheus.GaugeValue, began)
	gauge(c.drainTotal, st.Drain.Total)
	gauge(c.drainTold, st.Drain.Told)
	gauge(c.drainCut, st.Drain.Cut)
}

// label returns a member's name as the value of a label. A name that is not
// UTF-8 (the path of a unix socket need not be) would cause a panic, so it is
// quoted, which keeps it unique.
func label(name string) string {
	if utf8.ValidString(name) {
		return name
	}
	return strconv.Quote(name)
}

// histogram converts a histogram to that of Prometheus, whose buckets are
// cumulative.
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
