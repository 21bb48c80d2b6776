// Package snippets compiles the Go code in the project's documents. It is for
// tests of the modules that the code needs.
package snippets

import (
	"encoding/json"
	"fmt"
	"go/format"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// imports are the packages that snippets may use without naming them, by the
// names by which they use them.
var imports = map[string]string{
	"bytes":     "bytes",
	"console":   "github.com/seed-ffb73231/wsproxy/console",
	"context":   "context",
	"errors":    "errors",
	"expvar":    "expvar",
	"httptest":  "net/http/httptest",
	"httputil":  "net/http/httputil",
	"http":      "net/http",
	"log":       "log",
	"net":       "net",
	"netip":     "net/netip",
	"os":        "os",
	"slog":      "log/slog",
	"syscall":   "syscall",
	"time":      "time",
	"tls":       "crypto/tls",
	"url":       "net/url",
	"websocket": "github.com/coder/websocket",
	"wsproxy":   "github.com/seed-ffb73231/wsproxy",
	"x509":      "crypto/x509",
}

// foreign are those that the root module doesn't require.
var foreign = map[string]string{
	"autocert":     "golang.org/x/crypto/acme/autocert",
	"chi":          "github.com/go-chi/chi/v5",
	"echo":         "github.com/labstack/echo/v4",
	"gin":          "github.com/gin-gonic/gin",
	"prometheus":   "github.com/prometheus/client_golang/prometheus",
	"promhttp":     "github.com/prometheus/client_golang/prometheus/promhttp",
	"wsprometheus": "github.com/seed-ffb73231/wsproxy/metrics/prometheus",
}

// given are the variables that snippets may use without declaring them.
var given = map[string]string{
	"check":  "func(*http.Request) (name string, expires time.Time, ok bool)",
	"ctx":    "context.Context",
	"engine": "*gin.Engine",
	"login":  "func(http.Handler) http.Handler",
	"mux":    "*http.ServeMux",
	"pages":  "func(target string) http.Handler",
	"proxy":  "*wsproxy.Proxy",
	"router": "chi.Router",
	"server": "*http.Server",
	"web":    "*echo.Echo",
	"w":      "http.ResponseWriter",
	"r":      "*http.Request",
}

// declared are the variables that snippets may declare without using them.
var declared = []string{"conn", "err", "pages", "proxy"}

// Own is the key for snippets that use no foreign package.
const Own = ""

// Test compiles the snippets in README.md and docs of the repository at root that
// use one of the foreign packages that least names; Own names the snippets that
// use none. It fails if it finds fewer than least says for a name. The test's own
// module must have the packages.
func Test(t *testing.T, root string, least map[string]int) {
	documents, err := filepath.Glob(filepath.Join(root, "docs", "*.md"))
	if err != nil || len(documents) == 0 {
		t.Fatalf("no documents: %v", err)
	}
	here, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	temp := t.TempDir()
	overlay := struct{ Replace map[string]string }{map[string]string{}}
	args := []string{"build", "-o", os.DevNull, "-overlay", filepath.Join(temp, "overlay.json")}
	n, found := 0, make(map[string]int)
	for _, document := range append(documents, filepath.Join(root, "README.md")) {
		text, err := os.ReadFile(document)
		if err != nil {
			t.Fatal(err)
		}
		for _, at := range regexp.MustCompile("(?ms)^( *)```go\n(.*?)^ *```").FindAllSubmatchIndex(text, -1) {
			snippet := string(text[at[4]:at[5]])
			line := 1 + strings.Count(string(text[:at[4]]), "\n")
			wanted := false
			for _, name := range foreignNames(snippet) {
				if _, ok := least[name]; ok {
					found[name]++
					wanted = true
				}
			}
			if !wanted {
				continue
			}
			if indent := string(text[at[2]:at[3]]); indent != "" {
				snippet = strings.ReplaceAll("\n"+snippet, "\n"+indent, "\n")[1:]
			}
			position := fmt.Sprintf("%s:%d", document, line)
			if formatted, err := format.Source([]byte(snippet)); err == nil && string(formatted) != snippet {
				t.Errorf("%s: gofmt would have\n%s", position, formatted)
			}
			file := filepath.Join(temp, fmt.Sprintf("%d.go", n))
			if err := os.WriteFile(file, []byte(source(snippet, position)), 0o600); err != nil {
				t.Fatal(err)
			}
			directory := "snippets" // all fragments are one package: that is compiled fastest
			if isProgram(snippet) {
				directory = fmt.Sprintf("program%d", n)
			}
			overlay.Replace[filepath.Join(here, directory, filepath.Base(file))] = file
			if !slices.Contains(args, "./"+directory) {
				args = append(args, "./"+directory)
			}
			n++
		}
	}
	for name, want := range least {
		if found[name] < want {
			t.Errorf("found %d snippets that use %q, want at least %d", found[name], name, want)
		}
	}
	b, err := json.Marshal(overlay)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(args[4], b, 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.CommandContext(t.Context(), "go", args...).CombinedOutput(); err != nil {
		t.Errorf("go build: %v\n%s", err, out)
	}
}

func isProgram(snippet string) bool { return strings.HasPrefix(snippet, "package ") }

// source makes a Go file of a snippet: a whole program as it is, anything else as
// a function.
func source(snippet, position string) string {
	line := "//line " + position + "\n"
	if isProgram(snippet) {
		return line + snippet
	}
	before, after := around(snippet)
	packages := used(before+snippet, imports)
	maps.Copy(packages, foreignUses(snippet))
	var head strings.Builder
	head.WriteString("package snippets\nimport (\n")
	for _, name := range slices.Sorted(maps.Keys(packages)) {
		fmt.Fprintf(&head, "%s %q\n", name, packages[name])
	}
	return head.String() + ")\nfunc _() {\n" + before + line + snippet + after + "}\n"
}

// around returns what makes a function's body of a snippet. Options, each with a
// comma behind it, become the elements of a slice; anything else is statements.
func around(snippet string) (before, after string) {
	for _, name := range slices.Sorted(maps.Keys(given)) {
		if regexp.MustCompile(`\b`+name+`\b`).MatchString(snippet) && !declares(snippet, name) {
			before += fmt.Sprintf("var %s %s\n_ = %[1]s\n", name, given[name])
		}
	}
	if strings.Contains(snippet, "userKey{}") && !strings.HasPrefix(snippet, "type userKey") {
		before += "type userKey struct{}\n"
	}
	for _, name := range declared {
		if declares(snippet, name) {
			after += "_ = " + name + "\n"
		}
	}
	if strings.HasPrefix(snippet, "wsproxy.With") {
		before, after = before+"_ = []wsproxy.Option{\n", "}\n"
	}
	return before, after
}

// foreignUses returns the foreign packages that a snippet needs.
func foreignUses(snippet string) map[string]string {
	if isProgram(snippet) {
		return used(snippet, foreign)
	}
	before, _ := around(snippet)
	return used(before+snippet, foreign)
}

// foreignNames returns the names of the foreign packages that a snippet needs, or
// Own.
func foreignNames(snippet string) []string {
	if uses := foreignUses(snippet); len(uses) > 0 {
		return slices.Collect(maps.Keys(uses))
	}
	return []string{Own}
}

// declares reports whether the snippet declares the variable at its top level.
func declares(snippet, name string) bool {
	return regexp.MustCompile(`(?m)^(\w+, )*` + name + `(, \w+)* :=`).MatchString(snippet)
}

// used returns the packages that code uses.
func used(code string, packages map[string]string) map[string]string {
	found := make(map[string]string)
	code = regexp.MustCompile(`//[^\n]*|"[^"\n]*"`).ReplaceAllString(code, "")
	for name, path := range packages {
		if regexp.MustCompile(`(^|[^\w.])` + name + `\.`).MatchString(code) {
			found[name] = path
		}
	}
	return found
}
