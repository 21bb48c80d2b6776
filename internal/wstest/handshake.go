package wstest

import (
	"crypto/sha1"
	"encoding/base64"
	"net/http"
)

// The key of the requests that [Request] returns, and the answer to it; RFC
// 6455, 1.3.
const (
	Key       = "dGhlIHNhbXBsZSBub25jZQ=="
	KeyAnswer = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
)

// Request returns a correct request to open a session. The further header
// lines end in CRLF each.
func Request(path, lines string) string {
	return "GET " + path + " HTTP/1.1\r\nHost: front.test\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n" +
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: " + Key + "\r\n" + lines + "\r\n"
}

// Answer returns a correct 101 to a request with that Sec-WebSocket-Key. The
// further header lines end in CRLF each.
func Answer(key, lines string) string {
	return "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n" +
		"Sec-WebSocket-Accept: " + AcceptKey(key) + "\r\n" + lines + "\r\n"
}

// AnswerTo is [Answer] to the request.
func AnswerTo(req *http.Request, lines string) string {
	return Answer(req.Header.Get("Sec-WebSocket-Key"), lines)
}

// AcceptKey returns the Sec-WebSocket-Accept for a Sec-WebSocket-Key.
func AcceptKey(key string) string {
	sum := sha1.Sum([]byte(key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	return base64.StdEncoding.EncodeToString(sum[:])
}
