// Package frame is the wire format of RFC 6455: it parses the headers of frames,
// checks their order, and builds control frames. It has no I/O.
package frame

import "encoding/binary"

// A Side is a peer of a session, or the proxy itself. The two peers are indexes
// of arrays.
type Side uint8

const (
	Client   Side = iota // who connected to the proxy
	Upstream             // the server that the proxy dials
	Self                 // the proxy itself, for what neither peer caused
)

// Other returns the opposite peer.
func (s Side) Other() Side { return s ^ 1 }

// Opcodes, RFC 6455, 5.2.
const (
	OpContinuation = 0x0
	OpText         = 0x1
	OpBinary       = 0x2
	OpClose        = 0x8
	OpPing         = 0x9
	OpPong         = 0xA
)

// The bits of a frame's first two bytes, RFC 6455, 5.2.
const (
	FinBit  = 0x80
	RSVBits = 0x70
	RSV1Bit = 0x40
	MaskBit = 0x80
)

const (
	MaxControlPayload = 125                       // RFC 6455, 5.5
	MaxControlSize    = 2 + 4 + MaxControlPayload // a control frame with a masking key
)

// A Violation is a way in which a frame's header, or the body of a Close frame,
// breaks RFC 6455 or exceeds one of our limits. Its text is for logs, never for
// a peer.
type Violation string

func (v Violation) Error() string { return string(v) }

const (
	ErrReservedBits     Violation = "reserved bit set without an extension that defines it"
	ErrReservedOpcode   Violation = "reserved opcode"
	ErrControlFragment  Violation = "fragmented control frame"
	ErrControlTooLong   Violation = "control frame over 125 bytes"
	ErrUnmasked         Violation = "unmasked frame from the client"
	ErrMasked           Violation = "masked frame from the upstream"
	ErrLengthTopBit     Violation = "64-bit length with the most significant bit set"
	ErrLengthNotMinimal Violation = "length not encoded in the minimal form"
	ErrNothingToResume  Violation = "continuation frame without a message"
	ErrMessageUnended   Violation = "new message within a fragmented message"
	ErrCloseBody        Violation = "close frame with a one-byte payload"
	ErrCloseCode        Violation = "close code that may not be sent"
	ErrCloseReason      Violation = "close reason that is not UTF-8"
)

// A Header is one frame's header.
type Header struct {
	First  byte   // FIN, RSV1-3 and the opcode, as on the wire
	Size   int    // bytes of the header itself; 0 while it is incomplete
	Key    uint32 // the masking key, as on the wire read in little-endian order
	Length uint64 // bytes of payload that follow
}

// Opcode returns the frame's opcode.
func (h *Header) Opcode() byte { return h.First & 0x0F }

// Fin reports whether the frame is the last one of its message.
func (h *Header) Fin() bool { return h.First&FinBit != 0 }

// Control reports whether it is a control frame.
func (h *Header) Control() bool { return h.First&0x08 != 0 }

// A Scanner parses the frame headers of one direction and checks their order.
// It never sees payloads.
type Scanner struct {
	Masked     bool // frames must be masked: they come from a client (RFC 6455, 5.1)
	RSVMessage byte // the RSV bits that a message's first frame may carry
	RSVAny     byte // the RSV bits that any frame may carry
	InMessage  bool // within a fragmented message
}

// Next parses the header at the start of p. If p holds only part of it, the
// header's size is 0; the available bytes are checked nevertheless, so that an
// invalid frame is detected at its first invalid byte.
func (s *Scanner) Next(p []byte) (h Header, err error) {
	h.First = p[0]
	if v := s.checkFirst(h.First); v != "" {
		return h, v
	}
	if len(p) < 2 {
		return h, nil
	}
	if p[1]&MaskBit != 0 != s.Masked {
		if s.Masked {
			return h, ErrUnmasked
		}
		return h, ErrMasked
	}
	size := 2
	h.Length = uint64(p[1] &^ MaskBit)
	if h.Length > MaxControlPayload {
		if h.Control() {
			return h, ErrControlTooLong
		}
		// RFC 6455, 5.2: "the minimal number of bytes MUST be used".
		if h.Length == 126 {
			if size = 4; len(p) < size {
				return h, nil
			}
			if h.Length = uint64(binary.BigEndian.Uint16(p[2:])); h.Length < 126 {
				return h, ErrLengthNotMinimal
			}
		} else {
			if len(p) > 2 && p[2] >= 0x80 {
				return h, ErrLengthTopBit
			}
			if size = 10; len(p) < size {
				return h, nil
			}
			if h.Length = binary.BigEndian.Uint64(p[2:]); h.Length <= 0xFFFF {
				return h, ErrLengthNotMinimal
			}
		}
	}
	if s.Masked {
		if len(p) < size+4 {
			return h, nil
		}
		h.Key = binary.LittleEndian.Uint32(p[size:])
		size += 4
	}
	h.Size = size
	if !h.Control() {
		s.InMessage = !h.Fin()
	}
	return h, nil
}

// checkFirst returns the Violation in a frame's first byte, if any.
func (s *Scanner) checkFirst(b byte) Violation {
	allowed := s.RSVAny
	switch b & 0x0F {
	case OpContinuation:
		if !s.InMessage {
			return ErrNothingToResume
		}
	case OpText, OpBinary:
		if s.InMessage {
			return ErrMessageUnended
		}
		allowed |= s.RSVMessage
	case OpClose, OpPing, OpPong:
		if b&FinBit == 0 {
			return ErrControlFragment
		}
	default:
		return ErrReservedOpcode
	}
	if b&RSVBits&^allowed != 0 {
		return ErrReservedBits
	}
	return ""
}
