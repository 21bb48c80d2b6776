package wsproxy

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"syscall"
)

// A Side says which peer something is about.
type Side uint8

const (
	Client   Side = iota // who connected to the proxy
	Upstream             // the server that the proxy dials
	Neither              // the proxy itself; of what lies with neither peer
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
	Op     string // what failed: "admit", "handshake", "origin", "open" (a hook), "place" (with a member), "rewrite", "dial", "tls", "answer", "hijack"
	Side   Side   // on which side
	Status int    // what the client is answered; 0: nothing, it left during its 101
	Err    error
}

// Error returns a text such as "wsproxy: upstream dial: connection refused".
func (e *Error) Error() string { return fmt.Sprintf("wsproxy: %v %s: %v", e.Side, e.Op, e.Err) }

// Unwrap returns the error below.
func (e *Error) Unwrap() error { return e.Err }

// Kind says in a word or two what was the matter, to group by and to count:
//
//   - on the way to the upstream: "name lookup", "refused", "unreachable",
//     "timeout", "reset", "closed" (with no answer), "local" (this machine is
//     out of descriptors or ports), "bad answer"; on Windows, "other" stands
//     for some of them
//   - in TLS with it: "unknown authority", "wrong name", "expired" (or not
//     valid yet), "bad certificate", "alert" (the upstream's own refusal, for
//     example of our certificate), "not TLS"
//   - the upstream's own answer: "refusal"
//   - in the proxy: "limit", "no upstream", "hook" (a refusal of [WithOnOpen]), "kicked"
//     ([Session.Close]), "shutting down", "panic", "client left"
//   - with the client: "bad handshake", "forbidden origin"
//   - "other"
func (e *Error) Kind() string {
	is := func(targets ...error) bool { return isAny(e.Err, targets...) }
	var (
		invalid x509.CertificateInvalidError
		op      *net.OpError
	)
	switch {
	case is(errHook):
		return "hook"
	case is(ErrBadHandshake):
		return "bad handshake"
	case is(ErrForbiddenOrigin):
		return "forbidden origin"
	case is(ErrRefused):
		return "refusal"
	case is(ErrLimit):
		return "limit"
	case is(ErrNoUpstream):
		return "no upstream"
	case is(errEnded):
		return "kicked"
	case is(ErrShutdown):
		return "shutting down"
	case is(errPanic):
		return "panic"
	case e.Status == statusClientLeft, e.Status == 0:
		return "client left"
	case e.Status == http.StatusGatewayTimeout:
		return "timeout"
	case is(io.EOF):
		return "closed"
	case is(ErrBadAnswer):
		return "bad answer"
	case as[x509.UnknownAuthorityError](e.Err):
		return "unknown authority"
	case as[x509.HostnameError](e.Err):
		return "wrong name"
	case errors.As(e.Err, &invalid) && invalid.Reason == x509.Expired:
		return "expired"
	case as[*tls.CertificateVerificationError](e.Err):
		return "bad certificate"
	case errors.As(e.Err, &op) && op.Op == "remote error": // crypto/tls has no type for it
		return "alert"
	case as[tls.RecordHeaderError](e.Err):
		return "not TLS"
	case localFault(e.Err):
		return "local"
	case is(syscall.ECONNREFUSED), e.Op == "dial" && is(syscall.ENOENT): // a unix socket that isn't there
		return "refused"
	case is(syscall.EHOSTUNREACH, syscall.ENETUNREACH):
		return "unreachable"
	case as[*net.DNSError](e.Err):
		return "name lookup"
	case is(syscall.ECONNRESET, syscall.EPIPE):
		return "reset"
	case is(io.ErrUnexpectedEOF):
		return "closed"
	}
	return "other"
}

// localFault says whether this machine is out of descriptors, ports or buffers:
// no fault of the upstream's, and it passes.
func localFault(err error) bool {
	return noPort(err) || isAny(err, syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM)
}

// noPort says whether there is no port to connect from, or no address: where
// IPv6 is switched off, connecting by it makes EADDRNOTAVAIL, too. EADDRINUSE is
// what a source address without ports makes where the port can't be chosen late.
func noPort(err error) bool { return isAny(err, syscall.EADDRNOTAVAIL, syscall.EADDRINUSE) }

func isAny(err error, targets ...error) bool {
	return slices.ContainsFunc(targets, func(t error) bool { return errors.Is(err, t) })
}

// blames says whether it is the upstream's fault.
func (e *Error) blames() bool { return e.Side == Upstream && e.Kind() != "local" }

// kinds are what Kind may return.
var kinds = []string{
	"name lookup", "refused", "unreachable", "timeout", "reset", "closed", "local", "bad answer",
	"unknown authority", "wrong name", "expired", "bad certificate", "alert", "not TLS",
	"refusal", "limit", "no upstream", "hook", "kicked", "shutting down", "panic", "client left",
	"bad handshake", "forbidden origin", "other",
}

// as says whether an error of type E is in err's chain.
func as[E error](err error) bool {
	_, ok := errors.AsType[E](err)
	return ok
}

// errHook: a hook of [WithOnOpen] has refused the session.
var errHook = errors.New("refused by the hook")

// A Refusal is an error by which a hook of [WithOnOpen] says what the client
// is to be answered.
type Refusal struct {
	Status int         // 4xx or 5xx; anything else becomes 500
	Text   string      // for the client; "": the status' own phrase
	Header http.Header // more fields of the answer, such as WWW-Authenticate, or Content-Type for a Text that is JSON
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
