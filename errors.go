package wsproxy

import (
	"errors"
	"fmt"
	"net/http"

	"github.com/seed-ffb73231/wsproxy/internal/relay"
)

// A Side is a peer of a session, or the proxy itself.
type Side uint8

const (
	Client   Side = iota // who connected to the proxy
	Upstream             // the server that the proxy dials
	Self                 // the proxy itself, for what neither peer caused
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

// Errors that an [Error] may wrap, for use with [errors.Is].
var (
	// ErrBadHandshake means that the client's request is not a valid WebSocket
	// handshake (RFC 6455, 4.2.1).
	ErrBadHandshake = errors.New("bad handshake")
	// ErrForbiddenOrigin means that the page that opens the WebSocket has an
	// origin that is neither the server's own nor allowed by [WithOrigins].
	ErrForbiddenOrigin = errors.New("forbidden origin")
	// ErrBadAnswer means that the upstream's answer to the handshake is not HTTP,
	// or that a client must not accept it (RFC 6455, 4.1).
	ErrBadAnswer = errors.New("bad answer")
	// ErrRefused means that the upstream answered the handshake with a status
	// other than 101. The answer was relayed to the client.
	ErrRefused = errors.New("refused by the upstream")
	// ErrLimit means that the number of sessions or of handshakes under way has
	// reached [WithMaxSessions], [WithMaxSessionsPerClient] or
	// [WithMaxHandshakes], or that every healthy member has reached its
	// MaxSessions.
	ErrLimit = errors.New("limit reached")
	// ErrNoUpstream means that there are no members, because [WithSource] has
	// returned none yet.
	ErrNoUpstream = errors.New("no upstream")
	// ErrLoop means that the request has passed this proxy before. The proxy is
	// its own upstream, directly or through other proxies.
	ErrLoop = errors.New("loop detected")
	// ErrShutdown means that the proxy accepts no more sessions, because
	// [Proxy.Shutdown] or [Proxy.Close] was called.
	ErrShutdown = errors.New("shutting down")
)

// ErrNotOpen means that a message was not sent ([Session.Send]), because the
// session is not open yet, has begun to end, or is over.
var ErrNotOpen = relay.ErrNotOpen

// An Error reports a failed handshake: the proxy refused it, or it failed on
// the way to the upstream.
//
// Its text is for logs and must not be sent to a client. It contains no query
// strings and no header values, because both may hold tokens; the exceptions
// are a forbidden origin and the host that it was compared with.
type Error struct {
	Op     string // what failed: "admit", "handshake", "origin", "open" (a hook), "place" (with a member), "rewrite", "dial", "tls", "answer", "hijack"
	Side   Side   // on which side
	Status int    // the client's answer; 0: none, it left while the 101 was being written
	Err    error

	// Upstream is the member that was tried last, in the form of
	// [Session.Upstream], or "" if none was.
	Upstream string

	id      uint64 // of the session; 0: it was not admitted
	relayed relayed
}

// relayed reports whether the client's answer is an upstream's refusal, which was
// relayed.
type relayed uint8

const (
	relayedNot relayed = iota
	relayedAll
	relayedPart // the rest of its body is missing
)

// Error returns a text such as "wsproxy: upstream dial: connection refused".
func (e *Error) Error() string { return fmt.Sprintf("wsproxy: %v %s: %v", e.Side, e.Op, e.Err) }

// Unwrap returns e.Err.
func (e *Error) Unwrap() error { return e.Err }

// errHook: a hook of [WithOnOpen] has refused the session.
var errHook = errors.New("refused by a hook")

// A Refusal is an error that a hook of [WithOnOpen] returns to set the client's
// answer.
type Refusal struct {
	Status int    // 4xx or 5xx; anything else becomes 500
	Text   string // the body for the client; "": the status text

	// Header holds further header fields of the answer, such as
	// WWW-Authenticate, or Content-Type if Text is JSON. They replace the
	// proxy's own fields, such as Retry-After, except Connection.
	// Content-Length, Transfer-Encoding and Trailer are ignored.
	Header http.Header
}

// refusal returns the Refusal with which a hook refused the session, or nil.
func (e *Error) refusal() *Refusal {
	if e.Op != "open" {
		return nil
	}
	r, _ := errors.AsType[*Refusal](e.Err)
	return r
}

// Error returns the status and the text.
func (r *Refusal) Error() string { return fmt.Sprintf("%d %s", r.Status, r.Text) }

// An OptionError reports one mistake in the arguments of [New]. New returns all
// of them, joined by [errors.Join].
type OptionError struct {
	Option string // "target", or the option's name, such as "WithPing"
	Value  any
	Reason string
}

// Error returns a text such as `wsproxy: WithIdleTimeout: "-1s": negative`.
func (e *OptionError) Error() string {
	return fmt.Sprintf("wsproxy: %s: %q: %s", e.Option, fmt.Sprint(e.Value), e.Reason)
}
