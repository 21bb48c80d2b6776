package wsproxy

import (
	"bufio"
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
	for range maxInformational + 1 {
		head, err := readHead(br)
		if err != nil {
			return nil, err
		}
		resp, err := parseHead(head)
		switch {
		case err != nil:
			return nil, err
		case resp.StatusCode == http.StatusSwitchingProtocols, resp.StatusCode >= 200:
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
		case err == io.EOF && len(head) == 0:
			return "", fmt.Errorf("%w: connection closed with no answer: %w", ErrBadAnswer, err)
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
	if len(extensions) > maxExtensions { // each is looked for in all that were offered
		return nil, errors.New("too many extensions")
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
