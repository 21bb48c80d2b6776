package fuzz_test

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"sync"

	"github.com/seed-ffb73231/wsproxy/internal/faults/wire"
	"github.com/seed-ffb73231/wsproxy/internal/wstest"
)

// A tap is an endpoint's connection. It parses both streams and writes in
// pieces.
type tap struct {
	net.Conn
	client bool
	cut    *cutter

	mu       sync.Mutex
	sent     stream // guarded by mu
	received stream // guarded by mu
	ended    error  // guarded by mu; how reading ended
	early    bool   // guarded by mu; closed before there was a Close or an end to read
}

// newTap taps an endpoint's connection.
func newTap(c net.Conn, client, deflate bool, cut *cutter) *tap {
	t := &tap{Conn: c, client: client, cut: cut}
	t.sent.parser = wire.Parser{Masked: client, Deflate: deflate, Each: t.sent.add}
	t.received.parser = wire.Parser{Masked: !client, Deflate: deflate, Each: t.received.add}
	return t
}

func (t *tap) Read(b []byte) (int, error) {
	n, err := t.Conn.Read(b)
	t.mu.Lock()
	defer t.mu.Unlock()
	t.received.take(b[:n])
	if err != nil && t.ended == nil && !errors.Is(err, os.ErrDeadlineExceeded) { // that is the library's own
		t.ended = err
	}
	return n, err
}

func (t *tap) Close() error {
	t.mu.Lock()
	t.early = t.early || t.ended == nil && !t.received.closed
	t.mu.Unlock()
	return t.Conn.Close()
}

func (t *tap) leftEarly() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.early
}

func (t *tap) Write(b []byte) (n int, err error) {
	for n < len(b) && err == nil {
		piece := b[n : n+t.cut.next(len(b)-n)]
		// Recorded before it is written, because the answer may come at once.
		t.mu.Lock()
		t.sent.take(piece)
		t.mu.Unlock()
		var m int
		m, err = t.Conn.Write(piece)
		n += m
	}
	return n, err
}

// streams returns what has passed so far.
func (t *tap) streams() (sent, received stream) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.sent, t.received
}

// A stream is one direction: an HTTP header, then frames.
type stream struct {
	head   []byte // of HTTP, as far as it has come
	begun  bool   // it is past that
	parser wire.Parser
	frames []wire.Frame
	closed bool  // a Close is among them
	err    error // what is illegal in it
}

func (s *stream) take(b []byte) {
	if !s.begun {
		s.head = append(s.head, b...)
		_, rest, found := bytes.Cut(s.head, []byte("\r\n\r\n"))
		if !found {
			return
		}
		s.begun, b = true, rest
	}
	if err := s.parser.Add(b); err != nil && s.err == nil {
		s.err = fmt.Errorf("%w, behind %d frames", err, len(s.frames))
	}
}

func (s *stream) add(f *wire.Frame) {
	s.closed = s.closed || f.Opcode() == wstest.OpClose
	s.frames = append(s.frames, wire.Frame{First: f.First, Raw: bytes.Clone(f.Raw), Payload: bytes.Clone(f.Payload)})
}

// A cutter decides in which pieces bytes are written and read.
type cutter struct {
	mu   sync.Mutex
	rng  *rand.Rand // guarded by mu
	mode int
	left int // guarded by mu; single bytes that may still be
}

// newCutter returns one of four kinds.
func newCutter(seed uint64, mode int) *cutter {
	return &cutter{rng: rand.New(rand.NewPCG(seed, 1)), mode: mode & 3, left: 200}
}

// next returns the size of the next piece, at most n bytes.
func (c *cutter) next(n int) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	most := n
	switch c.mode {
	case 1:
		if c.left--; c.left > 0 {
			most = 1
		}
	case 2:
		most = 1 + c.rng.IntN(20)
		if c.left--; c.left <= 0 {
			most = 1 + c.rng.IntN(5_000)
		}
	case 3:
		most = 1 + c.rng.IntN(3_000)
	}
	return min(n, most)
}

// A choppy connection reads and writes in pieces. It is used on the proxy's
// side, which cannot use raw calls on it.
type choppy struct {
	net.Conn
	cut *cutter
}

func (c choppy) Read(b []byte) (int, error) { return c.Conn.Read(b[:c.cut.next(len(b))]) }

func (c choppy) Write(b []byte) (n int, err error) {
	for n < len(b) && err == nil {
		var m int
		m, err = c.Conn.Write(b[n : n+c.cut.next(len(b)-n)])
		n += m
	}
	return n, err
}

// CloseWrite sends a FIN.
func (c choppy) CloseWrite() error { return c.Conn.(*net.TCPConn).CloseWrite() }
