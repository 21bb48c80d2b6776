package wsproxy

import (
	"crypto/rand"
	"encoding/binary"
	"unicode/utf8"

	"github.com/coder/websocket"
)

// Opcodes, RFC 6455, 5.2.
const (
	opContinuation = 0x0
	opText         = 0x1
	opBinary       = 0x2
	opClose        = 0x8
	opPing         = 0x9
	opPong         = 0xA
)

// The bits of a frame's first two bytes, RFC 6455, 5.2.
const (
	finBit  = 0x80
	rsvBits = 0x70
	rsv1Bit = 0x40
	maskBit = 0x80
)

const (
	maxHeaderSize     = 14  // two bytes, a 64-bit length, a masking key
	maxControlPayload = 125 // RFC 6455, 5.5
	maxControlSize    = 2 + 4 + maxControlPayload
)

// A violation is a way in which a frame's header, or the body of a Close frame,
// breaks RFC 6455 or exceeds one of our limits. Its text is for logs, never for
// a peer.
type violation string

func (v violation) Error() string { return string(v) }

const (
	errReservedBits     violation = "reserved bit set without an extension that defines it"
	errReservedOpcode   violation = "reserved opcode"
	errControlFragment  violation = "fragmented control frame"
	errControlTooLong   violation = "control frame over 125 bytes"
	errUnmasked         violation = "unmasked frame from the client"
	errMasked           violation = "masked frame from the upstream"
	errLengthTopBit     violation = "64-bit length with the top bit set"
	errLengthNotMinimal violation = "length not in its shortest form"
	errNothingToResume  violation = "continuation frame outside a message"
	errMessageUnended   violation = "new message inside a fragmented one"
	errCloseBody        violation = "close frame with a body of one byte"
	errCloseCode        violation = "close code that may not be sent"
	errCloseReason      violation = "close reason that is not UTF-8"
)

// A header is one frame's header.
type header struct {
	first  byte   // FIN, RSV1-3 and the opcode, as on the wire
	size   int    // bytes of the header itself; 0 while it is incomplete
	key    uint32 // the masking key, as on the wire read in little-endian order
	length uint64 // bytes of payload that follow
}

func (h *header) opcode() byte  { return h.first & 0x0F }
func (h *header) fin() bool     { return h.first&finBit != 0 }
func (h *header) control() bool { return h.first&0x08 != 0 }

// A scanner parses the frame headers of one direction and checks their order.
// It never sees payloads.
type scanner struct {
	masked     bool // frames must be masked: they come from a client (RFC 6455, 5.1)
	rsvMessage byte // the RSV bits that a message's first frame may carry
	rsvAny     byte // the RSV bits that any frame may carry
	inMessage  bool // within a fragmented message
}

// next parses the header at the start of p. If p holds only part of it, the
// header's size is 0; the available bytes are checked nevertheless, so that an
// invalid frame is detected at its first invalid byte.
func (s *scanner) next(p []byte) (h header, err error) {
	h.first = p[0]
	if v := s.checkFirst(h.first); v != "" {
		return h, v
	}
	if len(p) < 2 {
		return h, nil
	}
	if p[1]&maskBit != 0 != s.masked {
		if s.masked {
			return h, errUnmasked
		}
		return h, errMasked
	}
	size := 2
	h.length = uint64(p[1] &^ maskBit)
	if h.length > maxControlPayload {
		if h.control() {
			return h, errControlTooLong
		}
		// RFC 6455, 5.2: "the minimal number of bytes MUST be used".
		if h.length == 126 {
			if size = 4; len(p) < size {
				return h, nil
			}
			if h.length = uint64(binary.BigEndian.Uint16(p[2:])); h.length < 126 {
				return h, errLengthNotMinimal
			}
		} else {
			if len(p) > 2 && p[2] >= 0x80 {
				return h, errLengthTopBit
			}
			if size = 10; len(p) < size {
				return h, nil
			}
			if h.length = binary.BigEndian.Uint64(p[2:]); h.length <= 0xFFFF {
				return h, errLengthNotMinimal
			}
		}
	}
	if s.masked {
		if len(p) < size+4 {
			return h, nil
		}
		h.key = binary.LittleEndian.Uint32(p[size:])
		size += 4
	}
	h.size = size
	if !h.control() {
		s.inMessage = !h.fin()
	}
	return h, nil
}

// checkFirst returns the violation in a frame's first byte, if any.
func (s *scanner) checkFirst(b byte) violation {
	allowed := s.rsvAny
	switch b & 0x0F {
	case opContinuation:
		if !s.inMessage {
			return errNothingToResume
		}
	case opText, opBinary:
		if s.inMessage {
			return errMessageUnended
		}
		allowed |= s.rsvMessage
	case opClose, opPing, opPong:
		if b&finBit == 0 {
			return errControlFragment
		}
	default:
		return errReservedOpcode
	}
	if b&rsvBits&^allowed != 0 {
		return errReservedBits
	}
	return ""
}

// closeCode returns the code in the unmasked body of a Close frame, or
// websocket.StatusNoStatusRcvd if there is none (RFC 6455, 5.5.1).
func closeCode(body []byte) (websocket.StatusCode, error) {
	switch len(body) {
	case 0:
		return websocket.StatusNoStatusRcvd, nil
	case 1:
		return 0, errCloseBody
	}
	code := websocket.StatusCode(binary.BigEndian.Uint16(body))
	if !sendableCloseCode(code) {
		return 0, errCloseCode
	}
	if !utf8.Valid(body[2:]) {
		return 0, errCloseReason
	}
	return code, nil
}

// sendableCloseCode reports whether a Close frame may contain the code: by RFC
// 6455, 7.4, and the codes 1012-1014, which IANA has registered since.
func sendableCloseCode(c websocket.StatusCode) bool {
	switch c {
	case 1004, websocket.StatusNoStatusRcvd, websocket.StatusAbnormalClosure:
		return false
	}
	return 1000 <= c && c <= 1014 || 3000 <= c && c <= 4999
}

// unmask copies the masked bytes of src to dst and unmasks them. It is for the
// few bytes of a control frame; other payloads are never unmasked.
func unmask(dst, src []byte, key uint32) {
	for i, b := range src {
		dst[i] = b ^ byte(key>>(i&3*8))
	}
}

// appendControl appends a complete control frame to b. A masked frame, for the
// upstream, gets a fresh unpredictable key (RFC 6455, 5.3).
func appendControl(b []byte, op byte, masked bool, body []byte) []byte {
	b = append(b, finBit|op, byte(len(body)))
	if !masked {
		return append(b, body...)
	}
	b[len(b)-1] |= maskBit
	var key [4]byte
	rand.Read(key[:])
	b = append(b, key[:]...)
	for i, c := range body {
		b = append(b, c^key[i&3])
	}
	return b
}

// appendClose appends a Close frame with the code and the reason, or one
// without a body for websocket.StatusNoStatusRcvd.
func appendClose(b []byte, masked bool, code websocket.StatusCode, reason string) []byte {
	if code == websocket.StatusNoStatusRcvd {
		return appendControl(b, opClose, masked, nil)
	}
	body := binary.BigEndian.AppendUint16(make([]byte, 0, maxControlPayload), uint16(code))
	return appendControl(b, opClose, masked, append(body, reason...))
}
