package interop

import (
	"testing"

	"github.com/seed-ffb73231/wsproxy/internal/snippets"
)

// The snippets in README.md and docs that need another module than the root's
// compile.
func TestSnippets(t *testing.T) {
	snippets.Test(t, "../..", map[string]int{"autocert": 1, "chi": 2, "gin": 1, "echo": 1})
}
