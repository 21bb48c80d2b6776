package wsproxy

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"slices"
	"strings"
	"time"

	"golang.org/x/net/http/httpguts"

	"github.com/seed-ffb73231/wsproxy/internal/relay"
)

// This file handles the client's handshake over HTTP/1.1: whether a request asks for
// a WebSocket, whether it is valid, and the 101.

// refusal returns the error for an invalid handshake of the client. Its text is
// fixed, because it is also sent to the client.
func refusal(status int, text string) *Error {
	return &Error{Op: "handshake", Side: Client, Status: status, Err: fmt.Errorf("%w: %s", ErrBadHandshake, text)}
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

// checkHandshake returns what the client asks for, or what is wrong with its
// handshake, by the rules of RFC 6455, 4.2.1. It accepts irregularities that
// have only one meaning. It refuses whatever the upstream or an intermediary
// might read differently from us, which could be used to smuggle requests past
// us. docs/compatibility.md lists both.
func checkHandshake(w http.ResponseWriter, r *http.Request) (*offer, *Error) {
	bad := func(status int, text string) (*offer, *Error) { return nil, refusal(status, text) }
	h := r.Header
	fields, size := headerSize(h)
	key, oneKey := sole(h["Sec-Websocket-Key"])
	_, oneOrigin := sole(h["Origin"])
	switch {
	case r.Method != http.MethodGet:
		return bad(http.StatusMethodNotAllowed, "method is not GET")
	case r.ProtoMajor < 1 || r.ProtoMajor == 1 && r.ProtoMinor < 1:
		// RFC 9110, 7.8: Upgrade is to be ignored in HTTP/1.0.
		return bad(http.StatusBadRequest, "HTTP version is below 1.1")
	case r.ProtoMajor > 1:
		return nil, &Error{Op: "handshake", Side: Client, Status: http.StatusNotImplemented, Err: fmt.Errorf("%w: %s", errHTTPVersion, r.Proto)}
	case notHijackable(w) != nil:
		return nil, &Error{Op: "hijack", Side: Client, Status: http.StatusNotImplemented, Err: notHijackable(w)}
	case !httpguts.HeaderValuesContainsToken(h["Upgrade"], "websocket"),
		!httpguts.HeaderValuesContainsToken(h["Connection"], "upgrade"):
		return bad(http.StatusUpgradeRequired, "not a request to upgrade to WebSocket")
	case fields > maxFields:
		return bad(http.StatusRequestHeaderFieldsTooLarge, "header has more than 256 fields")
	case len(r.RequestURI)+len(r.Host)+size > maxHandshakeHeader: // net/http stores Host separately
		return bad(http.StatusRequestHeaderFieldsTooLarge, "header exceeds 64 KiB")
	case r.ContentLength != 0 || len(r.TransferEncoding) > 0:
		// The body's bytes would be read as frames.
		return bad(http.StatusBadRequest, "request has a body")
	case slices.ContainsFunc(h["Expect"], func(v string) bool { return !strings.EqualFold(v, "100-continue") }):
		// RFC 9110, 10.1.1. Without a body, 100-continue needs no response.
		return bad(http.StatusExpectationFailed, "unsupported Expect field")
	case !asksForPath(r):
		return bad(http.StatusBadRequest, "request target is not a path")
	case len(h["Sec-Websocket-Version"]) == 0:
		return bad(http.StatusBadRequest, "missing Sec-WebSocket-Version")
	case !saysVersion13(h["Sec-Websocket-Version"]):
		return bad(http.StatusUpgradeRequired, "Sec-WebSocket-Version is not 13")
	case !oneKey || key == "":
		return bad(http.StatusBadRequest, "missing or repeated Sec-WebSocket-Key")
	case !validKey(key):
		return bad(http.StatusBadRequest, "Sec-WebSocket-Key is not 16 bytes in base64")
	case !oneOrigin:
		return bad(http.StatusBadRequest, "conflicting Origin fields")
	}
	asked, field, err := parseOffer(h["Sec-Websocket-Protocol"], h["Sec-Websocket-Extensions"])
	switch {
	case err == errLong:
		return bad(http.StatusRequestHeaderFieldsTooLarge, field+" has more than 256 elements")
	case err != nil:
		return bad(http.StatusBadRequest, "malformed "+field)
	}
	asked.key, asked.from = key, r
	return &asked, nil
}

// errHTTPVersion means that the client's request did not come over HTTP/1.
var errHTTPVersion = errors.New("WebSockets are supported over HTTP/1.1 only")

// notHijackable returns why the connection cannot be hijacked, as far as can be
// determined without trying. It unwraps w like [http.ResponseController].
func notHijackable(w http.ResponseWriter) error {
	for {
		switch t := w.(type) {
		case http.Hijacker:
			return nil
		case interface{ Unwrap() http.ResponseWriter }:
			w = t.Unwrap()
		default:
			return hijackError{w}
		}
	}
}

// A hijackError names the type of the writer that does not support hijacking,
// usually one of the program's middleware.
type hijackError struct{ w http.ResponseWriter }

func (e hijackError) Error() string {
	return fmt.Sprintf("%T implements neither http.Hijacker nor Unwrap", e.w)
}

func (e hijackError) Unwrap() error { return http.ErrNotSupported }

// saysVersion13 reports whether the version is 13 (RFC 6455, 4.1). An
// intermediary may have combined repeated lines into a list (RFC 9110, 5.3).
func saysVersion13(values []string) (said bool) {
	for v := range elements(values) {
		if v != "13" {
			return false
		}
		said = true
	}
	return said
}

// asksForPath reports whether the request target on the wire was a path, alone
// or in a URL (RFC 9112, 3.2.1 and 3.2.2).
func asksForPath(r *http.Request) bool {
	target := r.RequestURI
	if target == "" { // the request was not parsed from a connection
		return r.URL.Path != "*" && r.URL.Opaque == "" && (r.URL.Scheme == "" || r.URL.Host != "")
	}
	if strings.HasPrefix(target, "/") {
		return true
	}
	_, rest, _ := strings.Cut(target, ":")
	authority, ok := strings.CutPrefix(rest, "//")
	if i := strings.IndexAny(authority, "/?"); i >= 0 {
		authority = authority[:i]
	}
	return ok && authority[strings.LastIndexByte(authority, '@')+1:] != ""
}

// accept hijacks the client's connection and writes the 101. After that nothing
// can be refused. early is what the client sent after its handshake.
// accept returns when ctx ends, even if the client blocks. If it fails, it
// closes the upstream's connection.
func (c *config) accept(ctx context.Context, w http.ResponseWriter, key string, up *upstreamConn) (conn net.Conn, early []byte, e *Error) {
	taken := false
	defer func() { // even if a custom ResponseWriter panics
		if !taken {
			up.conn.Close()
			if conn != nil {
				closeNow(conn) // without a close_notify, which could block
			}
		}
	}()
	header := answerHeader(w.Header().Clone()) // fields that middleware set
	conn, brw, err := http.NewResponseController(w).Hijack()
	if err != nil {
		status := http.StatusInternalServerError
		if errors.Is(err, http.ErrNotSupported) {
			status = http.StatusNotImplemented
		}
		return conn, nil, &Error{Op: "hijack", Side: Client, Status: status, Err: fmt.Errorf("%T: %w", w, err)}
	}
	conn = relay.Below(conn) // of NewListener, without TLS
	if n := brw.Reader.Buffered(); n > 0 {
		peeked, _ := brw.Reader.Peek(n) // buffered: cannot fail
		early = bytes.Clone(peeked)
	}
	for name, values := range up.header {
		header[name] = append(header[name], values...)
	}
	b := headers.Get().(*bytes.Buffer)
	b.Reset()
	defer headers.Put(b)
	line := func(name, value string) {
		if value != "" {
			b.WriteString(name)
			b.WriteString(": ")
			b.WriteString(value)
			b.WriteString("\r\n")
		}
	}
	b.WriteString("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n")
	line("Sec-WebSocket-Accept", acceptKey(key))
	line("Sec-WebSocket-Protocol", up.subprotocol)
	line("Sec-WebSocket-Extensions", up.extensions)
	header.Write(b) // a bytes.Buffer returns no error
	b.WriteString("\r\n")

	// The server's own read and write timeouts may still be set.
	conn.SetDeadline(time.Time{})
	if err := writeAnswer(ctx, conn, b.Bytes(), c.relay.Policy.Write); err != nil {
		e := &Error{Op: "answer", Side: Client, Err: err}
		if ctx.Err() != nil {
			e = dialError(ctx, ctx, e.Op, err)
			e.Status = 0 // the client can no longer be answered
		}
		return conn, nil, e
	}
	taken = true
	return conn, early, nil
}

// lastAnswer is how long a client may take to receive its 101 once the session
// is to end: a client that reads gets it, and the Close frame after it.
const lastAnswer = time.Second

// writeAnswer writes the 101, within the timeout. It returns soon after ctx has
// ended.
func writeAnswer(ctx context.Context, conn net.Conn, b []byte, timeout time.Duration) error {
	n, err := relay.WriteNow(conn, b)
	if err != nil || n == len(b) { // the usual case: neither ctx nor the time need be watched
		return err
	}
	conn.SetWriteDeadline(time.Now().Add(timeout))
	defer conn.SetWriteDeadline(time.Time{})
	done := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(done)
		defer func() { _ = recover() }() // a custom connection may panic
		if conn.SetWriteDeadline(time.Now().Add(lastAnswer)) != nil {
			conn.Close()
		}
	})
	_, err = relay.Write(conn, b[n:])
	if !stop() {
		<-done
	}
	return err
}
