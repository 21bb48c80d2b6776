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

// This file writes every answer other than 101: the proxy's own refusals, and an
// upstream's refusal, which is relayed.

// retryAfter is the Retry-After of temporary refusals, in seconds (RFC 6455,
// 7.2.3: clients wait up to five).
const retryAfter = "5"

const (
	maxRefusalBody     = 64 << 10 // of an upstream's refusal, in bytes
	refusalBodyTimeout = 10 * time.Second
)

// refuse answers a client whose handshake failed. The connection is closed
// after that, so that bytes after the handshake, which the client may have sent
// as frames, are never read as another request (RFC 9931).
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
	if refusal := e.refusal(); refusal != nil { // its fields take precedence
		for _, name := range slices.Sorted(maps.Keys(refusal.Header)) {
			h[http.CanonicalHeaderKey(name)] = slices.Clone(refusal.Header[name])
		}
		stripFraming(h)
		if len(h["Sec-Websocket-Version"]) > 0 { // the same field
			delete(h, "Sec-WebSocket-Version")
		}
	}
	if r.ProtoMajor < 2 { // in HTTP/2 this would end all requests of the client
		h["Connection"] = []string{"close"}
		if len(h["Upgrade"]) > 0 { // RFC 9110, 7.8
			h["Connection"] = []string{"close", "Upgrade"}
		}
	}
	c.callErrorHandler(w, r, e)
	if r.ContentLength != 0 {
		// net/http reads the rest of a body before it closes the connection,
		// and waits for it.
		_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(c.relay.Policy.Close))
	}
}

// limitAnswer gives an answer the time of any write: the server's own deadline
// may have passed in the meantime, or there may be none.
func (c *config) limitAnswer(w http.ResponseWriter) {
	// If the deadline cannot be set, the user has to limit the writer.
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(c.relay.Policy.Write))
}

// statusClientLeft is the status that logs commonly show for a client that left
// before it was answered. It is not registered for use on the wire; a client
// may see it if the request's context ended although the client is still
// connected.
const statusClientLeft = 499

// writeError is the default of [WithErrorHandler]. It tells the client what is
// wrong with its own handshake; in all other cases it writes only the status
// text.
func writeError(w http.ResponseWriter, r *http.Request, e *Error) {
	text := cmp.Or(http.StatusText(e.Status), "Request Cancelled")
	if e.Op == "handshake" && errors.Is(e, ErrBadHandshake) {
		text = e.Err.Error()
	}
	if refusal := e.refusal(); refusal != nil {
		text = cmp.Or(refusal.Text, text)
		if refusal.Header.Get("Content-Type") != "" { // the hook determines the type of the text
			w.WriteHeader(e.Status)
			io.WriteString(w, text) // the error does not matter: the client has left
			return
		}
	}
	http.Error(w, text, e.Status)
}

// An upstreamRefusal is an upstream's answer other than 101, whose body has not
// been read yet.
type upstreamRefusal struct {
	conn   net.Conn
	limit  *io.LimitedReader // the source of body; it reads from conn
	resp   *http.Response    // our own parse of the head
	body   io.Reader
	length int64 // of body; -1: unknown

	request  string // the request that it answers; see askedFor
	wantsTLS bool
}

// err returns the refusal as an error. cut is the reason if part of its body is
// missing.
func (f *upstreamRefusal) err(cut error) *Error {
	return &Error{Op: "answer", Side: Upstream, Status: f.resp.StatusCode, Err: refusedError{f.resp.StatusCode, f.request, f.wantsTLS, cut}, relayed: relayedAll}
}

// A refusedError is an [ErrRefused] with the request and the answer.
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
		text += ", body truncated: " + e.cut.Error()
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

// frame determines where the body ends (RFC 9112, 6.3). It uses our own parse
// of the head, as for the rest of the answer, because net/http removes fields
// from a header that it reads and adds others.
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
			// The client could not decode it: the field is hop-by-hop.
			return errors.New("unsupported transfer coding")
		default:
			chunked = true
		}
	}
	if chunked { // it overrides Content-Length
		f.body = httputil.NewChunkedReader(br)
		return nil
	}
	for v := range elements(f.resp.Header["Content-Length"]) {
		n, err := strconv.ParseUint(v, 10, 63)
		if err != nil || f.length >= 0 && f.length != int64(n) {
			// RFC 9112, 6.3, 5.: an unrecoverable error, and a 502.
			return errors.New("conflicting or invalid Content-Length")
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
// and the body as it arrives, within limits. Redirects are left to the client.
// It returns the error to report.
func (c *config) relayRefusal(ctx context.Context, w http.ResponseWriter, f *upstreamRefusal) *Error {
	defer f.conn.Close()
	c.limitAnswer(w)
	h := w.Header()
	stripFraming(h)
	for name, values := range answerHeader(f.resp.Header) {
		h[name] = append(h[name], values...)
	}
	if _, ok := h["Content-Type"]; !ok {
		h["Content-Type"] = nil // otherwise net/http guesses one from the body
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
	err := f.relayBody(ctx, w)
	if err == nil {
		return f.err(nil)
	}
	e := f.err(err)
	if ctx.Err() != nil {
		if ended := dialError(ctx, ctx, "answer", err); ended.Status == statusClientLeft {
			e = ended
		} else {
			e = f.err(ended.Err)
		}
	}
	e.relayed = relayedPart
	return e
}

// relayBody copies the body as it arrives, up to the limit. It returns an error
// if part of it is missing. It returns when ctx ends, even if either side
// blocks.
func (f *upstreamRefusal) relayBody(ctx context.Context, w http.ResponseWriter) error {
	rc := http.NewResponseController(w)
	limit, cancel := context.WithTimeout(ctx, refusalBodyTimeout)
	defer cancel()
	defer interruptAt(limit, f.conn)()
	defer context.AfterFunc(ctx, func() { _ = rc.SetWriteDeadline(longAgo) })()

	// Allow for the overhead of chunked coding.
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
				return errors.New("write to the client failed")
			}
		}
		if err == io.EOF && f.length <= 0 {
			return nil
		}
		if err != nil {
			_ = rc.Flush() // otherwise nothing that was written is sent
			switch {
			case err == errOverLimit:
				return err
			case limit.Err() != nil:
				return os.ErrDeadlineExceeded
			}
			return errors.New("read from the upstream failed") // err's text may quote the body
		}
	}
}

var errOverLimit = errors.New("exceeds 64 KiB")

// A flushingReader reads from an upstream. Before each read it flushes earlier
// data to the client, because the next piece may take long.
type flushingReader struct {
	conn net.Conn
	rc   *http.ResponseController
}

func (r *flushingReader) Read(b []byte) (int, error) {
	_ = r.rc.Flush() // a writer that cannot flush may buffer everything
	return r.conn.Read(b)
}

// stripFraming removes from an answer's header the fields with which middleware
// may have described another body than the one that follows.
func stripFraming(h http.Header) {
	for _, name := range []string{"Content-Length", "Transfer-Encoding", "Trailer"} {
		delete(h, name)
	}
}
