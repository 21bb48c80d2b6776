//go:build unix

package main

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/coder/websocket"
)

// A manager plays the part of systemd: it opens sockets, passes them to the
// program, and receives its notifications.
type manager struct {
	files  []*os.File
	names  []string
	notify *net.UnixConn
	path   string // of notify
}

func newManager(t *testing.T) *manager {
	t.Helper()
	dir, err := os.MkdirTemp("", "w") // t.TempDir may be too long for a socket's path
	if err != nil {
		t.Fatal(err)
	}
	m := &manager{path: filepath.Join(dir, "notify")}
	m.notify, err = net.ListenUnixgram("unixgram", &net.UnixAddr{Name: m.path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		m.notify.Close()
		for _, f := range m.files {
			f.Close()
		}
		os.RemoveAll(dir)
	})
	return m
}

// socket opens a socket and returns its address.
func (m *manager) socket(t *testing.T, name, network, address string) string {
	t.Helper()
	ln, err := net.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close() // the file is another descriptor of the same socket
	if u, ok := ln.(*net.UnixListener); ok {
		u.SetUnlinkOnClose(false)
	}
	f, err := ln.(interface{ File() (*os.File, error) }).File()
	if err != nil {
		t.Fatal(err)
	}
	m.files, m.names = append(m.files, f), append(m.names, name)
	return ln.Addr().String()
}

// command returns the program's command with the environment that systemd sets.
// The shell sets LISTEN_PID, because the process ID is not known earlier.
func (m *manager) command(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	cmd := program(t, args...)
	cmd.Args = append([]string{"sh", "-c", `LISTEN_PID=$$ exec "$0" "$@"`, cmd.Path}, args...)
	var err error
	if cmd.Path, err = exec.LookPath("sh"); err != nil {
		t.Fatal(err)
	}
	cmd.ExtraFiles = m.files // from descriptor 3 on
	cmd.Env = append(cmd.Env, "NOTIFY_SOCKET="+m.path, fmt.Sprint("LISTEN_FDS=", len(m.files)), "LISTEN_FDNAMES="+strings.Join(m.names, ":"))
	return cmd
}

// told waits for a message that begins with a line.
func (m *manager) told(t *testing.T, line string) string {
	t.Helper()
	m.notify.SetReadDeadline(time.Now().Add(patience))
	b := make([]byte, 4096)
	for {
		n, err := m.notify.Read(b)
		if err != nil {
			t.Fatalf("systemd was not told %s: %v", line, err)
		}
		if message := string(b[:n]); strings.HasPrefix(message, line+"\n") || message == line {
			return message
		}
	}
}

// Socket activation and notifications: the sockets are served by their names,
// and stay open across a restart, so that no client is refused meanwhile.
func TestSystemd(t *testing.T) {
	t.Parallel()
	a := newUpstream(t, "a")
	m := newManager(t)
	web := m.socket(t, "web", "tcp", "127.0.0.1:0")
	secure := m.socket(t, "secure", "tcp", "127.0.0.1:0")
	admin := m.socket(t, "admin", "unix", filepath.Join(filepath.Dir(m.path), "admin"))
	idle := m.socket(t, "idle", "tcp", "127.0.0.1:0")
	text := "listen = [\"systemd:web\"]\nadmin = \"systemd:admin\"\nlog = \"json\"\nshutdown_delay = \"200ms\"\nshutdown_timeout = \"20s\"\ndrain_window = \"0s\"\n" +
		"[tls]\nlisten = [\"systemd:4\"]\nself_signed = true\n" // the descriptor of the second one
	file := writeFile(t, t.TempDir(), "wsproxy.toml", text+routes(a))

	first := startCommand(t, m.command(t, "--config", file))
	m.told(t, "READY=1")
	c := dial(t, "ws://"+web+"/a", nil)
	c.echo(t)
	first.record(t, "a socket of systemd is not used", "name", "idle")
	if status, _ := ask(t, "https://"+secure+"/a", ""); status != http.StatusUpgradeRequired {
		t.Errorf("over TLS: got %d, want 426", status)
	}
	conn, err := net.Dial("unix", admin)
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()

	// Reloading: a socket may change its purpose. A mistake is reported.
	text = strings.Replace(text, "systemd:4", "systemd:idle", 1)
	writeFile(t, filepath.Dir(file), "wsproxy.toml", text+routes(a))
	first.signal(t, syscall.SIGHUP)
	m.told(t, "STATUS=serving; the file was reloaded")
	if status, body := ask(t, "https://"+idle+"/a", ""); status != http.StatusUpgradeRequired {
		t.Errorf("over TLS at another socket: got %d %s, want 426", status, body)
	}
	writeFile(t, filepath.Dir(file), "wsproxy.toml", text+"nonsense = 1\n"+routes(a))
	first.signal(t, syscall.SIGHUP)
	m.told(t, "STATUS=serving; the file was not reloaded: see the log")
	writeFile(t, filepath.Dir(file), "wsproxy.toml", text+routes(a))
	c.echo(t)

	first.signal(t, syscall.SIGTERM)
	if message, want := m.told(t, "STOPPING=1"), "STOPPING=1\nEXTEND_TIMEOUT_USEC=30200000"; message != want {
		t.Errorf("systemd was told %q, want %q", message, want)
	}
	if code := c.ended(t); code != websocket.StatusGoingAway {
		t.Errorf("the session has ended by %d, want 1001", code)
	}
	if code := first.exited(t); code != 0 {
		t.Errorf("exit code %d, want 0", code)
	}

	// Nobody accepts now, but clients can connect, and are served by the next
	// process.
	waiting := make(chan *client)
	go func() {
		c, status, err := tryDial(t, "ws://"+web+"/a", nil)
		if err != nil {
			t.Errorf("a client that came between two processes: status %d, %v", status, err)
		}
		waiting <- c
	}()
	startCommand(t, m.command(t, "--config", file))
	m.told(t, "READY=1")
	if c := <-waiting; c != nil {
		c.echo(t)
	}
}

// Socket activation works with systemd's own tool.
func TestSocketActivate(t *testing.T) {
	t.Parallel()
	tool, err := exec.LookPath("systemd-socket-activate")
	if err != nil {
		t.Skip("systemd is not installed")
	}
	a, address := newUpstream(t, "a"), free(t)
	cmd := program(t)
	cmd.Args = []string{tool, "--listen=" + address, "--fdname=web", "--setenv=" + asProgram + "=1", cmd.Path, a.URL, "--listen", "systemd:web"}
	cmd.Path = tool
	p := startCommand(t, cmd)
	p.line(t, "Listening on "+address)
	c := dial(t, "ws://"+address, nil) // it starts the program
	c.echo(t)
	c.CloseNow()
	p.signal(t, syscall.SIGTERM)
	if code := p.exited(t); code != 0 {
		t.Errorf("exit code %d, want 0", code)
	}
}

// Without a file and without --listen, all sockets are used.
func TestSystemdFlags(t *testing.T) {
	t.Parallel()
	a := newUpstream(t, "a")
	m := newManager(t)
	one, two := m.socket(t, "wsproxy.socket", "tcp", "127.0.0.1:0"), m.socket(t, "wsproxy.socket", "tcp", "127.0.0.1:0")
	startCommand(t, m.command(t, a.URL))
	m.told(t, "READY=1")
	for _, address := range []string{one, two} {
		dial(t, "ws://"+address, nil).echo(t)
	}
}

// Unsuitable sockets are errors, and sockets for another process are ignored.
func TestSystemdMistakes(t *testing.T) {
	t.Parallel()
	m := newManager(t)
	m.socket(t, "web", "tcp", "127.0.0.1:0")
	m.socket(t, "web", "tcp", "127.0.0.1:0")
	for name, want := range map[string]string{
		"public": `systemd has passed no socket named \"public\", but web, web`,
		"web":    `systemd has passed several sockets named \"web\"; use their numbers, 3 and 4`,
		"5":      `no socket named \"5\"`,
	} {
		out, err := m.command(t, "http://127.0.0.1:9", "--listen", "systemd:"+name).CombinedOutput()
		if err == nil || !strings.Contains(string(out), want) {
			t.Errorf("%s: got %v, %s, want %s", name, err, out, want)
		}
	}
	m.files[0], m.files[1] = pipe(t)
	if out, err := m.command(t, "http://127.0.0.1:9").CombinedOutput(); err == nil || !strings.Contains(string(out), `systemd's socket`) {
		t.Errorf("a pipe: got %v, %s", err, out)
	}
	cmd := m.command(t, "http://127.0.0.1:9")
	cmd.Env = append(cmd.Env, "LISTEN_FDS=many")
	if out, err := cmd.CombinedOutput(); err == nil || !strings.Contains(string(out), `LISTEN_FDS: "many" is not a number of sockets`) {
		t.Errorf("LISTEN_FDS=many: got %v, %s", err, out)
	}
	cmd = program(t, "http://127.0.0.1:9", "--listen", "systemd:web")
	cmd.ExtraFiles = m.files
	cmd.Env = append(cmd.Env, "LISTEN_PID=1", "LISTEN_FDS=2", "LISTEN_FDNAMES=web:web")
	if out, err := cmd.CombinedOutput(); err == nil || !strings.Contains(string(out), "systemd has passed no sockets") {
		t.Errorf("for process 1: got %v, %s", err, out)
	}
}

func pipe(t *testing.T) (r, w *os.File) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close(); w.Close() })
	return r, w
}

// The unit files use sockets, flags and files as the program does. If systemd is
// installed, it accepts them.
func TestUnits(t *testing.T) {
	t.Parallel()
	service, err := os.ReadFile("systemd/wsproxy.service")
	if err != nil {
		t.Fatal(err)
	}
	sockets, err := os.ReadFile("systemd/wsproxy.socket")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(service)) {
		if _, args, ok := strings.Cut(strings.TrimSpace(line), "=/usr/local/bin/wsproxy "); ok {
			if in, err := parseArgs(strings.Fields(args), nil); err != nil || in.file != "/etc/wsproxy/wsproxy.toml" {
				t.Errorf("%s: got %+v, %v", line, in, err)
			}
		}
	}
	_, name, _ := strings.Cut(string(sockets), "FileDescriptorName=")
	name, _, _ = strings.Cut(name, "\n")
	if !strings.Contains(string(sockets), `listen = ["systemd:`+name+`"]`) {
		t.Errorf("wsproxy.socket does not say how to use the name %q", name)
	}
	if _, err := exec.LookPath("systemd-analyze"); err != nil {
		t.Skip("systemd is not installed")
	}
	dir := t.TempDir()
	self, err := os.Executable() // which systemd wants to exist
	if err != nil {
		t.Fatal(err)
	}
	writeFile(t, dir, "wsproxy.service", strings.ReplaceAll(string(service), "/usr/local/bin/wsproxy", self))
	writeFile(t, dir, "wsproxy.socket", string(sockets))
	out, err := exec.CommandContext(t.Context(), "systemd-analyze", "verify", filepath.Join(dir, "wsproxy.service"), filepath.Join(dir, "wsproxy.socket")).CombinedOutput()
	if err != nil || len(out) > 0 {
		t.Errorf("systemd-analyze verify: %v\n%s", err, out)
	}
}
