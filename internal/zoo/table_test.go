//go:build linux

package zoo

import (
	"bytes"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
)

// docs is the file with the tables, each between two marker lines.
const docs = "../../docs/compatibility.md"

// A row is a row of the table.
type row struct {
	table   string // servers, clients, reconnecting
	name    string
	from    source
	version string
	why     string // why nginx needed more than four lines
	keeps   bool   // see server.keeps
	cells   []string
}

var entered struct {
	sync.Mutex
	rows []row
}

// usual has the usual outcomes of the steps that every program is tried with. The
// text above the table describes them; the table names only other outcomes.
var usual = map[string]string{
	"messages": "all come back",
	"Ping":     "Pong",
	"silence":  "outlived",
	"killed":   "Close 1011 upstream lost",
	"drained":  "Close 1001 shutting down",

	"host: Pongs": "1",
}

// likeOpen are the steps that should negotiate the same as the first WebSocket.
var likeOpen = []string{"open", "wss", "behind HAProxy"}

// enter compares a program's outcomes both ways and enters them in the table.
func enter(t *testing.T, r row, nginx, ours []outcome) {
	t.Helper()
	var all []string // in the order of the steps
	came := map[string][2]string{}
	for i, list := range [][]outcome{nginx, ours} {
		for _, o := range list {
			if !slices.Contains(all, o.what) {
				all = append(all, o.what)
			}
			both := came[o.what]
			both[i] = o.came
			came[o.what] = both
		}
	}
	var did, marks []string
	for _, what := range all {
		a, b := came[what][0], came[what][1]
		t.Logf("%s: nginx: %s; wsproxy: %s", what, a, b)
		if strings.HasPrefix(b, "fails") || strings.HasPrefix(b, "lost") {
			t.Errorf("%s: %s", what, b)
		}
		if a != b {
			mark := promised(what, a, b)
			if mark == "" {
				t.Errorf("%s: nginx: %s; wsproxy: %s", what, a, b)
			}
			known := what == "killed" || what == "drained" || what == "silence" && r.keeps
			if !known && !slices.Contains(marks, mark) {
				marks = append(marks, mark)
			}
		}
		if overWSS, ok := strings.CutPrefix(what, "wss: "); ok && b == came[overWSS][1] {
			continue
		}
		if usual[what] != b && !(slices.Contains(likeOpen, what) && b == came["open"][1]) {
			did = append(did, what+": "+b)
		}
	}
	if t.Failed() {
		return
	}
	agreed := came["open"][1]
	if agreed == "" {
		agreed = "–"
	}
	differs := strings.Join(marks, ", ")
	if r.why != "" {
		differs = strings.TrimPrefix(differs+"; nginx needs a fifth line, since "+r.why, "; ")
	}
	r.cells = []string{agreed, strings.Join(did, "; "), differs}
	enterRow(r)
}

// enterRow enters a row as it is.
func enterRow(r row) {
	entered.Lock()
	defer entered.Unlock()
	entered.rows = append(entered.rows, r)
}

// columns are a table's headings behind name and source.
func columns(table string) []string {
	if table != "reconnecting" {
		return []string{"Agreed on", "What came of it", "Other than nginx"}
	}
	var all []string
	for _, e := range endings {
		all = append(all, e.name)
	}
	return all
}

func (r row) line() string {
	cells := []string{r.name, fmt.Sprintf("%s %s (%s)", r.from.pkg, r.version, r.from.registry)}
	for _, c := range r.cells {
		cells = append(cells, strings.ReplaceAll(c, "|", `\|`))
	}
	return "| " + strings.Join(cells, " | ") + " |\n"
}

// withoutVersion returns a line of the table without what changes with Debian's
// packages.
func withoutVersion(line string) string {
	cells := strings.Split(line, " | ")
	if len(cells) > 1 {
		cells = slices.Delete(cells, 1, 2)
	}
	return strings.Join(cells, " | ")
}

// settle compares the rows of the programs that were run with those in the docs,
// or writes them to the docs.
func settle(write bool) error {
	text, err := os.ReadFile(docs)
	if err != nil {
		return err
	}
	var wrong []string
	for table, names := range names() {
		begin, end := []byte("<!-- zoo: "+table+" -->\n"), []byte("<!-- zoo: end of "+table+" -->\n")
		from, to := bytes.Index(text, begin), bytes.Index(text, end)
		if from < 0 || to < from {
			return fmt.Errorf("%s lacks the markers of the table of %s", docs, table)
		}
		from += len(begin)
		lines := map[string]string{} // by name
		for line := range strings.Lines(string(text[from:to])) {
			name, _, _ := strings.Cut(strings.TrimPrefix(line, "| "), " | ")
			lines[name] = line
		}
		for _, r := range entered.rows {
			if r.table != table {
				continue
			}
			if withoutVersion(lines[r.name]) != withoutVersion(r.line()) {
				wrong = append(wrong, r.line())
			}
			lines[r.name] = r.line()
		}
		var b strings.Builder
		b.WriteString("\n| Name | From | " + strings.Join(columns(table), " | ") + " |\n|---|---|" + strings.Repeat("---|", len(columns(table))) + "\n")
		for _, name := range names {
			b.WriteString(lines[name])
		}
		b.WriteString("\n")
		text = slices.Concat(text[:from], []byte(b.String()), text[to:])
	}
	if write {
		return os.WriteFile(docs, text, 0o644)
	}
	if wrong != nil {
		return fmt.Errorf("%s isn't current: run ./zoo.sh -update; these rows differ:\n%s", docs, strings.Join(wrong, ""))
	}
	return nil
}
