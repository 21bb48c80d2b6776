package wscaddy

import (
	"cmp"
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/coder/websocket"

	"github.com/seed-ffb73231/wsproxy"
)

// This file turns a handler's configuration into the options of its proxy.

// A Side is the configuration of one side of the sessions.
type Side struct {
	// Ping sets when a silent peer of this side is pinged. Default: after 25s.
	Ping *Ping `json:"ping,omitempty"`

	MaxMessageSize int `json:"max_message_size,omitempty"` // in bytes; a larger one ends the session with Close 1009; default: no limit
	MaxFrameSize   int `json:"max_frame_size,omitempty"`   // in bytes; default: no limit

	// RateLimit slows down or ends sessions in which this side sends too much.
	RateLimit *RateLimit `json:"rate_limit,omitempty"`
}

// A Ping says how silent and lost peers are treated.
type Ping struct {
	Interval caddy.Duration `json:"interval"`          // of silence before a Ping; 0: no Pings
	Timeout  caddy.Duration `json:"timeout,omitempty"` // for anything to arrive after it; default: 35s
}

// A RateLimit limits what a side of a session may send. A rate of 0 is no limit.
type RateLimit struct {
	Messages float64        `json:"messages,omitempty"` // per second
	Frames   float64        `json:"frames,omitempty"`   // per second; default: ten times Messages
	Bytes    float64        `json:"bytes,omitempty"`    // per second
	Burst    caddy.Duration `json:"burst,omitempty"`    // the time's worth that may arrive at once; default: 1s
	Close    bool           `json:"close,omitempty"`    // end the session with Close 1008 instead of slowing it down
}

// HealthChecks configures active health checks.
type HealthChecks struct {
	URI      string         `json:"uri,omitempty"`      // requested with GET; default: the check opens a WebSocket and expects a Ping to be answered
	Headers  http.Header    `json:"headers,omitempty"`  // sent with the request
	Interval caddy.Duration `json:"interval,omitempty"` // default: 10s
	Timeout  caddy.Duration `json:"timeout,omitempty"`  // default: 5s
	Passes   int            `json:"passes,omitempty"`   // in a row that mark an upstream up; default: 2
	Fails    int            `json:"fails,omitempty"`    // in a row that mark it down; default: 3
	Close    bool           `json:"close,omitempty"`    // end the sessions of an upstream that is marked down with Close 1012; default: they continue
}

// A setting is an option of the proxy, and the subdirective that sets it.
var settings = map[string]string{
	"target":                   "to",
	"WithUpstreams":            "to",
	"WithSource":               "dynamic",
	"WithBalance":              "lb_policy",
	"WithSticky":               "lb_policy",
	"WithRetry":                "lb_retry_share",
	"WithJudgeAnswers":         "judge_answers",
	"WithHealthCheck":          "health_*",
	"WithOrigins":              "origins",
	"WithInsecureAnyOrigin":    "origins",
	"WithTLSConfig":            "tls",
	"WithPingTo":               "ping",
	"WithIdleTimeout":          "idle_timeout",
	"WithWriteTimeout":         "write_timeout",
	"WithHandshakeTimeout":     "handshake_timeout",
	"WithCloseTimeout":         "close_timeout",
	"WithMaxAge":               "max_age",
	"WithDrain":                "drain",
	"WithLostCode":             "lost_code",
	"WithMaxSessions":          "max_sessions",
	"WithMaxSessionsPerClient": "max_sessions_per_client",
	"WithMaxHandshakes":        "max_handshakes",
	"WithMaxMessageSize":       "max_message_size",
	"WithMaxFrameSize":         "max_frame_size",
	"WithRateLimit":            "rate_limit",
}

// explain returns the mistakes that the proxy finds in its options, by the names
// that they have here.
func explain(err error) error {
	joined, ok := err.(interface{ Unwrap() []error })
	if !ok {
		return err
	}
	var all []error
	for _, err := range joined.Unwrap() {
		if mistake, ok := errors.AsType[*wsproxy.OptionError](err); ok && settings[mistake.Option] != "" {
			err = fmt.Errorf("%s: %q: %s", settings[mistake.Option], fmt.Sprint(mistake.Value), mistake.Reason)
		}
		all = append(all, err)
	}
	return errors.Join(all...)
}

// defaultDrain limits a drain whose time is not configured.
const defaultDrain = 30 * time.Second

// drainLimit returns how long the sessions may take to end.
func (h *Handler) drainLimit() time.Duration {
	limit := cmp.Or(time.Duration(h.Drain), defaultDrain)
	// The proxy tells the last session to end that much before its time is over.
	return limit + cmp.Or(time.Duration(h.CloseTimeout), 5*time.Second) + time.Second
}

// options returns the options of the handler's proxy, except the logger.
// members are its upstreams, as the configuration has them.
func (h *Handler) options(members []wsproxy.Member, secure *tls.Config) ([]wsproxy.Option, error) {
	everyone := []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("::/0")}
	all := []wsproxy.Option{
		// Each request has only those forwarding fields that Caddy trusts.
		wsproxy.WithTrustedProxies(everyone...),
		wsproxy.WithTrustedUnixSockets(),
		wsproxy.WithFallback(http.HandlerFunc(fallback)),
		wsproxy.WithErrorHandler(refuse),
		wsproxy.WithRewrite(h.rewrite),
		wsproxy.WithDrain(time.Duration(h.Drain), websocket.StatusCode(h.DrainCode)),
	}
	add := func(options ...wsproxy.Option) { all = append(all, options...) }

	if h.DynamicUpstreams != nil {
		source, err := h.source()
		if err != nil {
			return nil, err
		}
		add(source...)
	} else {
		add(wsproxy.WithUpstreams(members...))
	}
	if h.LoadBalancing != nil {
		balance, err := h.LoadBalancing.options()
		if err != nil {
			return nil, err
		}
		add(balance...)
	}
	if c := h.HealthChecks; c != nil {
		add(wsproxy.WithHealthCheck(wsproxy.HealthCheck{
			Path: c.URI, Header: c.Headers, Interval: time.Duration(c.Interval), Timeout: time.Duration(c.Timeout),
			Rise: c.Passes, Fall: c.Fails, Close: c.Close,
		}))
	}
	if h.JudgeAnswers != 0 {
		add(wsproxy.WithJudgeAnswers(h.JudgeAnswers))
	}
	if secure != nil {
		secure = secure.Clone()
		if secure.InsecureSkipVerify {
			secure.InsecureSkipVerify = false // the option does it
			add(wsproxy.WithInsecureSkipVerify())
		}
		add(wsproxy.WithTLSConfig(secure))
	}
	if h.Headers != nil && h.Headers.Response != nil {
		add(wsproxy.WithRewriteAnswer(h.rewriteAnswer))
	}
	if h.TargetPath {
		add(wsproxy.WithTargetPath())
	}
	switch {
	case len(h.Origins) == 1 && h.Origins[0] == "*":
		add(wsproxy.WithInsecureAnyOrigin())
	case len(h.Origins) > 0:
		add(wsproxy.WithOrigins(h.Origins...))
	}
	for side, s := range map[wsproxy.Side]Side{wsproxy.Client: h.Client, wsproxy.Upstream: h.Upstream} {
		add(s.options(side)...)
	}
	for _, o := range []struct {
		with func(time.Duration) wsproxy.Option
		d    caddy.Duration
	}{
		{wsproxy.WithIdleTimeout, h.IdleTimeout},
		{wsproxy.WithWriteTimeout, h.WriteTimeout},
		{wsproxy.WithHandshakeTimeout, h.HandshakeTimeout},
		{wsproxy.WithCloseTimeout, h.CloseTimeout},
		{wsproxy.WithMaxAge, h.MaxAge},
	} {
		if o.d != 0 {
			add(o.with(time.Duration(o.d)))
		}
	}
	add(wsproxy.WithMaxSessions(h.MaxSessions),
		wsproxy.WithMaxSessionsPerClient(h.MaxSessionsPerClient, nil),
		wsproxy.WithMaxHandshakes(h.MaxHandshakes))
	if h.LostCode != 0 {
		add(wsproxy.WithLostCode(websocket.StatusCode(h.LostCode)))
	}
	if h.Detach {
		add(wsproxy.WithDetach())
	}
	return all, nil
}

func (s Side) options(side wsproxy.Side) []wsproxy.Option {
	all := []wsproxy.Option{
		wsproxy.WithMaxMessageSize(side, s.MaxMessageSize),
		wsproxy.WithMaxFrameSize(side, s.MaxFrameSize),
	}
	if s.Ping != nil {
		timeout := cmp.Or(time.Duration(s.Ping.Timeout), 35*time.Second)
		all = append(all, wsproxy.WithPingTo(side, time.Duration(s.Ping.Interval), timeout))
	}
	if r := s.RateLimit; r != nil {
		all = append(all, wsproxy.WithRateLimit(side, wsproxy.RateLimit{
			Messages: r.Messages, Frames: r.Frames, Bytes: r.Bytes, Burst: time.Duration(r.Burst), Close: r.Close,
		}))
	}
	return all
}

// tlsConfig loads the files and modules of the TLS configuration.
func (h *Handler) tlsConfig(ctx caddy.Context) (*tls.Config, error) {
	switch t := h.TLS; {
	case t == nil:
		return nil, nil
	case len(t.ExceptPorts) > 0:
		return nil, errors.New("tls: except_ports is not supported: give the upstreams schemes")
	case t.HandshakeTimeout != 0:
		return nil, errors.New("tls: handshake_timeout is not supported: set the handler's handshake_timeout")
	case t.Renegotiation != "":
		return nil, errors.New("tls: renegotiation is not supported")
	}
	config, err := h.TLS.MakeTLSClientConfig(ctx)
	if err != nil {
		return nil, fmt.Errorf("tls: %w", err)
	}
	return config, nil
}

// label returns the value of the metrics' label proxy.
func (h *Handler) label() string {
	if h.Name != "" {
		return h.Name
	}
	var targets []string
	for _, u := range h.Upstreams {
		targets = append(targets, u.Target)
	}
	if d := h.DynamicUpstreams; d != nil {
		targets = append(targets, d.Type+" "+d.Target)
	}
	return strings.Join(targets, " ")
}
