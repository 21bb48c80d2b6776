// Command table writes which tests prove which case, and how they went, into
// README.md. It reads the output of go test -json, of any number of modules:
//
//	go run ./table root.json faults.json
//	go run ./table -check root.json faults.json
//
// It fails if a case of cases.tsv has no test and no reason for that, if a test
// names a case that is not there, or if a test has failed.
package main

import (
	"bytes"
	"cmp"
	_ "embed"
	"flag"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
)

//go:embed cases.tsv
var list string

// The table is between these two lines.
const (
	begin = "<!-- table: begin -->\n"
	end   = "<!-- table: end -->\n"
)

func main() {
	readme := flag.String("readme", "README.md", "the file to write the table into")
	check := flag.Bool("check", false, "compare the table instead of writing it")
	flag.Parse()
	if err := run(*readme, *check, flag.Args()); err != nil {
		fmt.Fprintln(os.Stderr, "table:", err)
		os.Exit(1)
	}
}

func run(readme string, check bool, inputs []string) error {
	cases, err := parseCases(list)
	if err != nil {
		return err
	}
	results := make(results)
	if len(inputs) == 0 {
		inputs = []string{"-"}
	}
	for _, name := range inputs {
		if err := readFile(results, name); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	text, mistakes := render(cases, results)
	for _, m := range mistakes {
		fmt.Fprintln(os.Stderr, m)
	}
	old, err := os.ReadFile(readme)
	if err != nil {
		return err
	}
	changed, err := replace(old, text)
	if err != nil {
		return fmt.Errorf("%s: %w", readme, err)
	}
	switch {
	case len(mistakes) > 0 && check:
		return fmt.Errorf("%d mistakes", len(mistakes))
	case check && !bytes.Equal(old, changed):
		return fmt.Errorf("the table in %s is not what the tests say: %s", readme, firstDifference(old, changed))
	case check:
		return nil
	}
	if err := os.WriteFile(readme, changed, 0o644); err != nil {
		return err
	}
	if len(mistakes) > 0 {
		return fmt.Errorf("%d mistakes", len(mistakes))
	}
	return nil
}

func readFile(r results, name string) error {
	in := io.Reader(os.Stdin)
	if name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return err
		}
		defer f.Close()
		in = f
	}
	return r.read(in)
}

// A testCase is a line of cases.tsv.
type testCase struct {
	number, title string
	why           string // it is out of scope; "": it isn't
}

func parseCases(list string) ([]testCase, error) {
	var cases []testCase
	seen := make(map[string]bool)
	for i, line := range strings.Split(strings.TrimSuffix(list, "\n"), "\n") {
		fields := append(strings.Split(line, "\t"), "", "")
		c := testCase{fields[0], fields[1], fields[2]}
		if c.number == "" || c.title == "" || seen[c.number] {
			return nil, fmt.Errorf("cases.tsv:%d: want a number of its own and a title", i+1)
		}
		seen[c.number] = true
		cases = append(cases, c)
	}
	return cases, nil
}

// render writes the table and returns what is wrong with it.
func render(cases []testCase, r results) (text string, mistakes []string) {
	var b strings.Builder
	b.WriteString("| | Case | Tests | Result |\n|---|---|---|---|\n")
	by := r.byCase()
	for _, c := range cases {
		names, result := r.summary(by[c.number])
		switch {
		case c.why != "" && len(names) > 0:
			mistakes = append(mistakes, c.number+": out of scope, but "+names[0]+" is about it")
		case c.why != "":
			result = "out of scope: " + c.why
		case len(names) == 0:
			mistakes = append(mistakes, c.number+": no test")
			result = "**none**"
		}
		delete(by, c.number)
		fmt.Fprintf(&b, "| %s | %s | %s | %s |\n", c.number, c.title, strings.Join(names, ", "), result)
	}
	for number, tests := range by {
		names, _ := r.summary(tests)
		mistakes = append(mistakes, fmt.Sprintf("%q: no such case, in %s", number, strings.Join(names, ", ")))
	}
	for _, id := range r.failed() {
		mistakes = append(mistakes, "failed: "+id)
	}
	slices.Sort(mistakes)
	return b.String(), mistakes
}

// replace puts the table into a file's text.
func replace(old []byte, table string) ([]byte, error) {
	head, rest, ok := strings.Cut(string(old), begin)
	_, tail, ok2 := strings.Cut(rest, end)
	if !ok || !ok2 {
		return nil, fmt.Errorf("no table to replace: want %q and %q", begin, end)
	}
	return []byte(head + begin + table + end + tail), nil
}

func firstDifference(a, b []byte) string {
	x, y := strings.Split(string(a), "\n"), strings.Split(string(b), "\n")
	for i := range max(len(x), len(y)) {
		if i >= len(x) || i >= len(y) || x[i] != y[i] {
			at := func(l []string) string {
				if i < len(l) {
					return l[i]
				}
				return ""
			}
			return fmt.Sprintf("line %d: %q, want %q", i+1, at(x), at(y))
		}
	}
	return cmp.Or(string(a), "empty")
}
