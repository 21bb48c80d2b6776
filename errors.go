package wsproxy

import (
	"errors"
	"fmt"
	"net/http"
)

// A Side says which peer something is about.
type Side uint8

const (
	Client   Side = iota // who connected to the proxy
	Upstream             // the server that the proxy dials
	Self                 // the proxy itself; of what lies with neither peer
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
	// ErrRefused: the upstream has answered the handshake with something else
	// than 101, which was relayed to the client.
	ErrRefused = errors.New("refused by the upstream")
	// ErrLimit: there are as many sessions, or handshakes under way, as
	// [WithMaxSessions], [WithMaxSessionsPerClient] or [WithMaxHandshakes]
	// allow, or every member that is well has as many as its MaxSessions.
	ErrLimit = errors.New("limit reached")
	// ErrNoUpstream: there are no members, for [WithSource] has named none
	// yet.
	ErrNoUpstream = errors.New("no upstream")
	// ErrLoop: the request has passed this proxy before. The proxy is its own
	// upstream, directly or by way of others.
	ErrLoop = errors.New("loop detected")
	// ErrShutdown: the proxy takes no more sessions, because
	// [Proxy.Shutdown] or [Proxy.Close] was called.
	ErrShutdown = errors.New("shutting down")
)

// An Error is a handshake that came to nothing: refused by the proxy, or
// failed on the way to the upstream.
//
// Its text is for logs. It names neither query strings nor header values,
// for tokens ride in both, except a forbidden origin and the host that it was
// compared with. It must not reach a client.
type Error struct {
	Op     string // what failed: "admit", "handshake", "origin", "open" (a hook), "place" (with a member), "rewrite", "dial", "tls", "answer", "hijack"
	Side   Side   // on which side
	Status int    // what the client is answered; 0: nothing, it left during its 101
	Err    error

	// Upstream is the member that was asked last, as in [Session.Upstream]; ""
	// if none was.
	Upstream string

	id uint64 // of the session; 0: it was not admitted
}

// Error returns a text such as "wsproxy: upstream dial: connection refused".
func (e *Error) Error() string { return fmt.Sprintf("wsproxy: %v %s: %v", e.Side, e.Op, e.Err) }

// Unwrap returns the error below.
func (e *Error) Unwrap() error { return e.Err }

// errHook: a hook of [WithOnOpen] has refused the session.
var errHook = errors.New("refused by the hook")

// A Refusal is an error by which a hook of [WithOnOpen] says what the client
// is to be answered.
type Refusal struct {
	Status int    // 4xx or 5xx; anything else becomes 500
	Text   string // for the client; "": the status' own phrase

	// Header has more fields of the answer, such as WWW-Authenticate, or
	// Content-Type for a Text that is JSON. They replace the proxy's own, such
	// as Retry-After, but for Connection, and for Content-Length,
	// Transfer-Encoding and Trailer, which are ignored.
	Header http.Header
}

// refusal is what a hook has refused a session by; nil: no hook has.
func (e *Error) refusal() *Refusal {
	if e.Op != "open" {
		return nil
	}
	r, _ := errors.AsType[*Refusal](e.Err)
	return r
}

// Error returns the status and the text.
func (r *Refusal) Error() string { return fmt.Sprintf("%d %s", r.Status, r.Text) }

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
