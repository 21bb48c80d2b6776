package wsproxy

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/http"
	"slices"
	"syscall"
)

// A Kind says in a word or two why a handshake failed: one of a small set, for
// logs and dashboards to group by. Later versions may add kinds.
type Kind string

// On the way to the upstream. On Windows, [KindOther] stands for some of them.
const (
	KindNameLookup  Kind = "name lookup" // the upstream's name could not be resolved
	KindRefused     Kind = "refused"     // nothing listens at the upstream's address
	KindUnreachable Kind = "unreachable" // there is no route to the upstream
	KindTimeout     Kind = "timeout"     // the upstream did not connect or answer in time
	KindReset       Kind = "reset"       // the upstream reset the connection
	KindClosed      Kind = "closed"      // the upstream closed the connection without an answer
	KindLocal       Kind = "local"       // this machine is out of descriptors, ports or memory
)

// In TLS with the upstream.
const (
	KindUnknownAuthority Kind = "unknown authority" // no trusted authority has signed the certificate
	KindWrongName        Kind = "wrong name"        // the certificate is for another name
	KindExpired          Kind = "expired"           // the certificate has expired, or is not valid yet
	KindBadCertificate   Kind = "bad certificate"   // the certificate is bad in another way
	KindAlert            Kind = "alert"             // the upstream refused, for example our certificate
	KindNotTLS           Kind = "not TLS"           // the upstream does not speak TLS
	KindWantsTLS         Kind = "wants TLS"         // the upstream speaks TLS, and its target is http or ws
)

// The upstream's answer.
const (
	KindRefusal   Kind = "refusal"    // an HTTP status other than 101, which was relayed to the client
	KindBadAnswer Kind = "bad answer" // no HTTP, or a 101 that RFC 6455 does not allow
)

// The client.
const (
	KindBadHandshake    Kind = "bad handshake"    // its request is not a WebSocket handshake
	KindForbiddenOrigin Kind = "forbidden origin" // the page's origin may not open a WebSocket
	KindClientLeft      Kind = "client left"      // it left before it was answered
)

// The proxy.
const (
	KindHTTPVersion   Kind = "HTTP version"    // the request came over HTTP/2 or HTTP/3
	KindNoHijack      Kind = "no hijack"       // the ResponseWriter does not give the connection away
	KindLimit         Kind = "limit"           // there are as many sessions as may be
	KindNoUpstream    Kind = "no upstream"     // there is no member to ask
	KindLoop          Kind = "loop"            // the request has passed this proxy before
	KindHook          Kind = "hook"            // a hook of [WithOnOpen] refused
	KindClosedByProxy Kind = "closed by proxy" // [Session.Close] was called
	KindShuttingDown  Kind = "shutting down"   // [Proxy.Shutdown] or [Proxy.Close] was called
	KindPanic         Kind = "panic"           // a hook, or a connection of the user's own, panicked
	KindOther         Kind = "other"           // anything else
)

// kinds are all kinds.
var kinds = []Kind{
	KindNameLookup, KindRefused, KindUnreachable, KindTimeout, KindReset, KindClosed, KindLocal,
	KindUnknownAuthority, KindWrongName, KindExpired, KindBadCertificate, KindAlert, KindNotTLS, KindWantsTLS,
	KindRefusal, KindBadAnswer,
	KindBadHandshake, KindForbiddenOrigin, KindClientLeft,
	KindHTTPVersion, KindNoHijack, KindLimit, KindNoUpstream, KindLoop, KindHook, KindClosedByProxy, KindShuttingDown, KindPanic, KindOther,
}

// Kind says what was the matter, to group by and to count.
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
func (e *Error) blames() bool { return e.Side == Upstream && !localFault(e.Err) }

// as says whether an error of type E is in err's chain.
func as[E error](err error) bool {
	_, ok := errors.AsType[E](err)
	return ok
}
