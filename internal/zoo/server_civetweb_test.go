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

// compile compiles a C program.
func compile(t *testing.T, source string, flags ...string) string {
	t.Helper()
	if _, err := exec.LookPath("cc"); err != nil {
		unavailable(t, "there is no C compiler: run setup.sh")
	}
	program := filepath.Join(t.TempDir(), "program")
	args := append([]string{"-o", program, testdata("c/" + source)}, flags...)
	if said, err := exec.Command("cc", args...).CombinedOutput(); err != nil {
		t.Fatalf("cc: %v\n%s", err, said)
	}
	return program
}
