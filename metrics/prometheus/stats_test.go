package wsprometheus

import (
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/seed-ffb73231/wsproxy"
)

// Every number of the statistics is in one metric, except a member's weight and
// limit.
func TestExposition(t *testing.T) {
	st := wsproxy.Stats{
		Open: 1, Handshakes: 2, Opened: 3,
		Ended: map[wsproxy.Outcome]uint64{
			{By: wsproxy.Client, Reason: wsproxy.ReasonClosed}: 4,
			{By: wsproxy.Upstream, Reason: wsproxy.ReasonLost}: 5,
			{By: wsproxy.Self, Reason: wsproxy.ReasonIdle}:     6,
		},
		Failed:        map[wsproxy.Kind]uint64{wsproxy.KindBadAnswer: 7},
		FromClients:   wsproxy.Counts{Frames: 8, Messages: 9, Bytes: 10, Pings: 11, LargestMessage: 12},
		FromUpstreams: wsproxy.Counts{Frames: 13, Messages: 14, Bytes: 15, Pings: 16, LargestMessage: 17},
		Durations: wsproxy.Histogram{
			Bounds: []time.Duration{time.Second, time.Minute},
			Counts: []uint64{18, 0, 19},
			Sum:    1500 * time.Millisecond,
		},
		RoundTrips: [2]wsproxy.Histogram{
			{Bounds: []time.Duration{5 * time.Millisecond}, Counts: []uint64{20, 21}, Sum: time.Second},
			{Bounds: []time.Duration{5 * time.Millisecond}, Counts: []uint64{22, 0}, Sum: time.Millisecond},
		},
		IgnoredPings: [2]uint64{104, 105},
		Sent:         [2]uint64{31, 32},
		Compressed:   [2]wsproxy.Compressed{{Messages: 33, Bytes: 34, Unpacked: 35}, {Messages: 36, Bytes: 37, Unpacked: 38}},
		Untapped:     39,
		Members: []wsproxy.MemberState{
			{Name: "http://a.test/chat", Weight: 100, MaxSessions: 101, Sessions: 26},
			{Name: "http://b.test#192.0.2.1:80", Weight: 102, Sessions: 27, Down: true},
			{Name: "unix:///run/\xff.sock", Weight: 103, Sessions: 28},
			{Name: "unix:///run/\xfe.sock", Weight: 104, Sessions: 29, Down: true},
		},
		Retries: 30, Resumes: 31, ResumesFailed: 32,
		Drain: wsproxy.DrainStats{Began: time.Unix(1_000_000_000, 500e6), Total: 23, Told: 24, Cut: 25},
	}
	for field, v := range reflect.ValueOf(st).Fields() {
		if v.IsZero() { // a new field
			t.Errorf("this test says nothing of Stats.%s", field.Name)
		}
	}
	c := newCollector(func() wsproxy.Stats { return st }, prometheus.Labels{"proxy": "chat"})
	const want = `
# HELP wsproxy_compressed_bytes_total Bytes of these messages, on the wire.
# TYPE wsproxy_compressed_bytes_total counter
wsproxy_compressed_bytes_total{proxy="chat",side="client"} 34
wsproxy_compressed_bytes_total{proxy="chat",side="upstream"} 37
# HELP wsproxy_compressed_messages_total Messages that the proxy has packed for a side, or unpacked.
# TYPE wsproxy_compressed_messages_total counter
wsproxy_compressed_messages_total{proxy="chat",side="client"} 33
wsproxy_compressed_messages_total{proxy="chat",side="upstream"} 36
# HELP wsproxy_compressed_unpacked_bytes_total Bytes of payload of these messages, unpacked.
# TYPE wsproxy_compressed_unpacked_bytes_total counter
wsproxy_compressed_unpacked_bytes_total{proxy="chat",side="client"} 35
wsproxy_compressed_unpacked_bytes_total{proxy="chat",side="upstream"} 38
# HELP wsproxy_drain_began_timestamp_seconds Unix time at which the shutdown began; 0 before that.
# TYPE wsproxy_drain_began_timestamp_seconds gauge
wsproxy_drain_began_timestamp_seconds{proxy="chat"} 1.0000000005e+09
# HELP wsproxy_drain_cut_sessions Sessions that were cut at the end of the shutdown.
# TYPE wsproxy_drain_cut_sessions gauge
wsproxy_drain_cut_sessions{proxy="chat"} 25
# HELP wsproxy_drain_sessions Sessions that were open when the shutdown began.
# TYPE wsproxy_drain_sessions gauge
wsproxy_drain_sessions{proxy="chat"} 23
# HELP wsproxy_drain_told_sessions Sessions that have been told to end since the shutdown began, or ended by themselves.
# TYPE wsproxy_drain_told_sessions gauge
wsproxy_drain_told_sessions{proxy="chat"} 24
# HELP wsproxy_handshakes Handshakes under way.
# TYPE wsproxy_handshakes gauge
wsproxy_handshakes{proxy="chat"} 2
# HELP wsproxy_handshakes_failed_total Failed and refused handshakes, by kind.
# TYPE wsproxy_handshakes_failed_total counter
wsproxy_handshakes_failed_total{kind="bad answer",proxy="chat"} 7
# HELP wsproxy_largest_message_bytes Payload of the largest message from a side so far.
# TYPE wsproxy_largest_message_bytes gauge
wsproxy_largest_message_bytes{from="client",proxy="chat"} 12
wsproxy_largest_message_bytes{from="upstream",proxy="chat"} 17
# HELP wsproxy_member_sessions A member's sessions, including handshakes under way.
# TYPE wsproxy_member_sessions gauge
wsproxy_member_sessions{member="\"unix:///run/\\xfe.sock\"",proxy="chat"} 29
wsproxy_member_sessions{member="\"unix:///run/\\xff.sock\"",proxy="chat"} 28
wsproxy_member_sessions{member="http://a.test/chat",proxy="chat"} 26
wsproxy_member_sessions{member="http://b.test#192.0.2.1:80",proxy="chat"} 27
# HELP wsproxy_member_up Whether a member may get new sessions: 1, or 0 while it is down or backed off.
# TYPE wsproxy_member_up gauge
wsproxy_member_up{member="\"unix:///run/\\xfe.sock\"",proxy="chat"} 0
wsproxy_member_up{member="\"unix:///run/\\xff.sock\"",proxy="chat"} 1
wsproxy_member_up{member="http://a.test/chat",proxy="chat"} 1
wsproxy_member_up{member="http://b.test#192.0.2.1:80",proxy="chat"} 0
# HELP wsproxy_ping_round_trip_seconds Time that a side took to answer a ping of the proxy.
# TYPE wsproxy_ping_round_trip_seconds histogram
wsproxy_ping_round_trip_seconds_bucket{proxy="chat",side="client",le="0.005"} 20
wsproxy_ping_round_trip_seconds_bucket{proxy="chat",side="client",le="+Inf"} 41
wsproxy_ping_round_trip_seconds_sum{proxy="chat",side="client"} 1
wsproxy_ping_round_trip_seconds_count{proxy="chat",side="client"} 41
wsproxy_ping_round_trip_seconds_bucket{proxy="chat",side="upstream",le="0.005"} 22
wsproxy_ping_round_trip_seconds_bucket{proxy="chat",side="upstream",le="+Inf"} 22
wsproxy_ping_round_trip_seconds_sum{proxy="chat",side="upstream"} 0.001
wsproxy_ping_round_trip_seconds_count{proxy="chat",side="upstream"} 22
# HELP wsproxy_pings_ignored_total Ended sessions in which the side answered none of the proxy's pings.
# TYPE wsproxy_pings_ignored_total counter
wsproxy_pings_ignored_total{proxy="chat",side="client"} 104
wsproxy_pings_ignored_total{proxy="chat",side="upstream"} 105
# HELP wsproxy_received_bytes_total Bytes relayed from a side, on the wire.
# TYPE wsproxy_received_bytes_total counter
wsproxy_received_bytes_total{from="client",proxy="chat"} 10
wsproxy_received_bytes_total{from="upstream",proxy="chat"} 15
# HELP wsproxy_received_frames_total Frames relayed from a side.
# TYPE wsproxy_received_frames_total counter
wsproxy_received_frames_total{from="client",proxy="chat"} 8
wsproxy_received_frames_total{from="upstream",proxy="chat"} 13
# HELP wsproxy_received_messages_total Messages relayed from a side.
# TYPE wsproxy_received_messages_total counter
wsproxy_received_messages_total{from="client",proxy="chat"} 9
wsproxy_received_messages_total{from="upstream",proxy="chat"} 14
# HELP wsproxy_received_pings_total Pings relayed from a side.
# TYPE wsproxy_received_pings_total counter
wsproxy_received_pings_total{from="client",proxy="chat"} 11
wsproxy_received_pings_total{from="upstream",proxy="chat"} 16
# HELP wsproxy_resumes_failed_total Sessions that lost their upstream and found no other one.
# TYPE wsproxy_resumes_failed_total counter
wsproxy_resumes_failed_total{proxy="chat"} 32
# HELP wsproxy_resumes_total Times that a session has gone on with another upstream.
# TYPE wsproxy_resumes_total counter
wsproxy_resumes_total{proxy="chat"} 31
# HELP wsproxy_retries_total Handshakes retried with another member.
# TYPE wsproxy_retries_total counter
wsproxy_retries_total{proxy="chat"} 30
# HELP wsproxy_sent_messages_total Messages added by the program, to a side.
# TYPE wsproxy_sent_messages_total counter
wsproxy_sent_messages_total{proxy="chat",to="client"} 31
wsproxy_sent_messages_total{proxy="chat",to="upstream"} 32
# HELP wsproxy_session_duration_seconds Duration of ended sessions.
# TYPE wsproxy_session_duration_seconds histogram
wsproxy_session_duration_seconds_bucket{proxy="chat",le="1"} 18
wsproxy_session_duration_seconds_bucket{proxy="chat",le="60"} 18
wsproxy_session_duration_seconds_bucket{proxy="chat",le="+Inf"} 37
wsproxy_session_duration_seconds_sum{proxy="chat"} 1.5
wsproxy_session_duration_seconds_count{proxy="chat"} 37
# HELP wsproxy_sessions Open sessions.
# TYPE wsproxy_sessions gauge
wsproxy_sessions{proxy="chat"} 1
# HELP wsproxy_sessions_ended_total Ended sessions, by the side that caused the end and the reason.
# TYPE wsproxy_sessions_ended_total counter
wsproxy_sessions_ended_total{by="client",proxy="chat",reason="closed"} 4
wsproxy_sessions_ended_total{by="proxy",proxy="chat",reason="idle"} 6
wsproxy_sessions_ended_total{by="upstream",proxy="chat",reason="lost"} 5
# HELP wsproxy_sessions_opened_total Sessions opened so far.
# TYPE wsproxy_sessions_opened_total counter
wsproxy_sessions_opened_total{proxy="chat"} 3
# HELP wsproxy_untapped_messages_total Messages that taps did not get, because too many were waiting.
# TYPE wsproxy_untapped_messages_total counter
wsproxy_untapped_messages_total{proxy="chat"} 39
`
	if err := testutil.CollectAndCompare(c, strings.NewReader(want)); err != nil {
		t.Error(err)
	}
	lint(t, c)
	st = wsproxy.Stats{} // of an idle proxy
	lint(t, c)
	if err := testutil.CollectAndCompare(c, strings.NewReader(`
# HELP wsproxy_drain_began_timestamp_seconds Unix time at which the shutdown began; 0 before that.
# TYPE wsproxy_drain_began_timestamp_seconds gauge
wsproxy_drain_began_timestamp_seconds{proxy="chat"} 0
`), "wsproxy_drain_began_timestamp_seconds"); err != nil {
		t.Error(err)
	}
}

func lint(t *testing.T, c prometheus.Collector) {
	t.Helper()
	problems, err := testutil.CollectAndLint(c)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
}
