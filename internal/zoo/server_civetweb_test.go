//go:build linux

package zoo

import (
	"os/exec"
	"path/filepath"
	"testing"
)

// CivetWeb is a server for embedding in C programs. Debian's libcivetweb-dev.
var civetweb = server{
	name:   "CivetWeb",
	source: debian("libcivetweb-dev"),
	start: func(t *testing.T) *process {
		return command{args: []string{compile(t, "civet.c", "-lcivetweb"), "PORT"}}.start(t)
	},
	path:   "/echo",
	leave:  askToLeave,
	noPong: true,
}

// compile compiles a program in C or C++.
func compile(t *testing.T, source string, flags ...string) string {
	t.Helper()
	compiler := "cc"
	if filepath.Ext(source) == ".cc" {
		compiler = "g++"
	}
	if _, err := exec.LookPath(compiler); err != nil {
		unavailable(t, compiler+" is not installed: run setup.sh")
	}
	program := filepath.Join(t.TempDir(), "program")
	args := append([]string{"-o", program, testdata("c/" + source)}, flags...)
	if said, err := exec.Command(compiler, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", compiler, err, said)
	}
	return program
}
