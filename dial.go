package wsproxy

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/textproto"
	"net/url"
	"os"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/net/http/httpguts"
)

const (
	maxInformational   = 5        // 1xx answers before the final one
	maxRefusalBody     = 64 << 10 // of an upstream's refusal, in bytes
	refusalBodyTimeout = 10 * time.Second
)

// An upstreamConn is the upstream's side of a finished handshake.
type upstreamConn struct {
	conn        net.Conn
	early       []byte      // what came behind the 101
	header      http.Header // of the 101, for the client
	subprotocol string      // for the client
	extensions  string
	rsvMessage  byte // the RSV bits that the extensions define; see scanner
	rsvAny      byte
	refusal     *upstreamRefusal // set: the upstream has refused, and all else is not
}

// An upstreamRefusal is an upstream's answer other than 101.
type upstreamRefusal struct {
	resp   *http.Response // its body is still to be read
	status int
	header http.Header
	body   []byte
	cut    error // why body is not the whole of it; nil: it is
}

// dial does the upstream's handshake for the client's request r. It returns
// the upstream's answer, which may be a refusal, and the URL that was dialled.
func (c *config) dial(ctx context.Context, r *http.Request) (*upstreamConn, *url.URL, *Error) {
	// The whole of it has one budget, and ends when the client leaves.
	limit, cancel := context.WithTimeout(ctx, c.handshakeTimeout)
	defer cancel()
	out, err := c.outgoing(limit, r)
	if err != nil {
		return nil, c.target, &Error{Op: "rewrite", Side: neither, Status: http.StatusInternalServerError, Err: err}
	}
	fail := func(op string, err error) (*upstreamConn, *url.URL, *Error) {
		return nil, out.URL, dialError(ctx, limit, op, err)
	}
	conn, op, err := c.connect(limit, out.URL)
	if err != nil {
		return fail(op, err)
	}
	done := false
	defer func() { // a connection of the user's may panic
		if !done {
			conn.Close()
		}
	}()
	// From here on the deadline stands for the context.
	stop := interruptAt(limit, conn)
	up, limited, err := handshake(conn, out, r.Header)
	if !stop() && err == nil {
		err = limit.Err()
	}
	if err == nil && up.refusal != nil {
		// The answer has come in time; its body has a limit of its own.
		limit, cancel := context.WithTimeout(ctx, refusalBodyTimeout)
		defer cancel()
		stop := interruptAt(limit, conn)
		limited.N = 2 * maxRefusalBody // chunked coding takes some
		up.refusal.read()
		stop()
		err = ctx.Err()
	}
	if err != nil {
		return fail("answer", err)
	}
	if up.refusal == nil {
		conn.SetDeadline(time.Time{})
		done = true
	}
	return up, out.URL, nil
}

// interruptAt makes what is done with conn fail once ctx has ended, until
// stop is called.
func interruptAt(ctx context.Context, conn net.Conn) (stop func() bool) {
	return context.AfterFunc(ctx, func() {
		// A connection of the user's own may panic, too; what is being done
		// with it then goes on to its own end.
		defer func() { _ = recover() }()
		// A connection of the user's own may know no deadlines (a channel
		// of an SSH connection has none).
		if conn.SetDeadline(longAgo) != nil {
			conn.Close()
		}
	})
}

var longAgo = time.Unix(1, 0)

// errPanic: a user's hook panicked.
var errPanic = errors.New("panic")

// connect returns a connection over which u's host is to be spoken to in
// HTTP, or what failed. A panic in a hook of the user's (WithDialContext, the
// callbacks in a tls.Config) is an error of this handshake only.
func (c *config) connect(ctx context.Context, u *url.URL) (conn net.Conn, op string, err error) {
	op = "dial"
	defer func() {
		if v := recover(); v != nil {
			err = fmt.Errorf("%w: %v\n%s", errPanic, v, debug.Stack())
		}
		if err != nil && conn != nil {
			conn.Close()
		}
	}()
	network, address := dialAddress(u)
	if conn, err = c.dialContext(ctx, network, address); err != nil {
		return nil, op, err
	}
	if conn == nil {
		return nil, op, errors.New("neither a connection nor an error")
	}
	if u.Scheme == "https" || u.Scheme == "wss" {
		op = "tls"
		secure, err := clientTLS(ctx, conn, c.tls, u.Hostname())
		if err != nil {
			return conn, op, err // to be closed
		}
		conn = secure
	}
	return conn, op, nil
}

// dialAddress returns what to connect to for a URL.
func dialAddress(u *url.URL) (network, address string) {
	port := "80"
	switch u.Scheme {
	case "unix":
		return "unix", u.Host
	case "https", "wss":
		port = "443"
	}
	return "tcp", net.JoinHostPort(u.Hostname(), cmp.Or(u.Port(), port))
}

// dialError says what the client is answered when the way to the upstream
// failed.
func dialError(ctx, limit context.Context, op string, err error) *Error {
	e := &Error{Op: op, Side: Upstream, Status: http.StatusBadGateway, Err: err}
	var timeout net.Error
	switch {
	case errors.Is(context.Cause(ctx), ErrShutdown):
		e.Side, e.Status, e.Err = neither, http.StatusServiceUnavailable, ErrShutdown
	case errors.Is(err, errPanic):
		e.Side, e.Status = neither, http.StatusInternalServerError
	case errors.Is(ctx.Err(), context.DeadlineExceeded): // of middleware's
		e.Side, e.Status, e.Err = neither, http.StatusGatewayTimeout, context.DeadlineExceeded
	case ctx.Err() != nil: // the client has left, as a rule
		e.Side, e.Status, e.Err = Client, statusClientLeft, context.Cause(ctx)
	case limit.Err() != nil, errors.As(err, &timeout) && timeout.Timeout():
		e.Status = http.StatusGatewayTimeout
	case errors.Is(err, syscall.EMFILE), errors.Is(err, syscall.ENFILE), errors.Is(err, syscall.EADDRNOTAVAIL):
		// The fault is on this machine, not the upstream's, and passes.
		e.Status = http.StatusServiceUnavailable
	}
	return e
}

// handshake sends the request and reads the answer; of a refusal, all but
// the body, for which limit can be raised.
func handshake(conn net.Conn, out *http.Request, offered http.Header) (_ *upstreamConn, limit *io.LimitedReader, _ error) {
	// Written as the RFC writes them: some upstreams compare the case of the
	// names, though it has no meaning.
	h := out.Header
	sent := offer{key: newKey(), protocols: h["Sec-Websocket-Protocol"], extensions: h["Sec-Websocket-Extensions"]}
	for _, name := range []string{"Protocol", "Extensions"} {
		if values, ok := h["Sec-Websocket-"+name]; ok {
			delete(h, "Sec-Websocket-"+name)
			h["Sec-WebSocket-"+name] = values
		}
	}
	h["Sec-WebSocket-Key"] = []string{sent.key}
	h["Sec-WebSocket-Version"] = []string{"13"}
	h["Upgrade"] = []string{"websocket"}
	h["Connection"] = []string{"Upgrade"}

	b := headers.Get().(*bytes.Buffer)
	b.Reset()
	err := out.Write(b) // a bytes.Buffer takes all, but this checks the request
	if err == nil {
		_, err = writeConn(conn, b.Bytes())
	}
	headers.Put(b)
	if err != nil {
		return nil, nil, err
	}
	limit = &io.LimitedReader{R: conn, N: maxHandshakeHeader}
	br := answerReaders.Get().(*bufio.Reader)
	br.Reset(limit)
	resp, err := readAnswer(br, out)
	if err == nil && resp.StatusCode != http.StatusSwitchingProtocols {
		// Its body is still to be read, through br.
		return &upstreamConn{refusal: &upstreamRefusal{resp: resp}}, limit, nil
	}
	defer func() {
		br.Reset(nil)
		answerReaders.Put(br)
	}()
	if err != nil {
		if limit.N <= 0 {
			err = fmt.Errorf("%w: header over 64 KiB", ErrBadAnswer)
		}
		return nil, nil, err
	}
	up, err := checkAnswer(resp, sent, offered)
	if err != nil {
		return nil, nil, fmt.Errorf("%w: %w", ErrBadAnswer, err)
	}
	if n := br.Buffered(); n > 0 {
		peeked, _ := br.Peek(n) // buffered: can't fail
		up.early = bytes.Clone(peeked)
	}
	up.conn = conn
	return up, limit, nil
}

// headers are buffers for what is sent in a handshake.
var headers = sync.Pool{New: func() any { return new(bytes.Buffer) }}

var answerReaders = sync.Pool{New: func() any { return bufio.NewReader(nil) }}

// An offer is what of our request the answer is held against.
type offer struct {
	key                   string
	protocols, extensions []string // the fields' values
}

// newKey returns a fresh Sec-WebSocket-Key: with the client's, the client
// would know the right answer beforehand.
func newKey() string {
	var key [16]byte
	rand.Read(key[:])
	return base64.StdEncoding.EncodeToString(key[:])
}

// readAnswer reads the upstream's final answer, and passes over a few 1xx
// ones before it (RFC 9110, 15.2). Of a refusal, the body is still to be read.
func readAnswer(br *bufio.Reader, out *http.Request) (*http.Response, error) {
	for range maxInformational + 1 {
		head, err := readHead(br)
		if err != nil {
			return nil, err
		}
		resp, err := parseHead(head)
		switch {
		case err != nil:
			return nil, err
		case resp.StatusCode == http.StatusSwitchingProtocols:
			return resp, nil
		case resp.StatusCode >= 200:
			// How long its body is, and in what coding, is HTTP of the
			// ordinary kind.
			resp, err = http.ReadResponse(bufio.NewReader(io.MultiReader(strings.NewReader(head), br)), out)
			if err != nil { // its text would quote the answer
				return nil, fmt.Errorf("%w: not HTTP", ErrBadAnswer)
			}
			return resp, nil
		}
	}
	return nil, fmt.Errorf("%w: more than %d answers of 1xx", ErrBadAnswer, maxInformational)
}

// readHead reads up to the empty line that ends an answer's header.
func readHead(br *bufio.Reader) (string, error) {
	var head []byte
	for line := 0; ; {
		part, err := br.ReadSlice('\n')
		head = append(head, part...)
		switch {
		case err == bufio.ErrBufferFull:
			continue
		case err == io.EOF, err == io.ErrUnexpectedEOF: // the latter within a record of TLS
			return "", fmt.Errorf("%w: connection closed in the middle of it", ErrBadAnswer)
		case err != nil:
			return "", err
		}
		if s := head[line:]; len(s) == 1 || len(s) == 2 && s[0] == '\r' {
			return string(head), nil
		}
		line = len(head)
	}
}

// parseHead parses an answer's head, as RFC 9112, 4 and 5 write it; lines may
// end in LF alone (2.2). net/http reads more than that: a second space before
// the status, folded lines, a CR that ends the header. Whatever can be read in
// two ways might be read in the other one by somebody else on the way, so it
// is no answer.
func parseHead(head string) (*http.Response, error) {
	bad := func(text string) (*http.Response, error) {
		return nil, fmt.Errorf("%w: %s", ErrBadAnswer, text)
	}
	line, rest := cutLine(head)
	version, status, ok := strings.Cut(line, " ")
	code, reason, _ := strings.Cut(status, " ")
	lines := strings.Count(rest, "\n")
	resp := &http.Response{Header: make(http.Header, lines)}
	values := make([]string, 0, lines) // of all fields, allocated at once
	resp.ProtoMajor, resp.ProtoMinor, _ = http.ParseHTTPVersion(version)
	if n, err := strconv.ParseUint(code, 10, 16); err == nil {
		resp.StatusCode = int(n)
	}
	if !ok || resp.ProtoMajor != 1 || len(code) != 3 || resp.StatusCode < 100 || !httpguts.ValidHeaderFieldValue(reason) {
		return bad("not HTTP/1")
	}
	for line, rest = cutLine(rest); line != ""; line, rest = cutLine(rest) {
		name, value, ok := strings.Cut(line, ":")
		if !ok || !httpguts.ValidHeaderFieldName(name) || !httpguts.ValidHeaderFieldValue(value) {
			return bad("malformed header field")
		}
		name = textproto.CanonicalMIMEHeaderKey(name)
		if old, ok := resp.Header[name]; ok {
			resp.Header[name] = append(old, textproto.TrimString(value))
			continue
		}
		values = append(values, textproto.TrimString(value))
		resp.Header[name] = values[len(values)-1 : len(values) : len(values)]
	}
	return resp, nil
}

// cutLine cuts the first line off, and what ends it.
func cutLine(s string) (line, rest string) {
	line, rest, _ = strings.Cut(s, "\n")
	return strings.TrimSuffix(line, "\r"), rest
}

// checkAnswer holds the upstream's 101 against RFC 6455, 4.1. offered is the
// header of the client's request.
func checkAnswer(resp *http.Response, sent offer, offered http.Header) (*upstreamConn, error) {
	h := resp.Header
	switch accept := h["Sec-Websocket-Accept"]; {
	case resp.ProtoMajor != 1 || resp.ProtoMinor != 1:
		return nil, errors.New("101 in another version than HTTP/1.1")
	case len(h["Upgrade"]) != 1 || !strings.EqualFold(h["Upgrade"][0], "websocket"):
		return nil, errors.New("101 without Upgrade: websocket")
	case !httpguts.HeaderValuesContainsToken(h["Connection"], "upgrade"):
		return nil, errors.New("101 without Connection: Upgrade")
	case len(h["Content-Length"]) > 0, len(h["Transfer-Encoding"]) > 0:
		// RFC 9110, 8.6. Its body would be taken for frames.
		return nil, errors.New("101 with a body")
	case len(accept) != 1 || accept[0] != acceptKey(sent.key):
		return nil, errors.New("101 without the one right Sec-WebSocket-Accept")
	}
	up := &upstreamConn{}
	chosen, err := parseTokens(h["Sec-Websocket-Protocol"])
	if err != nil || len(chosen) > 1 {
		return nil, errors.New("malformed Sec-WebSocket-Protocol")
	}
	if len(chosen) == 1 {
		asked, _ := parseTokens(sent.protocols)
		if !slices.Contains(asked, chosen[0]) {
			return nil, errors.New("subprotocol that was not offered")
		}
		// A rewrite may offer one for itself; the client must not see it.
		if asked, _ = parseTokens(offered["Sec-Websocket-Protocol"]); slices.Contains(asked, chosen[0]) {
			up.subprotocol = chosen[0]
		}
	}
	extensions, err := parseExtensions(h["Sec-Websocket-Extensions"])
	if err != nil {
		return nil, errors.New("malformed Sec-WebSocket-Extensions")
	}
	asked, _ := parseExtensions(sent.extensions)
	askedByClient, _ := parseExtensions(offered["Sec-Websocket-Extensions"])
	for i, name := range extensions {
		if !slices.Contains(asked, name) || !slices.Contains(askedByClient, name) || slices.Contains(extensions[:i], name) {
			return nil, errors.New("extension that was not offered")
		}
		if name == "permessage-deflate" {
			up.rsvMessage |= rsv1Bit // RFC 7692, 6
		} else {
			up.rsvAny = rsvBits // it may have defined any of them
		}
	}
	up.extensions = strings.Join(slices.DeleteFunc(h["Sec-Websocket-Extensions"], func(v string) bool { return v == "" }), ", ")
	up.header = answerHeader(h)
	return up, nil
}

// answerHeader returns what of an upstream's answer goes to the client.
func answerHeader(h http.Header) http.Header {
	stripHopByHop(h)
	for name := range h {
		if strings.HasPrefix(name, "Sec-Websocket-") && name != "Sec-Websocket-Version" {
			delete(h, name)
		}
	}
	return h
}

// read reads as much of the answer as will be relayed.
func (f *upstreamRefusal) read() {
	f.status, f.header = f.resp.StatusCode, answerHeader(f.resp.Header)
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
	f.resp, f.body, f.cut = nil, body, err
}

// relayRefusal answers the client with an upstream's refusal. A redirect is the
// client's to follow, or not. What was cut short stays visibly so.
func (c *config) relayRefusal(w http.ResponseWriter, f *upstreamRefusal) {
	c.limitAnswer(w)
	h := w.Header()
	for name, values := range f.header {
		h[name] = append(h[name], values...)
	}
	h["Connection"] = []string{"close"}
	if f.status == http.StatusUpgradeRequired {
		h["Connection"] = []string{"close", "Upgrade"}
		h.Set("Upgrade", "websocket")
	}
	w.WriteHeader(f.status)
	w.Write(f.body) // the client may have left
	if f.cut != nil {
		http.NewResponseController(w).Flush() // or nothing of it is sent
		panic(http.ErrAbortHandler)
	}
}
