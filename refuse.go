package wsproxy

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
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
	if refusal := e.refusal(); refusal != nil {
		for name, values := range refusal.Header {
			h[http.CanonicalHeaderKey(name)] = slices.Clone(values)
		}
	}
	if r.ProtoMajor < 2 { // in HTTP/2 it would end all the client's requests
		h["Connection"] = []string{"close"}
	}
	switch e.Status {
	case http.StatusMethodNotAllowed:
		h.Set("Allow", http.MethodGet)
	case http.StatusUpgradeRequired: // RFC 9110, 15.5.22; RFC 6455, 4.4
		h["Connection"] = []string{"close", "Upgrade"}
		h.Set("Upgrade", "websocket")
		h["Sec-WebSocket-Version"] = []string{"13"}
	case http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusTooManyRequests:
		h.Set("Retry-After", retryAfter)
	}
	c.errorHandler(w, r, e)
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

// An upstreamRefusal is an upstream's answer other than 101.
type upstreamRefusal struct {
	conn   net.Conn
	limit  *io.LimitedReader // of what is read from conn
	resp   *http.Response
	header http.Header
	body   []byte
	cut    error // why body is not the whole of it; nil: it is
}

// err returns the refusal as an error.
func (f *upstreamRefusal) err() *Error {
	e := &Error{Op: "answer", Side: Upstream, Status: f.resp.StatusCode, Err: ErrRefused}
	if f.cut != nil {
		e.Err = fmt.Errorf("%w, body cut short: %w", ErrRefused, f.cut)
	}
	return e
}

// read reads as much of the answer as will be relayed, and closes the
// connection. It fails if ctx ends.
func (f *upstreamRefusal) read(ctx context.Context) *Error {
	defer f.conn.Close()
	limit, cancel := context.WithTimeout(ctx, refusalBodyTimeout)
	defer cancel()
	stop := interruptAt(limit, f.conn)
	f.limit.N = 2 * maxRefusalBody // chunked coding takes some
	f.header = answerHeader(f.resp.Header)
	body, err := io.ReadAll(io.LimitReader(f.resp.Body, maxRefusalBody+1))
	var timeout net.Error
	switch {
	case len(body) > maxRefusalBody:
		body, err = body[:maxRefusalBody], errors.New("over 64 KiB")
	case errors.As(err, &timeout) && timeout.Timeout():
		err = os.ErrDeadlineExceeded
	case err != nil: // its text may quote the body
		err = errors.New("broken off")
	}
	f.body, f.cut = body, err
	stop()
	if err := ctx.Err(); err != nil {
		return dialError(ctx, limit, "answer", err)
	}
	return nil
}

// relayRefusal answers the client with an upstream's refusal. A redirect is the
// client's to follow, or not. What was cut short stays visibly so.
func (c *config) relayRefusal(w http.ResponseWriter, f *upstreamRefusal) {
	c.limitAnswer(w)
	h := w.Header()
	for name, values := range f.header {
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
	w.WriteHeader(f.resp.StatusCode)
	w.Write(f.body) // the client may have left
	if f.cut != nil {
		http.NewResponseController(w).Flush() // or nothing of it is sent
		panic(http.ErrAbortHandler)
	}
}
