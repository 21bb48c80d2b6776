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
)

// This file reads the upstream's answer to the handshake: a 101 that is right
// in every point, or a refusal, which is relayed.

const (
	maxInformational = 5  // 1xx answers before the final one
	maxExtensions    = 16 // in a 101
)

var answerReaders = sync.Pool{New: func() any { return bufio.NewReader(nil) }}

// readAnswer reads the upstream's final answer, and passes over a few 1xx
// ones before it (RFC 9110, 15.2). Of a refusal, the body is still to be read.
func readAnswer(br *bufio.Reader) (*http.Response, error) {
	for n := range maxInformational + 1 {
		var resp *http.Response
		head, err := readHead(br)
		if err == nil {
			resp, err = parseHead(head)
		}
		switch {
		case n > 0 && errors.Is(err, errNotHTTP):
			// It does speak HTTP. Some answer with a body where a client asks for
			// a status of 1xx, and what a client asks for says nothing about them.
			return nil, fmt.Errorf("%w: what follows an answer of 1xx is none", ErrBadAnswer)
		case err != nil:
			return nil, err
		case resp.StatusCode == http.StatusSwitchingProtocols, resp.StatusCode >= 200:
			return resp, nil
		}
	}
	return nil, fmt.Errorf("%w: more than %d answers of 1xx", ErrBadAnswer, maxInformational)
}

var (
	// errNotHTTP: what came is no answer of HTTP, in any version.
	errNotHTTP = errors.New("not HTTP")
	// errWantsTLS: the upstream speaks TLS where its target says that it doesn't.
	errWantsTLS = errors.New("the upstream speaks TLS here: its target should be https or wss")
)

// saysTLS says whether a server's answer of 400, as much of it as has come,
// complains that it wants TLS: nginx, Go, Apache.
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
	// There may never be an end of a line, so the first byte is looked at first.
	switch first, err := br.Peek(1); {
	case err == io.EOF:
		return "", fmt.Errorf("%w: connection closed with no answer: %w", ErrBadAnswer, err)
	case err == io.ErrUnexpectedEOF: // within a record of TLS
		return "", fmt.Errorf("%w: connection closed in the middle of it", ErrBadAnswer)
	case err != nil:
		return "", err
	case first[0] != 'H':
		first, _ = br.Peek(min(br.Buffered(), 4)) // too few to hold a secret
		if first[0] == 0x15 || first[0] == 0x16 { // a record with an alert, or of a handshake: RFC 8446, 5.1
			return "", fmt.Errorf("%w: %w: %w", ErrBadAnswer, errNotHTTP, errWantsTLS)
		}
		return "", fmt.Errorf("%w: %w: it begins with %q", ErrBadAnswer, errNotHTTP, first)
	}
	var head []byte
	for line, lines := 0, 0; ; {
		part, err := br.ReadSlice('\n')
		head = append(head, part...)
		switch {
		case err == bufio.ErrBufferFull:
			continue
		case err == io.EOF, err == io.ErrUnexpectedEOF:
			return "", fmt.Errorf("%w: connection closed in the middle of it", ErrBadAnswer)
		case err != nil:
			return "", err
		}
		if s := head[line:]; len(s) == 1 || len(s) == 2 && s[0] == '\r' {
			return string(head), nil
		}
		line = len(head)
		if lines++; lines > maxFields+1 { // the status line is none of them
			return "", fmt.Errorf("%w: header has over %d fields", ErrBadAnswer, maxFields)
		}
	}
}

// parseHead parses an answer's head, as RFC 9112, 4 and 5 write it; lines may
// end in LF alone (2.2), more than one space may stand before the status (4), and
// white space before a colon is removed (5.1). net/http reads more than that:
// folded lines, a CR that ends the header. Whatever can be read in two ways might
// be read in the other one by somebody else on the way, so it is no answer.
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

// cutLine cuts the first line off, and what ends it.
func cutLine(s string) (line, rest string) {
	line, rest, _ = strings.Cut(s, "\n")
	return strings.TrimSuffix(line, "\r"), rest
}

// checkAnswer holds the upstream's 101 against RFC 6455, 4.1. sent is what it
// was offered, and asked what the client has.
func checkAnswer(resp *http.Response, sent, asked *offer) (*upstreamConn, error) {
	h := resp.Header
	switch accept := h["Sec-Websocket-Accept"]; {
	case resp.ProtoMajor != 1 || resp.ProtoMinor < 1: // RFC 9110, 6.2: 1.2 would be read as 1.1
		return nil, errors.New("101 in another version than HTTP/1.1")
	case !upgradesToWebSocket(h["Upgrade"]):
		return nil, errors.New("101 without Upgrade: websocket")
	case !httpguts.HeaderValuesContainsToken(h["Connection"], "upgrade"):
		return nil, errors.New("101 without Connection: Upgrade")
	case announcesBody(h["Content-Length"]):
		return nil, errors.New("101 with a body")
	case len(accept) != 1 || accept[0] != acceptKey(sent.key):
		return nil, errors.New("101 without the one right Sec-WebSocket-Accept")
	}
	chosen, field, err := parseOffer(h["Sec-Websocket-Protocol"], h["Sec-Websocket-Extensions"])
	if err != nil {
		return nil, fmt.Errorf("%s: %w", field, err)
	}
	up := &upstreamConn{}
	switch p := chosen.protocols; {
	case len(p) > 1:
		return nil, errors.New("more than one subprotocol")
	case len(p) == 1 && !slices.Contains(sent.protocols, p[0]):
		return nil, errors.New("subprotocol that was not offered")
	case len(p) == 1 && slices.Contains(asked.protocols, p[0]):
		// A rewrite may offer one for itself; the client must not see it.
		up.subprotocol = strings.Clone(p[0]) // not with all of the answer that it is part of
	}
	if len(chosen.extensions) > maxExtensions { // each is looked for in all that were offered
		return nil, errors.New("too many extensions")
	}
	for i, e := range chosen.extensions {
		if !hasExtension(sent.extensions, e.name) || !hasExtension(asked.extensions, e.name) || hasExtension(chosen.extensions[:i], e.name) {
			return nil, errors.New("extension that was not offered")
		}
		if e.name == "permessage-deflate" {
			up.rsvMessage |= rsv1Bit // RFC 7692, 6
		} else {
			up.rsvAny = rsvBits // it may have defined any of them
		}
	}
	up.extensions = joinExtensions(chosen.extensions)
	up.header = answerHeader(h)
	return up, nil
}

// upgradesToWebSocket says whether a 101 switches to WebSocket and to nothing
// else (RFC 9110, 7.8: a list is of layers).
func upgradesToWebSocket(values []string) (said bool) {
	for v := range elements(values) {
		if !strings.EqualFold(v, "websocket") {
			return false
		}
		said = true
	}
	return said
}

// announcesBody says whether a 101's Content-Length is anything but 0. RFC 9112,
// 6.3 gives it no meaning, nor Transfer-Encoding: a 101 has no body. But who
// announces bytes may send them, and they would be taken for frames.
func announcesBody(values []string) bool {
	for v := range elements(values) {
		if strings.Trim(v, "0") != "" {
			return true
		}
	}
	return false
}

// answerHeader returns what of an upstream's answer goes to the client.
func answerHeader(h http.Header) http.Header {
	stripHopByHop(h)
	for name := range h {
		// Middleware may have written a name in another case than net/http does.
		canonical := textproto.CanonicalMIMEHeaderKey(name)
		if strings.HasPrefix(canonical, "Sec-Websocket-") && canonical != "Sec-Websocket-Version" ||
			canonical != name && slices.Contains(hopByHop, canonical) {
			delete(h, name)
		}
	}
	return h
}
