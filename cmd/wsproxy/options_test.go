package main

import (
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// unused are the options that the gateway does not use.
var unused = map[string]string{
	"WithDialContext":  "source_addresses and address say all that a file can; a function is for programs",
	"WithFallback":     "what is no WebSocket is not the gateway's business",
	"WithErrorHandler": "the answers to refused clients are good enough for a gateway that has no pages of its own",
	"WithOnOpen":       "who may come in is for the upstream to say, or for a program that mounts the library",
	"WithOnMessage":    "a hook is code; a file has no word for what it does",
	"WithTap":          "the same",
	"WithOnClose":      "the log has a record of each session's end, and /stats the sums",
}

// The gateway uses every other option, as an example.
func TestEveryOption(t *testing.T) {
	exported := make(map[string]bool)
	for _, file := range files(t, "../..") {
		for _, decl := range file.Decls {
			if f, ok := decl.(*ast.FuncDecl); ok && f.Recv == nil && strings.HasPrefix(f.Name.Name, "With") {
				exported[f.Name.Name] = true
			}
		}
	}
	if len(exported) < 30 {
		t.Fatalf("found %d options, want at least 30", len(exported))
	}
	used := make(map[string]bool)
	for _, file := range files(t, ".") {
		ast.Inspect(file, func(n ast.Node) bool {
			if s, ok := n.(*ast.SelectorExpr); ok {
				if x, ok := s.X.(*ast.Ident); ok && x.Name == "wsproxy" {
					used[s.Sel.Name] = true
				}
			}
			return true
		})
	}
	for _, name := range slices.Sorted(maps.Keys(exported)) {
		switch why := unused[name]; {
		case !used[name] && why == "":
			t.Errorf("%s is not used, and there is no reason why", name)
		case used[name] && why != "":
			t.Errorf("%s is used: there is no need for a reason why not", name)
		}
	}
	for name := range unused {
		if !exported[name] {
			t.Errorf("there is no %s", name)
		}
	}
}

// files parses the Go files of a directory, without tests.
func files(t *testing.T, dir string) []*ast.File {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(dir, "*.go"))
	if err != nil {
		t.Fatal(err)
	}
	var list []*ast.File
	for _, name := range names {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, file)
	}
	return list
}
