//go:build linux

package zoo

import (
	"bufio"
	"bytes"
	"compress/flate"
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gobwas/ws"
)

// A visit is a WebSocket of the zoo's own client, which tries the same steps with
// all servers. It sees every frame, offers what browsers offer, and answers Pings.
type visit struct {
	conn    net.Conn
	in      *bufio.Reader
	header  http.Header // of the 101
	name    string      // what the server or greet calls it
	deflate bool
	auto    func(m message) *message // answers messages that a library would answer by itself; an empty message: no answer
	window  int                      // the largest message that is sent compressed
	writing sync.Mutex
	left    atomic.Bool // whether a Close was sent
	inflate inflater

	mu       sync.Mutex
	changed  chan struct{} // closed, and made anew, at every change
	messages []message
	pings    int
	pongs    []string
	end      string // how it ended; "" if it has not
}

type message struct {
	binary bool
	data   []byte
}

func text(s string) message        { return message{false, []byte(s)} }
func (m message) String() string   { return fmt.Sprintf("%.80q", m.data) }
func (m message) is(s string) bool { return !m.binary && string(m.data) == s }

// An offer is what a client asks for.
type offer struct {
	path         string
	subprotocols []string
	header       http.Header
	auto         func(m message) *message // see visit.auto
}

// A refusal is an answer other than 101.
type refusal struct {
	status int
	header http.Header
	body   string
}

func (r *refusal) Error() string { return fmt.Sprintf("refused: %d %.200q", r.status, r.body) }

// dial opens a WebSocket as a page of the same origin would.
func dial(t *testing.T, f form, o offer) (*visit, error) {
	t.Helper()
	conn, err := net.Dial("tcp", f.addr)
	if err != nil {
		return nil, err
	}
	t.Cleanup(func() { conn.Close() })
	if f.secure {
		config := trust(t)
		config.ServerName = "127.0.0.1"
		conn = tls.Client(conn, config)
	}
	_ = conn.SetDeadline(time.Now().Add(limit))
	req, err := http.NewRequest(http.MethodGet, f.http(o.path), nil)
	if err != nil {
		return nil, err
	}
	var key [16]byte
	_, _ = rand.Read(key[:])
	maps.Copy(req.Header, o.header)
	req.Header.Set("Connection", "Upgrade")
	req.Header.Set("Upgrade", "websocket")
	req.Header.Set("Sec-WebSocket-Version", "13")
	req.Header.Set("Sec-WebSocket-Key", base64.StdEncoding.EncodeToString(key[:]))
	if req.Header.Get("Origin") == "" {
		req.Header.Set("Origin", f.http(""))
	}
	if len(o.subprotocols) > 0 {
		req.Header.Set("Sec-WebSocket-Protocol", strings.Join(o.subprotocols, ", "))
	}
	req.Header.Set("Sec-WebSocket-Extensions", "permessage-deflate; client_max_window_bits")
	if err := req.Write(conn); err != nil {
		return nil, err
	}
	v := &visit{conn: conn, in: bufio.NewReader(conn), auto: o.auto, changed: make(chan struct{})}
	resp, err := http.ReadResponse(v.in, req)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusSwitchingProtocols {
		body, _ := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
		conn.Close()
		return nil, &refusal{resp.StatusCode, resp.Header, string(body)}
	}
	v.header = resp.Header
	v.deflate = strings.Contains(v.extensions(), "permessage-deflate")
	v.window = 1 << 15
	if _, bits, ok := strings.Cut(v.extensions(), "client_max_window_bits="); ok {
		n, _ := strconv.Atoi(strings.TrimSpace(strings.SplitN(strings.Trim(bits, `"`), ";", 2)[0]))
		v.window = 1 << n // Go's compressor has a fixed window
	}
	v.inflate.reset = strings.Contains(v.extensions(), "server_no_context_takeover")
	_ = conn.SetDeadline(time.Time{})
	go v.read()
	return v, nil
}

func (v *visit) subprotocol() string { return v.header.Get("Sec-WebSocket-Protocol") }
func (v *visit) extensions() string  { return v.header.Get("Sec-WebSocket-Extensions") }

func (v *visit) change(f func()) {
	v.mu.Lock()
	defer v.mu.Unlock()
	f()
	close(v.changed)
	v.changed = make(chan struct{})
}

// read reads frames until the connection ends.
func (v *visit) read() {
	var whole message
	var compressed bool
	closing := ""
	for {
		h, err := ws.ReadHeader(v.in)
		var payload []byte
		if err == nil {
			payload = make([]byte, h.Length)
			_, err = io.ReadFull(v.in, payload)
		}
		switch {
		case err != nil && closing != "":
		case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
			closing = "the connection ends"
		case err != nil:
			closing = "the connection breaks"
		}
		if err != nil {
			v.conn.Close()
			v.change(func() { v.end = closing })
			return
		}
		switch h.OpCode {
		case ws.OpPing:
			v.change(func() { v.pings++ })
			_ = v.write(ws.OpPong, payload, false)
		case ws.OpPong:
			v.change(func() { v.pongs = append(v.pongs, string(payload)) })
		case ws.OpClose:
			code, reason := ws.ParseCloseFrameData(payload)
			closing = strings.TrimSpace(fmt.Sprintf("Close %d %s", code, reason))
			if len(payload) == 0 {
				closing = "Close without a code"
			}
			// Nothing follows a Close (RFC 6455, 5.5.1). ejabberd would answer a
			// second one too, without end.
			if !v.left.Swap(true) {
				_ = v.write(ws.OpClose, payload, false)
			}
			// Some servers leave it to the client to close the connection.
			_ = v.conn.SetReadDeadline(time.Now().Add(time.Second))
		default:
			if h.OpCode != ws.OpContinuation {
				whole = message{binary: h.OpCode == ws.OpBinary}
				compressed = h.Rsv1()
			}
			whole.data = append(whole.data, payload...)
			if !h.Fin {
				continue
			}
			m := whole
			if compressed {
				if m.data, err = v.inflate.message(m.data); err != nil {
					v.change(func() { v.end = "what comes can't be decompressed: " + err.Error() })
					return
				}
			}
			if v.auto != nil {
				if answer := v.auto(m); answer != nil {
					if len(answer.data) > 0 {
						_ = v.send(*answer)
					}
					continue
				}
			}
			v.change(func() { v.messages = append(v.messages, m) })
		}
	}
}

// write writes one frame, at once: a server that answers when it has read a part
// of it may end the connection before the rest is written.
func (v *visit) write(op ws.OpCode, payload []byte, rsv1 bool) error {
	f := ws.NewFrame(op, true, bytes.Clone(payload))
	f.Header.Rsv = ws.Rsv(rsv1, false, false)
	v.writing.Lock()
	defer v.writing.Unlock()
	_ = v.conn.SetWriteDeadline(time.Now().Add(limit))
	frame, err := ws.CompileFrame(ws.MaskFrameInPlace(f))
	if err == nil {
		_, err = v.conn.Write(frame)
	}
	return err
}

// send sends a message, compressed if that was negotiated.
func (v *visit) send(m message) error {
	op := ws.OpText
	if m.binary {
		op = ws.OpBinary
	}
	if !v.deflate || v.window < 1<<15 && len(m.data) > v.window {
		return v.write(op, m.data, false)
	}
	var b bytes.Buffer
	w, _ := flate.NewWriter(&b, flate.BestSpeed) // without context takeover, which is always allowed
	_, _ = w.Write(m.data)
	_ = w.Flush()
	return v.write(op, bytes.TrimSuffix(b.Bytes(), []byte("\x00\x00\xff\xff")), true)
}

func (v *visit) ping(payload string) error { return v.write(ws.OpPing, []byte(payload), false) }

func (v *visit) close(code int, reason string) error {
	v.left.Store(true)
	return v.write(ws.OpClose, append(binary.BigEndian.AppendUint16(nil, uint16(code)), reason...), false)
}

var errSlow = errors.New("it doesn't come")

// await waits until ready returns true, or for the end. ready is called with v
// locked.
func (v *visit) await(ready func() bool) error {
	deadline := time.After(limit)
	for {
		v.mu.Lock()
		ok, changed, end := ready(), v.changed, v.end
		v.mu.Unlock()
		switch {
		case ok:
			return nil
		case end != "":
			return errors.New(end)
		}
		select {
		case <-changed:
		case <-deadline:
			return errSlow
		}
	}
}

// receive removes the next message and returns it.
func (v *visit) receive() (m message, err error) {
	err = v.await(func() bool {
		if len(v.messages) == 0 {
			return false
		}
		m, v.messages = v.messages[0], v.messages[1:]
		return true
	})
	return m, err
}

// receiveText removes messages up to one that has this prefix.
func (v *visit) receiveText(prefix string) (string, error) {
	for {
		m, err := v.receive()
		if err != nil {
			return "", fmt.Errorf("waiting for %q: %w", prefix, err)
		}
		if !m.binary && strings.HasPrefix(string(m.data), prefix) {
			return string(m.data), nil
		}
	}
}

// ask sends a text and receives one that has this prefix.
func (v *visit) ask(question, prefix string) (string, error) {
	if err := v.send(text(question)); err != nil {
		return "", err
	}
	return v.receiveText(prefix)
}

// echoes sends a text and wants it back.
func (v *visit) echoes(sent, want string) error {
	if err := v.send(text(sent)); err != nil {
		return err
	}
	got, err := v.receive()
	if err == nil && !got.is(want) {
		return fmt.Errorf("%v came, want %.80q", got, want)
	}
	return err
}

func (v *visit) awaitPong(payload string) error {
	return v.await(func() bool {
		return slices.Contains(v.pongs, payload)
	})
}

// awaitEnd waits for the connection's end and describes it.
func (v *visit) awaitEnd() string {
	if err := v.await(func() bool { return v.end != "" }); err != nil {
		return err.Error()
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.end
}

// lasts waits for d or for the end, which it returns.
func (v *visit) lasts(ctx context.Context, d time.Duration) (end string) {
	ctx, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	for {
		v.mu.Lock()
		changed, end := v.changed, v.end
		v.mu.Unlock()
		if end != "" {
			return end
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ""
		}
	}
}

// An inflater decompresses messages (RFC 7692, 7.2.2).
type inflater struct {
	reset  bool // between messages
	window []byte
}

func (i *inflater) message(data []byte) ([]byte, error) {
	tail := "\x00\x00\xff\xff\x01\x00\x00\xff\xff" // the one removed by the sender, and a final block
	r := flate.NewReaderDict(io.MultiReader(bytes.NewReader(data), strings.NewReader(tail)), i.window)
	out, err := io.ReadAll(r)
	if !i.reset {
		i.window = append(i.window, out...)
		i.window = bytes.Clone(i.window[max(0, len(i.window)-32<<10):])
	}
	return out, err
}
