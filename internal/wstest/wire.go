package wstest

import (
	"bufio"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"
)

// A Wire is one end of a connection, in raw bytes and frames. Any error on it
// fails the test.
type Wire struct {
	net.Conn
	T      testing.TB
	In     *bufio.Reader // of Conn
	Client bool          // it sends masked frames and wants unmasked ones
}

// NewWire returns a wire for a connection. It closes the connection when the test
// is over.
func NewWire(t testing.TB, c net.Conn, client bool) *Wire {
	w := &Wire{Conn: c, T: t, In: bufio.NewReader(c), Client: client}
	c.SetDeadline(time.Now().Add(patience()))
	t.Cleanup(func() { w.Below().Close() })
	return w
}

// Below returns the connection below TLS, if there is one. Closing that doesn't
// wait for a peer that doesn't read.
func (w *Wire) Below() net.Conn {
	if c, ok := w.Conn.(*tls.Conn); ok {
		return c.NetConn()
	}
	return w.Conn
}

// TCP returns the TCP connection, below TLS if there is any.
func (w *Wire) TCP() *net.TCPConn { return w.Below().(*net.TCPConn) }

// Who returns the name of the peer that this end plays.
func (w *Wire) Who() string {
	if w.Client {
		return "client"
	}
	return "upstream"
}

// Read reads the next bytes, also those that are buffered.
func (w *Wire) Read(b []byte) (int, error) { return w.In.Read(b) }

// Send writes raw bytes.
func (w *Wire) Send(s string) {
	if _, err := io.WriteString(w, s); err != nil {
		w.T.Helper() // not before: it is expensive
		w.T.Fatalf("%s: write: %v", w.Who(), err)
	}
}

// SendLater writes raw bytes in the background, for more than the buffers hold.
func (w *Wire) SendLater(s string) {
	go func() {
		if _, err := io.WriteString(w, s); err != nil {
			w.T.Errorf("%s: write: %v", w.Who(), err)
		}
	}()
}

// Frame returns a whole frame as this end sends it. Its first byte is first.
func (w *Wire) Frame(first byte, payload string) string {
	return RawFrame(first, w.Client, payload)
}

// SendText sends a message.
func (w *Wire) SendText(s string) { w.T.Helper(); w.Send(w.Frame(Text, s)) }

// SendClose sends a Close frame, without a body for code 0.
func (w *Wire) SendClose(code int, reason string) {
	w.T.Helper()
	w.Send(w.Frame(Close, CloseBody(code, reason)))
}

// ReadFrame reads one frame. It wants the frame masked or not as RFC 6455, 5.1
// says.
func (w *Wire) ReadFrame() (Frame, error) {
	h, ok := ParseHeader(nil)
	for !ok {
		b, err := w.In.Peek(h.Size)
		if err != nil {
			if err == io.EOF && len(b) > 0 {
				err = io.ErrUnexpectedEOF
			}
			return Frame{}, err
		}
		h, ok = ParseHeader(b)
	}
	w.In.Discard(h.Size)
	if h.Masked == w.Client {
		w.T.Errorf("%s: got a frame with masked=%v", w.Who(), h.Masked)
	}
	b := make([]byte, h.Length)
	if _, err := io.ReadFull(w.In, b); err != nil {
		return Frame{}, err
	}
	Mask(b, h.Key)
	return Frame{h.First, string(b)}, nil
}

// Want reads one frame and compares it.
func (w *Wire) Want(first byte, payload string) {
	w.T.Helper()
	f, err := w.ReadFrame()
	if err != nil {
		w.T.Fatalf("%s: got %v, want frame %v", w.Who(), err, Frame{first, payload})
	}
	if want := (Frame{first, payload}); f != want {
		w.T.Fatalf("%s: got frame %v, want %v", w.Who(), f, want)
	}
}

// WantClose reads one frame and wants a Close with that code; 0: no code.
func (w *Wire) WantClose(code int) {
	w.T.Helper()
	f, err := w.ReadFrame()
	w.wantClose(f, err, code)
}

// WantCloseAfterPings is [Wire.WantClose] with any number of Pings before it.
func (w *Wire) WantCloseAfterPings(code int) {
	w.T.Helper()
	f, err := w.ReadFrame()
	for err == nil && f.First == Ping {
		f, err = w.ReadFrame()
	}
	w.wantClose(f, err, code)
}

func (w *Wire) wantClose(f Frame, err error, code int) {
	w.T.Helper()
	if err != nil {
		w.T.Fatalf("%s: got %v, want Close %d", w.Who(), err, code)
	}
	if f.First != Close || f.Code() != code {
		w.T.Fatalf("%s: got frame %v (code %d), want Close %d", w.Who(), f, f.Code(), code)
	}
}

// WantBytes reads as many bytes as want has, and compares them.
func (w *Wire) WantBytes(want string) {
	w.T.Helper()
	got := make([]byte, len(want))
	n, err := io.ReadFull(w.In, got)
	if string(got[:n]) == want {
		return
	}
	at := 0
	for at < n && got[at] == want[at] {
		at++
	}
	w.T.Fatalf("%s: got %d of %d bytes, %v; they differ at %d: %.40q, want %.40q", w.Who(), n, len(want), err, at, got[at:n], want[at:])
}

// Rest reads and returns the rest of the stream, and wants it to end, by a FIN or
// a reset.
func (w *Wire) Rest() string {
	w.T.Helper()
	b, err := io.ReadAll(w.In)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		w.T.Fatalf("%s: connection still open after %d bytes (%.40q), want it closed", w.Who(), len(b), b)
	}
	return string(b)
}

// WantGone wants the stream to end, after any bytes. It returns their number.
func (w *Wire) WantGone() int64 {
	w.T.Helper()
	n, err := io.Copy(io.Discard, w.In)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		w.T.Fatalf("%s: connection still open, want it closed", w.Who())
	}
	return n
}

// WantEnd wants the stream to end here, without another byte.
func (w *Wire) WantEnd() {
	w.T.Helper()
	if rest := w.Rest(); rest != "" {
		w.T.Fatalf("%s: got %d more bytes (%.40q), want the end", w.Who(), len(rest), rest)
	}
}

// Answer reads the handshake's request and answers it with a correct 101
// and the lines.
func (w *Wire) Answer(lines string) *http.Request {
	w.T.Helper()
	req := w.ReadRequest()
	w.Send(AnswerTo(req, lines))
	return req
}

// ReadRequest reads an HTTP request.
func (w *Wire) ReadRequest() *http.Request {
	w.T.Helper()
	req, err := http.ReadRequest(w.In)
	if err != nil {
		w.T.Fatalf("%s: reading request: %v", w.Who(), err)
	}
	return req
}

// ReadResponse reads an HTTP response. Its body follows.
func (w *Wire) ReadResponse() *http.Response {
	w.T.Helper()
	resp, err := http.ReadResponse(w.In, nil)
	if err != nil {
		w.T.Fatalf("%s: reading response: %v", w.Who(), err)
	}
	return resp
}

// ReadHead reads an HTTP header as it is on the wire, including the blank line.
func (w *Wire) ReadHead() string {
	w.T.Helper()
	var b strings.Builder
	for {
		line, err := w.In.ReadString('\n')
		b.WriteString(line)
		if err != nil {
			w.T.Fatalf("%s: got %v after %.300q, want a header", w.Who(), err, b.String())
		}
		if line == "\r\n" {
			return b.String()
		}
	}
}

// WantStatus reads an answer and wants it to have the status. Any answer but 101
// must be the last one on the connection. It returns the header and the body.
func (w *Wire) WantStatus(status int) (http.Header, string) {
	w.T.Helper()
	resp := w.ReadResponse()
	if resp.StatusCode != status {
		w.T.Fatalf("%s: answered %d, want %d", w.Who(), resp.StatusCode, status)
	}
	if status == http.StatusSwitchingProtocols {
		return resp.Header, ""
	}
	body, err := io.ReadAll(resp.Body)
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
		w.T.Errorf("%s: body of the answer: %v", w.Who(), err)
	}
	if !resp.Close {
		w.T.Errorf("%s: the answer doesn't say Connection: close", w.Who())
	}
	w.WantEnd()
	return resp.Header, string(body)
}

// WantRefusal reads a refusal as it is on the wire, up to the end of the
// connection. It wants the header fields that belong to the status.
func (w *Wire) WantRefusal(status int) (head, body string) {
	w.T.Helper()
	head = w.ReadHead()
	if _, rest, _ := strings.Cut(head, " "); !strings.HasPrefix(rest, fmt.Sprint(status, " ")) {
		w.T.Errorf("client: got %q, want %d", head, status)
		w.SetDeadline(time.Now().Add(time.Second)) // it may be an open session
		defer w.Close()
	}
	lines := []string{"Connection: close"}
	switch status {
	case 405:
		lines = append(lines, "Allow: GET")
	case 426:
		lines = append(lines, "Connection: Upgrade", "Upgrade: websocket", "Sec-Websocket-Version: 13")
	case 503:
		lines = append(lines, "Retry-After: 5")
	}
	for _, line := range lines {
		if strings.Count(strings.ToLower(head), "\r\n"+strings.ToLower(line)+"\r\n") != 1 {
			w.T.Errorf("client: got %q, want the line %q once", head, line)
		}
	}
	b, err := io.ReadAll(w.In)
	if err != nil {
		w.T.Errorf("client: got %v behind the refusal, want the end", err)
	}
	body = string(b)
	if strings.Contains(body, "HTTP/1.") {
		w.T.Errorf("client: got a second answer %q, want the connection closed", body)
	}
	return head, body
}

// CloseWrite ends what this end sends: in TLS by a close_notify, else by a FIN.
func (w *Wire) CloseWrite() { w.T.Helper(); w.closeWrite(w.Conn) }

// FIN sends a FIN, in TLS without a close_notify before it.
func (w *Wire) FIN() { w.T.Helper(); w.closeWrite(w.Below()) }

func (w *Wire) closeWrite(c net.Conn) {
	w.T.Helper()
	half, ok := c.(interface{ CloseWrite() error })
	if !ok {
		w.T.Fatalf("%T has no CloseWrite", c)
	}
	if err := half.CloseWrite(); err != nil {
		w.T.Fatal(err)
	}
}

// Reset closes a TCP connection with a RST, and closes any other one normally.
func (w *Wire) Reset() { Reset(w.Conn) }

// Reset closes a TCP connection with a RST, also below TLS, and closes any other
// one normally.
func Reset(c net.Conn) {
	if secure, ok := c.(*tls.Conn); ok {
		c = secure.NetConn()
	}
	if c, ok := c.(*net.TCPConn); ok {
		c.SetLinger(0)
	}
	c.Close()
}
