package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/coder/websocket"
)

// TestMetrics: Prometheus gets each route, and what is left of old ones, on the
// admin's address only.
func TestMetrics(t *testing.T) {
	t.Parallel()
	a, b := newUpstream(t, "a"), newUpstream(t, "b")
	in := start(t, routes(a, b))
	admin := "http://" + in.address(t, func(a address) bool { return a.admin })
	is := func(want ...string) {
		t.Helper()
		status, body := ask(t, admin+"/metrics", "")
		if status != http.StatusOK {
			t.Fatalf("/metrics answers %d: %s", status, body)
		}
		for _, line := range want {
			if !strings.Contains("\n"+body, "\n"+line+"\n") {
				t.Errorf("/metrics has no line %s; it has\n%s", line, strings.Join(regexp.MustCompile(`(?m)^wsproxy_(old_)?sessions.*$`).FindAllString(body, -1), "\n"))
			}
		}
	}
	is(`wsproxy_sessions{route="/a"} 0`, `wsproxy_sessions{route="/b"} 0`, "wsproxy_old_sessions 0", fmt.Sprintf("wsproxy_build_info{version=%q} 1", version()))
	dial(t, in.url(t, "/a"), nil)
	dial(t, in.url(t, "/a"), nil)
	onB := dial(t, in.url(t, "/b"), nil)
	is(`wsproxy_sessions{route="/a"} 2`, `wsproxy_sessions{route="/b"} 1`, `wsproxy_member_sessions{member="`+b.URL+`",route="/b"} 1`)

	// Route b is replaced; its session goes on until it is told to end.
	if err := in.rewrite(t, routes(a)+"[[route]]\npath = \"/b\"\nmax_age = \"1h\"\nclose_timeout = \"1h\"\n"+members(b)); err != nil {
		t.Fatal(err)
	}
	is(`wsproxy_sessions{route="/a"} 2`, `wsproxy_sessions{route="/b"} 0`)
	if code := onB.ended(t); code != websocket.StatusGoingAway {
		t.Errorf("the session has ended by %d, want 1001", code)
	}

	for _, path := range []string{"/metrics", "/stats", "/console/", "/healthz"} {
		public := strings.Replace(in.url(t, path), "ws:", "http:", 1)
		if status, _ := ask(t, public, ""); status != http.StatusNotFound {
			t.Errorf("%s on the public address: got %d, want 404", path, status)
		}
	}
	for path, want := range map[string]int{"/metrics": 403, "/console/": 403, "/console/snapshot": 403, "/": 403, "/healthz": 200} {
		if status, _ := ask(t, admin+path, "rebound.example"); status != want {
			t.Errorf("%s by a strange name: got %d, want %d", path, status, want)
		}
	}
}

// TestConsole closes a session by the console.
func TestConsole(t *testing.T) {
	t.Parallel()
	a, b := newUpstream(t, "a"), newUpstream(t, "b")
	in := start(t, routes(a, b))
	admin := "http://" + in.address(t, func(a address) bool { return a.admin })
	stays, goes := dial(t, in.url(t, "/a"), nil), dial(t, in.url(t, "/b"), nil)
	if status, body := ask(t, admin+"/", ""); status != 200 || !strings.Contains(body, "<!doctype html>") {
		t.Errorf("the admin's first page is answered %d: %s", status, body)
	}
	var snap struct {
		Rows []struct {
			Route string
			ID    uint64
		}
	}
	_, body := ask(t, admin+"/console/snapshot?sort=route", "")
	if err := json.Unmarshal([]byte(body), &snap); err != nil || len(snap.Rows) != 2 || snap.Rows[1].Route != "/b" {
		t.Fatalf("got %s (%v), want a session of /a and one of /b", body, err)
	}
	end := func(header ...string) int {
		r, err := http.NewRequestWithContext(t.Context(), "POST", admin+"/console/close",
			strings.NewReader(fmt.Sprintf(`{"route":"/b","session":%d,"code":4403,"reason":"go"}`, snap.Rows[1].ID)))
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Content-Type", "application/json")
		for i := 0; i < len(header); i += 2 {
			r.Header.Set(header[i], header[i+1])
		}
		resp, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		return resp.StatusCode
	}
	if status := end("Origin", "http://elsewhere.example"); status != 403 {
		t.Errorf("a page of another origin: got %d, want 403", status)
	}
	goes.echo(t)
	if status := end(); status != 204 {
		t.Errorf("got %d, want 204", status)
	}
	if code := goes.ended(t); code != 4403 {
		t.Errorf("the session has ended by %d, want 4403", code)
	}
	stays.echo(t)

	if err := in.rewrite(t, "console = \"off\"\n"+routes(a, b)); err != nil {
		t.Fatal(err)
	}
	if status, _ := ask(t, admin+"/console/", ""); status != 403 {
		t.Errorf("a console that is off: got %d, want 403", status)
	}
}

// TestConsoleAccess: the key console says who may use it.
func TestConsoleAccess(t *testing.T) {
	t.Parallel()
	local := &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 8081}
	local6 := &net.TCPAddr{IP: net.IPv6loopback, Port: 8081}
	far := &net.TCPAddr{IP: net.IPv4(10, 0, 0, 1), Port: 8081}
	unix := &net.UnixAddr{Name: "/run/admin", Net: "unix"}
	g := newGateway(slog.New(slog.DiscardHandler), nil)
	for _, test := range []struct {
		console string
		addr    net.Addr
		status  int
	}{
		{"local", local, 200},
		{"local", local6, 200},
		{"local", unix, 200},
		{"local", far, 403},
		{"all", far, 200},
		{"all", local, 200},
		{"all", unix, 200},
		{"off", local, 403},
		{"off", unix, 403},
		{"off", far, 403},
	} {
		g.console = test.console
		for _, path := range []string{"/console/", "/console/snapshot"} {
			r := httptest.NewRequestWithContext(context.WithValue(t.Context(), http.LocalAddrContextKey, test.addr), "GET", "http://127.0.0.1:8081"+path, nil)
			w := httptest.NewRecorder()
			g.private.Handler.ServeHTTP(w, r)
			if w.Code != test.status {
				t.Errorf("console = %q: %s at %v: got %d, want %d", test.console, path, test.addr, w.Code, test.status)
			}
		}
	}
}

// A certificate of its own has the fingerprint that the log has, is valid for
// this machine's names, and stays when the file is read again.
func TestSelfSigned(t *testing.T) {
	t.Parallel()
	a := newUpstream(t, "a")
	p := spawn(t, "--config", writeFile(t, t.TempDir(), "wsproxy.toml", "log = \"json\"\n[tls]\nlisten = [\"127.0.0.1:0\"]\nself_signed = true\n"+routes(a)+"detach = true\n"))
	address := fmt.Sprint(p.record(t, "listening", "for", "public, TLS")["address"])
	logged := fmt.Sprint(p.record(t, "certificate made", "sha256", ":")["sha256"])
	shown := func() *x509.Certificate {
		t.Helper()
		conn, err := tls.Dial("tcp", address, &tls.Config{InsecureSkipVerify: true}) // it is compared below
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		c := conn.ConnectionState().PeerCertificates[0]
		sum := sha256.Sum256(c.Raw)
		if got := strings.ReplaceAll(fmt.Sprintf("% X", sum[:]), " ", ":"); got != logged {
			t.Errorf("the certificate is %s, the log has %s", got, logged)
		}
		return c
	}
	c := shown()
	pool := x509.NewCertPool()
	pool.AddCert(c)
	for _, host := range []string{"localhost", "127.0.0.1", "::1"} {
		if _, err := c.Verify(x509.VerifyOptions{DNSName: host, Roots: pool}); err != nil {
			t.Errorf("%s: %v", host, err)
		}
	}
	if days := time.Until(c.NotAfter).Hours() / 24; days < 700 || days > 825 {
		t.Errorf("it is valid for %.0f days, want some less than 825", days)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	conn, _, err := websocket.Dial(ctx, "wss://"+address+"/a", &websocket.DialOptions{
		HTTPClient: &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.CloseNow()
	if _, name, err := conn.Read(ctx); err != nil || string(name) != "a" {
		t.Errorf("got %q, %v, want the upstream's name", name, err)
	}
	p.signal(t, syscall.SIGHUP)
	p.record(t, "reloaded", "routes", "1")
	shown()
}

// --tls-self-signed, --admin and --origin do what the file's keys do.
func TestQuick(t *testing.T) {
	t.Parallel()
	a := newUpstream(t, "a")
	admin := free(t)
	address := startFlags(t, a.URL, "--listen", "127.0.0.1:0", "--admin", admin, "--origin", "https://*.example.com")
	if status, _ := ask(t, "http://"+admin+"/healthz", ""); status != 200 {
		t.Errorf("/healthz: got %d, want 200", status)
	}
	for origin, ok := range map[string]bool{"https://app.example.com": true, "https://elsewhere.example": false} {
		if _, status, err := tryDial(t, "ws://"+address, http.Header{"Origin": {origin}}); (err == nil) != ok {
			t.Errorf("a page of %s: status %d, %v", origin, status, err)
		}
	}
	secure := startFlags(t, "--tls-self-signed", a.URL, "--listen", "127.0.0.1:0")
	if status, _ := ask(t, "https://"+secure, ""); status != http.StatusUpgradeRequired {
		t.Errorf("over TLS: got %d, want 426", status)
	}
	if status, _ := ask(t, "http://"+secure, ""); status != http.StatusBadRequest {
		t.Errorf("without TLS: got %d, want net/http's 400", status)
	}
}

// An unusable address is an error that says so.
func TestNotStarted(t *testing.T) {
	t.Parallel()
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	for address, want := range map[string]string{
		taken.Addr().String():                             "address already in use",
		"unix:" + filepath.Join(t.TempDir(), "none", "s"): "no such file or directory",
	} {
		cmd := program(t, "http://127.0.0.1:9", "--listen", address)
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		if err := cmd.Run(); err == nil || cmd.ProcessState.ExitCode() != exitFailed || !strings.Contains(stderr.String(), want) {
			t.Errorf("%s: got %v, %s, want %s", address, err, stderr.String(), want)
		}
	}
}
