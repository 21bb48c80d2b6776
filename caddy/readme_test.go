package wscaddy

import (
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// Each Caddyfile of the README serves WebSockets, and other requests go to the
// reverse_proxy.
func TestREADME(t *testing.T) {
	readme, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	a, b := newUpstream(t, "a"), newUpstream(t, "b")
	examples := regexp.MustCompile("(?s)```caddyfile\n(.*?)```").FindAllStringSubmatch(string(readme), -1)
	if len(examples) < 4 {
		t.Errorf("found %d examples, want 4", len(examples))
	}
	for _, example := range examples {
		text := strings.NewReplacer("127.0.0.1:9000", a.addr(), "127.0.0.1:9001", b.addr(), "\nexample.com {", "\nSITE {").Replace("\n" + example[1])
		if strings.HasPrefix(text, "\n{\n") {
			text = "{\n\tGLOBAL\n" + text[3:]
		}
		s := start(t, text)
		path := "/websocket"
		if strings.Contains(text, "/chat/*") {
			path = "/chat/?room=7"
		}
		conn := s.open(t, path, nil)
		if resp, body := s.get(t, "/", nil); resp.StatusCode != 200 || body != "a" {
			t.Errorf("an ordinary request: got %d %q, want 200 and the upstream's name\n%s", resp.StatusCode, body, text)
		}
		if resp, _ := s.get(t, strings.ReplaceAll(path, "?room=7", "")+"page", http.Header{}); resp.StatusCode != 200 {
			t.Errorf("an ordinary request for a path of the WebSocket: got %d, want 200\n%s", resp.StatusCode, text)
		}
		if err := echo(conn); err != nil {
			t.Error(err)
		}
	}
}

// The README's program is one.
func TestREADMEProgram(t *testing.T) {
	readme, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	programs := regexp.MustCompile("(?s)```go\n(.*?)```").FindAllStringSubmatch(string(readme), -1)
	if len(programs) != 1 {
		t.Fatalf("found %d programs, want one", len(programs))
	}
	file := filepath.Join(t.TempDir(), "main.go")
	if err := os.WriteFile(file, []byte(programs[0][1]), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.CommandContext(t.Context(), "go", "vet", file).CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}
