package frame

import (
	"crypto/rand"
	"encoding/binary"
	"unicode/utf8"
)

// A Code is the status code of a Close frame, RFC 6455, 7.4.
type Code uint16

const (
	NormalClosure   Code = 1000
	GoingAway       Code = 1001
	ProtocolError   Code = 1002
	NoStatus        Code = 1005 // stands for a Close frame without a code; never sent
	InvalidPayload  Code = 1007
	PolicyViolation Code = 1008
	MessageTooBig   Code = 1009
	InternalError   Code = 1011
	ServiceRestart  Code = 1012
	TryAgainLater   Code = 1013
)

// Sendable reports whether a Close frame may contain the code: by RFC 6455, 7.4,
// and the codes 1012-1014, which IANA has registered since.
func (c Code) Sendable() bool {
	switch c {
	case 1004, NoStatus, 1006:
		return false
	}
	return 1000 <= c && c <= 1014 || 3000 <= c && c <= 4999
}

// CloseCode returns the code in the unmasked body of a Close frame, or NoStatus
// if there is none (RFC 6455, 5.5.1).
func CloseCode(body []byte) (Code, error) {
	switch len(body) {
	case 0:
		return NoStatus, nil
	case 1:
		return 0, ErrCloseBody
	}
	code := Code(binary.BigEndian.Uint16(body))
	if !code.Sendable() {
		return 0, ErrCloseCode
	}
	if !utf8.Valid(body[2:]) {
		return 0, ErrCloseReason
	}
	return code, nil
}

// Unmask copies the masked bytes of src to dst and unmasks them. It is for the
// few bytes of a control frame; other payloads are never unmasked.
func Unmask(dst, src []byte, key uint32) {
	for i, b := range src {
		dst[i] = b ^ byte(key>>(i&3*8))
	}
}

// AppendControl appends a complete control frame to b. A masked frame, for the
// upstream, gets a fresh unpredictable key (RFC 6455, 5.3).
func AppendControl(b []byte, op byte, masked bool, body []byte) []byte {
	b = append(b, FinBit|op, byte(len(body)))
	if !masked {
		return append(b, body...)
	}
	b[len(b)-1] |= MaskBit
	var key [4]byte
	rand.Read(key[:])
	b = append(b, key[:]...)
	for i, c := range body {
		b = append(b, c^key[i&3])
	}
	return b
}

// AppendClose appends a Close frame with the code and the reason, or one
// without a body for NoStatus.
func AppendClose(b []byte, masked bool, code Code, reason string) []byte {
	if code == NoStatus {
		return AppendControl(b, OpClose, masked, nil)
	}
	body := binary.BigEndian.AppendUint16(make([]byte, 0, MaxControlPayload), uint16(code))
	return AppendControl(b, OpClose, masked, append(body, reason...))
}
