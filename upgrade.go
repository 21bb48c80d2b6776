package wsproxy

import (
	"bytes"
	"context"
	"crypto/sha1"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strings"
	"time"

	"golang.org/x/net/http/httpguts"
)

// What limits the header of both sides' handshakes: a line of a few bytes costs
// over a hundred, so that bytes alone are no bound.
const (
	maxHandshakeHeader = 64 << 10 // bytes
	maxFields          = 256      // lines
)

// refusal makes the error of a client's handshake that is not in order. Its
// text is fixed, for it goes to the client as well.
func refusal(status int, text string) *Error {
	return &Error{Op: "handshake", Side: Client, Status: status, Err: fmt.Errorf("%w: %s", ErrBadHandshake, text)}
}

// checkHandshake returns what the client asks for, or what is wrong with its
// handshake. RFC 6455, 4.2.1 has the rules. What is untidy but has one meaning
// only is taken as that; what the upstream, or anybody on the way, might read in
// another way than we do could be used to smuggle requests past us.
// docs/compatibility.md has both, one by one.
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
		return bad(http.StatusRequestHeaderFieldsTooLarge, "header has over 256 fields")
	case len(r.RequestURI)+len(r.Host)+size > maxHandshakeHeader: // net/http keeps Host apart
		return bad(http.StatusRequestHeaderFieldsTooLarge, "header is over 64 KiB")
	case r.ContentLength != 0 || len(r.TransferEncoding) > 0:
		// The body's bytes would be taken for frames.
		return bad(http.StatusBadRequest, "request has a body")
	case slices.ContainsFunc(h["Expect"], func(v string) bool { return !strings.EqualFold(v, "100-continue") }):
		// RFC 9110, 10.1.1. For a body that isn't there nothing has to be said.
		return bad(http.StatusExpectationFailed, "request expects more than 100-continue")
	case !asksForPath(r):
		return bad(http.StatusBadRequest, "request target is not a path")
	case len(h["Sec-Websocket-Version"]) == 0:
		return bad(http.StatusBadRequest, "want a Sec-WebSocket-Version field")
	case !saysVersion13(h["Sec-Websocket-Version"]):
		return bad(http.StatusUpgradeRequired, "Sec-WebSocket-Version is not 13")
	case !oneKey || key == "":
		return bad(http.StatusBadRequest, "want one Sec-WebSocket-Key field")
	case !validKey(key):
		return bad(http.StatusBadRequest, "Sec-WebSocket-Key is not 16 bytes in base64")
	case !oneOrigin:
		return bad(http.StatusBadRequest, "Origin fields that differ")
	}
	asked, field, err := parseOffer(h["Sec-Websocket-Protocol"], h["Sec-Websocket-Extensions"])
	switch {
	case err == errLong:
		return bad(http.StatusRequestHeaderFieldsTooLarge, field+" has over 256 elements")
	case err != nil:
		return bad(http.StatusBadRequest, "malformed "+field)
	}
	asked.key, asked.from = key, r.WithContext(r.Context())
	return &asked, nil
}

// errHTTPVersion: the client's request did not come over HTTP/1.
var errHTTPVersion = errors.New("WebSockets are supported over HTTP/1.1 only")

// notHijackable says why the connection can't be taken over, as far as can be
// told without doing it. It looks where [http.ResponseController] does.
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

// A hijackError names the type of the writer whose connection can't be taken
// over: middleware of the program's, as a rule.
type hijackError struct{ w http.ResponseWriter }

func (e hijackError) Error() string { return fmt.Sprintf("%T: neither Hijacker nor Unwrap", e.w) }

func (e hijackError) Unwrap() error { return http.ErrNotSupported }

// headerSize returns how many lines a header has, and how many bytes.
func headerSize(h http.Header) (fields, size int) {
	for name, values := range h {
		fields += len(values)
		for _, v := range values {
			size += len(name) + len(v) + len(": \r\n")
		}
	}
	return fields, size
}

// saysVersion13: RFC 6455, 4.1 has one value, 13. Lines that are repeated may
// have been made one list by somebody on the way (RFC 9110, 5.3).
func saysVersion13(values []string) (said bool) {
	for v := range elements(values) {
		if v != "13" {
			return false
		}
		said = true
	}
	return said
}

// validKey: RFC 6455, 4.2.1, 5.: "a base64-encoded value that, when decoded,
// is 16 bytes in length". The last four bits of the 22nd digit may be any: many
// clients choose the digits at random, and RFC 6455's own example has them set.
func validKey(key string) bool {
	b, err := base64.StdEncoding.DecodeString(key)
	return err == nil && len(b) == 16 && len(key) == 24
}

// acceptKey is the Sec-WebSocket-Accept that answers a key (RFC 6455, 4.2.2).
func acceptKey(key string) string {
	sum := sha1.Sum([]byte(key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	return base64.StdEncoding.EncodeToString(sum[:])
}

// accept takes the client's connection over and answers 101. Nothing can be
// refused any more after that. early is what the client had sent behind its
// handshake. It does not outlast ctx, whatever the client takes. Where it fails,
// the upstream's connection is closed.
func (c *config) accept(ctx context.Context, w http.ResponseWriter, key string, up *upstreamConn) (conn net.Conn, early []byte, e *Error) {
	taken := false
	defer func() { // whatever a ResponseWriter of the user's does
		if !taken {
			up.conn.Close()
			if conn != nil {
				closeNow(conn) // it takes no goodbye, either
			}
		}
	}()
	header := answerHeader(w.Header().Clone()) // what middleware has set
	conn, brw, err := http.NewResponseController(w).Hijack()
	if err != nil {
		status := http.StatusInternalServerError
		if errors.Is(err, http.ErrNotSupported) {
			status = http.StatusNotImplemented
		}
		return conn, nil, &Error{Op: "hijack", Side: Client, Status: status, Err: fmt.Errorf("%T: %w", w, err)}
	}
	if n := brw.Reader.Buffered(); n > 0 {
		peeked, _ := brw.Reader.Peek(n) // buffered: can't fail
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
	header.Write(b) // a bytes.Buffer takes all
	b.WriteString("\r\n")

	// The server's own read and write timeouts may still be set.
	conn.SetDeadline(time.Time{})
	conn.SetWriteDeadline(time.Now().Add(c.policy.write))
	if err := writeAnswer(ctx, conn, b.Bytes()); err != nil {
		e := &Error{Op: "answer", Side: Client, Err: err}
		if ctx.Err() != nil {
			e = dialError(ctx, ctx, e.Op, err)
			e.Status = 0 // there is nobody left to answer
		}
		return conn, nil, e
	}
	conn.SetWriteDeadline(time.Time{})
	taken = true
	return conn, early, nil
}

// lastAnswer is how long a client has to take its 101 once the session is to
// end: a client that reads gets it, and the Close frame behind it.
const lastAnswer = time.Second

// writeAnswer writes the 101. It ends soon after ctx has ended.
func writeAnswer(ctx context.Context, conn net.Conn, b []byte) error {
	n, err := writeNow(conn, b)
	if err != nil || n == len(b) { // nearly always, and then ctx need not be watched
		return err
	}
	done := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(done)
		defer func() { _ = recover() }() // a connection of the user's own may panic
		if conn.SetWriteDeadline(time.Now().Add(lastAnswer)) != nil {
			conn.Close()
		}
	})
	_, err = writeConn(conn, b[n:])
	if !stop() {
		<-done
	}
	return err
}
