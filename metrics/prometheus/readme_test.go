package wsprometheus_test

import (
	"testing"

	"github.com/seed-ffb73231/wsproxy/internal/snippets"
)

// The snippets in README.md and docs that need this module compile.
func TestSnippets(t *testing.T) { snippets.Test(t, "../..", map[string]int{"wsprometheus": 1}) }
