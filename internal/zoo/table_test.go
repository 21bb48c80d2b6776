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

// docs is where the tables stand, each between two lines.
const docs = "../../docs/compatibility.md"

// A row is what the table says of an animal.
type row struct {
	table   string // servers, clients
	name    string
	from    source
	version string
	why     string // why nginx needed more than four lines
	cells   []string
}

var entered struct {
	sync.Mutex
	rows []row
}

// usual is what comes of the things that are tried with every animal. The
// table tells of them above, and names only what is otherwise.
var usual = map[string]string{
	"messages": "all come back",
	"Ping":     "Pong",
	"silence":  "outlived",
	"killed":   "Close 1011 upstream lost",
	"drained":  "Close 1001 shutting down",

	"host: Pongs": "1",
}

// likeOpen is what should agree on the same as the first WebSocket that is
// opened.
var likeOpen = []string{"open", "wss", "behind HAProxy"}

// enter compares what came of an animal both ways, and enters it in the table.
func enter(t *testing.T, r row, nginx, ours []outcome) {
	t.Helper()
	var all []string // in the order in which it was tried
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
			if what != "killed" && what != "drained" && !slices.Contains(marks, mark) {
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
	entered.Lock()
	defer entered.Unlock()
	entered.rows = append(entered.rows, r)
}

func (r row) line() string {
	cells := []string{r.name, fmt.Sprintf("%s %s (%s)", r.from.pkg, r.version, r.from.registry)}
	for _, c := range r.cells {
		cells = append(cells, strings.ReplaceAll(c, "|", `\|`))
	}
	return "| " + strings.Join(cells, " | ") + " |\n"
}

// withoutVersion is a line of the table that doesn't change when Debian's
// packages do.
func withoutVersion(line string) string {
	cells := strings.Split(line, " | ")
	if len(cells) > 1 {
		cells = slices.Delete(cells, 1, 2)
	}
	return strings.Join(cells, " | ")
}

// settle compares the rows of the animals that were run with those in the docs,
// or writes them there.
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
		b.WriteString("\n| Name | From | Agreed on | What came of it | Other than nginx |\n|---|---|---|---|---|\n")
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
