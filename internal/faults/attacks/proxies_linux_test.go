package attacks

import (
	"bytes"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/seed-ffb73231/wsproxy"
	"github.com/seed-ffb73231/wsproxy/internal/wstest"
)

// The proxies that are compared, each configured for WebSockets as in its
// documentation, with an upstream at the given address. They return their own
// address.
var proxies = []struct {
	name  string
	start func(t *testing.T, upstream string) (addr string)
}{
	{"wsproxy", func(t *testing.T, upstream string) string {
		p, err := wsproxy.New("http://"+upstream, wsproxy.WithLogger(slog.New(slog.DiscardHandler)))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { p.Close() })
		return serveOn(t, p)
	}},
	{"ReverseProxy", func(t *testing.T, upstream string) string {
		return serveOn(t, &httputil.ReverseProxy{
			Rewrite: func(pr *httputil.ProxyRequest) {
				pr.SetURL(&url.URL{Scheme: "http", Host: upstream})
				pr.SetXForwarded()
				pr.Out.Host = pr.In.Host
			},
			ErrorLog: log.New(io.Discard, "", 0),
		})
	}},
	{"nginx", func(t *testing.T, upstream string) string {
		return startProgram(t, "nginx", []string{"-p", ".", "-c", "conf", "-e", "stderr"}, `
daemon off; user root; worker_processes 1; pid pid; error_log stderr crit;
events {}
http {
  access_log off;
  client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path fastcgi;
  uwsgi_temp_path uwsgi; scgi_temp_path scgi;
  server {
    listen LISTEN;
    location / {
      proxy_pass http://`+upstream+`;
      proxy_http_version 1.1;
      proxy_set_header Upgrade $http_upgrade;
      proxy_set_header Connection "upgrade";
      proxy_set_header Host $http_host;
      proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
    }
  }
}
`)
	}},
	{"HAProxy", func(t *testing.T, upstream string) string {
		return startProgram(t, "haproxy", []string{"-db", "-f", "conf"}, `
global
  maxconn 256
defaults
  mode http
  retries 0
  option forwardfor
  timeout connect 30s
  timeout client 30s
  timeout server 30s
frontend front
  bind LISTEN
  default_backend back
backend back
  server up `+upstream+"\n")
	}},
}

func serveOn(t *testing.T, h http.Handler) (addr string) {
	s := httptest.NewUnstartedServer(h)
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.Start()
	// Close would wait for hijacked connections.
	t.Cleanup(func() { s.Listener.Close() })
	return s.Listener.Addr().String()
}

// program returns the path of a program, also for users other than root.
func program(name string) (path string, err error) {
	if path, err = exec.LookPath(name); err != nil {
		return exec.LookPath("/usr/sbin/" + name)
	}
	return path, nil
}

// startProgram runs a program until the test ends, on its own port, which
// replaces LISTEN.
func startProgram(t *testing.T, name string, args []string, conf string) (addr string) {
	t.Helper()
	path, err := program(name)
	if err != nil {
		t.Fatal(err)
	}
	for range 5 {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		addr = ln.Addr().String()
		ln.Close() // and somebody else may take the port before the program does
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "conf"), []byte(strings.Replace(conf, "LISTEN", addr, 1)), 0o600); err != nil {
			t.Fatal(err)
		}
		var said bytes.Buffer
		cmd := exec.Command(path, args...)
		cmd.Dir, cmd.Stdout, cmd.Stderr = dir, &said, &said
		// nginx forks; no worker may outlive a test that is killed.
		cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			_ = cmd.Wait() // however it ends
		}()
		t.Cleanup(func() {
			_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
			<-ended
		})
		for deadline := time.Now().Add(wstest.Timeout); time.Now().Before(deadline); {
			if c, err := net.Dial("tcp", addr); err == nil {
				c.Close()
				return addr
			}
			select {
			case <-ended:
				deadline = time.Time{}
			case <-time.After(5 * time.Millisecond):
			}
		}
		select {
		case <-ended:
			t.Logf("%s has ended: %s", name, said.Bytes())
		default:
			t.Fatalf("%s takes no connections", name)
		}
	}
	t.Fatalf("%s doesn't start", name)
	return ""
}
