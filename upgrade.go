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

// maxHandshakeHeader limits the header of both sides' handshakes, in bytes.
const maxHandshakeHeader = 64 << 10

// refusal makes the error of a client's handshake that is not in order. Its
// text is fixed, for it goes to the client as well.
func refusal(status int, text string) *Error {
	return &Error{Op: "handshake", Side: Client, Status: status, Err: fmt.Errorf("%w: %s", ErrBadHandshake, text)}
}

// checkHandshake returns what is wrong with the client's handshake, nil if
// nothing is. The rules are those of RFC 6455, 4.2.1, to the letter: whatever
// the upstream might read in another way than we do could be used to smuggle
// requests past us.
func checkHandshake(w http.ResponseWriter, r *http.Request) *Error {
	h := r.Header
	_, oneOrigin := originField(h)
	switch {
	case r.Method != http.MethodGet:
		return refusal(http.StatusMethodNotAllowed, "method is not GET")
	case r.ProtoMajor < 1 || r.ProtoMajor == 1 && r.ProtoMinor < 1:
		// RFC 9110, 7.8: Upgrade is to be ignored in HTTP/1.0.
		return refusal(http.StatusBadRequest, "HTTP version is below 1.1")
	case r.ProtoMajor > 1 || !hijackable(w):
		return &Error{Op: "hijack", Side: Client, Status: http.StatusNotImplemented, Err: http.ErrNotSupported}
	case !httpguts.HeaderValuesContainsToken(h["Upgrade"], "websocket"),
		!httpguts.HeaderValuesContainsToken(h["Connection"], "upgrade"):
		return refusal(http.StatusUpgradeRequired, "not a request to upgrade to WebSocket")
	case r.ContentLength != 0 || len(r.TransferEncoding) > 0:
		// The body's bytes would be taken for frames.
		return refusal(http.StatusBadRequest, "request has a body")
	case len(h["Expect"]) > 0:
		return refusal(http.StatusBadRequest, "request has an Expect field")
	case !asksForPath(r):
		return refusal(http.StatusBadRequest, "request target is not a path")
	case len(r.RequestURI)+len(r.Host)+headerSize(h) > maxHandshakeHeader: // net/http keeps Host apart
		return refusal(http.StatusRequestHeaderFieldsTooLarge, "header is over 64 KiB")
	case len(h["Sec-Websocket-Version"]) != 1:
		return refusal(http.StatusBadRequest, "want one Sec-WebSocket-Version field")
	case h["Sec-Websocket-Version"][0] != "13":
		return refusal(http.StatusUpgradeRequired, "Sec-WebSocket-Version is not 13")
	case len(h["Sec-Websocket-Key"]) != 1:
		return refusal(http.StatusBadRequest, "want one Sec-WebSocket-Key field")
	case !validKey(h["Sec-Websocket-Key"][0]):
		return refusal(http.StatusBadRequest, "Sec-WebSocket-Key is not 16 bytes in base64")
	case !oneOrigin:
		return refusal(http.StatusBadRequest, "Origin fields that differ")
	case len(h["Sec-Websocket-Accept"]) > 0:
		return refusal(http.StatusBadRequest, "request has a Sec-WebSocket-Accept field")
	}
	if _, err := parseTokens(h["Sec-Websocket-Protocol"]); err != nil {
		return refusal(http.StatusBadRequest, "malformed Sec-WebSocket-Protocol")
	}
	if _, err := parseExtensions(h["Sec-Websocket-Extensions"]); err != nil {
		return refusal(http.StatusBadRequest, "malformed Sec-WebSocket-Extensions")
	}
	return nil
}

// hijackable says whether the connection can be taken over, as far as can be
// told without doing it. It looks where [http.ResponseController] does.
func hijackable(w http.ResponseWriter) bool {
	for {
		switch t := w.(type) {
		case http.Hijacker:
			return true
		case interface{ Unwrap() http.ResponseWriter }:
			w = t.Unwrap()
		default:
			return false
		}
	}
}

func headerSize(h http.Header) (n int) {
	for name, values := range h {
		for _, v := range values {
			n += len(name) + len(v) + len(": \r\n")
		}
	}
	return n
}

// validKey: RFC 6455, 4.2.1, 5.: "a base64-encoded value that, when decoded,
// is 16 bytes in length".
func validKey(key string) bool {
	b, err := base64.StdEncoding.Strict().DecodeString(key)
	return err == nil && len(b) == 16 && len(key) == 24
}

// acceptKey is the Sec-WebSocket-Accept that answers a key (RFC 6455, 4.2.2).
func acceptKey(key string) string {
	sum := sha1.Sum([]byte(key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	return base64.StdEncoding.EncodeToString(sum[:])
}

var errMalformed = errors.New("malformed")

// parseTokens returns the elements of a subprotocol list: unique tokens
// (RFC 6455, 4.1, 10.). A field that is there must name at least one.
func parseTokens(values []string) (tokens []string, err error) {
	for _, v := range values {
		for t := range strings.SplitSeq(v, ",") {
			t = strings.Trim(t, " \t")
			if !httpguts.ValidHeaderFieldName(t) { // a token
				return nil, errMalformed
			}
			tokens = append(tokens, t)
		}
	}
	if len(tokens) > 1 && len(slices.Compact(slices.Sorted(slices.Values(tokens)))) != len(tokens) {
		return nil, errMalformed
	}
	return tokens, nil
}

// parseExtensions returns the names in an extension list (RFC 6455, 9.1),
// in lower case. A parameter's value may be quoted, commas and all.
func parseExtensions(values []string) (names []string, err error) {
	for _, v := range values {
		for v != "" {
			name, rest, ok := cutToken(v)
			if !ok {
				return nil, errMalformed
			}
			names = append(names, strings.ToLower(name))
			for strings.HasPrefix(rest, ";") {
				if _, rest, ok = cutToken(rest[1:]); !ok {
					return nil, errMalformed
				}
				if strings.HasPrefix(rest, "=") {
					value := strings.TrimLeft(rest[1:], " \t")
					if strings.HasPrefix(value, `"`) {
						quoted, tail, found := strings.Cut(value[1:], `"`)
						// RFC 6455, 9.1: unquoted, it must be a token again.
						if !found || !httpguts.ValidHeaderFieldName(quoted) {
							return nil, errMalformed
						}
						rest = strings.TrimLeft(tail, " \t")
					} else if _, rest, ok = cutToken(value); !ok {
						return nil, errMalformed
					}
				}
			}
			if rest == "" {
				break
			}
			if rest[0] != ',' || strings.Trim(rest[1:], " \t") == "" {
				return nil, errMalformed
			}
			v = rest[1:]
		}
	}
	return names, nil
}

// cutToken cuts s behind the token that it starts with, and the white space
// around that.
func cutToken(s string) (token, rest string, ok bool) {
	s = strings.TrimLeft(s, " \t")
	n := 0
	for n < len(s) && httpguts.IsTokenRune(rune(s[n])) {
		n++
	}
	return s[:n], strings.TrimLeft(s[n:], " \t"), n > 0
}

// accept takes the client's connection over and answers 101. Nothing can be
// refused any more after that. early is what the client had sent behind its
// handshake. It does not outlast ctx, whatever the client takes. Where it fails,
// the upstream's connection is closed.
func (c *config) accept(ctx context.Context, w http.ResponseWriter, r *http.Request, up *upstreamConn) (conn net.Conn, early []byte, e *Error) {
	taken := false
	defer func() { // whatever a ResponseWriter of the user's does
		if !taken {
			up.conn.Close()
			if conn != nil {
				conn.Close()
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
		return conn, nil, &Error{Op: "hijack", Side: Client, Status: status, Err: err}
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
	line("Sec-WebSocket-Accept", acceptKey(r.Header.Get("Sec-WebSocket-Key")))
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
