package wsotel_test

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
	"unicode/utf8"
	"weak"

	"github.com/coder/websocket"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"

	"github.com/seed-ffb73231/wsproxy"
	wsotel "github.com/seed-ffb73231/wsproxy/metrics/otel"
)

// limit is the time limit of any wait.
const limit = 30 * time.Second

// A site is an upstream behind an observed proxy. The upstream echoes, but answers
// 403 at /forbidden, and reports its health at /health.
type site struct {
	proxy    *wsproxy.Proxy
	url      string
	upstream string // its URL
	sick     atomic.Bool
	sessions chan *wsproxy.Session // as they come
	got      chan http.Header      // headers that the upstream received

	spans   *tracetest.InMemoryExporter
	metrics *sdkmetric.ManualReader
}

// newSite returns a site. more are options of the proxy after those of wsotel.
// around, if not nil, is middleware.
func newSite(t *testing.T, c wsotel.Config, around func(http.Handler) http.Handler, more ...wsproxy.Option) *site {
	t.Helper()
	s := &site{
		sessions: make(chan *wsproxy.Session, 100),
		got:      make(chan http.Header, 100),
		spans:    tracetest.NewInMemoryExporter(),
		metrics:  sdkmetric.NewManualReader(),
	}
	upstream := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/health" {
			if s.sick.Load() {
				http.Error(w, "no", http.StatusServiceUnavailable)
			}
			return
		}
		s.got <- r.Header
		if r.URL.Path == "/forbidden" {
			http.Error(w, "no", http.StatusForbidden)
			return
		}
		conn, err := websocket.Accept(w, r, nil)
		if err != nil {
			return
		}
		defer conn.CloseNow()
		for {
			kind, message, err := conn.Read(context.Background())
			if err != nil {
				return
			}
			conn.Write(context.Background(), kind, message)
		}
	}))
	t.Cleanup(upstream.Close)

	c.TracerProvider = sdktrace.NewTracerProvider(sdktrace.WithSyncer(s.spans))
	c.MeterProvider = sdkmetric.NewMeterProvider(sdkmetric.WithReader(s.metrics))
	c.Propagator = propagation.NewCompositeTextMapPropagator(propagation.TraceContext{}, propagation.Baggage{})
	options := []wsproxy.Option{
		wsproxy.WithLogger(slog.New(slog.DiscardHandler)),
		wsproxy.WithOnOpen(func(session *wsproxy.Session, r *http.Request) error {
			session.Set(reported{}, make(chan struct{}))
			s.sessions <- session
			if r.URL.Path == "/early" {
				return errors.New("refused before")
			}
			return nil
		}),
	}
	last := wsproxy.WithOnClose(func(session *wsproxy.Session) { close(session.Value(reported{}).(chan struct{})) })
	proxy, err := wsproxy.New(upstream.URL, slices.Concat(options, wsotel.Options(c), []wsproxy.Option{last}, more)...)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := wsotel.Observe(proxy, c); err != nil {
		t.Fatal(err)
	}
	handler := http.Handler(proxy)
	if around != nil {
		handler = around(proxy)
	}
	front := httptest.NewServer(handler)
	t.Cleanup(func() {
		proxy.Close()
		front.Close()
	})
	s.proxy, s.url, s.upstream = proxy, front.URL, upstream.URL
	return s
}

// open opens a session and has a message echoed.
func (s *site) open(t *testing.T, path string, header http.Header) (*websocket.Conn, *wsproxy.Session) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	conn, _, err := websocket.Dial(ctx, s.url+path, &websocket.DialOptions{HTTPHeader: header})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.CloseNow() })
	if err := conn.Write(ctx, websocket.MessageText, []byte("hello")); err != nil {
		t.Fatal(err)
	}
	if _, _, err := conn.Read(ctx); err != nil {
		t.Fatal(err)
	}
	return conn, <-s.sessions
}

// reported is the key of a channel that is closed when the hooks of wsotel have
// been called for the end of a session. The session is over before that.
type reported struct{}

func awaitReport(t *testing.T, session *wsproxy.Session) {
	t.Helper()
	select {
	case <-session.Value(reported{}).(chan struct{}):
	case <-time.After(limit):
		t.Error("the end of the session isn't reported")
	}
}

// ended returns a session's spans once it is over.
func (s *site) ended(t *testing.T, session *wsproxy.Session) (handshake, whole tracetest.SpanStub) {
	t.Helper()
	awaitReport(t, session)
	spans := s.spans.GetSpans()
	if len(spans) != 2 || spans[0].Name != "websocket handshake" || spans[1].Name != "websocket session" {
		t.Fatalf("got %v, want a handshake and a session", spans)
	}
	handshake, whole = spans[0], spans[1]
	if handshake.Parent.SpanID() != whole.SpanContext.SpanID() || handshake.SpanContext.TraceID() != whole.SpanContext.TraceID() {
		t.Error("the handshake is not below the session")
	}
	if handshake.SpanKind != trace.SpanKindClient || whole.SpanKind != trace.SpanKindServer {
		t.Errorf("got kinds %v and %v, want client and server", handshake.SpanKind, whole.SpanKind)
	}
	if !handshake.StartTime.Equal(whole.StartTime) || handshake.EndTime.Before(handshake.StartTime) || handshake.EndTime.After(whole.EndTime) {
		t.Errorf("the handshake's time, %v to %v, is not within the session's, %v to %v", handshake.StartTime, handshake.EndTime, whole.StartTime, whole.EndTime)
	}
	return handshake, whole
}

// dialFails makes a handshake fail and returns its spans.
func (s *site) dialFails(t *testing.T, path string, status int) (handshake, whole tracetest.SpanStub) {
	t.Helper()
	_, resp, err := websocket.Dial(t.Context(), s.url+path, nil)
	if err == nil || resp == nil || resp.StatusCode != status {
		t.Fatalf("got %v (%v), want %d", resp, err, status)
	}
	return s.ended(t, <-s.sessions)
}

// attrs returns the span's attributes as text. A port is "#".
func attrs(s tracetest.SpanStub) map[string]string {
	m := make(map[string]string)
	for _, a := range s.Attributes {
		m[string(a.Key)] = a.Value.String()
		if strings.HasSuffix(string(a.Key), ".port") {
			m[string(a.Key)] = "#"
		}
	}
	return m
}

func wantAttrs(t *testing.T, s tracetest.SpanStub, want map[string]string) {
	t.Helper()
	if got := attrs(s); !maps.Equal(got, want) {
		t.Errorf("%s: got\n%v, want\n%v", s.Name, got, want)
	}
}

// traceparent returns the header value that identifies the span.
func traceparent(s tracetest.SpanStub) string {
	return "00-" + s.SpanContext.TraceID().String() + "-" + s.SpanContext.SpanID().String() + "-01"
}

// A session has two spans, and the upstream gets the context of one of them.
func TestTrace(t *testing.T) {
	for name, options := range map[string][]wsproxy.Option{"attached": nil, "detached": {wsproxy.WithDetach()}} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t, wsotel.Config{Name: "chat"}, nil, options...)
			conn, session := s.open(t, "/chat?token=secret", http.Header{"Cookie": {"secret"}})
			if n := len(s.spans.GetSpans()); n != 0 {
				t.Errorf("%d spans have ended before the session", n)
			}
			if err := conn.Close(websocket.StatusNormalClosure, "secret"); err != nil {
				t.Fatal(err)
			}
			handshake, whole := s.ended(t, session)
			if whole.Parent.IsValid() || len(whole.Links) > 0 {
				t.Errorf("got parent %v and links %v, want none", whole.Parent, whole.Links)
			}
			if got, want := (<-s.got)["Traceparent"], traceparent(handshake); !slices.Equal(got, []string{want}) {
				t.Errorf("upstream got traceparent %q, want %q", got, want)
			}
			if !handshake.EndTime.Equal(session.Start()) {
				t.Errorf("the handshake ends at %v, want %v", handshake.EndTime, session.Start())
			}
			if handshake.Status.Code != codes.Unset || whole.Status.Code != codes.Unset {
				t.Errorf("got status %v and %v, want none", handshake.Status, whole.Status)
			}
			wantAttrs(t, handshake, map[string]string{
				"wsproxy.name":              "chat",
				"http.request.method":       "GET",
				"http.response.status_code": "101",
				"server.address":            "127.0.0.1",
				"server.port":               "#",
			})
			wantAttrs(t, whole, map[string]string{
				"wsproxy.name":              "chat",
				"wsproxy.session.id":        "1",
				"network.protocol.name":     "websocket",
				"network.peer.address":      "127.0.0.1",
				"network.peer.port":         "#",
				"client.address":            "127.0.0.1",
				"client.port":               "#",
				"url.path":                  "/chat",
				"wsproxy.end.by":            "client",
				"wsproxy.end.reason":        "closed",
				"wsproxy.close.code":        "1000",
				"wsproxy.client.bytes":      "25",
				"wsproxy.client.messages":   "1",
				"wsproxy.client.frames":     "2",
				"wsproxy.upstream.bytes":    "17",
				"wsproxy.upstream.messages": "1",
				"wsproxy.upstream.frames":   "2",
			})
		})
	}
}

// The session joins the client's trace only if clients are trusted and there is no
// middleware. The client's trace never replaces ours in the upstream's request.
func TestClientsTrace(t *testing.T) {
	const (
		clients = "00-11111111111111111111111111111111-2222222222222222-01"
		id      = "11111111111111111111111111111111"
		outer   = "33333333333333333333333333333333"
	)
	header := http.Header{
		"Traceparent": {clients},
		"Tracestate":  {"vendor=secret"},
		"Baggage":     {"user=secret"},
	}
	nominated := header.Clone() // removed as hop-by-hop before ours are set
	nominated["Connection"] = []string{"TRACEPARENT, keep-alive,tracestate ,baggage, X-Drop"}
	nominated["X-Drop"] = []string{"a"}
	middleware := func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			traceID, _ := trace.TraceIDFromHex(outer)
			sc := trace.NewSpanContext(trace.SpanContextConfig{TraceID: traceID, SpanID: trace.SpanID{4}, TraceFlags: trace.FlagsSampled})
			next.ServeHTTP(w, r.WithContext(trace.ContextWithSpanContext(r.Context(), sc)))
		})
	}
	for _, test := range []struct {
		name    string
		header  http.Header
		trust   bool
		around  func(http.Handler) http.Handler
		trace   string // the session's; "" for a new one
		linked  bool
		state   []string // what the upstream gets
		baggage []string
	}{
		{name: "untrusted", header: header, linked: true},
		{name: "trusted", header: header, trust: true, trace: id, state: []string{"vendor=secret"}, baggage: []string{"user=secret"}},
		{name: "middleware", header: header, around: middleware, trace: outer},
		{name: "middleware, trusted", header: header, trust: true, around: middleware, trace: outer},
		{name: "nominated", header: nominated, trust: true},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := newSite(t, wsotel.Config{TrustClients: test.trust}, test.around)
			conn := openRaw(t, s.url, test.header)
			session := <-s.sessions
			conn.Close()
			handshake, whole := s.ended(t, session)
			got := whole.SpanContext.TraceID().String()
			if test.trace == "" && (got == id || whole.Parent.IsValid()) || test.trace != "" && got != test.trace {
				t.Errorf("got trace %s below %v, want %q", got, whole.Parent, test.trace)
			}
			if linked := len(whole.Links) == 1 && whole.Links[0].SpanContext.TraceID().String() == id; linked != test.linked || len(whole.Links) > 1 {
				t.Errorf("got links %v, want %v", whole.Links, test.linked)
			}
			if test.linked && whole.Links[0].SpanContext.TraceState().Len() > 0 {
				t.Error("the link holds the client's tracestate")
			}
			h := <-s.got
			if got, want := h["Traceparent"], traceparent(handshake); !slices.Equal(got, []string{want}) {
				t.Errorf("upstream got traceparent %q, want %q", got, want)
			}
			if got := h["Tracestate"]; !slices.Equal(got, test.state) {
				t.Errorf("upstream got tracestate %q, want %q", got, test.state)
			}
			if got := h["Baggage"]; !slices.Equal(got, test.baggage) {
				t.Errorf("upstream got baggage %q, want %q", got, test.baggage)
			}
			if h["X-Drop"] != nil {
				t.Error("upstream got a field that the client's Connection names")
			}
		})
	}
}

// openRaw does a handshake with the given Connection field.
func openRaw(t *testing.T, url string, header http.Header) net.Conn {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header = header.Clone()
	r.Header.Add("Connection", "Upgrade")
	r.Header.Set("Upgrade", "websocket")
	r.Header.Set("Sec-WebSocket-Version", "13")
	r.Header.Set("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==")
	conn, err := net.Dial("tcp", r.URL.Host)
	if err != nil {
		t.Fatal(err)
	}
	conn.SetDeadline(time.Now().Add(limit))
	if err := r.Write(conn); err != nil {
		t.Fatal(err)
	}
	answer := make([]byte, len("HTTP/1.1 101"))
	if _, err := conn.Read(answer); err != nil || string(answer) != "HTTP/1.1 101" {
		t.Fatalf("got %q (%v), want 101", answer, err)
	}
	return conn
}

// A failed handshake sets its span's status to error, and also the session's if
// the answer blames the server.
func TestFailedHandshakes(t *testing.T) {
	down := wsproxy.WithDialContext(func(context.Context, string, string) (net.Conn, error) {
		return nil, errors.New("down\xff\nin detail")
	})
	late := wsproxy.WithOnOpen(func(*wsproxy.Session, *http.Request) error { return errors.New("refused behind") })
	panics := wsproxy.WithOnOpen(func(*wsproxy.Session, *http.Request) error { panic("oops") })
	for _, test := range []struct {
		name, path string
		option     []wsproxy.Option
		status     int
		kind       string
		failed     bool // the session's status
		answer     string
	}{
		{"dial", "/", []wsproxy.Option{down}, 502, "other", true, ""},
		{"upstream's refusal", "/forbidden", nil, 403, "refusal", false, "403"},
		{"hook", "/", []wsproxy.Option{late}, 403, "hook", false, ""},
		{"panic", "/", []wsproxy.Option{panics}, 500, "panic", true, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := newSite(t, wsotel.Config{}, nil, test.option...)
			handshake, whole := s.dialFails(t, test.path, test.status)
			if handshake.Status.Code != codes.Error || strings.Contains(handshake.Status.Description, "\n") || !utf8.ValidString(handshake.Status.Description) {
				t.Errorf("handshake: got status %+q, want an error of one valid line", handshake.Status)
			}
			if got := attrs(handshake); got["error.type"] != test.kind || got["http.response.status_code"] != test.answer {
				t.Errorf("handshake: got %v, want error.type %q and status %q", got, test.kind, test.answer)
			}
			if failed := whole.Status.Code == codes.Error; failed != test.failed || failed != (attrs(whole)["error.type"] == test.kind) {
				t.Errorf("session: got status %v and %v, want error %v", whole.Status, attrs(whole), test.failed)
			}
			want := attribute.Int("http.response.status_code", test.status)
			if !slices.Contains(whole.Attributes, want) {
				t.Errorf("session: got %v, want %v in there", whole.Attributes, want)
			}
			if got := s.read(t); got["wsproxy.handshake.failed{error.type="+test.kind+"}"] != 1 || got["wsproxy.session.opened{}"] != 0 {
				t.Errorf("got metrics %v", got)
			}
		})
	}

	s := newSite(t, wsotel.Config{}, nil)
	if _, resp, _ := websocket.Dial(t.Context(), s.url+"/early", nil); resp == nil || resp.StatusCode != http.StatusForbidden {
		t.Fatalf("got %v, want 403", resp)
	}
	awaitReport(t, <-s.sessions)
	if spans := s.spans.GetSpans(); len(spans) != 0 {
		t.Errorf("a session that was refused before has %v, want no spans", spans)
	}
}

// The end of a session determines its status.
func TestEnds(t *testing.T) {
	for _, test := range []struct {
		by, reason string
		code       string
		failed     bool
		end        func(*site, *websocket.Conn, *wsproxy.Session)
	}{
		{"client", "lost", "", true, func(_ *site, conn *websocket.Conn, _ *wsproxy.Session) { conn.CloseNow() }},
		{"proxy", "cut", "", true, func(s *site, _ *websocket.Conn, _ *wsproxy.Session) { s.proxy.Close() }},
		{"proxy", "closed by proxy", "4000", false, func(_ *site, conn *websocket.Conn, session *wsproxy.Session) {
			conn.CloseRead(context.Background()) // it answers the Close
			session.Close(4000, "bye")
		}},
		{"proxy", "removed", "1012", false, func(s *site, conn *websocket.Conn, _ *wsproxy.Session) {
			conn.CloseRead(context.Background())
			s.setUpstreams(t, wsproxy.Member{Target: "http://elsewhere.test"})
		}},
		{"proxy", "down", "1012", true, func(s *site, conn *websocket.Conn, _ *wsproxy.Session) {
			conn.CloseRead(context.Background())
			s.sick.Store(true)
		}},
	} {
		t.Run(test.reason, func(t *testing.T) {
			s := newSite(t, wsotel.Config{}, nil, wsproxy.WithHealthCheck(wsproxy.HealthCheck{
				Path: "/health", Interval: 10 * time.Millisecond, Timeout: limit, Fall: 1, Close: true,
			}))
			conn, session := s.open(t, "/", nil)
			test.end(s, conn, session)
			handshake, whole := s.ended(t, session)
			if handshake.Status.Code != codes.Unset {
				t.Errorf("handshake: got status %v, want none", handshake.Status)
			}
			if (whole.Status.Code == codes.Error) != test.failed {
				t.Errorf("got status %v, want error %v", whole.Status, test.failed)
			}
			got, kind, metric := attrs(whole), "", "wsproxy.session.duration{"
			if test.failed {
				kind = test.reason
				metric += "error.type=" + kind + ","
			}
			if got["error.type"] != kind || got["wsproxy.end.by"] != test.by || got["wsproxy.end.reason"] != test.reason {
				t.Errorf("got %v, want %s by the %s", got, test.reason, test.by)
			}
			if test.code != "" && got["wsproxy.close.code"] != test.code {
				t.Errorf("got %v, want code %s", got, test.code)
			}
			metric += "wsproxy.end.by=" + test.by + ",wsproxy.end.reason=" + test.reason + "}"
			if got := s.read(t); got[metric] != 1 {
				t.Errorf("got metrics %v, want 1 of %s", got, metric)
			}
		})
	}
}

// A path may contain any bytes, but an attribute only UTF-8.
func TestPathIsMadeUTF8(t *testing.T) {
	s := newSite(t, wsotel.Config{}, nil)
	conn, session := s.open(t, "/a%ffb", nil)
	conn.CloseNow()
	if _, whole := s.ended(t, session); attrs(whole)["url.path"] != "/a\uFFFDb" {
		t.Errorf("got path %+q", attrs(whole)["url.path"])
	}
}

// The span has the round-trip time.
func TestRoundTrip(t *testing.T) {
	s := newSite(t, wsotel.Config{}, nil, wsproxy.WithPing(time.Millisecond, limit))
	pinged := make(chan struct{}, 1)
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	conn, _, err := websocket.Dial(ctx, s.url, &websocket.DialOptions{OnPingReceived: func(context.Context, []byte) bool {
		select {
		case pinged <- struct{}{}:
		default:
		}
		return true
	}})
	if err != nil {
		t.Fatal(err)
	}
	reading := conn.CloseRead(ctx)
	session := <-s.sessions
	for session.RoundTrip(wsproxy.Client) == 0 { // the next Ping comes after the last one's Pong
		select {
		case <-pinged:
		case <-reading.Done():
			t.Fatal("no more pings")
		}
	}
	conn.CloseNow()
	if _, whole := s.ended(t, session); attrs(whole)["wsproxy.client.ping.round_trip"] == "" {
		t.Errorf("got %v, want a round trip", attrs(whole))
	}
}

func (s *site) read(t *testing.T) map[string]int64 {
	t.Helper()
	return read(t, s.metrics)
}

// read collects metrics: the value of each number, and the count of each
// histogram.
func read(t *testing.T, r *sdkmetric.ManualReader) map[string]int64 {
	t.Helper()
	var rm metricdata.ResourceMetrics
	if err := r.Collect(t.Context(), &rm); err != nil {
		t.Fatal(err)
	}
	got := make(map[string]int64)
	for _, scope := range rm.ScopeMetrics {
		for _, m := range scope.Metrics {
			add := func(set attribute.Set, n int64) {
				for _, a := range set.ToSlice() {
					if !utf8.ValidString(a.Value.String()) {
						t.Errorf("%s: %s is %+q, which can't be exported", m.Name, a.Key, a.Value.String())
					}
				}
				got[m.Name+"{"+set.Encoded(attribute.DefaultEncoder())+"}"] = n
			}
			switch data := m.Data.(type) {
			case metricdata.Sum[int64]:
				for _, p := range data.DataPoints {
					add(p.Attributes, p.Value)
				}
			case metricdata.Histogram[float64]:
				for _, p := range data.DataPoints {
					add(p.Attributes, int64(p.Count))
				}
			default:
				t.Errorf("%s: unexpected %T", m.Name, data)
			}
		}
	}
	return got
}

// Every number of the statistics is in one metric.
func TestMetrics(t *testing.T) {
	s := newSite(t, wsotel.Config{}, nil)
	want := map[string]int64{
		"wsproxy.session.resumes{}":                                       0,
		"wsproxy.session.resumes_failed{}":                                0,
		"wsproxy.handshake.retries{}":                                     0,
		"wsproxy.member.session.count{wsproxy.member=" + s.upstream + "}": 0,
		"wsproxy.member.up{wsproxy.member=" + s.upstream + "}":            1,
		"wsproxy.session.count{}":                                         0,
		"wsproxy.session.opened{}":                                        0,
		"wsproxy.handshake.count{}":                                       0,
		"wsproxy.io{wsproxy.from=client}":                                 0,
		"wsproxy.io{wsproxy.from=upstream}":                               0,
		"wsproxy.frames{wsproxy.from=client}":                             0,
		"wsproxy.frames{wsproxy.from=upstream}":                           0,
		"wsproxy.messages{wsproxy.from=client}":                           0,
		"wsproxy.messages{wsproxy.from=upstream}":                         0,
		"wsproxy.pings{wsproxy.from=client}":                              0,
		"wsproxy.pings{wsproxy.from=upstream}":                            0,
		"wsproxy.messages_sent{wsproxy.to=client}":                        0,
		"wsproxy.messages_sent{wsproxy.to=upstream}":                      0,
		"wsproxy.compressed.messages{wsproxy.side=client}":                0,
		"wsproxy.compressed.messages{wsproxy.side=upstream}":              0,
		"wsproxy.compressed.io{wsproxy.side=client}":                      0,
		"wsproxy.compressed.io{wsproxy.side=upstream}":                    0,
		"wsproxy.compressed.unpacked{wsproxy.side=client}":                0,
		"wsproxy.compressed.unpacked{wsproxy.side=upstream}":              0,
		"wsproxy.messages_untapped{}":                                     0,
		"wsproxy.session.pings_ignored{wsproxy.side=client}":              0,
		"wsproxy.session.pings_ignored{wsproxy.side=upstream}":            0,
	}
	for kind := range s.proxy.Stats().Failed { // each exists from the start
		want["wsproxy.handshake.failed{error.type="+string(kind)+"}"] = 0
	}
	check := func(when string, changes map[string]int64) {
		t.Helper()
		maps.Copy(want, changes)
		if got := s.read(t); !maps.Equal(got, want) {
			t.Errorf("%s: got\n%v, want\n%v", when, got, want)
		}
	}
	check("at first", nil)
	conn, session := s.open(t, "/", nil)
	<-s.got
	go func() { // for the Pong; CloseRead would not have the message
		for {
			if _, _, err := conn.Read(t.Context()); err != nil {
				return
			}
		}
	}()
	if err := conn.Ping(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := s.read(t); got["wsproxy.session.count{}"] != 1 {
		t.Errorf("open: got %v, want one session", got)
	}
	for s := range s.proxy.Sessions() {
		if err := s.Send(t.Context(), wsproxy.Client, websocket.MessageText, []byte("sent")); err != nil {
			t.Error(err)
		}
	}
	conn.CloseNow()
	s.ended(t, session)
	s.spans.Reset()
	s.dialFails(t, "/forbidden", http.StatusForbidden)
	check("at last", map[string]int64{ // the counts lag a little behind while it is open
		"wsproxy.session.opened{}":                                                                1,
		"wsproxy.handshake.failed{error.type=refusal}":                                            1,
		"wsproxy.io{wsproxy.from=client}":                                                         11 + 7, // a message and a Ping, masked
		"wsproxy.io{wsproxy.from=upstream}":                                                       7 + 3,
		"wsproxy.frames{wsproxy.from=client}":                                                     2,
		"wsproxy.frames{wsproxy.from=upstream}":                                                   2,
		"wsproxy.messages{wsproxy.from=client}":                                                   1,
		"wsproxy.messages{wsproxy.from=upstream}":                                                 1,
		"wsproxy.pings{wsproxy.from=client}":                                                      1,
		"wsproxy.messages_sent{wsproxy.to=client}":                                                1,
		"wsproxy.session.duration{error.type=lost,wsproxy.end.by=client,wsproxy.end.reason=lost}": 1,
	})
}

// Several proxies share a provider, and one can unregister.
func TestSeveralProxies(t *testing.T) {
	reader := sdkmetric.NewManualReader()
	provider := sdkmetric.NewMeterProvider(sdkmetric.WithReader(reader))
	chat, feed := newSite(t, wsotel.Config{}, nil), newSite(t, wsotel.Config{}, nil)
	registration, err := wsotel.Observe(chat.proxy, wsotel.Config{Name: "chat", MeterProvider: provider})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := wsotel.Observe(feed.proxy, wsotel.Config{Name: "feed", MeterProvider: provider}); err != nil {
		t.Fatal(err)
	}
	chat.open(t, "/", nil)
	got := read(t, reader)
	if got["wsproxy.session.count{wsproxy.name=chat}"] != 1 || got["wsproxy.session.count{wsproxy.name=feed}"] != 0 {
		t.Errorf("got %v, want one session at chat and none at feed", got)
	}
	if err := registration.Unregister(); err != nil {
		t.Fatal(err)
	}
	got = read(t, reader)
	if _, ok := got["wsproxy.session.count{wsproxy.name=chat}"]; ok {
		t.Error("a proxy that has left is still there")
	}
	if _, ok := got["wsproxy.session.count{wsproxy.name=feed}"]; !ok {
		t.Error("the other one isn't")
	}
}

// Many sessions at once have their own spans, each ended once, while metrics
// are collected.
func TestConcurrentSessions(t *testing.T) {
	s := newSite(t, wsotel.Config{}, nil, wsproxy.WithDetach())
	const n = 20
	var clients sync.WaitGroup
	for range n {
		conn, session := s.open(t, "/", nil)
		clients.Go(func() {
			conn.CloseNow()
			s.read(t)
			awaitReport(t, session)
		})
	}
	clients.Wait()
	got := make(map[trace.SpanID]int)
	for _, span := range s.spans.GetSpans() {
		got[span.SpanContext.SpanID()]++
	}
	if total := len(s.spans.GetSpans()); len(got) != 2*n || total != 2*n {
		t.Errorf("got %d spans, %d of them different, want %d", total, len(got), 2*n)
	}
	if got := s.read(t); got["wsproxy.session.duration{error.type=lost,wsproxy.end.by=client,wsproxy.end.reason=lost}"] != n {
		t.Errorf("got %v, want %d durations", got, n)
	}
}

// Nothing of a session is kept after its end.
func TestNothingIsKept(t *testing.T) {
	s := newSite(t, wsotel.Config{}, nil, wsproxy.WithDetach())
	gone := func() weak.Pointer[wsproxy.Session] {
		conn, session := s.open(t, "/", nil)
		if err := conn.Close(websocket.StatusNormalClosure, ""); err != nil {
			t.Fatal(err)
		}
		s.ended(t, session)
		return weak.Make(session)
	}()
	for deadline := time.Now().Add(limit); gone.Value() != nil; {
		if time.Now().After(deadline) {
			t.Fatal("the session is still held by something")
		}
		runtime.GC()
	}
}

// The zero Config works: without providers, nothing is recorded or changed.
func TestNothingSetUp(t *testing.T) {
	got := make(chan http.Header, 1)
	upstream := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		got <- r.Header
		if conn, err := websocket.Accept(w, r, nil); err == nil {
			conn.CloseNow()
		}
	}))
	defer upstream.Close()
	options := append(wsotel.Options(wsotel.Config{}), wsproxy.WithLogger(slog.New(slog.DiscardHandler)))
	proxy, err := wsproxy.New(upstream.URL, options...)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := wsotel.Observe(proxy, wsotel.Config{}); err != nil {
		t.Fatal(err)
	}
	front := httptest.NewServer(proxy)
	defer front.Close()
	openRaw(t, front.URL, http.Header{"Traceparent": {"the client's"}}).Close()
	if h := <-got; h.Get("Traceparent") != "the client's" {
		t.Errorf("upstream got %v, want the client's header as it is", h)
	}
	if err := proxy.Shutdown(t.Context()); err != nil {
		t.Error(err)
	}
}
