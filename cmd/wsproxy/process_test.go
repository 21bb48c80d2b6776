package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/coder/websocket"
)

// asProgram in the environment makes the test binary the program itself, so
// that it can be sent signals.
const asProgram = "WSPROXY_EXAMPLE_GATEWAY"

func TestMain(m *testing.M) {
	if os.Getenv(asProgram) != "" {
		main()
		return
	}
	os.Exit(m.Run())
}

func program(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 3*patience)
	t.Cleanup(cancel)
	cmd := exec.CommandContext(ctx, self, args...)
	cmd.Env = append(os.Environ(), asProgram+"=1")
	return cmd
}

// A process is a gateway in its own process.
type process struct {
	cmd           *exec.Cmd
	public, admin string // addresses
	done          chan struct{}

	mu      sync.Mutex
	records []map[string]any
}

// startProcess starts a gateway and waits until it serves.
func startProcess(t *testing.T, args ...string) *process {
	t.Helper()
	p := spawn(t, args...)
	p.public = fmt.Sprint(p.record(t, "listening", "for", "public")["address"])
	if strings.HasPrefix(fmt.Sprint(args), "[--config") {
		p.admin = fmt.Sprint(p.record(t, "listening", "for", "admin")["address"])
	}
	return p
}

// spawn starts a gateway.
func spawn(t *testing.T, args ...string) *process {
	t.Helper()
	if runtime.GOOS == "windows" {
		t.Skip("no signals there")
	}
	return startCommand(t, program(t, args...))
}

// startCommand starts a command that is a gateway.
func startCommand(t *testing.T, cmd *exec.Cmd) *process {
	t.Helper()
	p := &process{cmd: cmd, done: make(chan struct{})}
	stderr, err := p.cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		p.cmd.Process.Kill()
		<-p.done
		if t.Failed() {
			for _, r := range p.records {
				t.Logf("log: %v", r)
			}
		}
	})
	go func() {
		defer close(p.done)
		for lines := bufio.NewScanner(stderr); lines.Scan(); {
			record := make(map[string]any)
			if json.Unmarshal(lines.Bytes(), &record) != nil {
				record["msg"] = lines.Text()
			}
			p.mu.Lock()
			p.records = append(p.records, record)
			p.mu.Unlock()
		}
		p.cmd.Wait() // what came of it is in ProcessState
	}()
	return p
}

// record waits for a log record with the message and the value.
func (p *process) record(t *testing.T, msg, key, value string) (found map[string]any) {
	t.Helper()
	eventually(t, "a record of "+msg, func() bool {
		p.mu.Lock()
		defer p.mu.Unlock()
		for _, r := range p.records {
			if r["msg"] == msg && strings.Contains(fmt.Sprint(r[key]), value) {
				found = r
			}
		}
		return found != nil
	})
	return found
}

func (p *process) signal(t *testing.T, s os.Signal) {
	t.Helper()
	if err := p.cmd.Process.Signal(s); err != nil {
		t.Fatal(err)
	}
}

// exited waits until the process exits and returns its exit code.
func (p *process) exited(t *testing.T) int {
	t.Helper()
	select {
	case <-p.done:
	case <-time.After(patience):
		t.Fatal("the gateway still runs")
	}
	return p.cmd.ProcessState.ExitCode()
}

// health returns the answer of /healthz.
func (p *process) health(t *testing.T) int {
	t.Helper()
	resp, err := http.Get("http://" + p.admin + "/healthz")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	return resp.StatusCode
}

const head = "listen = [\"127.0.0.1:0\"]\nadmin = \"127.0.0.1:0\"\nlog = \"json\"\n"

// The whole life cycle: a reload during a session, an invalid one, and a drain.
func TestProcess(t *testing.T) {
	a, b := newUpstream(t, "a"), newUpstream(t, "b")
	file := filepath.Join(t.TempDir(), "wsproxy.toml")
	write := func(text string) {
		t.Helper()
		text = head + "shutdown_delay = \"300ms\"\ndrain_window = \"100ms\"\nshutdown_timeout = \"20s\"\n" + text
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(routes(a))
	p := startProcess(t, "--config", file)
	onA := dial(t, "ws://"+p.public+"/a", nil)

	write(routes(a, b))
	p.signal(t, syscall.SIGHUP)
	p.record(t, "reloaded", "routes", "2")
	onB := dial(t, "ws://"+p.public+"/b", nil)
	onA.echo(t)

	write(routes(a) + "max_age = 5\n")
	p.signal(t, syscall.SIGHUP)
	p.record(t, "not reloaded", "error", file+":12: route.max_age: want a string")
	onA.echo(t)
	onB.echo(t)
	if got := p.health(t); got != http.StatusOK {
		t.Errorf("/healthz answers %d, want 200", got)
	}

	p.signal(t, syscall.SIGTERM)
	p.record(t, "not ready", "delay", "")
	if got := p.health(t); got != http.StatusServiceUnavailable {
		t.Errorf("/healthz answers %d after SIGTERM, want 503", got)
	}
	for _, s := range []*client{onA, onB} {
		if code := s.ended(t); code != websocket.StatusGoingAway {
			t.Errorf("the session with %s has ended by %d, want 1001", s.name, code)
		}
	}
	if code := p.exited(t); code != 0 {
		t.Errorf("exit code %d, want 0", code)
	}
	if r := p.record(t, "drained", "sessions", "2"); fmt.Sprint(r["cut"]) != "0" {
		t.Errorf("%v sessions cut, want none", r["cut"])
	}
}

// After SIGTERM clients are still accepted for the delay: balancers may not
// have noticed yet.
func TestProcessDelay(t *testing.T) {
	a := newUpstream(t, "a")
	file := writeFile(t, t.TempDir(), "wsproxy.toml", head+"shutdown_delay = \"1h\"\n"+routes(a))
	p := startProcess(t, "--config", file)
	p.signal(t, syscall.SIGTERM)
	p.record(t, "not ready", "delay", "")
	dial(t, "ws://"+p.public+"/a", nil).echo(t)
	if got := p.health(t); got != http.StatusServiceUnavailable {
		t.Errorf("/healthz answers %d, want 503", got)
	}
	p.signal(t, syscall.SIGTERM) // a second one doesn't wait
	p.exited(t)
}

// Sessions that have not ended at the deadline are cut, and the log says so.
func TestProcessCut(t *testing.T) {
	a := newUpstream(t, "a")
	file := writeFile(t, t.TempDir(), "wsproxy.toml",
		head+"drain_window = \"0s\"\nshutdown_timeout = \"300ms\"\n"+routes(a)+"close_timeout = \"1h\"\n")
	p := startProcess(t, "--config", file)
	dial(t, "ws://"+p.public+"/a", nil) // and reads no more, so it doesn't answer the Close
	p.signal(t, syscall.SIGTERM)
	if code := p.exited(t); code != 1 {
		t.Errorf("exit code %d, want 1", code)
	}
	if r := p.record(t, "drained", "sessions", "1"); fmt.Sprint(r["cut"]) != "1" {
		t.Errorf("%v sessions cut, want 1", r["cut"])
	}
}

// One route can be set without a file.
func TestProcessFlags(t *testing.T) {
	a, b := newUpstream(t, "a"), newUpstream(t, "b")
	cmd := startFlags(t, "--listen", "127.0.0.1:0", a.URL, b.URL, "--path", "/ws")
	got := make(map[string]bool)
	for range 2 {
		got[dial(t, "ws://"+cmd+"/ws", nil).name] = true
	}
	if !got["a"] || !got["b"] {
		t.Errorf("sessions with %v, want a and b", got)
	}
}

// startFlags starts a gateway that logs text, and returns its address.
func startFlags(t *testing.T, args ...string) string {
	t.Helper()
	cmd := program(t, args...)
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	lines := bufio.NewReader(stderr)
	for {
		line, err := lines.ReadString('\n')
		if err != nil {
			t.Fatal(err)
		}
		if _, rest, ok := strings.Cut(line, `msg=listening address=`); ok && !strings.Contains(rest, "for=admin") {
			go io.Copy(io.Discard, lines)
			return strings.Fields(rest)[0]
		}
	}
}
