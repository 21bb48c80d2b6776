package main

import (
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"
)

// free returns an address on which nothing listens.
func free(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	return ln.Addr().String()
}

// ask requests a path, with the given Host, and returns the status and the
// body.
func ask(t *testing.T, url, host string) (status int, body string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), "GET", url, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Host = host
	c := &http.Client{Timeout: patience, Transport: &http.Transport{
		DisableKeepAlives: true,
		TLSClientConfig:   &tls.Config{InsecureSkipVerify: true},
	}}
	resp, err := c.Do(req)
	if err != nil {
		return 0, err.Error()
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(text)
}

// An address in use may change its server, its TLS, or become part of a wider
// one. Sessions continue, and a change that fails changes nothing.
func TestReloadPurpose(t *testing.T) {
	dir := t.TempDir()
	writeCertificate(t, dir, "front", "127.0.0.1")
	a := newUpstream(t, "a")
	one, two := free(t), free(t)
	_, port, _ := net.SplitHostPort(one)
	in := start(t, routes(a))
	apply := func(listen string) error {
		t.Helper()
		file := writeFile(t, dir, "wsproxy.toml", "drain_window = \"200ms\"\n"+listen+routes(a))
		c, err := load(file)
		if err != nil {
			t.Fatal(err)
		}
		return in.apply(c)
	}
	const withTLS = "\n[tls]\ncertificates = [{ cert = \"front.pem\", key = \"front.key\" }]\nlisten = [%q]\n"
	is := func(url string, status int) {
		t.Helper()
		if got, body := ask(t, url, ""); got != status {
			t.Errorf("%s: got %d (%s), want %d", url, got, body, status)
		}
	}
	if err := apply(fmt.Sprintf("listen = [%q]\nadmin = %q\n", one, two)); err != nil {
		t.Fatal(err)
	}
	s := dial(t, "ws://"+one+"/a", nil)

	if err := apply(fmt.Sprintf("listen = [%q]\nadmin = %q\n", two, one)); err != nil {
		t.Fatalf("public and admin swapped: %v", err)
	}
	is("http://"+one+"/healthz", 200)
	is("http://"+two+"/a", http.StatusUpgradeRequired)

	if err := apply(fmt.Sprintf("listen = [%q]\n"+withTLS, two, one)); err != nil {
		t.Fatalf("admin to TLS: %v", err)
	}
	is("https://"+one+"/a", http.StatusUpgradeRequired)

	if err := apply(fmt.Sprintf("listen = [%q]\n"+withTLS, one, two)); err != nil {
		t.Fatalf("plain to TLS, and TLS to plain: %v", err)
	}
	is("http://"+one+"/a", http.StatusUpgradeRequired)
	is("https://"+two+"/a", http.StatusUpgradeRequired)

	if err := apply(fmt.Sprintf("listen = [%q]\n", ":"+port)); err != nil {
		t.Fatalf("all addresses in place of one: %v", err)
	}
	is("http://"+one+"/a", http.StatusUpgradeRequired)
	if _, err := net.Dial("tcp", two); err == nil {
		t.Errorf("%s still listens", two)
	}
	// A wider address whose port another process uses.
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	if err := apply(fmt.Sprintf("listen = [%q]\nadmin = %q\n", one, taken.Addr())); err == nil {
		t.Error("an address that is in use was taken")
	}
	is("http://"+one+"/a", http.StatusUpgradeRequired)
	if err := apply(fmt.Sprintf("listen = [%q]\n", one)); err != nil {
		t.Fatalf("one address in place of all: %v", err)
	}
	is("http://"+one+"/a", http.StatusUpgradeRequired)
	s.echo(t)

	// A unix socket can also change its server, and its path stays until the
	// end.
	path := filepath.Join(t.TempDir(), "s")
	for _, listen := range []string{"listen = [%q]\n", "listen = [\"127.0.0.1:0\"]\nadmin = %q\n"} {
		if err := apply(fmt.Sprintf(listen, "unix:"+path)); err != nil {
			t.Fatal(err)
		}
		if conn, err := net.Dial("unix", path); err != nil {
			t.Error(err)
		} else {
			conn.Close()
		}
	}
	in.private.Close()
	eventually(t, "the socket's path is gone", func() bool {
		_, err := os.Lstat(path)
		return err != nil
	})
}

// Addresses that conflict or cannot be opened are mistakes.
func TestOverlap(t *testing.T) {
	for _, test := range []struct {
		listen, want string // "": it is valid
	}{
		{`"127.0.0.1:8080", "127.0.0.2:8080"`, ""},
		{`"127.0.0.1:0", "127.0.0.2:0", ":0"`, ""},
		{`"127.0.0.1:8080", "127.0.0.1:8080"`, `"127.0.0.1:8080" is listed twice`},
		{`"127.0.0.1:80", "127.0.0.1:http"`, `"127.0.0.1:http" is already used by "127.0.0.1:80"`},
		{`"[::ffff:127.0.0.1]:80", "127.0.0.1:80"`, `"127.0.0.1:80" is already used`},
		{`":80", "127.0.0.1:80"`, `"127.0.0.1:80" is already used by ":80"`},
		{`"127.0.0.1:80", "[::]:80"`, `"[::]:80" is already used by "127.0.0.1:80"`},
		{`"unix:/run/a", "unix:/run//a"`, `"unix:/run//a" is already used by "unix:/run/a"`},
		{`"unix:/run/a", "unix:/run/b"`, ""},
		{`"127.0.0.1:99999"`, `unknown port "99999"`},
		{`"127.0.0.1:no-such-service"`, `unknown port "no-such-service"`},
	} {
		if strings.Contains(test.want, "by") && runtime.GOOS != "linux" {
			continue
		}
		file := writeFile(t, t.TempDir(), "wsproxy.toml", "listen = ["+test.listen+"]\n[[route]]\npath = \"/\"\ntarget = \"http://a\"\n")
		_, err := load(file)
		if test.want == "" && err != nil || test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)) {
			t.Errorf("%s: got %v, want %q", test.listen, err, test.want)
		}
	}
}

// /stats answers only requests that use one of the admin's own names: a page
// whose name resolves to our address (DNS rebinding) cannot read it.
func TestAdminHosts(t *testing.T) {
	a := newUpstream(t, "a")
	in := start(t, "admin_hosts = [\"Gateway.internal\"]\n"+routes(a))
	admin := in.address(t, func(a address) bool { return a.admin })
	for host, want := range map[string]int{
		"":                      200, // the address
		"10.0.0.1":              200,
		"[::1]:8081":            200,
		"localhost":             200,
		"LOCALHOST.:1":          200,
		"gateway.internal:8081": 200,
		"GATEWAY.internal.":     200,
		"evil.example":          403,
		"evil.example:8081":     403,
		"localhost.evil.test":   403,
		"127.0.0.1.evil.test":   403,
		"gateway.internal.evil": 403,
	} {
		if got, body := ask(t, "http://"+admin+"/stats", host); got != want {
			t.Errorf("/stats as %q: got %d, want %d", host, got, want)
		} else if got == 403 && strings.Contains(body, "draining") {
			t.Errorf("/stats as %q: got %q", host, body)
		}
		if got, _ := ask(t, "http://"+admin+"/healthz", host); got != 200 {
			t.Errorf("/healthz as %q: got %d, want 200: it tells nothing, and balancers have their own names for us", host, got)
		}
	}
	// A reload changes the names. A unix socket accepts any name.
	path := filepath.Join(t.TempDir(), "admin")
	in.write(t, routes(a))
	text, err := os.ReadFile(in.file)
	if err != nil {
		t.Fatal(err)
	}
	file := writeFile(t, t.TempDir(), "wsproxy.toml", strings.Replace(string(text), `admin = "127.0.0.1:0"`, `admin = "unix:`+path+`"`, 1))
	c, err := load(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := in.apply(c); err != nil {
		t.Fatal(err)
	}
	conn, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(patience))
	fmt.Fprintf(conn, "GET /stats HTTP/1.1\r\nHost: what-ever\r\nConnection: close\r\n\r\n")
	if answer, err := io.ReadAll(conn); err != nil || !strings.Contains(string(answer), " 200 OK\r\n") {
		t.Errorf("over a unix socket: got %q, %v", answer, err)
	}
}

// A gateway that exits does not remove a socket's path that another process has
// replaced.
func TestSocketOfAnother(t *testing.T) {
	a := newUpstream(t, "a")
	dir := t.TempDir()
	path := filepath.Join(dir, "s")
	file := writeFile(t, dir, "wsproxy.toml", fmt.Sprintf("listen = [\"127.0.0.1:0\", %q]\nadmin = \"127.0.0.1:0\"\nlog = \"json\"\n", "unix:"+path)+routes(a))
	first := startProcess(t, "--config", file)
	first.record(t, "listening", "address", path)
	if err := os.Remove(path); err != nil { // as the next process does
		t.Fatal(err)
	}
	second := startProcess(t, "--config", file)
	second.record(t, "listening", "address", path)
	first.signal(t, syscall.SIGTERM)
	if code := first.exited(t); code != 0 {
		t.Errorf("exit code %d, want 0", code)
	}
	if conn, err := net.Dial("unix", path); err != nil {
		t.Errorf("the second one can't be reached any more: %v", err)
	} else {
		conn.Close()
	}
	second.signal(t, syscall.SIGTERM)
	second.exited(t)
	if _, err := os.Lstat(path); err == nil {
		t.Error("the second one has left its own path behind")
	}
}
