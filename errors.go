package wsproxy

import (
	"errors"
	"fmt"
)

// A Side says which peer something is about.
type Side uint8

const (
	Client   Side = iota // who connected to the proxy
	Upstream             // the server that the proxy dials

	neither // the proxy itself
)

// String returns "client", "upstream" or "proxy".
func (s Side) String() string {
	switch s {
	case Client:
		return "client"
	case Upstream:
		return "upstream"
	}
	return "proxy"
}

// What an [Error] wraps, for callers that branch on it.
var (
	// ErrBadHandshake: the client's request is not a WebSocket handshake
	// as RFC 6455, 4.2.1 wants it.
	ErrBadHandshake = errors.New("bad handshake")
	// ErrForbiddenOrigin: the page that opens the WebSocket comes from an
	// origin that is neither the server's own nor one of [WithOrigins].
	ErrForbiddenOrigin = errors.New("forbidden origin")
	// ErrBadAnswer: the upstream's answer to the handshake is not one that
	// RFC 6455, 4.1 lets a client accept, or not HTTP at all.
	ErrBadAnswer = errors.New("bad answer")
	// ErrShutdown: the proxy takes no more sessions, because
	// [Proxy.Shutdown] or [Proxy.Close] was called.
	ErrShutdown = errors.New("shutting down")
)

// An Error is a handshake that came to nothing: refused by the proxy, or
// failed on the way to the upstream.
//
// Its text is for logs. It names neither query strings nor header values,
// for tokens ride in both, and it must not reach a client.
type Error struct {
	Op     string // what failed: "handshake", "origin", "hijack", "rewrite", "dial", "tls", "answer" …
	Side   Side   // on which side
	Status int    // what the client is answered; 0: nothing, it left during its 101
	Err    error
}

// Error returns a text such as "wsproxy: upstream dial: connection refused".
func (e *Error) Error() string { return fmt.Sprintf("wsproxy: %v %s: %v", e.Side, e.Op, e.Err) }

// Unwrap returns the error below.
func (e *Error) Unwrap() error { return e.Err }

// An OptionError is one mistake in the arguments of [New]. New returns all
// of them at once, joined by [errors.Join].
type OptionError struct {
	Option string // "target", or the option's name, such as "WithPing"
	Value  any
	Reason string
}

// Error returns a text such as `wsproxy: WithIdleTimeout: "-1s": negative`.
func (e *OptionError) Error() string {
	return fmt.Sprintf("wsproxy: %s: %q: %s", e.Option, fmt.Sprint(e.Value), e.Reason)
}
