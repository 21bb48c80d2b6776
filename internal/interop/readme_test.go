package interop

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// The README's snippets that need another module than the root's compile.
func TestREADME(t *testing.T) {
	readme, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, module := range []struct{ name, path, given string }{
		{"autocert", "golang.org/x/crypto/acme/autocert", "server := new(http.Server)"},
		{"chi", "github.com/go-chi/chi/v5", "var proxy http.Handler"},
	} {
		t.Run(module.name, func(t *testing.T) {
			var snippet strings.Builder
			for _, s := range regexp.MustCompile("(?s)```go\n(.*?)```").FindAllStringSubmatch(string(readme), -1) {
				if strings.Contains(s[1], module.name+".") {
					snippet.WriteString(s[1])
				}
			}
			if snippet.String() == "" {
				t.Fatalf("no snippet with %s", module.name)
			}
			program := "package main\nimport (\n\"net/http\"\n\"" + module.path + "\"\n)\nfunc main() {\n" + module.given + "\n" + snippet.String() + "}\n"
			dir, err := os.MkdirTemp(".", "readme") // inside the module, for its go.mod
			if err != nil {
				t.Fatal(err)
			}
			defer os.RemoveAll(dir)
			if err := os.WriteFile(filepath.Join(dir, "main.go"), []byte(program), 0o600); err != nil {
				t.Fatal(err)
			}
			if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", os.DevNull, "./"+dir).CombinedOutput(); err != nil {
				t.Errorf("go build: %v\n%s", err, out)
			}
		})
	}
}
