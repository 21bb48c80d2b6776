//go:build linux

package zoo

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// A source is where a program comes from.
type source struct{ registry, pkg string }

func debian(pkg string) source   { return source{"Debian", pkg} }
func npm(pkg string) source      { return source{"npm", pkg} }
func goModule(pkg string) source { return source{"Go", pkg} }

var debianRevision = regexp.MustCompile(`^(?:[0-9]+:)?(.*?)(?:[+~](?:dfsg|ds|really|repack|cs|~)[^-]*)?(?:-[^-]*)?$`)

// version returns the installed version. If there is none, the test is skipped.
func (s source) version(t *testing.T) string {
	t.Helper()
	switch s.registry {
	case "Debian":
		out, err := exec.Command("dpkg-query", "-W", "-f", "${db:Status-Status} ${Version}", s.pkg).Output()
		v, ok := strings.CutPrefix(string(out), "installed ")
		if err != nil || !ok {
			unavailable(t, "Debian's "+s.pkg+" is not installed: run setup.sh")
		}
		return debianRevision.ReplaceAllString(v, "$1")
	case "npm":
		text, err := os.ReadFile(filepath.Join("testdata/npm/node_modules", s.pkg, "package.json"))
		if err != nil {
			unavailable(t, "npm's "+s.pkg+" is not installed: run setup.sh")
		}
		var p struct{ Version string }
		if err := json.Unmarshal(text, &p); err != nil {
			t.Fatal(err)
		}
		return p.Version
	default:
		text, err := os.ReadFile("go.mod")
		if err != nil {
			t.Fatal(err)
		}
		m := regexp.MustCompile(`(?m)^\t` + regexp.QuoteMeta(s.pkg) + ` v(\S+)`).FindSubmatch(text)
		if m == nil {
			t.Fatalf("go.mod has no %s", s.pkg)
		}
		return string(m[1])
	}
}

// unavailable skips a test because something that it needs is missing. In CI,
// nothing may be missing.
func unavailable(t *testing.T, why string) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatal(why)
	}
	t.Skip(why)
}

// testdata returns the path of a file of testdata.
func testdata(name string) string {
	path, err := filepath.Abs(filepath.Join("testdata", name))
	if err != nil {
		panic(err)
	}
	return path
}

// A command is a program to start. In its arguments, environment and files, PORT
// stands for the port to listen on, PORT2 and PORT3 for other free ports, and DIR
// for its directory.
type command struct {
	args  []string
	env   []string
	files map[string]string // written into its directory, where it runs
	// ready reports whether the program can be used; nil: it accepts connections
	ready func(addr string) bool
}

// A process is a program that runs until the test's end.
type process struct {
	addr   string   // 127.0.0.1 and its port
	more   []string // the addresses with PORT2 and PORT3
	dir    string
	pid    int
	output string // a file
	ended  chan struct{}
	err    error // valid once ended is closed
}

// freePort returns a free address that is outside the kernel's range of ephemeral
// ports.
func freePort(t *testing.T) string {
	for range 1000 {
		ln, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", 10_000+rand.IntN(22_000)))
		if err == nil {
			ln.Close()
			return ln.Addr().String()
		}
	}
	t.Fatal("there is no free port")
	return ""
}

func port(addr string) string {
	_, port, _ := net.SplitHostPort(addr)
	return port
}

// words replaces words in a text; old and new words come in pairs.
func words(text string, pairs ...string) string {
	return strings.NewReplacer(pairs...).Replace(text)
}

// start runs a program and waits until it can be used.
func (c command) start(t *testing.T) *process {
	t.Helper()
	for range 5 { // another process may take the port before the program does
		p := c.try(t)
		if p.awaitReady(t, c.ready) {
			return p
		}
		if said := p.said(); !strings.Contains(strings.ToLower(said), "in use") {
			t.Fatalf("%s has ended at once: %v\n%s", c.args[0], p.err, said)
		}
	}
	t.Fatalf("%s finds no free port", c.args[0])
	return nil
}

func (c command) try(t *testing.T) *process {
	t.Helper()
	p := &process{addr: freePort(t), more: []string{freePort(t), freePort(t)}, dir: t.TempDir(), ended: make(chan struct{})}
	p.output = filepath.Join(p.dir, "output")
	in := strings.NewReplacer("PORT2", port(p.more[0]), "PORT3", port(p.more[1]), "PORT", port(p.addr), "DIR", p.dir)
	for name, text := range c.files {
		path := filepath.Join(p.dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(in.Replace(text)), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	args := make([]string, len(c.args))
	for i, a := range c.args {
		args[i] = in.Replace(a)
	}
	path, err := exec.LookPath(args[0])
	if err != nil { // only root may look there
		path, err = exec.LookPath("/usr/sbin/" + args[0])
	}
	if err != nil {
		unavailable(t, args[0]+" is not installed: run setup.sh")
	}
	output, err := os.Create(p.output)
	if err != nil {
		t.Fatal(err)
	}
	defer output.Close()
	cmd := exec.Command(path, args[1:]...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = p.dir, output, output
	cmd.Env = append(os.Environ(), "HOME="+p.dir)
	if *awake { // by this, not by 20, the programs of testdata divide how often they ping
		cmd.Env = append(cmd.Env, "ZOO_SCALE=1")
	}
	for _, e := range c.env {
		name, value, _ := strings.Cut(e, "=")
		cmd.Env = append(cmd.Env, name+"="+in.Replace(value))
	}
	// Some programs fork, and none may outlive a test that is killed.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p.pid = cmd.Process.Pid
	go func() {
		defer close(p.ended)
		p.err = cmd.Wait()
	}()
	t.Cleanup(func() {
		p.kill()
		if t.Failed() {
			t.Logf("%s said:\n%s", args[0], p.said())
		}
	})
	return p
}

// awaitReady waits until the program can be used. It reports false if the
// program ends before.
func (p *process) awaitReady(t *testing.T, ready func(string) bool) bool {
	t.Helper()
	if ready == nil {
		ready = takesConnections
	}
	deadline := time.After(2 * limit)
	for !ready(p.addr) {
		select {
		case <-p.ended:
			return false
		case <-deadline:
			t.Fatalf("a program doesn't become ready; it said:\n%s", p.said())
		case <-time.After(20 * time.Millisecond):
		}
	}
	select {
	case <-p.ended: // another process has the port
		return false
	default:
		return true
	}
}

func takesConnections(addr string) bool {
	c, err := net.Dial("tcp", addr)
	if err == nil {
		c.Close()
	}
	return err == nil
}

// answers reports whether a page is served, with any status below 500.
func answers(path string) func(addr string) bool {
	return func(addr string) bool {
		resp, err := http.Get("http://" + addr + path)
		if err == nil {
			resp.Body.Close()
		}
		return err == nil && resp.StatusCode < 500
	}
}

// kill kills the program and all processes that it started.
func (p *process) kill() {
	_ = syscall.Kill(-p.pid, syscall.SIGKILL) // it may have ended
	<-p.ended
}

// said returns the end of the program's output.
func (p *process) said() string {
	text, _ := os.ReadFile(p.output)
	return string(text[max(0, len(text)-8<<10):])
}

// run runs a program to completion and returns the lines of its output.
func run(t *testing.T, args ...string) ([]string, error) {
	t.Helper()
	path, err := exec.LookPath(args[0])
	if err != nil {
		unavailable(t, args[0]+" is not installed: run setup.sh")
	}
	cmd := exec.Command(path, args[1:]...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	cmd.Dir = t.TempDir()
	cmd.Env = append(os.Environ(), "HOME="+cmd.Dir)
	cmd.WaitDelay = time.Second
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	timer := time.AfterFunc(2*limit, func() { _ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) })
	err = cmd.Wait()
	timer.Stop()
	if err != nil {
		err = fmt.Errorf("%s: %w\n%s%s", args[0], err, stdout.Bytes(), stderr.Bytes())
	}
	return strings.Split(strings.TrimSpace(stdout.String()), "\n"), err
}

// memo caches what is the same for all tests.
func memo[T any](f func() (T, error)) func(t *testing.T) T {
	once := sync.OnceValues(f)
	return func(t *testing.T) T {
		t.Helper()
		v, err := once()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}
