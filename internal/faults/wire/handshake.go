package wire

import (
	"bufio"
	"crypto/sha1"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"
)

// Timeout is how long anything that must happen may take, on a machine that is
// busy with other things.
const Timeout = 40 * time.Second

const key = "dGhlIHNhbXBsZSBub25jZQ==" // RFC 6455, 1.3

// Request is a handshake, with further header lines that each end in CRLF.
func Request(path, lines string) string {
	return "GET " + path + " HTTP/1.1\r\nHost: front.test\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n" +
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: " + key + "\r\n" + lines + "\r\n"
}

// Answer is the 101 to a request.
func Answer(r *http.Request, lines string) string {
	sum := sha1.Sum([]byte(r.Header.Get("Sec-WebSocket-Key") + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	return "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n" +
		"Sec-WebSocket-Accept: " + base64.StdEncoding.EncodeToString(sum[:]) + "\r\n" + lines + "\r\n"
}

// Open does the client's part of the handshake. The status is 0 where there
// was no answer; the End is nil unless it is 101.
func Open(c net.Conn, path, lines string) (e *End, status int, err error) {
	c.SetDeadline(time.Now().Add(Timeout))
	if _, err := io.WriteString(c, Request(path, lines)); err != nil {
		return nil, 0, err
	}
	br := bufio.NewReaderSize(c, 4<<10)
	resp, err := http.ReadResponse(br, nil)
	if err != nil {
		return nil, 0, err
	}
	if resp.StatusCode != http.StatusSwitchingProtocols {
		io.Copy(io.Discard, resp.Body)
		return nil, resp.StatusCode, nil
	}
	c.SetDeadline(time.Time{})
	return NewEnd(c, br, true), resp.StatusCode, nil
}

// ReadRequest reads a handshake, as an upstream does.
func ReadRequest(c net.Conn) (*http.Request, *bufio.Reader, error) {
	c.SetDeadline(time.Now().Add(Timeout))
	br := bufio.NewReaderSize(c, 4<<10)
	r, err := http.ReadRequest(br)
	return r, br, err
}

// Accept answers the handshake with 101.
func Accept(c net.Conn, br *bufio.Reader, r *http.Request) (*End, error) {
	if _, err := io.WriteString(c, Answer(r, "")); err != nil {
		return nil, fmt.Errorf("101: %w", err)
	}
	c.SetDeadline(time.Time{})
	return NewEnd(c, br, false), nil
}
