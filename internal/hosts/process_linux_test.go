package hosts

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/seed-ffb73231/wsproxy/internal/wstest"
)

// patience limits every wait.
const patience = 20 * time.Second

// A process is a program that runs on a host.
type process struct {
	name string
	cmd  *exec.Cmd
	log  lines
	done chan struct{}
	err  error // set when done is closed
}

// start starts a program on the host. If it still runs at the end of the test,
// it is killed; that is a failure, unless the test has failed already.
func (h *host) start(t *testing.T, name string, env []string, program string, args ...string) *process {
	t.Helper()
	p := &process{name: name, done: make(chan struct{})}
	p.cmd = exec.Command("ip", append([]string{"netns", "exec", prefix + h.name, program}, args...)...)
	p.cmd.Env = append(os.Environ(), env...)
	p.cmd.Stdout, p.cmd.Stderr = &p.log, &p.log
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} // however this test ends
	must(t, p.cmd.Start())
	go func() {
		p.err = p.cmd.Wait()
		close(p.done)
	}()
	t.Cleanup(func() {
		if !p.ended() {
			if !t.Failed() {
				t.Errorf("%s still runs", name)
			}
			p.kill()
		}
		if t.Failed() {
			t.Logf("%s:\n%s", name, p.log.tail())
		}
	})
	return p
}

func (p *process) ended() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// kill kills the process, like a power failure.
func (p *process) kill() {
	p.cmd.Process.Kill()
	<-p.done
}

// stop tells the process to exit and waits for it.
func (p *process) stop(t *testing.T, limit time.Duration) {
	t.Helper()
	must(t, p.cmd.Process.Signal(syscall.SIGTERM))
	p.await(t, limit)
}

// await waits for the process to end with exit code 0.
func (p *process) await(t *testing.T, limit time.Duration) {
	t.Helper()
	select {
	case <-p.done:
	case <-time.After(limit):
		t.Errorf("%s still runs %v after SIGTERM", p.name, limit)
		p.kill()
		return
	}
	if p.err != nil {
		t.Errorf("%s has ended by %v, want exit code 0", p.name, p.err)
	}
}

// lines holds the end of what a process has written.
type lines struct {
	mu   sync.Mutex
	text []byte // guarded by mu
}

const mostLog = 32 << 10

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.text = append(l.text, p...)
	if n := len(l.text); n > 2*mostLog {
		l.text = bytes.Clone(l.text[n-mostLog:])
	}
	return len(p), nil
}

// tail returns the last lines.
func (l *lines) tail() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	all := strings.Split(strings.TrimSpace(string(l.text)), "\n")
	return strings.Join(all[max(0, len(all)-20):], "\n")
}

// buildGateway builds the program that the proxies run.
func buildGateway(t *testing.T) string {
	t.Helper()
	program := filepath.Join(t.TempDir(), "gateway")
	must(t, wstest.Build(t.Context(), "../../cmd/wsproxy", ".", program))
	return program
}

// events prints what happens, with the time since the start.
type events struct {
	t     *testing.T
	began time.Time
}

func (e *events) say(format string, args ...any) {
	fmt.Fprintf(e.t.Output(), "%7.2f s  %s\n", time.Since(e.began).Seconds(), fmt.Sprintf(format, args...))
}
