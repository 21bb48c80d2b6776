package peer

import (
	"bufio"
	"crypto/sha1"
	"crypto/tls"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/seed-ffb73231/wsproxy"
)

// First bytes of frames that are whole messages, and of parts.
const (
	Text  = 0x81
	Data  = 0x82
	Close = 0x88
	Ping  = 0x89
	Pong  = 0x8A
	Begin = 0x01 // the first fragment of a text
	End   = 0x80 // the last one
)

// A Wire is one peer's end of a connection, in raw bytes and frames. What goes
// wrong on it fails the test.
type Wire struct {
	net.Conn
	Side wsproxy.Side
	t    testing.TB
	br   *bufio.Reader
}

func newWire(t testing.TB, c net.Conn, side wsproxy.Side) *Wire {
	c.SetDeadline(time.Now().Add(Patience))
	t.Cleanup(func() { below(c).Close() })
	return &Wire{Conn: c, Side: side, t: t, br: bufio.NewReader(c)}
}

// below is the TCP connection: closing it says no goodbye in TLS, and doesn't
// wait for a peer that doesn't read.
func below(c net.Conn) net.Conn {
	if s, ok := c.(*tls.Conn); ok {
		return s.NetConn()
	}
	return c
}

// TCP is the TCP connection of the wire, below TLS.
func (w *Wire) TCP() *net.TCPConn { return below(w.Conn).(*net.TCPConn) }

// Send writes raw bytes.
func (w *Wire) Send(s string) {
	w.t.Helper()
	if _, err := io.WriteString(w, s); err != nil {
		w.t.Fatalf("%v: write: %v", w.Side, err)
	}
}

// SendLater writes raw bytes in the background: more than buffers hold. An
// error is none of the test's business.
func (w *Wire) SendLater(s string) { go io.WriteString(w, s) }

// Frame is a whole frame as this peer sends it; first is its first byte.
func (w *Wire) Frame(first byte, payload string) string {
	masked := byte(0)
	if w.Side == wsproxy.Client {
		masked = 0x80
	}
	b := []byte{first}
	switch n := len(payload); {
	case n < 126:
		b = append(b, masked|byte(n))
	case n < 1<<16:
		b = binary.BigEndian.AppendUint16(append(b, masked|126), uint16(n))
	default:
		b = binary.BigEndian.AppendUint64(append(b, masked|127), uint64(n))
	}
	if masked == 0 {
		return string(b) + payload
	}
	key := [4]byte{0xA1, 0x5E, 0x00, 0x7F}
	b = append(b, key[:]...)
	for i := range len(payload) {
		b = append(b, payload[i]^key[i%4])
	}
	return string(b)
}

// SendText sends a message.
func (w *Wire) SendText(s string) { w.t.Helper(); w.Send(w.Frame(Text, s)) }

// SendClose sends a Close frame.
func (w *Wire) SendClose(code int, reason string) {
	w.t.Helper()
	w.Send(w.Frame(Close, CloseBody(code, reason)))
}

// CloseBody is a Close frame's payload: empty for code 0.
func CloseBody(code int, reason string) string {
	if code == 0 {
		return ""
	}
	return string(binary.BigEndian.AppendUint16(nil, uint16(code))) + reason
}

// A Frame is a frame that was read; its payload is unmasked.
type Frame struct {
	First   byte
	Payload string
}

// Code is a Close frame's code; 0: it has none, or is no Close frame.
func (f Frame) Code() int {
	if f.First != Close || len(f.Payload) < 2 {
		return 0
	}
	return int(binary.BigEndian.Uint16([]byte(f.Payload)))
}

// Read reads one frame, and wants it masked as RFC 6455, 5.1 has it.
func (w *Wire) ReadFrame() (Frame, error) {
	var h [10]byte
	if _, err := io.ReadFull(w.br, h[:2]); err != nil {
		return Frame{}, err
	}
	if masked := h[1]&0x80 != 0; masked != (w.Side == wsproxy.Upstream) {
		w.t.Errorf("%v: got a frame with masked=%v", w.Side, masked)
	}
	rest := 0
	n := uint64(h[1] & 0x7F)
	switch n {
	case 126:
		rest = 2
	case 127:
		rest = 8
	}
	if rest > 0 {
		if _, err := io.ReadFull(w.br, h[10-rest:]); err != nil {
			return Frame{}, err
		}
		n = binary.BigEndian.Uint64(append(make([]byte, 8-rest, 8), h[10-rest:]...))
	}
	var key [4]byte
	if h[1]&0x80 != 0 {
		if _, err := io.ReadFull(w.br, key[:]); err != nil {
			return Frame{}, err
		}
	}
	b := make([]byte, n)
	if _, err := io.ReadFull(w.br, b); err != nil {
		return Frame{}, err
	}
	for i := range b {
		b[i] ^= key[i%4]
	}
	return Frame{h[0], string(b)}, nil
}

// Want reads one frame and compares it.
func (w *Wire) Want(first byte, payload string) {
	w.t.Helper()
	f, err := w.ReadFrame()
	if err != nil {
		w.t.Fatalf("%v: got %v, want frame %#x %.40q", w.Side, err, first, payload)
	}
	if f.First != first || f.Payload != payload {
		w.t.Fatalf("%v: got frame %#x %.40q, want %#x %.40q", w.Side, f.First, f.Payload, first, payload)
	}
}

// WantClose wants a Close with that code to be the next frame but Pings.
func (w *Wire) WantClose(code int) {
	w.t.Helper()
	for {
		f, err := w.ReadFrame()
		if err == nil && f.First == Ping {
			continue
		}
		if err != nil || f.First != Close || f.Code() != code {
			w.t.Fatalf("%v: got frame %#x %.40q (code %d), %v, want Close %d", w.Side, f.First, f.Payload, f.Code(), err, code)
		}
		return
	}
}

// WantBytes wants just these bytes next.
func (w *Wire) WantBytes(want string) {
	w.t.Helper()
	got := make([]byte, len(want))
	n, err := io.ReadFull(w.br, got)
	if string(got[:n]) != want {
		w.t.Fatalf("%v: got %d bytes %.40q, %v, want %d bytes %.40q", w.Side, n, got[:n], err, len(want), want)
	}
}

// WantEnd wants the stream to end here, by a FIN or a reset.
func (w *Wire) WantEnd() {
	w.t.Helper()
	b, err := io.ReadAll(w.br)
	if len(b) > 0 {
		w.t.Fatalf("%v: got %d more bytes (%.40q), want the end", w.Side, len(b), b)
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		w.t.Fatalf("%v: connection still open, want it closed", w.Side)
	}
}

// WantGone wants the stream to end, whatever comes before that, and returns
// how much that was.
func (w *Wire) WantGone() int64 {
	w.t.Helper()
	n, err := io.Copy(io.Discard, w.br)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		w.t.Fatalf("%v: connection still open, want it closed", w.Side)
	}
	return n
}

// ReadByte reads one byte, for those who look at a stream rather than frames.
func (w *Wire) Read(b []byte) (int, error) { return w.br.Read(b) }

// CloseWrite sends a FIN; in TLS, behind its goodbye.
func (w *Wire) CloseWrite() {
	w.t.Helper()
	if err := w.Conn.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
		w.t.Fatal(err)
	}
}

// Reset ends the connection by a RST.
func (w *Wire) Reset() {
	w.TCP().SetLinger(0)
	w.TCP().Close()
}

// Key is the Sec-WebSocket-Key that clients send; RFC 6455, 1.3.
const Key = "dGhlIHNhbXBsZSBub25jZQ=="

// planted is a secret in every handshake. It must not come up in any log.
const planted = "s3cr3t-that-is-planted"

// Request is a correct handshake with further header lines, each of which
// ends in CRLF.
func Request(path, lines string) string {
	return "GET " + path + "?token=" + planted + " HTTP/1.1\r\nHost: front.test\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n" +
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: " + Key + "\r\nAuthorization: Bearer " + planted + "\r\n" + lines + "\r\n"
}

// Answer is the correct answer to a handshake with that key.
func Answer(key, lines string) string {
	sum := sha1.Sum([]byte(key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	return "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n" +
		"Sec-WebSocket-Accept: " + base64.StdEncoding.EncodeToString(sum[:]) + "\r\nSet-Cookie: id=" + planted + "\r\n" + lines + "\r\n"
}

// ReadRequest reads the handshake's request.
func (w *Wire) ReadRequest() *http.Request {
	w.t.Helper()
	req, err := http.ReadRequest(w.br)
	if err != nil {
		w.t.Fatalf("%v: reading the request: %v", w.Side, err)
	}
	return req
}

// Accept reads the handshake's request and accepts it.
func (w *Wire) Accept(lines string) *http.Request {
	w.t.Helper()
	req := w.ReadRequest()
	w.Send(Answer(req.Header.Get("Sec-WebSocket-Key"), lines))
	return req
}

// WantStatus reads the proxy's answer to the client and compares its status.
// Any but 101 has to be the last thing on the connection; the body is returned.
func (w *Wire) WantStatus(status int) (http.Header, string) {
	w.t.Helper()
	resp, err := http.ReadResponse(w.br, nil)
	if err != nil {
		w.t.Fatalf("%v: reading the answer: %v, want %d", w.Side, err, status)
	}
	if resp.StatusCode != status {
		w.t.Fatalf("%v: answered %d, want %d", w.Side, resp.StatusCode, status)
	}
	if status == http.StatusSwitchingProtocols {
		return resp.Header, ""
	}
	var body strings.Builder
	if _, err := io.Copy(&body, resp.Body); err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
		w.t.Errorf("%v: body of the answer: %v", w.Side, err)
	}
	if !resp.Close {
		w.t.Errorf("%v: the answer doesn't say Connection: close", w.Side)
	}
	w.WantEnd()
	return resp.Header, body.String()
}

// Upstream makes a connection that the proxy has made, over something else
// than the rig's own listener, one that the test has in hand.
func Upstream(t testing.TB, c net.Conn) *Wire { return newWire(t, c, wsproxy.Upstream) }

// Buffered is what the wire reads from, for those who read HTTP.
func (w *Wire) Buffered() *bufio.Reader { return w.br }

// Client makes a connection to a proxy that isn't the rig's.
func Client(t testing.TB, c net.Conn) *Wire { return newWire(t, c, wsproxy.Client) }
