package wsproxy

import (
	"maps"
	"net/http"

	"golang.org/x/net/http/httpguts"
)

// WithFallback has h answer the requests that do not ask for a WebSocket, so
// that one route serves both: Socket.IO's polling, SignalR's negotiation, SockJS,
// the pages of a development server. h is often a [httputil.ReverseProxy] to
// the same upstream. By default such a request is refused with 426, or 405 if it
// is no GET.
//
// A request asks for a WebSocket if its Upgrade field names websocket, or if it
// is an extended CONNECT for websocket (RFC 8441). One that does so and is
// malformed is refused as ever. Every other request goes to h, whatever its
// method and HTTP version, before all that the proxy does with a request: it
// is not logged, counted, limited, checked for its origin or shown to hooks.
// After [Proxy.Shutdown], too, h is called; it is for the [http.Server] to stop.
//
// h gets such a request without its Upgrade field, which a server may ignore
// (RFC 9110, 7.8): a handler that passed it on would let the client choose what
// is spoken with the upstream. h is called by many goroutines at once.
func WithFallback(h http.Handler) Option {
	return func(c *config) {
		if c.fallback = h; h == nil {
			c.mistake("WithFallback", nil, "nil handler")
		}
	}
}

// asksForWebSocket says whether a request asks for a WebSocket at all.
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
