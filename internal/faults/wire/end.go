package wire

import (
	"bufio"
	"crypto/tls"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"math/rand/v2"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/seed-ffb73231/wsproxy/internal/wstest"
)

// A Digest identifies a sequence of messages: their order, types and bytes.
type Digest struct {
	Messages int
	Bytes    int
	Sum      uint64
	Keep     bool     // whether to keep Sums
	Sums     []uint64 // Sum after each message
}

// add adds a message.
func (d *Digest) add(op byte, payload []byte) {
	h := fnv.New64a()
	fmt.Fprintf(h, "%x %x %d ", d.Sum, op, len(payload))
	h.Write(payload)
	d.Messages++
	d.Bytes += len(payload)
	d.Sum = h.Sum64()
	if d.Keep {
		d.Sums = append(d.Sums, d.Sum)
	}
}

// Same reports whether two ends have seen the same messages.
func (d *Digest) Same(o *Digest) bool { return d.Messages == o.Messages && d.Sum == o.Sum }

// Begins reports whether d's messages are a prefix of o's.
func (d *Digest) Begins(o *Digest) bool {
	return d.Messages == 0 || d.Messages <= len(o.Sums) && o.Sums[d.Messages-1] == d.Sum
}

// String returns the number of messages and bytes.
func (d *Digest) String() string { return fmt.Sprintf("%d messages, %d bytes", d.Messages, d.Bytes) }

// An End is one end of a session. A goroutine reads it all the time, answers
// Pings and Closes, and checks that what it reads is legal. Only one goroutine at
// a time may write.
type End struct {
	Conn   net.Conn
	Client bool
	Sent   Digest
	Got    Digest // valid when Done

	mute   atomic.Bool // answers only the first Ping
	ponged bool        // owned by the reader; the first one was sent
	done   chan struct{}
	br     *bufio.Reader
	parser Parser
	whole  []byte // of the current message
	op     byte   // of the current message

	mu        sync.Mutex // held while a frame is written
	sentClose bool       // guarded by mu; nothing more may be written

	// Valid when Done.
	Code    int    // of the Close that was received; 0: none
	Reason  string // of that Close
	Err     error  // how reading ended
	Partial int    // bytes of a frame that was cut off
	Pings   int    // that are not the script's own
	Foreign int    // Pongs received; see AppPing
}

// NewEnd returns an End for a connection after its handshake. Start starts the
// reader.
func NewEnd(c net.Conn, br *bufio.Reader, client bool) *End {
	e := &End{Conn: c, Client: client, br: br, done: make(chan struct{})}
	e.Sent.Keep, e.Got.Keep = true, false
	e.parser = Parser{Masked: !client, Each: e.frame}
	return e
}

// Start starts the reader.
func (e *End) Start() { go e.read() }

// Done is closed when nothing more can be read, and the connection is closed.
func (e *End) Done() <-chan struct{} { return e.done }

// Wait waits until Done is closed.
func (e *End) Wait() error {
	t := time.NewTimer(Timeout)
	defer t.Stop()
	select {
	case <-e.done:
		return nil
	case <-t.C:
		return fmt.Errorf("%v: no end of the connection", e.who())
	}
}

func (e *End) who() string {
	if e.Client {
		return "client"
	}
	return "upstream"
}

func (e *End) read() {
	defer close(e.done)
	defer e.Conn.Close()
	buf := make([]byte, 2<<10)
	for {
		n, err := e.br.Read(buf)
		if n > 0 {
			if bad := e.parser.Add(buf[:n]); bad != nil {
				e.Err = bad
				return
			}
		}
		if err != nil {
			e.Err = err
			e.Partial = e.parser.Partial()
			return
		}
		if e.Code != 0 && !e.Client {
			// RFC 6455, 7.1.1: the server closes first. Anything after a
			// Close is illegal, so there is nothing left to check.
			e.Err = io.EOF
			return
		}
	}
}

// frame handles one frame. It runs in the reader's goroutine.
func (e *End) frame(f *Frame) {
	switch f.Opcode() {
	case wstest.OpPing:
		own := slices.Equal(f.Payload, appPing)
		if !own {
			e.Pings++
		}
		if !e.mute.Load() || !e.ponged {
			e.ponged = e.ponged || !own
			e.Frame(wstest.Pong, f.Payload)
		}
	case wstest.OpPong:
		e.Foreign++
	case wstest.OpClose:
		e.Code = CloseCode(f.Payload)
		if len(f.Payload) > 2 {
			e.Reason = string(f.Payload[2:])
		}
		e.Close(e.Code, e.Reason)
	default:
		if f.Opcode() != wstest.OpContinuation {
			e.op, e.whole = f.Opcode(), e.whole[:0]
		}
		if f.First&wstest.Fin != 0 && f.Opcode() != wstest.OpContinuation {
			e.Got.add(e.op, f.Payload)
			return
		}
		e.whole = append(e.whole, f.Payload...)
		if f.First&wstest.Fin != 0 {
			e.Got.add(e.op, e.whole)
			if cap(e.whole) > 4<<10 {
				e.whole = nil
			}
		}
	}
}

var appPing = []byte("a ping of the application's")

// AppPing sends a Ping of the application's own.
func (e *End) AppPing() error { return e.Frame(wstest.Ping, appPing) }

// Mute makes the end stop answering Pings after the first one. The proxy only
// gives up peers that have answered a Ping before.
func (e *End) Mute() { e.mute.Store(true) }

func (e *End) key() *[4]byte {
	if !e.Client {
		return nil
	}
	k := rand.Uint32()
	return &[4]byte{byte(k), byte(k >> 8), byte(k >> 16), byte(k >> 24)}
}

// Frame writes one frame.
func (e *End) Frame(first byte, payload []byte) error {
	return e.Raw(wstest.AppendFrame(nil, first, e.key(), payload))
}

// Raw writes bytes, unless Close was sent.
func (e *End) Raw(b []byte) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.sentClose {
		return errors.New("Close was sent")
	}
	_, err := e.Conn.Write(b)
	return err
}

// CutOff writes the beginning of a frame and nothing after it: an answer by the
// reader would be taken for the rest of the frame.
func (e *End) CutOff(b []byte) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.sentClose {
		return errors.New("Close was sent")
	}
	e.sentClose = true
	_, err := e.Conn.Write(b)
	return err
}

// Message writes a message in the given number of frames.
func (e *End) Message(op byte, payload []byte, frames int) error {
	e.Sent.add(op, payload)
	for i := range frames {
		part := payload[len(payload)*i/frames : len(payload)*(i+1)/frames]
		first := op
		if i > 0 {
			first = wstest.OpContinuation
		}
		if i == frames-1 {
			first |= wstest.Fin
		}
		if err := e.Frame(first, part); err != nil {
			return err
		}
	}
	return nil
}

// Messages writes n equal messages, one frame each, in one write.
func (e *End) Messages(op byte, payload []byte, n int) error {
	var b []byte
	for range n {
		e.Sent.add(op, payload)
		b = wstest.AppendFrame(b, wstest.Fin|op, e.key(), payload)
	}
	return e.Raw(b)
}

// Close sends a Close frame, once.
func (e *End) Close(code int, reason string) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.sentClose {
		return nil
	}
	e.sentClose = true
	if code == NoCode {
		code = 0
	}
	_, err := e.Conn.Write(wstest.AppendFrame(nil, wstest.Close, e.key(), wstest.CloseBody(code, reason)))
	return err
}

// CloseWrite sends a FIN, over TLS a close_notify before it.
func (e *End) CloseWrite() error {
	t, ok := e.Conn.(*tls.Conn)
	if !ok {
		return e.Conn.(*net.TCPConn).CloseWrite()
	}
	if err := t.CloseWrite(); err != nil {
		return err
	}
	// The close_notify may have ended the connection, and the reader may have
	// closed it.
	if err := t.NetConn().(*net.TCPConn).CloseWrite(); !errors.Is(err, net.ErrClosed) {
		return err
	}
	return nil
}

// Reset closes the connection by a RST.
func (e *End) Reset() { wstest.Reset(e.Conn) }
