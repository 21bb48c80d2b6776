package wstest

import (
	"net"
	"strings"
	"testing"
)

// RFC 6455, 1.3 and 5.7: the tools agree with the examples of the RFC.
func TestRFC(t *testing.T) {
	if got := AcceptKey(Key); got != KeyAnswer {
		t.Errorf("the answer to %s: got %s, want %s", Key, got, KeyAnswer)
	}
	for _, row := range []struct {
		first   byte
		masked  bool
		payload string
		want    string
	}{
		{Text, false, "Hello", "\x81\x05Hello"},
		{Text, true, "Hello", "\x81\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58"},
		{OpText, false, "Hel", "\x01\x03Hel"},
		{Fin | OpContinuation, false, "lo", "\x80\x02lo"},
		{Ping, false, "Hello", "\x89\x05Hello"},
		{Pong, true, "Hello", "\x8a\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58"},
		{Binary, false, strings.Repeat("x", 256), "\x82\x7E\x01\x00" + strings.Repeat("x", 256)},
		{Binary, false, strings.Repeat("x", 65536), "\x82\x7F\x00\x00\x00\x00\x00\x01\x00\x00" + strings.Repeat("x", 65536)},
		{Close, false, CloseBody(1000, "bye"), "\x88\x05\x03\xe8bye"},
		{Close, false, CloseBody(0, ""), "\x88\x00"},
	} {
		if got := RawFrame(row.first, row.masked, row.payload); got != row.want {
			t.Errorf("%#x %.10q masked=%v: got % .20x, want % .20x", row.first, row.payload, row.masked, got, row.want)
		}
	}
}

// One wire reads what the other one sends, for all lengths. An incomplete header
// is never taken for a complete one.
func TestReadFrame(t *testing.T) {
	for _, client := range []bool{false, true} {
		a, b := net.Pipe()
		from, to := NewWire(t, a, client), NewWire(t, b, !client)
		for _, n := range []int{0, 1, 7, 8, 9, 125, 126, 65535, 65536} {
			payload := strings.Repeat("payload ", n/8+1)[:n]
			frame := from.Frame(Binary, payload)
			from.SendLater(frame)
			to.Want(Binary, payload)
			size := len(frame) - n
			for part := range size {
				if h, ok := ParseHeader([]byte(frame[:part])); ok {
					t.Fatalf("%d of %d bytes of a header: got %v", part, size, h)
				}
			}
			if h, ok := ParseHeader([]byte(frame[:size])); !ok || h.Size != size || h.Length != uint64(n) || h.First != Binary || h.Masked != client {
				t.Errorf("header of %d bytes: got %v, %v", n, h, ok)
			}
		}
	}
}
