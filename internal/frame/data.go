package frame

import (
	"crypto/rand"
	"encoding/binary"
)

// AppendMessage appends a data frame that is a whole message to b, with the opcode
// and the payload. Its RSV bits are clear: with permessage-deflate that means that
// the message is not compressed (RFC 7692, 6). A masked frame, for the upstream,
// gets a fresh unpredictable key (RFC 6455, 5.3).
func AppendMessage(b []byte, op byte, masked bool, payload []byte) []byte {
	var mask byte
	if masked {
		mask = MaskBit
	}
	switch n := len(payload); {
	case n < 126:
		b = append(b, FinBit|op, mask|byte(n))
	case n <= 0xFFFF:
		b = binary.BigEndian.AppendUint16(append(b, FinBit|op, mask|126), uint16(n))
	default:
		b = binary.BigEndian.AppendUint64(append(b, FinBit|op, mask|127), uint64(n))
	}
	if !masked {
		return append(b, payload...)
	}
	var key [4]byte
	rand.Read(key[:])
	b = append(b, key[:]...)
	start := len(b)
	b = append(b, payload...)
	maskLong(b[start:], key)
	return b
}

// MaxDataHeader is the size of the longest header of a data frame.
const MaxDataHeader = 2 + 8 + 4

// maskLong masks a payload, eight bytes at a time.
func maskLong(b []byte, key [4]byte) {
	twice := uint64(binary.LittleEndian.Uint32(key[:])) * (1<<32 + 1)
	for len(b) >= 8 {
		binary.LittleEndian.PutUint64(b, binary.LittleEndian.Uint64(b)^twice)
		b = b[8:]
	}
	for i := range b {
		b[i] ^= key[i&3]
	}
}
