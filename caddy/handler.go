// Package wscaddy makes [wsproxy] a handler of the Caddy web server: the
// directive wsproxy of a Caddyfile, and the module http.handlers.wsproxy in
// JSON.
//
//	example.com {
//		wsproxy /websocket 127.0.0.1:9000
//		reverse_proxy 127.0.0.1:9000
//	}
//
// A request that does not ask for a WebSocket goes to the next handler, as if
// the directive were not there. README.md has all subdirectives.
//
// # Reloads
//
// When Caddy loads another configuration, a handler whose own configuration is
// the same keeps its proxy, and all sessions stay open. The sessions of a
// handler that is gone or has changed are ended with Close 1001, spread over
// the time of drain; new ones are already accepted by the new handler. The same
// happens when Caddy exits, which waits for it.
//
// # Trust
//
// Forwarding header fields are trusted if Caddy trusts the peer: see
// trusted_proxies of Caddy's global option servers. The client's address in
// logs, limits and balancing is Caddy's {client_ip}.
package wscaddy

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/headers"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
)

func init() {
	caddy.RegisterModule(Handler{})
	caddy.OnExit(func(context.Context) { draining.Wait() }) // each drain has a limit
}

// Handler proxies WebSockets to upstreams. Requests that do not ask for a
// WebSocket go to the next handler.
//
// While the upstream's request is made, and after it, these placeholders are
// set: {http.wsproxy.upstream.hostport}, {http.wsproxy.upstream.host} and
// {http.wsproxy.upstream.port}; and {http.reverse_proxy.upstream.hostport},
// which the Caddyfile shortens to {upstream_hostport}.
type Handler struct {
	// Name distinguishes this handler from others with the same configuration,
	// which otherwise share one proxy with its limits and counts. It is also the
	// label "proxy" of the metrics. Default: the upstreams.
	Name string `json:"name,omitempty"`

	// Upstreams are the servers to proxy to. At least one is required, unless
	// DynamicUpstreams is set.
	Upstreams []Upstream `json:"upstreams,omitempty"`

	// DynamicUpstreams takes the upstreams from a name server.
	DynamicUpstreams *DynamicUpstreams `json:"dynamic_upstreams,omitempty"`

	// LoadBalancing selects the upstream of each session. Default: the one with
	// the fewest sessions.
	LoadBalancing *LoadBalancing `json:"load_balancing,omitempty"`

	// HealthChecks checks the upstreams actively. Default: none, and the
	// upstreams are judged by the handshakes with them.
	HealthChecks *HealthChecks `json:"health_checks,omitempty"`

	// JudgeAnswers is the number of different clients in a row, from 2 to 1000,
	// after whose failed answers the proxy backs off from an upstream. Default:
	// 0, which means that answers do not count.
	JudgeAnswers int `json:"judge_answers,omitempty"`

	// TLS is used with https and wss upstreams. It has the fields of TLS in
	// reverse_proxy's http transport, except except_ports, handshake_timeout and
	// renegotiation. If it is set, upstreams without a scheme are https.
	TLS *reverseproxy.TLSConfig `json:"tls,omitempty"`

	// TargetPath replaces the request's path with the upstream's. Default: the
	// request's path is appended to the upstream's.
	TargetPath bool `json:"target_path,omitempty"`

	// Headers changes the header of requests to the upstream (request) and of
	// its answers (response), like the header_up and header_down of
	// reverse_proxy.
	Headers *headers.Handler `json:"headers,omitempty"`

	// Origins are the patterns of origins whose pages may open a WebSocket, in
	// addition to those of the same origin. "*" allows every page on the
	// internet to use a visitor's cookies; it is for upstreams that check Origin
	// themselves or use no cookies.
	Origins []string `json:"origins,omitempty"`

	// Client and Upstream apply to one side of the sessions.
	Client   Side `json:"client,omitzero"`
	Upstream Side `json:"upstream,omitzero"`

	IdleTimeout      caddy.Duration `json:"idle_timeout,omitempty"`      // without data in either direction; default: none
	WriteTimeout     caddy.Duration `json:"write_timeout,omitempty"`     // without progress; default: 60s
	HandshakeTimeout caddy.Duration `json:"handshake_timeout,omitempty"` // with the upstream, over all attempts; default: 60s
	CloseTimeout     caddy.Duration `json:"close_timeout,omitempty"`     // for a session to end; default: 5s
	MaxAge           caddy.Duration `json:"max_age,omitempty"`           // of a session; default: no limit

	MaxSessions          int `json:"max_sessions,omitempty"`            // default: no limit
	MaxSessionsPerClient int `json:"max_sessions_per_client,omitempty"` // by {client_ip}; default: no limit
	MaxHandshakes        int `json:"max_handshakes,omitempty"`          // under way; default: no limit

	// Drain is the time over which the ends of sessions are spread when the
	// handler is gone after a reload, or Caddy exits. Default: as long as it
	// takes with ten per second or more, at most 30s.
	Drain caddy.Duration `json:"drain,omitempty"`

	// DrainCode is the close code for clients, 1001 (the default) or 1012, for
	// example.
	DrainCode int `json:"drain_code,omitempty"`

	// LostCode is the close code for clients whose upstream is lost. Default:
	// 1011. Some clients reconnect only after 1012.
	LostCode int `json:"lost_code,omitempty"`

	// Detach gives back the memory of the HTTP request once the session is open,
	// about half of what a session takes. The access log then has the handshake
	// alone, and middleware does not see the end of the session.
	Detach bool `json:"detach,omitempty"`

	key    key
	shared *shared
	logger slog.Handler
}

// CaddyModule returns the Caddy module information.
func (Handler) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.handlers.wsproxy", New: func() caddy.Module { return new(Handler) }}
}

// Provision implements [caddy.Provisioner].
func (h *Handler) Provision(ctx caddy.Context) error {
	if err := h.replace(); err != nil {
		return err
	}
	config, err := json.Marshal(h) // before the modules in it are loaded, which clears them
	if err != nil {
		return err
	}
	if h.Headers != nil {
		if err := h.Headers.Provision(ctx); err != nil {
			return fmt.Errorf("headers: %w", err)
		}
		if err := h.Headers.Validate(); err != nil {
			return fmt.Errorf("headers: %w", err)
		}
	}
	if err := h.acquire(ctx, string(config)); err != nil {
		return err
	}
	if server, ok := ctx.Value(caddyhttp.ServerCtxKey).(*caddyhttp.Server); ok {
		server.RegisterConnContext(connContext)
	}
	return h.shared.register(ctx.GetMetricsRegistry(), h.label())
}

// Cleanup implements [caddy.CleanerUpper].
func (h *Handler) Cleanup() error { return h.release() }

// ServeHTTP implements [caddyhttp.MiddlewareHandler].
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	c := &call{w: w, r: r, next: next}
	h.shared.proxy.ServeHTTP(&writer{w, r}, c.request())
	return c.err
}

var (
	_ caddy.Provisioner           = (*Handler)(nil)
	_ caddy.CleanerUpper          = (*Handler)(nil)
	_ caddyhttp.MiddlewareHandler = (*Handler)(nil)
)
