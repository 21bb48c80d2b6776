package wsproxy_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/fstest"
)

// house is the module path, the prefix of the import paths of its packages.
const house = "github.com/seed-ffb73231/wsproxy"

// A room says what a package may import.
type room struct {
	ours      []string // packages of this module
	not       []string // packages that it may not import, directly or indirectly
	standard  bool     // of foreign packages it imports only the standard library
	clockless bool     // time is an argument
}

// rooms are the packages of this module. Not all of them need to exist.
var rooms = map[string]room{
	".":                {ours: []string{"internal/message", "internal/relay", "internal/pool", "internal/protocol", "internal/frame"}},
	"console":          {ours: []string{"."}},
	"internal/message": {ours: []string{"internal/relay", "internal/protocol", "internal/frame"}},
	"internal/relay":   {ours: []string{"internal/protocol", "internal/frame"}, not: []string{"net/http"}, standard: true},
	"internal/protocol": {ours: []string{"internal/frame"}, standard: true, clockless: true,
		not: []string{"net", "sync", "os", "syscall", "math/rand", "crypto"}},
	"internal/frame":    {standard: true, clockless: true, not: []string{"net", "sync", "os", "syscall"}},
	"internal/pool":     {standard: true, not: []string{"net", "log", "os", "syscall"}},
	"internal/wstest":   {},
	"internal/remains":  {ours: []string{"internal/relay"}},
	"internal/snippets": {},
}

// tools may be imported by the tests of every room.
var tools = []string{"internal/wstest", "internal/remains", "internal/snippets"}

// clock holds the names in package time that read the clock or wait.
var clock = []string{"Now", "Since", "Until", "Sleep", "After", "AfterFunc",
	"Tick", "Ticker", "NewTicker", "Timer", "NewTimer"}

// TestArrows: packages import only what is below them, on every operating
// system. Tests may import their own package and the test tools, too.
func TestArrows(t *testing.T) {
	t.Parallel()
	for _, wrong := range astray(t, os.DirFS(".")) {
		t.Error(wrong)
	}
}

// TestArrowsAstray: each rule reports a file that breaks it.
func TestArrowsAstray(t *testing.T) {
	t.Parallel()
	ours := func(dir string) string { return `import _ "` + path.Join(house, dir) + `"` }
	for _, test := range []struct{ file, text, want string }{
		{"proxy.go", ours("internal/relay"), ""},
		{"proxy.go", ours("internal/wstest"), "proxy.go imports internal/wstest"},
		{"proxy_test.go", ours("internal/wstest"), ""},
		{"internal/message/a.go", ours("internal/relay"), ""},
		{"internal/message/a.go", ours("."), "internal/message/a.go imports the face"},
		{"internal/message/a.go", ours("internal/pool"), "internal/message/a.go imports internal/pool"},
		{"internal/relay/a_linux.go", `import ("net"; "time"); var _ = time.Now()`, ""},
		{"internal/relay/a_windows.go", ours("."), "internal/relay/a_windows.go imports the face"},
		{"internal/relay/a_test.go", ours("."), "internal/relay/a_test.go imports the face"},
		{"internal/relay/a_test.go", `import _ "net/http"; ` + ours("internal/relay") + "; " + ours("internal/wstest"), ""},
		{"internal/relay/a.go", ours("internal/pool"), "internal/relay/a.go imports internal/pool"},
		{"internal/relay/a.go", ours("internal/message"), "internal/relay/a.go imports internal/message"},
		{"internal/relay/a.go", `import _ "net/http"`, "internal/relay/a.go imports net/http"},
		{"internal/relay/a.go", `import _ "github.com/coder/websocket"`, "internal/relay/a.go imports github.com/coder/websocket"},
		{"internal/protocol/a.go", `import "time"; const _ = time.Second; type _ struct{ time.Duration }`, ""},
		{"internal/protocol/a.go", ours("internal/relay"), "internal/protocol/a.go imports internal/relay"},
		{"internal/protocol/a.go", ours("."), "internal/protocol/a.go imports the face"},
		{"internal/protocol/a.go", `import _ "net"`, "internal/protocol/a.go imports net"},
		{"internal/protocol/a.go", `import _ "net/http"`, "internal/protocol/a.go imports net/http"},
		{"internal/protocol/a.go", `import _ "sync"`, "internal/protocol/a.go imports sync"},
		{"internal/protocol/a.go", `import _ "sync/atomic"`, "internal/protocol/a.go imports sync/atomic"},
		{"internal/protocol/a.go", `import _ "math/rand/v2"`, "internal/protocol/a.go imports math/rand/v2"},
		{"internal/protocol/a.go", `import "time"; var now = time.Now`, "internal/protocol/a.go uses time.Now"},
		{"internal/protocol/a.go", `import t "time"; var _ = t.Since(t.Time{})`, "internal/protocol/a.go uses time.Since"},
		{"internal/protocol/a.go", `import . "time"; var _ = Now`, "internal/protocol/a.go imports time as ."},
		{"internal/protocol/a.go", `import "time"; var _ *time.Timer`, "internal/protocol/a.go uses time.Timer"},
		{"internal/frame/a.go", ours("internal/protocol"), "internal/frame/a.go imports internal/protocol"},
		{"internal/frame/a.go", `import _ "net/textproto"`, "internal/frame/a.go imports net/textproto"},
		{"internal/pool/a.go", ours("internal/frame"), "internal/pool/a.go imports internal/frame"},
		{"internal/pool/a.go", `import _ "net"`, "internal/pool/a.go imports net"},
		{"internal/pool/a.go", `import _ "log/slog"`, "internal/pool/a.go imports log/slog"},
		{"internal/wstest/a.go", ours("."), "internal/wstest/a.go imports the face"},
		{"internal/relay/a_test.go", ours("internal/remains"), ""},
		{"internal/remains/a.go", ours("."), "internal/remains/a.go imports the face"},
		{"internal/attic/a.go", "", "internal/attic is no room of the house"},
		{"internal/relay/attic/a.go", "", "internal/relay/attic is no room of the house"},
	} {
		got := astray(t, fstest.MapFS{test.file: {Data: []byte("package a\n" + test.text)}})
		if strings.Join(got, "; ") != test.want {
			t.Errorf("%s with %s: got %q, want %q", test.file, test.text, got, test.want)
		}
	}
}

// astray returns the violations of the rooms' rules in the module at house.
func astray(t *testing.T, files fs.FS) (wrong []string) {
	t.Helper()
	err := fs.WalkDir(files, ".", func(name string, d fs.DirEntry, err error) error {
		dir := path.Dir(name)
		switch {
		case err != nil:
			return err
		case d.IsDir() && name != ".":
			if _, err := fs.Stat(files, path.Join(name, "go.mod")); err == nil || d.Name() == "testdata" || dir == "." && name != "internal" && rooms[name].ours == nil {
				return fs.SkipDir // another module, or not part of the module
			}
		case path.Ext(name) == ".go":
			r, ok := rooms[dir]
			if !ok {
				wrong = append(wrong, dir+" is no room of the house")
				return nil
			}
			text, err := fs.ReadFile(files, name)
			if err != nil {
				return err
			}
			f, err := parser.ParseFile(token.NewFileSet(), name, text, parser.SkipObjectResolution)
			if err != nil {
				return err
			}
			for _, w := range r.wrongs(dir, strings.HasSuffix(name, "_test.go"), f) {
				wrong = append(wrong, name+" "+w)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return wrong
}

// wrongs returns the violations in a file of the room in dir.
func (r room) wrongs(dir string, test bool, f *ast.File) (wrong []string) {
	below := func(p string) func(string) bool {
		return func(q string) bool { return p == q || strings.HasPrefix(p, q+"/") }
	}
	time := "" // the name under which the file imports package time
	for _, spec := range f.Imports {
		p, _ := strconv.Unquote(spec.Path.Value)
		own, ours := strings.CutPrefix(p+"/", house+"/")
		own = path.Clean(own)
		first, _, _ := strings.Cut(p, "/")
		switch {
		case ours && (slices.Contains(r.ours, own) || test && (own == dir || slices.Contains(tools, own))):
		case ours && own == ".":
			wrong = append(wrong, "imports the face")
		case ours:
			wrong = append(wrong, "imports "+own)
		case test:
		case slices.ContainsFunc(r.not, below(p)), r.standard && strings.Contains(first, "."):
			wrong = append(wrong, "imports "+p)
		case p == "time" && r.clockless:
			if time = p; spec.Name != nil {
				time = spec.Name.Name
			}
			if time == "." {
				wrong = append(wrong, "imports time as .")
			}
		}
	}
	ast.Inspect(f, func(n ast.Node) bool {
		if s, ok := n.(*ast.SelectorExpr); ok && slices.Contains(clock, s.Sel.Name) {
			if x, ok := s.X.(*ast.Ident); ok && time != "" && x.Name == time {
				wrong = append(wrong, "uses time."+s.Sel.Name)
			}
		}
		return true
	})
	return wrong
}
