// Package wire has what the fuzzing, the floods and the soak share: it builds
// and strictly parses frames, plays one end of a connection, and measures the
// resources of a process.
package wire

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"unicode/utf8"

	"github.com/seed-ffb73231/wsproxy/internal/wstest"
)

// NoCode stands for a Close frame without a body.
const NoCode = 1005

// A Frame is one frame.
type Frame struct {
	First   byte   // FIN, RSV1-3, opcode
	Raw     []byte // as on the wire
	Payload []byte // unmasked
}

// Opcode returns the frame's opcode.
func (f *Frame) Opcode() byte { return f.First & 0x0F }

// Control reports whether the frame is a Close, Ping or Pong.
func (f *Frame) Control() bool { return f.First&0x08 != 0 }

// String describes the frame in one line.
func (f *Frame) String() string {
	return fmt.Sprintf("%#02x %d bytes %.24q", f.First, len(f.Payload), f.Payload)
}

// ErrIllegal is the error for a stream that violates RFC 6455.
var ErrIllegal = errors.New("illegal frame stream")

// A Parser parses a stream of frames and finds what RFC 6455 does not allow. It
// shares no code with the proxy.
type Parser struct {
	Masked  bool         // the frames come from a client
	Deflate bool         // permessage-deflate was negotiated
	Each    func(*Frame) // called for each frame; it must not keep the slices
	buf     []byte       // of the current frame
	message bool         // within a fragmented message
	closed  bool         // a Close was received
	bad     error        // the violation
}

// Partial returns the number of bytes of an incomplete frame.
func (p *Parser) Partial() int { return len(p.buf) }

// Rest returns the bytes of an incomplete frame.
func (p *Parser) Rest() []byte { return p.buf }

// Add adds the stream's next bytes.
func (p *Parser) Add(b []byte) error {
	if p.bad != nil {
		return p.bad
	}
	if len(p.buf) > 0 {
		p.buf = append(p.buf, b...)
		b = p.buf
	}
	for len(b) > 0 {
		n, err := p.next(b)
		if err != nil {
			p.bad = fmt.Errorf("%w: %v", ErrIllegal, err)
			return p.bad
		}
		if n == 0 {
			break
		}
		b = b[n:]
	}
	switch {
	case len(b) == 0 && cap(p.buf) > 4<<10: // idle ends should be small
		p.buf = nil
	default:
		p.buf = append(p.buf[:0], b...)
	}
	return nil
}

// next parses one frame. It returns 0 if the frame isn't complete.
func (p *Parser) next(b []byte) (int, error) {
	if p.closed {
		return 0, errors.New("bytes after Close")
	}
	first := b[0]
	if err := p.checkFirst(first); err != nil {
		return 0, err
	}
	if len(b) < 2 {
		return 0, nil
	}
	masked, n, at := b[1]&0x80 != 0, uint64(b[1]&0x7F), 2
	if masked != p.Masked {
		return 0, fmt.Errorf("masked=%v", masked)
	}
	if first&0x08 != 0 && n > 125 {
		return 0, errors.New("long control frame")
	}
	switch n {
	case 126:
		if at = 4; len(b) < at {
			return 0, nil
		}
		if n = uint64(binary.BigEndian.Uint16(b[2:])); n < 126 {
			return 0, errors.New("length not minimal")
		}
	case 127:
		if at = 10; len(b) < at {
			return 0, nil
		}
		if n = binary.BigEndian.Uint64(b[2:]); n < 1<<16 || n > 1<<62 {
			return 0, fmt.Errorf("length %#x", n)
		}
	}
	var key [4]byte
	if masked {
		if len(b) < at+4 {
			return 0, nil
		}
		key, at = [4]byte(b[at:]), at+4
	}
	if uint64(len(b)-at) < n {
		return 0, nil
	}
	f := Frame{First: first, Raw: b[:at+int(n)], Payload: b[at : at+int(n)]}
	if masked {
		f.Payload = bytes.Clone(f.Payload)
		wstest.Mask(f.Payload, key)
	}
	switch {
	case f.Opcode() == wstest.OpClose:
		p.closed = true
		if err := checkClose(f.Payload); err != nil {
			return 0, err
		}
	case !f.Control():
		p.message = first&wstest.Fin == 0
	}
	if p.Each != nil {
		p.Each(&f)
	}
	return len(f.Raw), nil
}

// checkFirst checks a frame's first byte.
func (p *Parser) checkFirst(b byte) error {
	op, rsv := b&0x0F, b&0x70
	switch {
	case op > wstest.OpPong || op > wstest.OpBinary && op < wstest.OpClose:
		return fmt.Errorf("opcode %#x", op)
	case op >= wstest.OpClose && b&wstest.Fin == 0:
		return errors.New("fragmented control frame")
	case op == wstest.OpContinuation && !p.message:
		return errors.New("continuation of nothing")
	case (op == wstest.OpText || op == wstest.OpBinary) && p.message:
		return errors.New("message inside a message")
	case rsv != 0 && !(rsv == wstest.RSV1 && p.Deflate && (op == wstest.OpText || op == wstest.OpBinary)):
		return fmt.Errorf("reserved bits %#x", rsv)
	}
	return nil
}

func checkClose(body []byte) error {
	if len(body) == 0 {
		return nil
	}
	if len(body) == 1 {
		return errors.New("close body of one byte")
	}
	switch c := CloseCode(body); {
	case c < 1000, c == 1004, c == 1005, c == 1006, c > 1014 && c < 3000, c > 4999:
		return fmt.Errorf("close code %d", c)
	}
	if !utf8.Valid(body[2:]) {
		return errors.New("close reason")
	}
	return nil
}

// CloseCode returns the code in a Close frame's payload.
func CloseCode(body []byte) int {
	if len(body) < 2 {
		return NoCode
	}
	return int(binary.BigEndian.Uint16(body))
}
