// Command locks runs bench/million with a package sync that notes how long each
// mutex is held.
//
// The standard library is not changed: the package is built from that of the
// installed Go release, with go build's -overlay.
package main

import (
	"embed"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
)

//go:embed _overlay
var overlay embed.FS

// changes are what becomes of sync/mutex.go.
var changes = []string{
	"	mu isync.Mutex\n", "	mu isync.Mutex\n	held hold\n",
	"	m.mu.Lock()\n", "	m.mu.Lock()\n	m.held.begin()\n",
	"	return m.mu.TryLock()\n", "	if !m.mu.TryLock() {\n		return false\n	}\n	m.held.begin()\n	return true\n",
	"	m.mu.Unlock()\n", "	took, ran := m.held.end()\n	m.mu.Unlock()\n	if took >= NotedHold {\n		note(took, ran)\n	}\n",
}

func main() {
	dir, err := os.MkdirTemp("", "locks")
	if err == nil {
		err = run(dir, os.Args[1:])
		os.RemoveAll(dir)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "locks:", err)
		os.Exit(1)
	}
}

func run(dir string, args []string) error {
	program := filepath.Join(dir, "million")
	const million = "github.com/seed-ffb73231/wsproxy/bench/million"
	if err := build(dir, "-tags", "wsproxy_simulated,wsproxy_locks", "-o", program, million); err != nil {
		return err
	}
	return call(program, args...)
}

// build runs go build with that package sync. Its other files are put into dir.
func build(dir string, args ...string) error {
	root, err := exec.Command("go", "env", "GOROOT").Output()
	if err != nil {
		return err
	}
	src := filepath.Join(strings.TrimSpace(string(root)), "src")
	mutex := filepath.Join(src, "sync", "mutex.go")
	b, err := os.ReadFile(mutex)
	if err != nil {
		return err
	}
	for i := 0; i < len(changes); i += 2 {
		if n := strings.Count(string(b), changes[i]); n != 1 {
			return fmt.Errorf("%s has %q %d times, want once: this Go release is not known", mutex, changes[i], n)
		}
	}
	files := map[string][]byte{mutex: []byte(strings.NewReplacer(changes...).Replace(string(b)))}
	for _, pkg := range []string{"sync", "runtime"} {
		if files[filepath.Join(src, pkg, "held.go")], err = overlay.ReadFile("_overlay/" + pkg + ".go"); err != nil {
			return err
		}
	}
	replace := make(map[string]string)
	for name, content := range files {
		to := filepath.Join(dir, strconv.Itoa(len(replace))+".go")
		if err := os.WriteFile(to, content, 0o666); err != nil {
			return err
		}
		replace[name] = to
	}
	if b, err = json.Marshal(map[string]any{"Replace": replace}); err != nil {
		return err
	}
	file := filepath.Join(dir, "overlay.json")
	if err := os.WriteFile(file, b, 0o666); err != nil {
		return err
	}
	return call("go", append([]string{"build", "-overlay", file}, args...)...)
}

func call(name string, args ...string) error {
	cmd := exec.Command(name, args...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	return cmd.Run()
}
