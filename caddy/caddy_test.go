package wscaddy

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	_ "github.com/caddyserver/caddy/v2/modules/standard"
	"github.com/coder/websocket"
)

// asCaddy in the environment makes the test binary Caddy itself, with all of its
// standard modules and this one.
const asCaddy = "WSPROXY_AS_CADDY"

func TestMain(m *testing.M) {
	if os.Getenv(asCaddy) != "" {
		caddycmd.Main()
		return
	}
	os.Exit(m.Run())
}

// patience limits every wait.
const patience = 30 * time.Second

// A server is a Caddy in its own process.
type server struct {
	cmd  *exec.Cmd
	dir  string
	done chan struct{} // it has ended

	port, admin string

	mu      sync.Mutex
	records []map[string]any
}

// command returns Caddy's command line.
func command(t *testing.T, dir string, args ...string) *exec.Cmd {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self, args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), asCaddy+"=1", "HOME="+dir, "XDG_DATA_HOME="+dir, "XDG_CONFIG_HOME="+dir)
	return cmd
}

// freePort returns a port that nobody listens at. It is outside the kernel's
// range of ephemeral ports, from which others take theirs meanwhile.
func freePort(t *testing.T) string {
	t.Helper()
	for range 1000 {
		port := strconv.Itoa(10_000 + rand.IntN(22_000))
		ln, err := net.Listen("tcp", "127.0.0.1:"+port)
		if err == nil {
			ln.Close()
			return port
		}
	}
	t.Fatal("there is no free port")
	return ""
}

// start starts Caddy with a Caddyfile, in which SITE stands for the address of a
// site and GLOBAL, at its beginning, for global options.
func start(t *testing.T, caddyfile string) *server {
	t.Helper()
	for range 5 { // another process may take the ports before Caddy does
		s := try(t, caddyfile)
		if s.started(t) {
			return s
		}
	}
	t.Fatal("Caddy finds no free port")
	return nil
}

// try starts Caddy and does not wait for it.
func try(t *testing.T, caddyfile string) *server {
	t.Helper()
	s := &server{dir: t.TempDir(), done: make(chan struct{}), port: freePort(t), admin: "127.0.0.1:" + freePort(t)}
	s.write(t, caddyfile)
	s.cmd = command(t, s.dir, "run", "--config", "Caddyfile")
	stderr, err := s.cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		s.cmd.Process.Kill()
		<-s.done
		if t.Failed() {
			for _, r := range s.records {
				t.Logf("log: %v", r)
			}
		}
	})
	go func() {
		defer close(s.done)
		for lines := bufio.NewScanner(stderr); lines.Scan(); {
			record := make(map[string]any)
			if json.Unmarshal(lines.Bytes(), &record) != nil {
				record["msg"] = lines.Text()
			}
			s.mu.Lock()
			s.records = append(s.records, record)
			s.mu.Unlock()
		}
		s.cmd.Wait() // what came of it is in ProcessState
	}()
	return s
}

// write writes the Caddyfile.
func (s *server) write(t *testing.T, caddyfile string) {
	t.Helper()
	global := fmt.Sprintf("admin %s\n\tauto_https off\n\tlog {\n\t\tformat json\n\t}\n", s.admin)
	if !strings.Contains(caddyfile, "GLOBAL") {
		caddyfile = "{\n\tGLOBAL\n}\n" + caddyfile
	}
	caddyfile = strings.NewReplacer("GLOBAL", global, "SITE", "http://127.0.0.1:"+s.port).Replace(caddyfile)
	if err := os.WriteFile(filepath.Join(s.dir, "Caddyfile"), []byte(caddyfile), 0o600); err != nil {
		t.Fatal(err)
	}
}

// reload has Caddy load another Caddyfile.
func (s *server) reload(t *testing.T, caddyfile string) {
	t.Helper()
	s.write(t, caddyfile)
	if out, err := command(t, s.dir, "reload", "--config", "Caddyfile", "--force").CombinedOutput(); err != nil {
		t.Fatalf("reload: %v\n%s", err, out)
	}
}

// record waits for a log record.
func (s *server) record(t *testing.T, msg string) (found map[string]any) {
	t.Helper()
	eventually(t, "a record of "+msg, func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		for _, r := range s.records {
			if r["msg"] == msg {
				found = r
			}
		}
		return found != nil
	})
	return found
}

// started waits until Caddy serves. It reports false if another process has one
// of its ports.
func (s *server) started(t *testing.T) (ok bool) {
	t.Helper()
	eventually(t, "Caddy to serve", func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		for _, r := range s.records {
			switch {
			case r["msg"] == "serving initial configuration":
				ok = true
				return true
			case strings.Contains(fmt.Sprint(r), "address already in use"):
				return true
			}
		}
		select {
		case <-s.done:
			t.Fatal("Caddy has ended at once")
		default:
		}
		return false
	})
	return ok
}

// eventually waits until holds returns true.
func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for began := time.Now(); !holds(); time.Sleep(5 * time.Millisecond) {
		if time.Since(began) > patience {
			t.Fatalf("waited for %s in vain", what)
		}
	}
}

// get sends an ordinary request.
func (s *server) get(t *testing.T, path string, header http.Header) (*http.Response, string) {
	t.Helper()
	return get(t, "http://127.0.0.1:"+s.port+path, header)
}

func get(t *testing.T, url string, header http.Header) (*http.Response, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	maps.Copy(req.Header, header)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, string(body)
}

// An upstream echoes, and answers ordinary requests with its name.
type upstream struct {
	*httptest.Server
	name string

	mu   sync.Mutex
	last *http.Request // of the last WebSocket
}

func newUpstream(t *testing.T, name string) *upstream {
	u := &upstream{name: name}
	u.Server = httptest.NewServer(u)
	t.Cleanup(u.Close)
	return u
}

// addr returns host:port.
func (u *upstream) addr() string { return u.Listener.Addr().String() }

func (u *upstream) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	u.mu.Lock()
	u.last = r
	u.mu.Unlock()
	w.Header().Set("X-Upstream", u.name)
	w.Header().Set("X-Secret", "internal")
	switch {
	case r.URL.Path == "/refused":
		http.Error(w, "not today", http.StatusTeapot)
		return
	case r.Header.Get("Upgrade") == "":
		io.WriteString(w, u.name)
		return
	}
	conn, err := websocket.Accept(w, r, &websocket.AcceptOptions{InsecureSkipVerify: true})
	if err != nil {
		return
	}
	defer conn.CloseNow()
	for {
		kind, message, err := conn.Read(context.Background())
		if err != nil {
			return
		}
		if err := conn.Write(context.Background(), kind, message); err != nil {
			return
		}
	}
}

// request returns the header of the last WebSocket's handshake.
func (u *upstream) request() *http.Request {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.last
}

// dial opens a WebSocket, or returns the answer that it got instead.
func (s *server) dial(t *testing.T, path string, header http.Header) (*websocket.Conn, *http.Response, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	conn, resp, err := websocket.Dial(ctx, "ws://127.0.0.1:"+s.port+path, &websocket.DialOptions{HTTPHeader: header})
	if conn != nil {
		t.Cleanup(func() { conn.CloseNow() })
	}
	return conn, resp, err
}

// open opens a WebSocket that echoes.
func (s *server) open(t *testing.T, path string, header http.Header) *websocket.Conn {
	t.Helper()
	conn, _, err := s.dial(t, path, header)
	if err != nil {
		t.Fatal(err)
	}
	if err := echo(conn); err != nil {
		t.Fatal(err)
	}
	return conn
}

// echo sends a message and reads it back.
func echo(conn *websocket.Conn) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := conn.Write(ctx, websocket.MessageText, []byte("hello")); err != nil {
		return err
	}
	_, got, err := conn.Read(ctx)
	if err == nil && !bytes.Equal(got, []byte("hello")) {
		err = fmt.Errorf("got %q, want hello", got)
	}
	return err
}

// ended waits for the Close frame, and returns its code.
func ended(conn *websocket.Conn) websocket.StatusCode {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	_, _, err := conn.Read(ctx)
	return websocket.CloseStatus(err)
}

// stop asks Caddy to exit, as systemd does, and waits for it.
func (s *server) stop(t *testing.T) {
	t.Helper()
	if err := s.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	select {
	case <-s.done:
	case <-time.After(patience):
		t.Fatal("Caddy does not exit")
	}
	if code := s.cmd.ProcessState.ExitCode(); code != 0 {
		t.Errorf("Caddy exited with %d, want 0", code)
	}
}
