//go:build linux

package main

import (
	"crypto/sha1"
	"encoding/base64"
	"encoding/binary"
)

// Opcodes used by the tool.
const (
	opBinary = 2
	opClose  = 8
	opPing   = 9
	opPong   = 10
)

const acceptGUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"

func acceptKey(key string) string {
	sum := sha1.Sum([]byte(key + acceptGUID))
	return base64.StdEncoding.EncodeToString(sum[:])
}

// appendFrame appends a final frame, masked if mask isn't nil.
func appendFrame(b []byte, op byte, payload []byte, mask *[4]byte) []byte {
	var bit byte
	if mask != nil {
		bit = 0x80
	}
	b = append(b, 0x80|op)
	switch n := len(payload); {
	case n < 126:
		b = append(b, bit|byte(n))
	case n < 1<<16:
		b = append(b, bit|126)
		b = binary.BigEndian.AppendUint16(b, uint16(n))
	default:
		b = append(b, bit|127)
		b = binary.BigEndian.AppendUint64(b, uint64(n))
	}
	if mask != nil {
		b = append(b, mask[:]...)
	}
	at := len(b)
	b = append(b, payload...)
	if mask != nil {
		xor(b[at:], *mask)
	}
	return b
}

func xor(p []byte, mask [4]byte) {
	m := uint64(binary.LittleEndian.Uint32(mask[:]))
	m |= m << 32
	for len(p) >= 8 {
		binary.LittleEndian.PutUint64(p, binary.LittleEndian.Uint64(p)^m)
		p = p[8:]
	}
	for i := range p {
		p[i] ^= mask[i&3]
	}
}

// header is a parsed frame header.
type header struct {
	op     byte
	fin    bool
	masked bool
	mask   [4]byte
	size   int // of the header itself
	length int // of the payload
}

// parseHeader reads a frame header. It returns false if p is too short.
func parseHeader(p []byte) (h header, ok bool) {
	if len(p) < 2 {
		return h, false
	}
	h.fin, h.op, h.masked = p[0]&0x80 != 0, p[0]&0x0f, p[1]&0x80 != 0
	h.size, h.length = 2, int(p[1]&0x7f)
	switch h.length {
	case 126:
		h.size = 4
	case 127:
		h.size = 10
	}
	maskAt := h.size
	if h.masked {
		h.size += 4
	}
	if len(p) < h.size {
		return h, false
	}
	switch h.length {
	case 126:
		h.length = int(binary.BigEndian.Uint16(p[2:]))
	case 127:
		h.length = int(binary.BigEndian.Uint64(p[2:]))
	}
	if h.masked {
		copy(h.mask[:], p[maskAt:])
	}
	return h, true
}
