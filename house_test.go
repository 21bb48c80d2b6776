package wsproxy_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// CONTRIBUTING.md names every file of the package and every directory of
// internal, and nothing else.
func TestDocumentedFiles(t *testing.T) {
	t.Parallel()
	b, err := os.ReadFile("CONTRIBUTING.md")
	if err != nil {
		t.Fatal(err)
	}
	named := make(map[string]bool)
	for _, row := range regexp.MustCompile("(?m)^\\| (`.*`) \\| \\S").FindAllStringSubmatch(string(b), -1) {
		for name := range strings.SplitSeq(row[1], ", ") {
			named[strings.Trim(name, "`")] = true
		}
	}
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	rooms, err := filepath.Glob("internal/*")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range append(files, rooms...) {
		if !strings.HasSuffix(name, "_test.go") && !named[filepath.ToSlash(name)] {
			t.Errorf("CONTRIBUTING.md doesn't say what %s holds", name)
		}
	}
	for name := range named {
		if _, err := os.Stat(name); err != nil {
			t.Errorf("CONTRIBUTING.md names %s: %v", name, err)
		}
	}
}
