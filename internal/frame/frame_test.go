package frame

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"strings"
	"testing"
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
		InMessage   bool
		op          byte
		fin         bool
		length      uint64
		size        int
	}{
		{"unmasked text", "81 05 48 65 6c 6c 6f", false, false, OpText, true, 5, 2},
		{"masked text", "81 85 37 fa 21 3d 7f 9f 4d 51 58", true, false, OpText, true, 5, 6},
		{"first fragment", "01 03 48 65 6c", false, false, OpText, false, 3, 2},
		{"last fragment", "80 02 6c 6f", false, true, OpContinuation, true, 2, 2},
		{"unmasked ping", "89 05 48 65 6c 6c 6f", false, false, OpPing, true, 5, 2},
		{"masked pong", "8a 85 37 fa 21 3d 7f 9f 4d 51 58", true, false, OpPong, true, 5, 6},
		{"256 bytes", "82 7e 01 00", false, false, OpBinary, true, 256, 4},
		{"64 KiB", "82 7f 00 00 00 00 00 01 00 00", false, false, OpBinary, true, 65536, 10},
		{"2^63-1 bytes", "82 ff 7f ff ff ff ff ff ff ff 01 02 03 04", true, false, OpBinary, true, 1<<63 - 1, 14},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := Scanner{Masked: tt.masked, InMessage: tt.InMessage}
			b := unhex(t, tt.frame)
			for n := 1; n < tt.size; n++ { // incomplete at every cut
				if h, err := s.Next(b[:n]); err != nil || h.Size != 0 {
					t.Fatalf("%d bytes: got size %d, error %v, want an incomplete header", n, h.Size, err)
				}
			}
			h, err := s.Next(b)
			if err != nil {
				t.Fatal(err)
			}
			if h.Opcode() != tt.op || h.Fin() != tt.fin || h.Length != tt.length || h.Size != tt.size {
				t.Errorf("got op %d, fin %v, length %d, size %d, want %d, %v, %d, %d",
					h.Opcode(), h.Fin(), h.Length, h.Size, tt.op, tt.fin, tt.length, tt.size)
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
		s     Scanner
		frame string
		want  Violation
	}{
		{"RSV1", Scanner{}, "c1", ErrReservedBits},
		{"RSV2", Scanner{}, "a1", ErrReservedBits},
		{"RSV3", Scanner{}, "91", ErrReservedBits},
		{"RSV2 with deflate", Scanner{RSVMessage: RSV1Bit}, "e1", ErrReservedBits},
		{"RSV1 on a continuation", Scanner{RSVMessage: RSV1Bit, InMessage: true}, "c0", ErrReservedBits},
		{"RSV1 on a ping", Scanner{RSVMessage: RSV1Bit}, "c9", ErrReservedBits},
		{"opcode 3", Scanner{}, "83", ErrReservedOpcode},
		{"opcode 7", Scanner{}, "87", ErrReservedOpcode},
		{"opcode 11", Scanner{}, "8b", ErrReservedOpcode},
		{"opcode 15", Scanner{}, "8f", ErrReservedOpcode},
		{"fragmented close", Scanner{}, "08", ErrControlFragment},
		{"fragmented ping", Scanner{}, "09", ErrControlFragment},
		{"long ping", Scanner{}, "89 7e", ErrControlTooLong},
		{"long masked close", Scanner{Masked: true}, "88 ff", ErrControlTooLong},
		{"unmasked", Scanner{Masked: true}, "81 05", ErrUnmasked},
		{"masked", Scanner{}, "81 85", ErrMasked},
		{"top bit", Scanner{}, "82 7f 80", ErrLengthTopBit},
		{"125 in 16 bits", Scanner{}, "82 7e 00 7d", ErrLengthNotMinimal},
		{"65535 in 64 bits", Scanner{}, "82 7f 00 00 00 00 00 00 ff ff", ErrLengthNotMinimal},
		{"stray continuation", Scanner{}, "80", ErrNothingToResume},
		{"text in a message", Scanner{InMessage: true}, "81", ErrMessageUnended},
		{"binary in a message", Scanner{InMessage: true}, "02", ErrMessageUnended},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b := unhex(t, tt.frame)
			for n := 1; n < len(b); n++ {
				if _, err := tt.s.Next(b[:n]); err != nil {
					t.Errorf("%d bytes: got %v, want nothing yet", n, err)
				}
			}
			if _, err := tt.s.Next(b); err != tt.want {
				t.Errorf("got %v, want %v", err, tt.want)
			}
		})
	}
	for _, ok := range []struct {
		s     Scanner
		frame string
	}{
		{Scanner{RSVMessage: RSV1Bit}, "c1 00"},
		{Scanner{RSVMessage: RSV1Bit}, "81 00"},
		{Scanner{RSVAny: RSVBits, InMessage: true}, "f0 00"},
		{Scanner{InMessage: true}, "89 00"},
		{Scanner{}, "82 7e 00 7e"},
	} {
		if _, err := ok.s.Next(unhex(t, ok.frame)); err != nil {
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
		_, err := CloseCode(binary.BigEndian.AppendUint16(nil, uint16(code)))
		if (err == nil) != want {
			t.Errorf("code %d: got error %v, want allowed=%v", code, err, want)
		}
	}
	for _, tt := range []struct {
		body string
		want error
	}{
		{"", nil},
		{"\x03", ErrCloseBody},
		{"\x03\xe8fine", nil},
		{"\x03\xe8\xff", ErrCloseReason},
		{"\x03\xe8\xc3", ErrCloseReason},
	} {
		if _, err := CloseCode([]byte(tt.body)); err != tt.want {
			t.Errorf("body %q: got %v, want %v", tt.body, err, tt.want)
		}
	}
}

// What we build, we can read.
func TestAppendControl(t *testing.T) {
	t.Attr("case", "A49 C21")
	keys := make(map[uint32]bool)
	for i := range 1000 {
		body := strings.Repeat("x", i%(MaxControlPayload+1))
		b := AppendControl(nil, OpPing, true, []byte(body))
		s := Scanner{Masked: true}
		h, err := s.Next(b)
		if err != nil || h.Opcode() != OpPing || len(b) != h.Size+len(body) {
			t.Fatalf("got header %+v, error %v for a body of %d", h, err, len(body))
		}
		got := make([]byte, len(body))
		Unmask(got, b[h.Size:], h.Key)
		if string(got) != body {
			t.Fatalf("got body %q, want %q", got, body)
		}
		keys[h.Key] = true
	}
	// A49, C21: the chance of three equal pairs among 1,000 is below one in 10^11.
	if len(keys) < 998 {
		t.Errorf("got %d different masking keys in 1,000 frames", len(keys))
	}
	if got, want := AppendClose(nil, false, GoingAway, "x"), unhex(t, "88 03 03 e9 78"); !bytes.Equal(got, want) {
		t.Errorf("Close: got %x, want %x", got, want)
	}
	if got, want := AppendClose(nil, false, NoStatus, "x"), unhex(t, "88 00"); !bytes.Equal(got, want) {
		t.Errorf("Close without a code: got %x, want %x", got, want)
	}
}

// A data frame that we build can be read, whatever its size, and its key is fresh.
func TestAppendMessage(t *testing.T) {
	keys := make(map[uint32]bool)
	for _, size := range []int{0, 1, 7, 8, 31, 32, 33, 125, 126, 0xFFFF, 0x10000, 70_001} {
		payload := make([]byte, size)
		for i := range payload {
			payload[i] = byte(i * i >> 3)
		}
		for _, masked := range []bool{false, true} {
			b := AppendMessage([]byte("before"), RSV1Bit|OpBinary, masked, payload)[len("before"):]
			s := Scanner{Masked: masked, RSVMessage: RSV1Bit}
			h, err := s.Next(b)
			if err != nil || h.First != FinBit|RSV1Bit|OpBinary || h.Length != uint64(size) || len(b) != h.Size+size || h.Size > MaxDataHeader {
				t.Fatalf("%d bytes, masked=%v: got header %+v, error %v", size, masked, h, err)
			}
			got := make([]byte, size)
			Unmask(got, b[h.Size:], h.Key)
			if !bytes.Equal(got, payload) {
				t.Errorf("%d bytes, masked=%v: the payload differs", size, masked)
			}
			if masked {
				keys[h.Key] = true
			}
		}
	}
	if len(keys) < 12 {
		t.Errorf("%d masking keys in 12 frames", len(keys))
	}
}

// FuzzFrameHeader holds the Scanner against a plain reading of RFC 6455, 5.2,
// at every cut of the bytes.
func FuzzFrameHeader(f *testing.F) {
	for _, s := range []string{"81 05", "82 fe 01 00 37 fa 21 3d", "82 7f 7f ff ff ff ff ff ff ff", "88 7e 00 7e", "c1 80 00 00 00 00", "00 00", "82 7f 80"} {
		f.Add(unhex(f, s), byte(0), false, false)
		f.Add(unhex(f, s), byte(RSV1Bit), true, true)
	}
	f.Fuzz(func(t *testing.T, b []byte, rsv byte, masked, InMessage bool) {
		if len(b) == 0 {
			return
		}
		made := Scanner{Masked: masked, InMessage: InMessage, RSVMessage: rsv & RSVBits}
		legal, complete, size, length := referenceHeader(b, made)
		s := made
		h, err := s.Next(b)
		if (err == nil) != legal {
			t.Fatalf("%x: got error %v, want legal=%v", b, err, legal)
		}
		if err != nil {
			return
		}
		if (h.Size != 0) != complete {
			t.Fatalf("%x: got size %d, want complete=%v", b, h.Size, complete)
		}
		if complete && (h.Size != size || h.Length != length) {
			t.Fatalf("%x: got size %d length %d, want %d %d", b, h.Size, h.Length, size, length)
		}
		if s2 := made; !complete && s != s2 {
			t.Fatalf("%x: an incomplete header changed the Scanner", b)
		}
		for n := 1; n < len(b); n++ { // what is legal is legal up to any cut
			s := made
			if _, err := s.Next(b[:n]); err != nil {
				t.Fatalf("%x: cut at %d: %v", b, n, err)
			}
		}
	})
}

// referenceHeader reads one header the slow way.
func referenceHeader(b []byte, s Scanner) (legal, complete bool, size int, length uint64) {
	op, fin, rsv := b[0]&15, b[0]>>7 == 1, b[0]&0x70
	data := op <= 2
	if op > 2 && op < 8 || op > 10 {
		return false, false, 0, 0
	}
	if op >= 8 && !fin || op == 0 && !s.InMessage || (op == 1 || op == 2) && s.InMessage {
		return false, false, 0, 0
	}
	if rsv != 0 && !(data && op != 0 && rsv&^s.RSVMessage == 0) {
		return false, false, 0, 0
	}
	if len(b) == 1 {
		return true, false, 0, 0
	}
	if b[1]>>7 == 1 != s.Masked {
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
	if s.Masked {
		size += 4
	}
	return true, len(b) >= size, size, length
}

// BenchmarkHeader walks one frame's header.
func BenchmarkHeader(b *testing.B) {
	frame := append(unhex(b, "82 fe 01 00 37 fa 21 3d"), make([]byte, 256)...)
	s := Scanner{Masked: true}
	b.ReportAllocs()
	for b.Loop() {
		if h, err := s.Next(frame); err != nil || h.Length != 256 {
			b.Fatal(h, err)
		}
	}
}
