package faults

import (
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// F44: a jump of the wall clock has no effect, because the proxy compares times
// by the monotonic reading of time.Now. Its source contains nothing that
// removes that reading or creates a time without one.
func TestMonotonicOnly(t *testing.T) {
	t.Attr("case", "F44")
	strips := []string{"Unix", "UnixMilli", "UnixMicro", "UnixNano", "Local", "UTC", "In", "AddDate", "Date", "Truncate", "Round"}
	var names []string
	for _, in := range []string{"../..", "../../internal/frame", "../../internal/protocol", "../../internal/relay", "../../internal/pool"} {
		of, err := filepath.Glob(in + "/*.go")
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, of...)
	}
	nows := 0
	for _, name := range names {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		files := token.NewFileSet()
		file, err := parser.ParseFile(files, name, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(file, func(n ast.Node) bool {
			if v, ok := n.(*ast.ValueSpec); ok && v.Names[0].Name == "longAgo" {
				return false // a deadline in the past, whatever the clock shows
			}
			call, ok := n.(*ast.CallExpr)
			if !ok {
				return true
			}
			if sel, ok := call.Fun.(*ast.SelectorExpr); ok {
				if sel.Sel.Name == "Now" {
					nows++
				}
				if slices.Contains(strips, sel.Sel.Name) && !isDuration(sel.X) {
					t.Errorf("%v: %s", files.Position(call.Pos()), sel.Sel.Name)
				}
			}
			return true
		})
	}
	if nows == 0 {
		t.Error("nobody asks for the time: this looks in the wrong place")
	}
}

// isDuration reports whether the expression is a call of time.Since or
// Session.now, which return a Duration.
func isDuration(e ast.Expr) bool {
	call, ok := e.(*ast.CallExpr)
	if !ok {
		return false
	}
	sel, ok := call.Fun.(*ast.SelectorExpr)
	return ok && (sel.Sel.Name == "now" || sel.Sel.Name == "Since")
}
