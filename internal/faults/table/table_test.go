package main

import (
	"os"
	"strings"
	"testing"
)

const testList = "F1\tRefused\nF2\tHangs\nA9\tNot ours\tnobody's\n"

func render2(t *testing.T, events string) (string, []string) {
	t.Helper()
	cases, err := parseCases(testList)
	if err != nil {
		t.Fatal(err)
	}
	r := make(results)
	if err := r.read(strings.NewReader(events)); err != nil {
		t.Fatal(err)
	}
	return render(cases, r)
}

const good = `{"Action":"attr","Package":"x/wsproxy","Test":"TestA","Key":"case","Value":"F1"}
{"Action":"pass","Package":"x/wsproxy","Test":"TestA","Elapsed":1}
{"Action":"attr","Package":"x/faults","Test":"TestB/one","Key":"case","Value":"F2 F1"}
{"Action":"pass","Package":"x/faults","Test":"TestB/one"}
{"Action":"skip","Package":"x/faults","Test":"TestB/two"}
{"Action":"attr","Package":"x/faults","Test":"TestB/two","Key":"case","Value":"F2"}
{"Action":"pass","Package":"x/faults","Test":"TestB"}
`

func TestTable(t *testing.T) {
	text, mistakes := render2(t, good)
	want := "| | Case | Tests | Result |\n|---|---|---|---|\n" +
		"| F1 | Refused | TestA, faults.TestB | pass |\n" +
		"| F2 | Hangs | faults.TestB | pass, some skipped |\n" +
		"| A9 | Not ours |  | out of scope: nobody's |\n"
	if text != want || len(mistakes) > 0 {
		t.Errorf("got %v\n%s\nwant\n%s", mistakes, text, want)
	}
}

// What is wrong is said, and fails.
func TestMistakes(t *testing.T) {
	for name, row := range map[string]struct{ events, want string }{
		"no test":            {"", "F2: no test"},
		"no such case":       {strings.Replace(good, "F2 F1", "F2 F3", 1), `"F3": no such case, in faults.TestB`},
		"failed":             {strings.Replace(good, `"pass","Package":"x/wsproxy"`, `"fail","Package":"x/wsproxy"`, 1), "failed: x/wsproxy TestA"},
		"failed, of no case": {good + `{"Action":"fail","Package":"x/y","Test":"TestC"}`, "failed: x/y TestC"},
		"a package":          {good + `{"Action":"fail","Package":"x/y"}`, "failed: x/y"},
		"out of scope, tested": {good + `{"Action":"attr","Package":"x/y","Test":"TestC","Key":"case","Value":"A9"}
{"Action":"pass","Package":"x/y","Test":"TestC"}`, "A9: out of scope, but y.TestC is about it"},
		"never ended": {good + `{"Action":"attr","Package":"x/y","Test":"TestC","Key":"case","Value":"F1"}`, "failed: x/y TestC"},
	} {
		events := row.events
		if name == "no test" { // of F2: nothing but the first test
			events = strings.Join(strings.SplitAfter(good, "\n")[:2], "")
		}
		_, mistakes := render2(t, events)
		if len(mistakes) != 1 || mistakes[0] != row.want {
			t.Errorf("%s: got %q, want %q", name, mistakes, row.want)
		}
	}
}

func TestRun(t *testing.T) {
	dir := t.TempDir()
	readme, events := dir+"/README.md", dir+"/x.json"
	write := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	cases, err := parseCases(list)
	if err != nil {
		t.Fatal(err)
	}
	var all strings.Builder
	for _, c := range cases {
		if c.why == "" {
			all.WriteString(`{"Action":"attr","Package":"x/y","Test":"TestC","Key":"case","Value":"` + c.number + `"}` + "\n")
		}
	}
	write(events, all.String()+`{"Action":"pass","Package":"x/y","Test":"TestC"}`)
	write(readme, "before\n"+begin+"old\n"+end+"after\n")
	if err := run(readme, true, []string{events}); err == nil {
		t.Error("an old table is taken for current")
	}
	if err := run(readme, false, []string{events}); err != nil {
		t.Error(err)
	}
	if err := run(readme, true, []string{events}); err != nil {
		t.Error(err)
	}
	got, _ := os.ReadFile(readme)
	if s := string(got); !strings.HasPrefix(s, "before\n") || !strings.HasSuffix(s, "after\n") || strings.Contains(s, "old\n") {
		t.Errorf("got %q", s)
	}
	write(events, "not JSON")
	if err := run(readme, true, []string{events}); err == nil {
		t.Error("a stream that is none is taken for one")
	}
}
