package relay_test

import (
	"flag"
	"testing"

	"github.com/seed-ffb73231/wsproxy/internal/remains"
)

// After all tests, sessions must have left nothing.
func TestMain(m *testing.M) {
	flag.Parse()
	flag.Set("test.parallel", "8") // they mostly wait
	remains.Exit(m.Run())
}
