package frame

import (
	"crypto/rand"
	"encoding/binary"
)

// MaxDataHeader is the size of the longest header of a data frame.
const MaxDataHeader = 2 + 8 + 4

// AppendMessage appends a data frame that is a whole message to b. first is its first
// byte without FIN: the opcode, and the RSV bits, which are clear if no extension has
// changed the payload (RFC 6455, 5.2). A masked frame, for the upstream, gets a fresh
// unpredictable key (RFC 6455, 5.3).
func AppendMessage(b []byte, first byte, masked bool, payload []byte) []byte {
	var mask byte
	if masked {
		mask = MaskBit
	}
	switch n := len(payload); {
	case n < 126:
		b = append(b, FinBit|first, mask|byte(n))
	case n <= 0xFFFF:
		b = binary.BigEndian.AppendUint16(append(b, FinBit|first, mask|126), uint16(n))
	default:
		b = binary.BigEndian.AppendUint64(append(b, FinBit|first, mask|127), uint64(n))
	}
	if !masked {
		return append(b, payload...)
	}
	var key [4]byte
	rand.Read(key[:])
	b = append(b, key[:]...)
	start := len(b)
	b = append(b, payload...)
	Mask(b[start:], binary.LittleEndian.Uint32(key[:]))
	return b
}

// Mask masks or unmasks a whole payload in place, with a key as in [Header].
func Mask(b []byte, key uint32) {
	long := uint64(key)<<32 | uint64(key)
	for len(b) >= 32 {
		_ = b[31]
		binary.LittleEndian.PutUint64(b, binary.LittleEndian.Uint64(b)^long)
		binary.LittleEndian.PutUint64(b[8:], binary.LittleEndian.Uint64(b[8:])^long)
		binary.LittleEndian.PutUint64(b[16:], binary.LittleEndian.Uint64(b[16:])^long)
		binary.LittleEndian.PutUint64(b[24:], binary.LittleEndian.Uint64(b[24:])^long)
		b = b[32:]
	}
	for len(b) >= 8 {
		binary.LittleEndian.PutUint64(b, binary.LittleEndian.Uint64(b)^long)
		b = b[8:]
	}
	Unmask(b, b, key)
}
