package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/seed-ffb73231/wsproxy"
)

// patience limits every wait, on a machine that may be busy.
const patience = 30 * time.Second

// asProgram in the environment makes the test binary the program itself.
const asProgram = "WSPROXY_EXAMPLE_CONSOLE"

func TestMain(m *testing.M) {
	if os.Getenv(asProgram) != "" {
		main()
		return
	}
	os.Exit(m.Run())
}

// A snapshot is a part of what a page is sent.
type snapshot struct {
	Notice   string
	Rows     []struct{ User, Path string }
	Open     int
	Messages [2]uint64
	Drain    *struct{ Total, Told, Open, Cut int }
}

// await asks a console for snapshots until a condition holds.
func await(t *testing.T, url string, f func(snapshot) bool) snapshot {
	t.Helper()
	tick, deadline := time.NewTicker(10*time.Millisecond), time.After(patience)
	defer tick.Stop()
	for {
		resp, err := http.Get(url + "/snapshot")
		if err != nil {
			t.Fatal(err)
		}
		var snap snapshot
		err = json.NewDecoder(resp.Body).Decode(&snap)
		resp.Body.Close()
		if err != nil {
			t.Fatal(err)
		}
		if f(snap) {
			return snap
		}
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("no such snapshot in %v; the last one is %+v", patience, snap)
		}
	}
}

// TestWatch opens a session, sees it in the console, and drains it from there.
func TestWatch(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	upstream := httptest.NewServer(http.HandlerFunc(echo))
	defer upstream.Close()
	proxy, err := wsproxy.New(upstream.URL, wsproxy.WithOnOpen(keepUser),
		wsproxy.WithDrain(100*time.Millisecond, websocket.StatusServiceRestart),
		wsproxy.WithLogger(slog.New(slog.DiscardHandler)))
	if err != nil {
		t.Fatal(err)
	}
	defer proxy.Close()
	public := httptest.NewServer(proxy)
	defer public.Close()
	var draining sync.WaitGroup
	defer draining.Wait()
	private := httptest.NewServer(watch(proxy, settings{window: 100 * time.Millisecond, console: "desk.internal:0"},
		&net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)}, &draining))
	defer private.Close()

	conn, _, err := websocket.Dial(ctx, public.URL+"/chat?user=desk-1", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.CloseNow()
	snap := await(t, private.URL, func(s snapshot) bool { return len(s.Rows) == 1 })
	if r := snap.Rows[0]; r.User != "desk-1" || r.Path != "/chat" || !strings.Contains(snap.Notice, "this machine only") {
		t.Errorf("got %+v, want desk-1 at /chat, and the notice", snap)
	}

	_, port, _ := net.SplitHostPort(strings.TrimPrefix(private.URL, "http://"))
	for host, status := range map[string]int{
		"127.0.0.1:" + port:         200,
		"localhost:" + port:         200,
		"[::1]:" + port:             200,
		"Desk.Internal:" + port:     200,
		"rebound.example:" + port:   421,
		"127.0.0.1.rebound.example": 421,
	} {
		r, err := http.NewRequestWithContext(ctx, "GET", private.URL, nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Host = host
		resp, err := http.DefaultTransport.RoundTrip(r)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != status {
			t.Errorf("host %s: got %d, want %d", host, resp.StatusCode, status)
		}
	}

	resp, err := http.Post(private.URL+"/drain", "application/json", strings.NewReader("{}"))
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if _, _, err := conn.Read(ctx); resp.StatusCode != 204 || websocket.CloseStatus(err) != websocket.StatusServiceRestart {
		t.Errorf("the drain was answered %d, and the session ended with %v, want 204 and Close 1012", resp.StatusCode, err)
	}
}

// TestProgram runs the whole program with its own clients and interrupts it.
func TestProgram(t *testing.T) {
	t.Parallel()
	if runtime.GOOS == "windows" {
		t.Skip("no os.Interrupt there")
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), self, "-addr=127.0.0.1:0", "-console=127.0.0.1:0", "-window=1s", "-visitors=10")
	cmd.Env = append(os.Environ(), asProgram+"=1")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Process.Kill()
	lines := bufio.NewScanner(stdout)
	url := ""
	for url == "" && lines.Scan() {
		if rest, ok := strings.CutPrefix(lines.Text(), "console"); ok {
			url = strings.TrimSuffix(strings.TrimSpace(rest), "/")
		}
	}
	await(t, url, func(s snapshot) bool { return s.Open == 10 && s.Messages[wsproxy.Client] > 0 })
	if err := cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	// The console answers during the drain.
	await(t, url, func(s snapshot) bool { return s.Drain != nil && s.Drain.Total > 0 && s.Drain.Cut == 0 })
	rest, _ := io.ReadAll(stdout)
	if err := cmd.Wait(); err != nil || stderr.Len() > 0 || !bytes.Contains(rest, []byte("shut down after")) {
		t.Errorf("the program has ended with %v, stderr %q\n%s", err, stderr.String(), rest)
	}
}
