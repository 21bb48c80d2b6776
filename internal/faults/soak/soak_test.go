//go:build linux

package main

import (
	"os"
	"testing"
	"time"

	"github.com/seed-ffb73231/wsproxy/internal/faults/wire"
)

// TestSoak soaks for some ten seconds, or for as long as SOAK says.
func TestSoak(t *testing.T) {
	t.Attr("case", "C31 F42 F46 F49 F50 A33 A82 A83 A84 A85 A87 F51 F52 F54")
	st := settings{length: 6 * time.Second, every: 3 * time.Second, rate: 50, stay: 100, pause: 50 * time.Millisecond, out: t.Output()}
	if text := os.Getenv("SOAK"); text != "" {
		d, err := time.ParseDuration(text)
		if err != nil {
			t.Fatalf("SOAK: %v", err)
		}
		st = settings{length: d, every: time.Minute, rate: 100, stay: 400, pause: 400 * time.Millisecond, out: t.Output()}
	} else if testing.Short() {
		t.Skip("short")
	}
	wire.RaiseFiles()
	if n := run(st); n > 0 {
		t.Errorf("%d problems, see above", n)
	}
}
