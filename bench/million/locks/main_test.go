//go:build linux && (amd64 || arm64)

package main

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// A program holds a mutex for 1 ms of work, for 2 ms of sleep, and for a moment.
func TestHeld(t *testing.T) {
	dir := t.TempDir()
	program := filepath.Join(dir, "held")
	if err := build(dir, "-o", program, "./testdata/held"); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command(program).CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	used, longest := make(map[string]time.Duration), make(map[string]time.Duration)
	for line := range strings.Lines(string(out)) {
		var name string
		var times int
		var u, l time.Duration
		if _, err := fmt.Sscan(line, &name, &times, &u, &l); err != nil {
			t.Fatalf("%v: %q", err, line)
		}
		used[name], longest[name] = u, l
	}
	for _, name := range []string{"work", "try"} {
		if u, l := used[name], longest[name]; u < 500*time.Microsecond || l < time.Millisecond || u > l {
			t.Errorf("%s held a mutex for 1 ms of work: noted %v on the clock, of which %v were CPU time", name, l, u)
		}
	}
	if u, l := used["rest"], longest["rest"]; u > 500*time.Microsecond || l < 2*time.Millisecond {
		t.Errorf("a mutex was held for 2 ms of sleep: noted %v on the clock, of which %v were CPU time", l, u)
	}
	if used["short"] > 100*time.Microsecond {
		t.Errorf("a mutex was held for a moment: noted %v", used["short"])
	}
}

// Few sessions yield every row of the table, and no error.
func TestMillion(t *testing.T) {
	if err := run(t.TempDir(), strings.Fields("-sessions 1000 -ping 300ms -rest 700ms -churn 500ms -drain 300ms -rate 2000 -burst 200")); err != nil {
		t.Fatal(err)
	}
}
