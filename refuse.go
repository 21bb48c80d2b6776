package wsproxy

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httputil"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
)

// This file gives every answer that is no 101: the proxy's own refusals, and
// an upstream's refusal, which is relayed.

// retryAfter is what clients are asked to wait, in seconds, when the proxy
// takes no sessions for now (RFC 6455, 7.2.3 has clients wait up to five).
const retryAfter = "5"

const (
	maxRefusalBody     = 64 << 10 // of an upstream's refusal, in bytes
	refusalBodyTimeout = 10 * time.Second
)

// refuse answers a client whose handshake came to nothing. The connection is
// closed after it, so that bytes behind the handshake, which the client may
// have meant as frames, are never read as another request (RFC 9931).
func (c *config) refuse(w http.ResponseWriter, r *http.Request, e *Error) {
	if e.Status == 0 {
		return
	}
	c.limitAnswer(w)
	h := w.Header()
	stripFraming(h)
	switch e.Status {
	case http.StatusMethodNotAllowed:
		h.Set("Allow", http.MethodGet)
	case http.StatusUpgradeRequired: // RFC 9110, 15.5.22; RFC 6455, 4.4
		h.Set("Upgrade", "websocket")
		h["Sec-WebSocket-Version"] = []string{"13"}
	case http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusTooManyRequests:
		h.Set("Retry-After", retryAfter)
	}
	if refusal := e.refusal(); refusal != nil { // what it says itself stands
		for _, name := range slices.Sorted(maps.Keys(refusal.Header)) {
			h[http.CanonicalHeaderKey(name)] = slices.Clone(refusal.Header[name])
		}
		stripFraming(h)
		if len(h["Sec-Websocket-Version"]) > 0 { // the same field
			delete(h, "Sec-WebSocket-Version")
		}
	}
	if r.ProtoMajor < 2 { // in HTTP/2 it would end all the client's requests
		h["Connection"] = []string{"close"}
		if len(h["Upgrade"]) > 0 { // RFC 9110, 7.8
			h["Connection"] = []string{"close", "Upgrade"}
		}
	}
	c.callErrorHandler(w, r, e)
	if r.ContentLength != 0 {
		// net/http reads what is missing of a body before it closes the
		// connection, and waits for it.
		_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(c.closeTimeout))
	}
}

// limitAnswer gives an answer as long as any write: the server's own limit
// may have passed in the meantime, or there may be none.
func (c *config) limitAnswer(w http.ResponseWriter) {
	// Where it can't be set, the writer is the user's to limit.
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(c.policy.write))
}

// statusClientLeft is what logs commonly show for a client that left before
// it could be answered. It is never registered for the wire; a client that is
// there after all, while the request's context has ended, may see it.
const statusClientLeft = 499

// writeError is the default of [WithErrorHandler]. What was wrong with the
// client's own handshake it says; of all else, nothing but the status.
func writeError(w http.ResponseWriter, r *http.Request, e *Error) {
	text := cmp.Or(http.StatusText(e.Status), "Request Cancelled")
	if e.Op == "handshake" && errors.Is(e, ErrBadHandshake) {
		text = e.Err.Error()
	}
	if refusal := e.refusal(); refusal != nil {
		text = cmp.Or(refusal.Text, text)
		if refusal.Header.Get("Content-Type") != "" { // it is for the user to say what the text is
			w.WriteHeader(e.Status)
			io.WriteString(w, text) // a client that has left doesn't need it
			return
		}
	}
	http.Error(w, text, e.Status)
}

// An upstreamRefusal is an upstream's answer other than 101, whose body is
// still to be read.
type upstreamRefusal struct {
	conn   net.Conn
	limit  *io.LimitedReader // what body is read from; its own source is conn
	resp   *http.Response    // our own parse of the head
	body   io.Reader
	length int64 // of body; -1: unknown

	request  string // what it is the answer to; see askedFor
	wantsTLS bool
}

// err returns the refusal as an error; cut says why some of its body is missing.
func (f *upstreamRefusal) err(cut error) *Error {
	return &Error{Op: "answer", Side: Upstream, Status: f.resp.StatusCode, Err: refusedError{f.resp.StatusCode, f.request, f.wantsTLS, cut}}
}

// A refusedError is an [ErrRefused] that says what was asked and what came.
type refusedError struct {
	status   int
	request  string
	wantsTLS bool
	cut      error
}

func (e refusedError) Error() string {
	text := fmt.Sprintf("upstream answered %d to GET %s, want 101", e.status, e.request)
	if e.wantsTLS {
		text += ": " + errWantsTLS.Error()
	}
	if e.cut != nil {
		text += ", body cut short: " + e.cut.Error()
	}
	return text
}

func (e refusedError) Unwrap() []error {
	errs := []error{ErrRefused}
	if e.wantsTLS {
		errs = append(errs, errWantsTLS)
	}
	if e.cut != nil {
		errs = append(errs, e.cut)
	}
	return errs
}

// frame finds out where the body ends (RFC 9112, 6.3). It goes by our own parse
// of the head, as all of the answer does: net/http takes fields out of a header
// that it reads, and adds some.
func (f *upstreamRefusal) frame(br *bufio.Reader) error {
	f.body, f.length = http.NoBody, -1
	if code := f.resp.StatusCode; code == http.StatusNoContent || code == http.StatusNotModified {
		return nil
	}
	chunked := false
	for coding := range elements(f.resp.Header["Transfer-Encoding"]) {
		switch {
		case strings.EqualFold(coding, "identity"): // RFC 2616, 3.6: none
		case chunked || !strings.EqualFold(coding, "chunked"):
			// The client could not undo it: the field is for this connection.
			return errors.New("unknown transfer coding")
		default:
			chunked = true
		}
	}
	if chunked { // whatever else Content-Length says
		f.body = httputil.NewChunkedReader(br)
		return nil
	}
	for v := range elements(f.resp.Header["Content-Length"]) {
		n, err := strconv.ParseUint(v, 10, 63)
		if err != nil || f.length >= 0 && f.length != int64(n) {
			// RFC 9112, 6.3, 5.: an unrecoverable error, and a 502.
			return errors.New("more than one Content-Length, or none that is a number")
		}
		f.length = int64(n)
	}
	f.body = br
	if f.length >= 0 {
		f.body = io.LimitReader(br, f.length)
	}
	return nil
}

// relayRefusal answers the client with an upstream's refusal: the head at once,
// the body as it comes, within bounds. A redirect is the client's to follow, or
// not. It returns what to report. If cut, some of the answer is missing, and the
// caller must break the connection off, so that the client can tell.
func (c *config) relayRefusal(ctx context.Context, w http.ResponseWriter, f *upstreamRefusal) (e *Error, cut bool) {
	defer f.conn.Close()
	e = f.err(nil)
	c.limitAnswer(w)
	h := w.Header()
	stripFraming(h)
	for name, values := range answerHeader(f.resp.Header) {
		h[name] = append(h[name], values...)
	}
	if _, ok := h["Content-Type"]; !ok {
		h["Content-Type"] = nil // or net/http guesses one by the body
	}
	h["Connection"] = []string{"close"}
	if f.resp.StatusCode == http.StatusUpgradeRequired {
		h["Connection"] = []string{"close", "Upgrade"}
		h.Set("Upgrade", "websocket")
	}
	if f.length >= 0 {
		h["Content-Length"] = []string{strconv.FormatInt(f.length, 10)}
	}
	w.WriteHeader(f.resp.StatusCode)
	if err := f.relayBody(ctx, w); err != nil {
		e = f.err(err)
		if ctx.Err() != nil {
			if ended := dialError(ctx, ctx, "answer", err); ended.Status == statusClientLeft {
				e = ended
			} else {
				e = f.err(ended.Err)
			}
		}
		return e, true
	}
	return e, false
}

// relayBody copies the body as it comes, as much of it as is relayed. It returns
// why some is missing. It ends when ctx does, whoever it waits for.
func (f *upstreamRefusal) relayBody(ctx context.Context, w http.ResponseWriter) error {
	rc := http.NewResponseController(w)
	limit, cancel := context.WithTimeout(ctx, refusalBodyTimeout)
	defer cancel()
	defer interruptAt(limit, f.conn)()
	defer context.AfterFunc(ctx, func() { _ = rc.SetWriteDeadline(longAgo) })()

	// Chunked coding takes some, but no more than this.
	f.limit.R, f.limit.N = &flushingReader{f.conn, rc}, 2*maxRefusalBody
	left := maxRefusalBody
	buf := make([]byte, 4<<10)
	for {
		n, err := f.body.Read(buf)
		if n > left {
			n, err = left, errOverLimit
		}
		left -= n
		f.length -= int64(n)
		if n > 0 {
			if _, err := w.Write(buf[:n]); err != nil {
				return errors.New("the client doesn't take it")
			}
		}
		if err == io.EOF && f.length <= 0 {
			return nil
		}
		if err != nil {
			_ = rc.Flush() // or nothing of what was written is sent
			switch {
			case err == errOverLimit:
				return err
			case limit.Err() != nil:
				return os.ErrDeadlineExceeded
			}
			return errors.New("broken off") // err's text may quote the body
		}
	}
}

var errOverLimit = errors.New("over 64 KiB")

// A flushingReader reads from an upstream. What came before goes to the client
// first, for the next piece may take long.
type flushingReader struct {
	conn net.Conn
	rc   *http.ResponseController
}

func (r *flushingReader) Read(b []byte) (int, error) {
	_ = r.rc.Flush() // a writer that can't may buffer all
	return r.conn.Read(b)
}

// stripFraming takes out of an answer's header what middleware may have said
// of another body than the one that follows.
func stripFraming(h http.Header) {
	for _, name := range []string{"Content-Length", "Transfer-Encoding", "Trailer"} {
		delete(h, name)
	}
}
