package fuzz_test

import (
	"testing"

	"github.com/seed-ffb73231/wsproxy/internal/remains"
)

// After all tests, sessions must have left nothing.
func TestMain(m *testing.M) { remains.Exit(m.Run()) }
