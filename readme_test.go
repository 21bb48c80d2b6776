package wsproxy_test

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/seed-ffb73231/wsproxy/internal/snippets"
)

// Every Go snippet in README.md and docs compiles. Those that need another
// module are compiled there.
func TestSnippets(t *testing.T) {
	t.Parallel() // it waits for the compiler
	snippets.Test(t, ".", map[string]int{snippets.Own: 20})
}

// documents returns the project's documents, by name.
func documents(t *testing.T) map[string]string {
	names, err := filepath.Glob("docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	all := make(map[string]string)
	for _, name := range append(names, "README.md", "SECURITY.md", "CHANGELOG.md") {
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		all[name] = string(b)
	}
	return all
}

// anchors returns the anchors of a document's headings, as GitHub names them.
func anchors(text string) (all []string) {
	text = regexp.MustCompile("(?s)```.*?```").ReplaceAllString(text, "")
	for _, m := range regexp.MustCompile(`(?m)^#+ (.*)$`).FindAllStringSubmatch(text, -1) {
		heading := regexp.MustCompile(`[^\pL\pN _-]`).ReplaceAllString(strings.ToLower(m[1]), "")
		all = append(all, strings.ReplaceAll(heading, " ", "-"))
	}
	return all
}

// Links within the repository resolve.
func TestLinks(t *testing.T) {
	t.Parallel()
	all := documents(t)
	links := 0
	for name, text := range all {
		for _, m := range regexp.MustCompile(`\]\(([^)]+)\)`).FindAllStringSubmatch(text, -1) {
			if strings.Contains(m[1], "://") {
				continue
			}
			links++
			path, anchor, _ := strings.Cut(m[1], "#")
			file := name
			if path != "" {
				file = filepath.Join(filepath.Dir(name), path)
			}
			if _, err := os.Stat(file); err != nil {
				t.Errorf("%s: link to %s: %v", name, m[1], err)
			} else if anchor != "" && !slices.Contains(anchors(all[filepath.ToSlash(file)]), anchor) {
				t.Errorf("%s: link to %s: no such heading", name, m[1])
			}
		}
	}
	if links < 20 {
		t.Errorf("found %d links, want at least 20", links)
	}
}

// The README stays short enough to be read.
func TestREADMELength(t *testing.T) {
	t.Parallel()
	if n := strings.Count(documents(t)["README.md"], "\n"); n > 180 {
		t.Errorf("README.md has %d lines, want at most 180", n)
	}
}

// docs/options.md lists every option once, and no document names one that does
// not exist.
func TestDocumentedOptions(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	exist := make(map[string]bool)
	for _, name := range files {
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range regexp.MustCompile(`(?m)^func (With\w+)\(.*\) Option \{`).FindAllStringSubmatch(string(b), -1) {
			exist[m[1]] = true
		}
	}
	if len(exist) < 30 {
		t.Fatalf("found %d options", len(exist))
	}
	all := documents(t)
	for name := range exist {
		if n := len(regexp.MustCompile("(?m)^\\| `"+name+`\(`).FindAllString(all["docs/options.md"], -1)); n != 1 {
			t.Errorf("docs/options.md has %d rows that begin with %s, want 1", n, name)
		}
	}
	delete(all, "CHANGELOG.md") // names of the past, too
	for document, text := range all {
		for _, m := range regexp.MustCompile(`(\w+\.)?\b(With[A-Z]\w+)`).FindAllStringSubmatch(text, -1) {
			if (m[1] == "" || m[1] == "wsproxy.") && !exist[m[2]] {
				t.Errorf("%s names %s, which is no option", document, m[2])
			}
		}
	}
}

// docs/operations.md lists every log record, and no other.
func TestDocumentedRecords(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	made := make(map[string]bool)
	for _, name := range files {
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		for _, m := range regexp.MustCompile(`\.log(?:Member)?\(.*"(wsproxy: [a-z ]+)"`).FindAllStringSubmatch(string(b), -1) {
			made[m[1]] = true
		}
	}
	if len(made) < 10 {
		t.Fatalf("found %d records", len(made))
	}
	_, text, _ := strings.Cut(documents(t)["docs/operations.md"], "## Log records")
	text, _, _ = strings.Cut(text, "\n## ")
	for _, m := range regexp.MustCompile("`(wsproxy: [a-z ]+)`").FindAllStringSubmatch(text, -1) {
		if !made[m[1]] {
			t.Errorf("docs/operations.md has the record %q, which nothing makes", m[1])
		}
		delete(made, m[1])
	}
	for record := range made {
		t.Errorf("docs/operations.md doesn't have the record %q", record)
	}
}

// The README's figures agree with docs/performance.md.
func TestREADMEFigures(t *testing.T) {
	t.Parallel()
	readme, performance := documents(t)["README.md"], documents(t)["docs/performance.md"]
	number := `([0-9.]+)`
	measured := make(map[string]bool) // wsproxy, detached, nginx, HAProxy
	for _, m := range regexp.MustCompile(`\| `+number+` \| `+number+` \| `+number+` \| `+number+` \| `+number+` \|\n`).FindAllStringSubmatch(performance, -1) {
		measured[m[1]+" "+m[2]+" "+m[4]+" "+m[5]] = true
	}
	rows := regexp.MustCompile(`\| `+number+` \| `+number+` \| `+number+` \| `+number+` \|\n`).FindAllStringSubmatch(readme, -1)
	if len(rows) != 5 {
		t.Errorf("README.md has %d rows of figures, want 5", len(rows))
	}
	for _, m := range rows {
		if row := strings.Join(m[1:], " "); !measured[row] {
			t.Errorf("README.md has the figures %s, docs/performance.md doesn't", row)
		}
	}
	if date := regexp.MustCompile(`Measured on (\S+):`).FindStringSubmatch(performance); date == nil || !strings.Contains(readme, date[1]) {
		t.Errorf("README.md doesn't have the date of the measurement, %q", date)
	}
	memory := regexp.MustCompile(`\| ([0-9.]+) \| ([0-9]+),000 \|\n`).FindAllStringSubmatch(performance, -1)
	if len(memory) != 4 {
		t.Errorf("docs/performance.md has %d rows with sessions per GiB, want 4", len(memory))
	}
	for _, m := range memory {
		size, err := strconv.ParseFloat(m[1], 64)
		if thousands := strconv.Itoa(int((1 << 20) / size / 1000)); err != nil || thousands != m[2] || !strings.Contains(readme, thousands+",000") {
			t.Errorf("%s KiB a session: %s,000 fit into a GiB; docs/performance.md says %s,000, or README.md something else", m[1], thousands, m[2])
		}
	}
}
