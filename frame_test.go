package wsproxy

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/coder/websocket"
)

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// The examples of RFC 6455, 5.7.
func TestHeaderRFCExamples(t *testing.T) {
	t.Attr("case", "C17")
	tests := []struct {
		name, frame string
		masked      bool
		inMessage   bool
		op          byte
		fin         bool
		length      uint64
		size        int
	}{
		{"unmasked text", "81 05 48 65 6c 6c 6f", false, false, opText, true, 5, 2},
		{"masked text", "81 85 37 fa 21 3d 7f 9f 4d 51 58", true, false, opText, true, 5, 6},
		{"first fragment", "01 03 48 65 6c", false, false, opText, false, 3, 2},
		{"last fragment", "80 02 6c 6f", false, true, opContinuation, true, 2, 2},
		{"unmasked ping", "89 05 48 65 6c 6c 6f", false, false, opPing, true, 5, 2},
		{"masked pong", "8a 85 37 fa 21 3d 7f 9f 4d 51 58", true, false, opPong, true, 5, 6},
		{"256 bytes", "82 7e 01 00", false, false, opBinary, true, 256, 4},
		{"64 KiB", "82 7f 00 00 00 00 00 01 00 00", false, false, opBinary, true, 65536, 10},
		{"2^63-1 bytes", "82 ff 7f ff ff ff ff ff ff ff 01 02 03 04", true, false, opBinary, true, 1<<63 - 1, 14},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := scanner{masked: tt.masked, inMessage: tt.inMessage}
			b := unhex(t, tt.frame)
			for n := 1; n < tt.size; n++ { // incomplete at every cut
				if h, err := s.next(b[:n]); err != nil || h.size != 0 {
					t.Fatalf("%d bytes: got size %d, error %v, want an incomplete header", n, h.size, err)
				}
			}
			h, err := s.next(b)
			if err != nil {
				t.Fatal(err)
			}
			if h.opcode() != tt.op || h.fin() != tt.fin || h.length != tt.length || h.size != tt.size {
				t.Errorf("got op %d, fin %v, length %d, size %d, want %d, %v, %d, %d",
					h.opcode(), h.fin(), h.length, h.size, tt.op, tt.fin, tt.length, tt.size)
			}
		})
	}
}

// A45, A47, A48, A50, A51: each way for a header to be wrong, found at the
// first byte that shows it.
func TestHeaderViolations(t *testing.T) {
	t.Attr("case", "A45 A47 A48 A50 A51")
	tests := []struct {
		name  string
		s     scanner
		frame string
		want  violation
	}{
		{"RSV1", scanner{}, "c1", errReservedBits},
		{"RSV2", scanner{}, "a1", errReservedBits},
		{"RSV3", scanner{}, "91", errReservedBits},
		{"RSV2 with deflate", scanner{rsvMessage: rsv1Bit}, "e1", errReservedBits},
		{"RSV1 on a continuation", scanner{rsvMessage: rsv1Bit, inMessage: true}, "c0", errReservedBits},
		{"RSV1 on a ping", scanner{rsvMessage: rsv1Bit}, "c9", errReservedBits},
		{"opcode 3", scanner{}, "83", errReservedOpcode},
		{"opcode 7", scanner{}, "87", errReservedOpcode},
		{"opcode 11", scanner{}, "8b", errReservedOpcode},
		{"opcode 15", scanner{}, "8f", errReservedOpcode},
		{"fragmented close", scanner{}, "08", errControlFragment},
		{"fragmented ping", scanner{}, "09", errControlFragment},
		{"long ping", scanner{}, "89 7e", errControlTooLong},
		{"long masked close", scanner{masked: true}, "88 ff", errControlTooLong},
		{"unmasked", scanner{masked: true}, "81 05", errUnmasked},
		{"masked", scanner{}, "81 85", errMasked},
		{"top bit", scanner{}, "82 7f 80", errLengthTopBit},
		{"125 in 16 bits", scanner{}, "82 7e 00 7d", errLengthNotMinimal},
		{"65535 in 64 bits", scanner{}, "82 7f 00 00 00 00 00 00 ff ff", errLengthNotMinimal},
		{"stray continuation", scanner{}, "80", errNothingToResume},
		{"text in a message", scanner{inMessage: true}, "81", errMessageUnended},
		{"binary in a message", scanner{inMessage: true}, "02", errMessageUnended},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b := unhex(t, tt.frame)
			for n := 1; n < len(b); n++ {
				if _, err := tt.s.next(b[:n]); err != nil {
					t.Errorf("%d bytes: got %v, want nothing yet", n, err)
				}
			}
			if _, err := tt.s.next(b); err != tt.want {
				t.Errorf("got %v, want %v", err, tt.want)
			}
		})
	}
	for _, ok := range []struct {
		s     scanner
		frame string
	}{
		{scanner{rsvMessage: rsv1Bit}, "c1 00"},
		{scanner{rsvMessage: rsv1Bit}, "81 00"},
		{scanner{rsvAny: rsvBits, inMessage: true}, "f0 00"},
		{scanner{inMessage: true}, "89 00"},
		{scanner{}, "82 7e 00 7e"},
	} {
		if _, err := ok.s.next(unhex(t, ok.frame)); err != nil {
			t.Errorf("%s: got %v, want a legal header", ok.frame, err)
		}
	}
}

// A52: which Close bodies may pass.
func TestCloseCode(t *testing.T) {
	for code := range 70_000 {
		if code > 0xFFFF {
			break
		}
		want := code >= 1000 && code <= 1003 || code >= 1007 && code <= 1014 || code >= 3000 && code <= 4999
		_, err := closeCode(binary.BigEndian.AppendUint16(nil, uint16(code)))
		if (err == nil) != want {
			t.Errorf("code %d: got error %v, want allowed=%v", code, err, want)
		}
	}
	for _, tt := range []struct {
		body string
		want error
	}{
		{"", nil},
		{"\x03", errCloseBody},
		{"\x03\xe8fine", nil},
		{"\x03\xe8\xff", errCloseReason},
		{"\x03\xe8\xc3", errCloseReason},
	} {
		if _, err := closeCode([]byte(tt.body)); err != tt.want {
			t.Errorf("body %q: got %v, want %v", tt.body, err, tt.want)
		}
	}
}

// What we build, we can read.
func TestAppendControl(t *testing.T) {
	t.Attr("case", "A49 C21")
	keys := make(map[uint32]bool)
	for i := range 1000 {
		body := strings.Repeat("x", i%(maxControlPayload+1))
		b := appendControl(nil, opPing, true, []byte(body))
		s := scanner{masked: true}
		h, err := s.next(b)
		if err != nil || h.opcode() != opPing || len(b) != h.size+len(body) {
			t.Fatalf("got header %+v, error %v for a body of %d", h, err, len(body))
		}
		got := make([]byte, len(body))
		unmask(got, b[h.size:], h.key)
		if string(got) != body {
			t.Fatalf("got body %q, want %q", got, body)
		}
		keys[h.key] = true
	}
	// A49, C21: the chance of three equal pairs among 1,000 is below one in 10^11.
	if len(keys) < 998 {
		t.Errorf("got %d different masking keys in 1,000 frames", len(keys))
	}
	if got, want := appendClose(nil, false, websocket.StatusGoingAway, "x"), unhex(t, "88 03 03 e9 78"); !bytes.Equal(got, want) {
		t.Errorf("Close: got %x, want %x", got, want)
	}
	if got, want := appendClose(nil, false, websocket.StatusNoStatusRcvd, "x"), unhex(t, "88 00"); !bytes.Equal(got, want) {
		t.Errorf("Close without a code: got %x, want %x", got, want)
	}
}

// FuzzFrameHeader holds the scanner against a plain reading of RFC 6455, 5.2,
// at every cut of the bytes.
func FuzzFrameHeader(f *testing.F) {
	for _, s := range []string{"81 05", "82 fe 01 00 37 fa 21 3d", "82 7f 7f ff ff ff ff ff ff ff", "88 7e 00 7e", "c1 80 00 00 00 00", "00 00", "82 7f 80"} {
		f.Add(unhex(f, s), byte(0), false, false)
		f.Add(unhex(f, s), byte(rsv1Bit), true, true)
	}
	f.Fuzz(func(t *testing.T, b []byte, rsv byte, masked, inMessage bool) {
		if len(b) == 0 {
			return
		}
		made := scanner{masked: masked, inMessage: inMessage, rsvMessage: rsv & rsvBits}
		legal, complete, size, length := referenceHeader(b, made)
		s := made
		h, err := s.next(b)
		if (err == nil) != legal {
			t.Fatalf("%x: got error %v, want legal=%v", b, err, legal)
		}
		if err != nil {
			return
		}
		if (h.size != 0) != complete {
			t.Fatalf("%x: got size %d, want complete=%v", b, h.size, complete)
		}
		if complete && (h.size != size || h.length != length) {
			t.Fatalf("%x: got size %d length %d, want %d %d", b, h.size, h.length, size, length)
		}
		if s2 := made; !complete && s != s2 {
			t.Fatalf("%x: an incomplete header changed the scanner", b)
		}
		for n := 1; n < len(b); n++ { // what is legal is legal up to any cut
			s := made
			if _, err := s.next(b[:n]); err != nil {
				t.Fatalf("%x: cut at %d: %v", b, n, err)
			}
		}
	})
}

// referenceHeader reads one header the slow way.
func referenceHeader(b []byte, s scanner) (legal, complete bool, size int, length uint64) {
	op, fin, rsv := b[0]&15, b[0]>>7 == 1, b[0]&0x70
	data := op <= 2
	if op > 2 && op < 8 || op > 10 {
		return false, false, 0, 0
	}
	if op >= 8 && !fin || op == 0 && !s.inMessage || (op == 1 || op == 2) && s.inMessage {
		return false, false, 0, 0
	}
	if rsv != 0 && !(data && op != 0 && rsv&^s.rsvMessage == 0) {
		return false, false, 0, 0
	}
	if len(b) == 1 {
		return true, false, 0, 0
	}
	if b[1]>>7 == 1 != s.masked {
		return false, false, 0, 0
	}
	size = 2
	length = uint64(b[1] & 127)
	if length > 125 && !data {
		return false, false, 0, 0
	}
	extra := map[uint64]int{126: 2, 127: 8}[length]
	if extra == 8 && len(b) > 2 && b[2]>>7 == 1 {
		return false, false, 0, 0
	}
	if extra > 0 {
		if len(b) < 2+extra {
			return true, false, 0, 0
		}
		least := length
		length = 0
		for _, c := range b[2 : 2+extra] {
			length = length<<8 | uint64(c)
		}
		if least == 126 && length < 126 || least == 127 && length < 1<<16 {
			return false, false, 0, 0
		}
		size += extra
	}
	if s.masked {
		size += 4
	}
	return true, len(b) >= size, size, length
}

// BenchmarkHeader walks one frame's header.
func BenchmarkHeader(b *testing.B) {
	frame := append(unhex(b, "82 fe 01 00 37 fa 21 3d"), make([]byte, 256)...)
	s := scanner{masked: true}
	b.ReportAllocs()
	for b.Loop() {
		if h, err := s.next(frame); err != nil || h.length != 256 {
			b.Fatal(h, err)
		}
	}
}

// randomFrames returns a legal stream of n frames, most of them short, none
// with a payload over most bytes.
func randomFrames(r *rand.Rand, n int, masked bool, most int) []byte {
	var b []byte
	inMessage := false
	for range n {
		first := []byte{opText, opBinary}[r.IntN(2)]
		if inMessage {
			first = opContinuation
		}
		control := r.IntN(4) == 0
		if control {
			first = finBit | []byte{opPing, opPong}[r.IntN(2)]
		} else if r.IntN(2) == 0 {
			first |= finBit
			inMessage = false
		} else {
			inMessage = true
		}
		size := r.IntN(20)
		if !control && r.IntN(10) == 0 {
			size = r.IntN(most)
		}
		b = appendFrame(b, first, masked, size)
	}
	return b
}

// appendFrame appends a frame with a payload of that many bytes.
func appendFrame(b []byte, first byte, masked bool, size int) []byte {
	mask := byte(0)
	if masked {
		mask = maskBit
	}
	switch {
	case size < 126:
		b = append(b, first, mask|byte(size))
	case size <= 0xFFFF:
		b = append(b, first, mask|126)
		b = binary.BigEndian.AppendUint16(b, uint16(size))
	default:
		b = append(b, first, mask|127)
		b = binary.BigEndian.AppendUint64(b, uint64(size))
	}
	if masked {
		b = append(b, 1, 2, 3, 4)
	}
	for i := range size {
		b = append(b, byte(i))
	}
	return b
}
