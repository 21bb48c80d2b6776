package main

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"
)

// patience limits every wait.
const patience = 20 * time.Second

// An upstream sends its name to each client, and then echoes.
type upstream struct {
	*httptest.Server
	name string

	mu       sync.Mutex
	requests []*http.Request
	pings    int
	conns    []*websocket.Conn
}

func newUpstream(t *testing.T, name string) *upstream {
	t.Helper()
	u := &upstream{name: name}
	u.Server = httptest.NewServer(u)
	t.Cleanup(u.stop)
	return u
}

// leave cuts the connections of the sessions so far.
func (u *upstream) leave() {
	u.mu.Lock()
	defer u.mu.Unlock()
	for _, conn := range u.conns {
		conn.CloseNow()
	}
	u.conns = nil
}

func (u *upstream) stop() {
	u.CloseClientConnections()
	u.Close()
}

func (u *upstream) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	u.mu.Lock()
	u.requests = append(u.requests, r)
	u.mu.Unlock()
	if r.Header.Get("Upgrade") == "" {
		fmt.Fprintln(w, "well")
		return
	}
	w.Header().Set("X-Powered-By", u.name)
	conn, err := websocket.Accept(w, r, &websocket.AcceptOptions{
		InsecureSkipVerify: true,
		OnPingReceived: func(context.Context, []byte) bool {
			u.mu.Lock()
			defer u.mu.Unlock()
			u.pings++
			return true
		},
	})
	if err != nil {
		return
	}
	defer conn.CloseNow()
	u.mu.Lock()
	u.conns = append(u.conns, conn)
	u.mu.Unlock()
	conn.SetReadLimit(-1)
	if conn.Write(r.Context(), websocket.MessageText, []byte(u.name)) != nil {
		return
	}
	for {
		kind, message, err := conn.Read(r.Context())
		if err != nil {
			return
		}
		if conn.Write(r.Context(), kind, message) != nil {
			return
		}
	}
}

// last returns the last request.
func (u *upstream) last(t *testing.T) *http.Request {
	t.Helper()
	u.mu.Lock()
	defer u.mu.Unlock()
	if len(u.requests) == 0 {
		t.Fatalf("upstream %s has had no request", u.name)
	}
	return u.requests[len(u.requests)-1]
}

// An instance is a gateway in this process.
type instance struct {
	*gateway
	file string
	logs *logs
}

// logs collects the log.
type logs struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *logs) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *logs) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// start starts a gateway with a listener, the admin's, and the text as its
// config.
func start(t *testing.T, text string) *instance {
	t.Helper()
	in := &instance{file: filepath.Join(t.TempDir(), "wsproxy.toml"), logs: new(logs)}
	in.write(t, text)
	c, err := load(in.file)
	if err != nil {
		t.Fatal(err)
	}
	in.gateway = newGateway(slog.New(slog.NewTextHandler(in.logs, nil)), nil)
	t.Cleanup(func() {
		in.public.Close()
		in.private.Close()
		for _, r := range in.routes {
			r.proxy.Close()
		}
		if t.Failed() {
			t.Logf("the gateway's log:\n%s", in.logs)
		}
	})
	if err := in.apply(c); err != nil {
		t.Fatal(err)
	}
	return in
}

// write writes the config.
func (in *instance) write(t *testing.T, text string) {
	t.Helper()
	text = "listen = [\"127.0.0.1:0\"]\nadmin = \"127.0.0.1:0\"\ndrain_window = \"200ms\"\n" + text
	if err := os.WriteFile(in.file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// rewrite changes the config and reloads it.
func (in *instance) rewrite(t *testing.T, text string) error {
	t.Helper()
	in.write(t, text)
	return in.reload(func() (*config, error) { return load(in.file) }, new(slog.LevelVar))
}

// apply applies a config immediately.
func (in *instance) apply(c *config) error {
	return in.reload(func() (*config, error) { return c, nil }, new(slog.LevelVar))
}

// reload does what the program does on SIGHUP, without waiting for it.
func (in *instance) reload(read func() (*config, error), level *slog.LevelVar) error {
	ch, err := in.prepare(read)
	if err != nil {
		return err
	}
	if err := in.commit(ch); err != nil {
		return err
	}
	level.Set(ch.config.level)
	return nil
}

// address returns the address on which the gateway listens.
func (in *instance) address(t *testing.T, is func(address) bool) string {
	t.Helper()
	for a, ln := range in.listeners {
		if is(a) {
			return ln.Addr().String()
		}
	}
	t.Fatal("no such listener")
	return ""
}

func (in *instance) url(t *testing.T, path string) string {
	t.Helper()
	return "ws://" + in.address(t, func(a address) bool { return !a.tls && !a.admin }) + path
}

// A client is an open session's client.
type client struct {
	*websocket.Conn
	name    string // of its upstream
	cookies []*http.Cookie
	header  http.Header // of the answer
}

// dial opens a session.
func dial(t *testing.T, url string, header http.Header) *client {
	t.Helper()
	c, status, err := tryDial(t, url, header)
	if err != nil {
		t.Fatalf("%s: status %d, %v", url, status, err)
	}
	return c
}

// tryDial tries to open a session; status is that of the answer.
func tryDial(t *testing.T, url string, header http.Header) (c *client, status int, err error) {
	t.Helper()
	return tryDialWith(t, url, &websocket.DialOptions{HTTPHeader: header, Host: header.Get("Host")})
}

// dialCompressed opens a session, and offers compression.
func dialCompressed(t *testing.T, url string) (*client, error) {
	t.Helper()
	c, _, err := tryDialWith(t, url, &websocket.DialOptions{CompressionMode: websocket.CompressionContextTakeover})
	return c, err
}

func tryDialWith(t *testing.T, url string, o *websocket.DialOptions) (c *client, status int, err error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	conn, resp, err := websocket.Dial(ctx, url, o)
	if resp != nil {
		status = resp.StatusCode
	}
	if err != nil {
		return nil, status, err
	}
	t.Cleanup(func() { conn.CloseNow() })
	conn.SetReadLimit(-1)
	c = &client{Conn: conn, cookies: resp.Cookies(), header: resp.Header}
	_, name, err := conn.Read(ctx)
	c.name = string(name)
	return c, status, err
}

// echo sends a message and waits for the echo.
func (c *client) echo(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := c.Write(ctx, websocket.MessageText, []byte("hello")); err != nil {
		t.Fatalf("session with %s: %v", c.name, err)
	}
	if _, answer, err := c.Read(ctx); err != nil || string(answer) != "hello" {
		t.Fatalf("session with %s: got %q, %v; want hello", c.name, answer, err)
	}
}

// ended waits for the session's end and returns the close code.
func (c *client) ended(t *testing.T) websocket.StatusCode {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for {
		if _, _, err := c.Read(ctx); err != nil {
			if ctx.Err() != nil {
				t.Fatalf("the session with %s doesn't end", c.name)
			}
			return websocket.CloseStatus(err)
		}
	}
}

// eventually waits until the condition holds.
func eventually(t *testing.T, what string, so func() bool) {
	t.Helper()
	ticker := time.NewTicker(5 * time.Millisecond)
	defer ticker.Stop()
	for deadline := time.After(patience); !so(); {
		select {
		case <-ticker.C:
		case <-deadline:
			t.Fatalf("not in %v: %s", patience, what)
		}
	}
}

// members returns upstreams in the config's syntax.
func members(upstreams ...*upstream) string {
	var list []string
	for _, u := range upstreams {
		list = append(list, fmt.Sprintf("  { target = %q },\n", u.URL))
	}
	return "upstreams = [\n" + strings.Join(list, "") + "]\n"
}
