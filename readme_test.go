package wsproxy_test

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// Every Go snippet in the README compiles: whole programs as they are,
// fragments as the body of a function that has a server and a mux.
func TestREADME(t *testing.T) {
	readme, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	root, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	snippets := regexp.MustCompile("(?s)```go\n(.*?)```").FindAllStringSubmatch(string(readme), -1)
	if len(snippets) < 4 {
		t.Fatalf("found %d snippets, want at least 4", len(snippets))
	}
	overlay := struct{ Replace map[string]string }{map[string]string{}}
	args := []string{"build", "-o", os.DevNull, "-overlay", filepath.Join(t.TempDir(), "overlay.json")}
	for i, s := range snippets {
		program := s[1]
		if strings.Contains(program, "autocert.") || strings.Contains(program, "chi.") {
			continue // needs a module that this one doesn't: internal/interop compiles it
		}
		if !strings.HasPrefix(program, "package ") {
			program = fragment(program)
		}
		file := filepath.Join(t.TempDir(), "main.go")
		if err := os.WriteFile(file, []byte(program), 0o600); err != nil {
			t.Fatal(err)
		}
		dir := fmt.Sprintf("readme%d", i)
		overlay.Replace[filepath.Join(root, dir, "main.go")] = file
		args = append(args, "./"+dir)
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

// fragment makes a program of statements. What they declare may go unused.
func fragment(statements string) string {
	var uses strings.Builder
	for _, name := range []string{"proxy", "err"} {
		if regexp.MustCompile(`(?m)^[^\n/]*\b` + name + `\b[^\n]*:=`).MatchString(statements) {
			uses.WriteString("_ = " + name + "\n")
		}
	}
	given := ""
	if !strings.Contains(statements, "proxy, err :=") {
		given += "var proxy *wsproxy.Proxy\n_ = proxy\n"
	}
	if strings.Contains(statements, "check(") {
		given += "check := func(string) (name string, expires time.Time, ok bool) { return }\n"
	}
	if !strings.Contains(statements, "server :=") {
		given += "server := new(http.Server)\n_ = server\n"
	}
	var imports strings.Builder
	for _, path := range []string{"context", "crypto/tls", "crypto/x509", "errors", "log", "net/http", "net/http/httputil", "net/netip", "net/url", "os", "time", "github.com/seed-ffb73231/wsproxy"} {
		imports.WriteString(fmt.Sprintf("%q\n", path))
	}
	return "package main\nimport (\n" + imports.String() + ")\n" +
		"var _ = []any{context.Background, tls.VersionName, x509.NewCertPool, os.Exit, errors.Join, log.Fatal, http.NewServeMux, httputil.NewSingleHostReverseProxy, netip.ParseAddr, url.Parse, time.Now, wsproxy.New}\n" +
		"func main() {\nmux := http.NewServeMux()\n_ = mux\n" +
		given + statements + uses.String() + "}\n"
}
