package attacks

import (
	"fmt"
	"net/http"
	"regexp"
	"strings"

	"github.com/seed-ffb73231/wsproxy/internal/wstest"
)

// key is the client's key.
const key = wstest.Key

// handshake returns a client's handshake with additional lines, each ending in
// CRLF.
func handshake(lines string) string { return wstest.Request("/", lines) }

// edited is the plain handshake with replacements: old, new, old, new …
func edited(edits ...string) string { return strings.NewReplacer(edits...).Replace(handshake("")) }

// second is a request that follows on a connection that must be closed.
const second = "GET /second HTTP/1.1\r\nHost: front.test\r\n\r\n"

// opened returns the 101 that the client gets, with the lines that the upstream
// has added.
func opened(lines string) string { return wstest.Answer(key, lines) }

// forwarded are the lines that tell the upstream about the client.
func forwarded(host string, secure bool) string {
	scheme := "http"
	if secure {
		scheme = "https"
	}
	return "X-Forwarded-For: 127.0.0.1\r\nX-Forwarded-Host: " + host + "\r\nX-Forwarded-Proto: " + scheme + "\r\n"
}

// passed is what the upstream gets of a handshake: its first line, its Host,
// and the lines that stand before Connection, between it and Upgrade, and
// behind these, in the order of their names.
func passed(line, host, before, between, behind string) string {
	return line + "\r\nHost: " + host + "\r\n" + before + "Connection: Upgrade\r\n" + between +
		"Upgrade: websocket\r\n" + behind + "\r\n"
}

// own are the two lines of every handshake that only the proxy sets.
const own = "Sec-WebSocket-Key: KEY\r\nSec-WebSocket-Version: 13\r\n"

var keyLine = regexp.MustCompile(`(?m)^Sec-WebSocket-Key: ([A-Za-z0-9+/]{21}[AQgw]==)\r$`)

// keyField matches a key in any request: in any case, and of any length.
var keyField = regexp.MustCompile(`(?mi)^Sec-WebSocket-Key: ([^\r\n]*)\r$`)

// keyed replaces the key in a request by KEY, unless it is the client's own,
// which must not be forwarded.
func keyed(head string) string {
	if strings.Contains(head, key) {
		return head
	}
	return keyLine.ReplaceAllString(head, "Sec-WebSocket-Key: KEY\r")
}

// answer returns a valid 101 to a request, with additional lines.
func answer(request, lines string) string { return wstest.Answer(keyOf(request), lines) }

// acceptOf returns the accept value for the key in a request.
func acceptOf(request string) string { return wstest.AcceptKey(keyOf(request)) }

func keyOf(request string) string {
	if m := keyField.FindStringSubmatch(request); m != nil {
		return m[1]
	}
	return "none"
}

var dateLine = regexp.MustCompile(`(?m)^Date: [A-Z][a-z]{2}, .*GMT\r\n`)

// undated removes what depends on the time of day.
func undated(s string) string { return dateLine.ReplaceAllString(s, "") }

// refused returns the proxy's own answer without the date: the status, and a
// text that reveals no more than it must.
func refused(status int, text string) string {
	lines := "Connection: close\r\n"
	switch status {
	case 405:
		lines = "Allow: GET\r\n" + lines
	case 426:
		lines += "Connection: Upgrade\r\n"
	case 429, 502, 503:
		lines += "Content-Type: text/plain; charset=utf-8\r\nRetry-After: 5\r\n"
	}
	if !strings.Contains(lines, "Retry") {
		lines += "Content-Type: text/plain; charset=utf-8\r\n"
	}
	if status == 426 {
		lines += "Sec-WebSocket-Version: 13\r\nUpgrade: websocket\r\n"
	}
	if text == "" {
		text = http.StatusText(status)
	} else {
		text = "bad handshake: " + text
	}
	return fmt.Sprintf("HTTP/1.1 %d %s\r\n%sX-Content-Type-Options: nosniff\r\nContent-Length: %d\r\n\r\n%s\n",
		status, http.StatusText(status), lines, len(text)+1, text)
}

// statusLine returns the beginning of an answer with the status.
func statusLine(status int) string { return fmt.Sprintf("HTTP/1.1 %d ", status) }

// frame returns a whole frame; a client's is masked.
func frame(who string, first byte, payload string) string {
	return wstest.RawFrame(first, who == "client", payload)
}

// closeFrame returns a Close frame, without a body for code 0.
func closeFrame(who string, code int, reason string) string {
	return frame(who, wstest.Close, wstest.CloseBody(code, reason))
}
