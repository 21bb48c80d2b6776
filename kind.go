package wsproxy

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"syscall"
	"time"

	"github.com/seed-ffb73231/wsproxy/internal/protocol"
)

// This file classifies failures: their kind, whose fault they are, and the status
// that the client gets.

// A Kind classifies why a handshake failed. There is a small set of kinds,
// which logs and dashboards can group by. Later versions may add kinds.
type Kind string

// Failures to reach the upstream. On Windows, some of them are [KindOther].
const (
	KindNameLookup  Kind = "name lookup" // the upstream's name could not be resolved
	KindRefused     Kind = "refused"     // nothing listens at the upstream's address
	KindUnreachable Kind = "unreachable" // there is no route to the upstream
	KindTimeout     Kind = "timeout"     // the upstream did not connect or answer in time
	KindReset       Kind = "reset"       // the upstream reset the connection
	KindClosed      Kind = "closed"      // the upstream closed the connection without an answer
	KindLocal       Kind = "local"       // this machine is out of descriptors, ports or memory
)

// Failures of TLS with the upstream.
const (
	KindUnknownAuthority Kind = "unknown authority" // no trusted authority has signed the certificate
	KindWrongName        Kind = "wrong name"        // the certificate is for another name
	KindExpired          Kind = "expired"           // the certificate has expired, or is not valid yet
	KindBadCertificate   Kind = "bad certificate"   // the certificate is bad in another way
	KindAlert            Kind = "alert"             // the upstream sent a TLS alert, for example about our certificate
	KindNotTLS           Kind = "not TLS"           // the upstream does not speak TLS
	KindWantsTLS         Kind = "wants TLS"         // the upstream speaks TLS, but its target is http or ws
)

// Failures because of the upstream's answer.
const (
	KindRefusal   Kind = "refusal"    // an HTTP status other than 101, which was relayed to the client
	KindBadAnswer Kind = "bad answer" // not HTTP, or a 101 that RFC 6455 does not allow
)

// Failures caused by the client.
const (
	KindBadHandshake    Kind = "bad handshake"    // its request is not a WebSocket handshake
	KindForbiddenOrigin Kind = "forbidden origin" // the page's origin may not open a WebSocket
	KindClientLeft      Kind = "client left"      // it left before it was answered
)

// Failures in the proxy.
const (
	KindHTTPVersion   Kind = "HTTP version"    // the request came over HTTP/2 or HTTP/3
	KindNoHijack      Kind = "no hijack"       // the ResponseWriter does not support hijacking
	KindLimit         Kind = "limit"           // a limit on sessions or handshakes is reached
	KindNoUpstream    Kind = "no upstream"     // there are no members
	KindLoop          Kind = "loop"            // the request has passed this proxy before
	KindHook          Kind = "hook"            // a hook of [WithOnOpen] refused
	KindClosedByProxy Kind = "closed by proxy" // [Session.Close] was called
	KindShuttingDown  Kind = "shutting down"   // [Proxy.Shutdown] or [Proxy.Close] was called
	KindPanic         Kind = "panic"           // a hook or a custom connection panicked
	KindOther         Kind = "other"           // anything else
)

// kinds lists all kinds.
var kinds = []Kind{
	KindNameLookup, KindRefused, KindUnreachable, KindTimeout, KindReset, KindClosed, KindLocal,
	KindUnknownAuthority, KindWrongName, KindExpired, KindBadCertificate, KindAlert, KindNotTLS, KindWantsTLS,
	KindRefusal, KindBadAnswer,
	KindBadHandshake, KindForbiddenOrigin, KindClientLeft,
	KindHTTPVersion, KindNoHijack, KindLimit, KindNoUpstream, KindLoop, KindHook, KindClosedByProxy, KindShuttingDown, KindPanic, KindOther,
}

// Kind returns the kind of the failure, for grouping and counting.
func (e *Error) Kind() Kind {
	is := func(targets ...error) bool { return isAny(e.Err, targets...) }
	var (
		invalid x509.CertificateInvalidError
		op      *net.OpError
	)
	switch {
	case is(errHook):
		return KindHook
	case is(ErrBadHandshake):
		return KindBadHandshake
	case is(ErrForbiddenOrigin):
		return KindForbiddenOrigin
	case is(errHTTPVersion):
		return KindHTTPVersion
	case e.Op == "hijack":
		return KindNoHijack
	case is(errWantsTLS):
		return KindWantsTLS
	case is(ErrRefused):
		return KindRefusal
	case is(ErrLimit):
		return KindLimit
	case is(ErrNoUpstream):
		return KindNoUpstream
	case is(ErrLoop):
		return KindLoop
	case is(errEnded):
		return KindClosedByProxy
	case is(ErrShutdown):
		return KindShuttingDown
	case is(errPanic):
		return KindPanic
	case e.Status == statusClientLeft, e.Status == 0:
		return KindClientLeft
	case e.Status == http.StatusGatewayTimeout:
		return KindTimeout
	case is(io.EOF):
		return KindClosed
	case is(ErrBadAnswer):
		return KindBadAnswer
	case as[x509.UnknownAuthorityError](e.Err):
		return KindUnknownAuthority
	case as[x509.HostnameError](e.Err):
		return KindWrongName
	case errors.As(e.Err, &invalid) && invalid.Reason == x509.Expired:
		return KindExpired
	case as[*tls.CertificateVerificationError](e.Err):
		return KindBadCertificate
	case errors.As(e.Err, &op) && op.Op == "remote error": // crypto/tls has no type for it
		return KindAlert
	case as[tls.RecordHeaderError](e.Err):
		return KindNotTLS
	case localFault(e.Err):
		return KindLocal
	case is(syscall.ECONNREFUSED), e.Op == "dial" && is(syscall.ENOENT): // a unix socket that isn't there
		return KindRefused
	case is(syscall.EHOSTUNREACH, syscall.ENETUNREACH):
		return KindUnreachable
	case as[*net.DNSError](e.Err):
		return KindNameLookup
	case is(syscall.ECONNRESET, syscall.EPIPE):
		return KindReset
	case is(io.ErrUnexpectedEOF):
		return KindClosed
	}
	return KindOther
}

// dialError returns the error for a failure on the way to the upstream, with
// the client's answer.
func dialError(ctx, limit context.Context, op string, err error) *Error {
	e := &Error{Op: op, Side: Upstream, Status: http.StatusBadGateway, Err: err}
	var timeout net.Error
	switch {
	case errors.Is(err, errPanic):
		e.Side, e.Status = Self, http.StatusInternalServerError
	case errors.Is(context.Cause(ctx), ErrShutdown):
		e.Side, e.Status, e.Err = Self, http.StatusServiceUnavailable, ErrShutdown
	case errors.Is(context.Cause(ctx), errEnded):
		e.Side, e.Status, e.Err = Self, http.StatusForbidden, errEnded
	case passed(ctx): // the deadline of middleware, which an upstream timeout only signals
		e.Side, e.Status, e.Err = Self, http.StatusGatewayTimeout, context.DeadlineExceeded
	case ctx.Err() != nil: // usually the client has left
		e.Side, e.Status, e.Err = Client, statusClientLeft, context.Cause(ctx)
	case limit.Err() != nil, errors.As(err, &timeout) && timeout.Timeout():
		e.Status = http.StatusGatewayTimeout
	case localFault(err):
		e.Status = http.StatusServiceUnavailable
	}
	if e.Side == Upstream && overslept(limit) {
		e.Err = fmt.Errorf("%w (%w)", e.Err, errOverslept)
	}
	return e
}

// errOverslept means that a handshake or a check failed so long after its
// deadline that the process cannot have been running when it was due. That says
// nothing about the upstream, whose answer may have arrived in time.
var errOverslept = errors.New("the proxy was not running at the deadline")

// overslept reports whether ctx's deadline passed so long ago that the process
// cannot have been running when it was due.
func overslept(ctx context.Context) bool {
	deadline, ok := ctx.Deadline()
	return ok && time.Since(deadline) > protocol.Lateness
}

// passed reports whether ctx's deadline has passed. A dialer may notice that
// before ctx is done.
func passed(ctx context.Context) bool {
	deadline, ok := ctx.Deadline()
	return ok && !time.Now().Before(deadline) || errors.Is(ctx.Err(), context.DeadlineExceeded)
}

// localFault reports whether this machine is out of descriptors, ports or
// buffers. That is temporary and not the upstream's fault.
func localFault(err error) bool {
	return noPort(err) || isAny(err, syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM)
}

// noPort reports whether there is no local port or no local address to connect
// from: with IPv6 disabled, connecting over it returns EADDRNOTAVAIL, too.
// EADDRINUSE is returned for a source address without free ports if the port
// cannot be chosen late.
func noPort(err error) bool { return isAny(err, syscall.EADDRNOTAVAIL, syscall.EADDRINUSE) }

func isAny(err error, targets ...error) bool {
	return slices.ContainsFunc(targets, func(t error) bool { return errors.Is(err, t) })
}

// blames reports whether the upstream is at fault.
func (e *Error) blames() bool { return e.Side == Upstream && !localFault(e.Err) }

// as reports whether an error of type E is in err's chain.
func as[E error](err error) bool {
	_, ok := errors.AsType[E](err)
	return ok
}
