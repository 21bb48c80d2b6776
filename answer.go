package wsproxy

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/textproto"
	"slices"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/net/http/httpguts"

	"github.com/seed-ffb73231/wsproxy/internal/frame"
)

// This file reads the upstream's answer to the handshake: a valid 101, or a refusal,
// which is relayed.

const (
	maxInformational = 5  // 1xx answers before the final one
	maxExtensions    = 16 // in a 101
)

var answerReaders = sync.Pool{New: func() any { return bufio.NewReader(nil) }}

// readAnswer reads the upstream's final answer and skips a few 1xx answers
// before it (RFC 9110, 15.2). The body of a refusal has not been read yet.
func readAnswer(br *bufio.Reader) (*http.Response, error) {
	for n := range maxInformational + 1 {
		var resp *http.Response
		head, err := readHead(br)
		if err == nil {
			resp, err = parseHead(head)
		}
		switch {
		case n > 0 && errors.Is(err, errNotHTTP):
			// The upstream speaks HTTP. Some servers send a body with a 1xx status
			// that a client requested, and a client's request must not count
			// against the upstream.
			return nil, fmt.Errorf("%w: malformed answer after a 1xx", ErrBadAnswer)
		case err != nil:
			return nil, err
		case resp.StatusCode == http.StatusSwitchingProtocols, resp.StatusCode >= 200:
			return resp, nil
		}
	}
	return nil, fmt.Errorf("%w: more than %d informational (1xx) answers", ErrBadAnswer, maxInformational)
}

var (
	// errNotHTTP means that the answer is not HTTP, in any version.
	errNotHTTP = errors.New("not HTTP")
	// errWantsTLS means that the upstream speaks TLS although its target does
	// not say so.
	errWantsTLS = errors.New("the upstream speaks TLS: use an https or wss target")
)

// saysTLS reports whether the available part of a 400 answer complains about
// missing TLS, as nginx, Go and Apache do.
func saysTLS(body []byte) bool {
	for _, phrase := range []string{"plain HTTP request was sent to HTTPS port", "HTTP request to an HTTPS server", "plain HTTP to an SSL-enabled server port"} {
		if bytes.Contains(body, []byte(phrase)) {
			return true
		}
	}
	return false
}

// readHead reads up to the empty line that ends an answer's header.
func readHead(br *bufio.Reader) (string, error) {
	// The line may never end, so check the first byte first.
	switch first, err := br.Peek(1); {
	case err == io.EOF:
		return "", fmt.Errorf("%w: connection closed without an answer: %w", ErrBadAnswer, err)
	case err == io.ErrUnexpectedEOF: // in the middle of a TLS record
		return "", fmt.Errorf("%w: connection closed within the header", ErrBadAnswer)
	case err != nil:
		return "", err
	case first[0] != 'H':
		first, _ = br.Peek(min(br.Buffered(), 4)) // too few bytes to contain a secret
		if first[0] == 0x15 || first[0] == 0x16 { // an alert or handshake record: RFC 8446, 5.1
			return "", fmt.Errorf("%w: %w: %w", ErrBadAnswer, errNotHTTP, errWantsTLS)
		}
		return "", fmt.Errorf("%w: %w: starts with %q", ErrBadAnswer, errNotHTTP, first)
	}
	var head strings.Builder
	head.Grow(br.Buffered()) // usually that is all of it
	for line, lines := 0, 0; ; {
		part, err := br.ReadSlice('\n')
		head.Write(part)
		switch {
		case err == bufio.ErrBufferFull:
			continue
		case err == io.EOF, err == io.ErrUnexpectedEOF:
			return "", fmt.Errorf("%w: connection closed within the header", ErrBadAnswer)
		case err != nil:
			return "", err
		}
		if s := head.String()[line:]; len(s) == 1 || len(s) == 2 && s[0] == '\r' {
			return head.String(), nil
		}
		line = head.Len()
		if lines++; lines > maxFields+1 { // not counting the status line
			return "", fmt.Errorf("%w: header has more than %d fields", ErrBadAnswer, maxFields)
		}
	}
}

// parseHead parses an answer's head as specified by RFC 9112, 4 and 5. Lines
// may end in LF alone (2.2), more than one space may precede the status (4),
// and white space before a colon is removed (5.1). net/http accepts more than
// that: folded lines, a CR that ends the header. An intermediary might read an
// ambiguous head differently, so it is invalid.
func parseHead(head string) (*http.Response, error) {
	bad := func(text string) (*http.Response, error) {
		return nil, fmt.Errorf("%w: %s", ErrBadAnswer, text)
	}
	line, rest := cutLine(head)
	if !strings.HasPrefix(line, "HTTP/") {
		return nil, fmt.Errorf("%w: %w", ErrBadAnswer, errNotHTTP)
	}
	version, status, ok := strings.Cut(line, " ")
	code, reason, _ := strings.Cut(strings.TrimLeft(status, " "), " ")
	lines := strings.Count(rest, "\n")
	resp := &http.Response{Header: make(http.Header, lines)}
	values := make([]string, 0, lines) // of all fields, in one allocation
	resp.ProtoMajor, resp.ProtoMinor, _ = http.ParseHTTPVersion(version)
	if n, err := strconv.ParseUint(code, 10, 16); err == nil {
		resp.StatusCode = int(n)
	}
	if !ok || resp.ProtoMajor != 1 || len(code) != 3 || resp.StatusCode < 100 || !httpguts.ValidHeaderFieldValue(reason) {
		return bad("not HTTP/1")
	}
	for line, rest = cutLine(rest); line != ""; line, rest = cutLine(rest) {
		name, value, ok := strings.Cut(line, ":")
		name = strings.TrimRight(name, " \t")
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

// cutLine cuts off the first line and its line ending.
func cutLine(s string) (line, rest string) {
	line, rest, _ = strings.Cut(s, "\n")
	return strings.TrimSuffix(line, "\r"), rest
}

// checkAnswer checks the upstream's 101 against RFC 6455, 4.1. sent is what the
// upstream was offered, and asked what the client offered.
func checkAnswer(resp *http.Response, sent, asked *offer) (*upstreamConn, error) {
	h := resp.Header
	switch accept := h["Sec-Websocket-Accept"]; {
	case resp.ProtoMajor != 1 || resp.ProtoMinor < 1: // RFC 9110, 6.2: 1.2 would be read as 1.1
		return nil, errors.New("101 is not HTTP/1.1")
	case !upgradesToWebSocket(h["Upgrade"]):
		return nil, errors.New("101 without Upgrade: websocket")
	case !httpguts.HeaderValuesContainsToken(h["Connection"], "upgrade"):
		return nil, errors.New("101 without Connection: Upgrade")
	case announcesBody(h["Content-Length"]):
		return nil, errors.New("101 with a body")
	case len(accept) != 1 || accept[0] != acceptKey(sent.key):
		return nil, errors.New("101 with a missing or wrong Sec-WebSocket-Accept")
	}
	chosen, field, err := parseOffer(h["Sec-Websocket-Protocol"], h["Sec-Websocket-Extensions"])
	if err != nil {
		return nil, fmt.Errorf("%s: %w", field, err)
	}
	up := &upstreamConn{}
	switch p := chosen.protocols; {
	case len(p) > 1:
		return nil, errors.New("101 selects more than one subprotocol")
	case len(p) == 1 && !slices.Contains(sent.protocols, p[0]):
		return nil, errors.New("101 selects a subprotocol that was not offered")
	case len(p) == 1 && slices.Contains(asked.protocols, p[0]):
		// A rewrite may offer a subprotocol of its own; the client must not see it.
		up.subprotocol = strings.Clone(p[0]) // a copy, so that it does not retain the whole answer
	}
	if len(chosen.extensions) > maxExtensions { // each is compared with all that were offered
		return nil, errors.New("101 selects too many extensions")
	}
	for i, e := range chosen.extensions {
		own := sent.compression != nil // then the client's offer has nothing to do with it
		if !hasExtension(sent.extensions, e.name) || !own && !hasExtension(asked.extensions, e.name) || hasExtension(chosen.extensions[:i], e.name) {
			return nil, errors.New("101 selects an extension twice or without an offer")
		}
		if own {
			var ok bool
			if up.deflate, ok = sent.compression.Accepted(e.text); !ok {
				return nil, errors.New("101 selects compression that does not fit the offer")
			}
			continue
		}
		if e.name == "permessage-deflate" {
			up.rsvMessage |= frame.RSV1Bit // RFC 7692, 6
		} else {
			up.rsvAny = frame.RSVBits // it may have defined any of them
		}
	}
	up.extensions = joinExtensions(chosen.extensions)
	up.header = answerHeader(h)
	return up, nil
}

// upgradesToWebSocket reports whether a 101 switches to WebSocket and nothing
// else (RFC 9110, 7.8: a list means layers).
func upgradesToWebSocket(values []string) (said bool) {
	for v := range elements(values) {
		if !strings.EqualFold(v, "websocket") {
			return false
		}
		said = true
	}
	return said
}

// announcesBody reports whether a 101's Content-Length is anything but 0. RFC
// 9112, 6.3 gives it no meaning, nor Transfer-Encoding: a 101 has no body. But
// a server that announces bytes may send them, and they would be read as
// frames.
func announcesBody(values []string) bool {
	for v := range elements(values) {
		if strings.Trim(v, "0") != "" {
			return true
		}
	}
	return false
}

// answerHeader returns the fields of an upstream's answer that are forwarded to
// the client.
func answerHeader(h http.Header) http.Header {
	stripHopByHop(h)
	for name := range h {
		// Middleware may have used a non-canonical name.
		canonical := textproto.CanonicalMIMEHeaderKey(name)
		if strings.HasPrefix(canonical, "Sec-Websocket-") && canonical != "Sec-Websocket-Version" ||
			canonical != name && slices.Contains(hopByHop, canonical) {
			delete(h, name)
		}
	}
	return h
}
