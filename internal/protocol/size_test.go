package protocol

import (
	"math/bits"
	"testing"
	"unsafe"
)

// A session at rest holds one Course and two Directions, a million sessions a
// million: they do not grow unnoticed.
func TestSizes(t *testing.T) {
	if bits.UintSize != 64 {
		t.Skip("the sizes are those of 64-bit machines")
	}
	for _, tt := range []struct {
		name      string
		got, want uintptr
	}{
		{"Course", unsafe.Sizeof(Course{}), 96},
		{"Direction", unsafe.Sizeof(Direction{}), 32},
	} {
		if tt.got != tt.want {
			t.Errorf("a %s takes %d bytes, want %d", tt.name, tt.got, tt.want)
		}
	}
}
