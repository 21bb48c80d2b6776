package wire

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"

	"github.com/seed-ffb73231/wsproxy/internal/wstest"
)

// Timeout is how long any single step may take, on a busy machine.
const Timeout = 40 * time.Second

// Open does the client's part of the handshake. The status is 0 if there was no
// answer. The End is nil unless the status is 101.
func Open(c net.Conn, path, lines string) (e *End, status int, err error) {
	c.SetDeadline(time.Now().Add(Timeout))
	if _, err := io.WriteString(c, wstest.Request(path, lines)); err != nil {
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

// ReadRequest reads a handshake request.
func ReadRequest(c net.Conn) (*http.Request, *bufio.Reader, error) {
	c.SetDeadline(time.Now().Add(Timeout))
	br := bufio.NewReaderSize(c, 4<<10)
	r, err := http.ReadRequest(br)
	return r, br, err
}

// Accept answers the handshake with 101.
func Accept(c net.Conn, br *bufio.Reader, r *http.Request) (*End, error) {
	if _, err := io.WriteString(c, wstest.AnswerTo(r, "")); err != nil {
		return nil, fmt.Errorf("101: %w", err)
	}
	c.SetDeadline(time.Time{})
	return NewEnd(c, br, false), nil
}
