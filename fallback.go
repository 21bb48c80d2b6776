package wsproxy

import (
	"maps"
	"net/http"

	"golang.org/x/net/http/httpguts"
)

// WithFallback passes requests that do not ask for a WebSocket to h, so that
// one route can serve both: Socket.IO's polling, SignalR's negotiation, SockJS,
// the pages of a development server. h is often an [httputil.ReverseProxy] to
// the same upstream. By default such a request is refused: 426, or 405 if its
// method is not GET.
//
// A request asks for a WebSocket if its Upgrade field names websocket, or if it
// is an extended CONNECT for websocket (RFC 8441). If such a request is
// malformed, the proxy refuses it as it does without this option. Every other
// request goes to h, whatever its method and HTTP version. The proxy does not
// log, count or limit it, does not check its origin and does not show it to
// hooks. h is also called after [Proxy.Shutdown]: the [http.Server] is
// responsible for stopping ordinary HTTP.
//
// The proxy removes the Upgrade field from requests that it passes to h; a
// server may ignore that field (RFC 9110, 7.8). A reverse proxy would forward
// it and let the client choose the protocol that is spoken with the upstream. h
// must be safe for concurrent use.
func WithFallback(h http.Handler) Option {
	return func(c *config) {
		if c.fallback = h; h == nil {
			c.mistake("WithFallback", nil, "nil handler")
		}
	}
}

// asksForWebSocket reports whether a request asks for a WebSocket at all.
func asksForWebSocket(r *http.Request) bool {
	if r.Method == http.MethodConnect && r.ProtoMajor > 1 {
		return httpguts.HeaderValuesContainsToken(r.Header[":protocol"], "websocket")
	}
	return httpguts.HeaderValuesContainsToken(r.Header["Upgrade"], "websocket")
}

// withoutUpgrade returns r without its Upgrade field.
func withoutUpgrade(r *http.Request) *http.Request {
	if len(r.Header["Upgrade"]) == 0 {
		return r
	}
	plain := *r
	plain.Header = maps.Clone(r.Header)
	delete(plain.Header, "Upgrade")
	return &plain
}
