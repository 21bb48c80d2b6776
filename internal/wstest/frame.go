package wstest

import (
	"encoding/binary"
	"fmt"
)

// Opcodes; RFC 6455, 5.2.
const (
	OpContinuation = 0x0
	OpText         = 0x1
	OpBinary       = 0x2
	OpClose        = 0x8
	OpPing         = 0x9
	OpPong         = 0xA
)

// Bits of a frame's first byte.
const (
	Fin  = 0x80
	RSV1 = 0x40
)

// First bytes of frames that are whole messages.
const (
	Text   = Fin | OpText
	Binary = Fin | OpBinary
	Close  = Fin | OpClose
	Ping   = Fin | OpPing
	Pong   = Fin | OpPong
)

// MaskKey is the masking key of the frames that [RawFrame] makes; RFC 6455, 5.7.
var MaskKey = [4]byte{0x37, 0xfa, 0x21, 0x3d}

// A Frame is a frame that was received.
type Frame struct {
	First   byte   // FIN, RSV1-3, opcode
	Payload string // unmasked
}

// Code returns the code of a Close frame. It is 0 for a Close frame without a
// code and for other frames.
func (f Frame) Code() int {
	if f.First != Close || len(f.Payload) < 2 {
		return 0
	}
	return int(f.Payload[0])<<8 | int(f.Payload[1])
}

// String describes the frame in one line.
func (f Frame) String() string {
	return fmt.Sprintf("%#02x with %d bytes %.40q", f.First, len(f.Payload), f.Payload)
}

// RawFrame returns a whole frame, masked with [MaskKey] or unmasked. Its first
// byte is first.
func RawFrame(first byte, masked bool, payload string) string {
	var key *[4]byte
	if masked {
		key = &MaskKey
	}
	return string(AppendFrame(nil, first, key, payload))
}

// AppendFrame appends a whole frame to b, masked with key unless that is nil.
func AppendFrame[P string | []byte](b []byte, first byte, key *[4]byte, payload P) []byte {
	b = AppendHeader(b, first, key, uint64(len(payload)))
	at := len(b)
	b = append(b, payload...)
	if key != nil {
		Mask(b[at:], *key)
	}
	return b
}

// AppendHeader appends the header of a frame with n bytes of payload.
func AppendHeader(b []byte, first byte, key *[4]byte, n uint64) []byte {
	var masked byte
	if key != nil {
		masked = 0x80
	}
	switch {
	case n < 126:
		b = append(b, first, masked|byte(n))
	case n <= 0xFFFF:
		b = binary.BigEndian.AppendUint16(append(b, first, masked|126), uint16(n))
	default:
		b = binary.BigEndian.AppendUint64(append(b, first, masked|127), n)
	}
	if key != nil {
		b = append(b, key[:]...)
	}
	return b
}

// Mask masks a whole payload, or unmasks it.
func Mask(payload []byte, key [4]byte) {
	twice := uint64(binary.LittleEndian.Uint32(key[:])) * (1<<32 + 1)
	for ; len(payload) >= 8; payload = payload[8:] {
		binary.LittleEndian.PutUint64(payload, binary.LittleEndian.Uint64(payload)^twice)
	}
	for i := range payload {
		payload[i] ^= key[i%4]
	}
}

// A Header is the header of a frame.
type Header struct {
	First  byte // FIN, RSV1-3, opcode
	Masked bool
	Key    [4]byte // if Masked
	Size   int     // of the header
	Length uint64  // of the payload
}

// ParseHeader parses the header at the beginning of b without checking it. If b
// is too short, it returns false, and the number of bytes that it needs as Size.
func ParseHeader(b []byte) (h Header, ok bool) {
	if h.Size = 2; len(b) < h.Size {
		return h, false
	}
	h.First, h.Masked, h.Length = b[0], b[1]&0x80 != 0, uint64(b[1]&0x7F)
	extended := 0
	switch h.Length {
	case 126:
		extended = 2
	case 127:
		extended = 8
	}
	h.Size += extended
	if h.Masked {
		h.Size += 4
	}
	if len(b) < h.Size {
		return h, false
	}
	switch extended {
	case 2:
		h.Length = uint64(binary.BigEndian.Uint16(b[2:]))
	case 8:
		h.Length = binary.BigEndian.Uint64(b[2:])
	}
	if h.Masked {
		h.Key = [4]byte(b[2+extended:])
	}
	return h, true
}

// CloseBody returns a Close frame's payload, which is empty for code 0.
func CloseBody(code int, reason string) string {
	if code == 0 {
		return ""
	}
	return string([]byte{byte(code >> 8), byte(code)}) + reason
}
