//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/seed-ffb73231/wsproxy/internal/wstest"
)

// contender is a way to start a proxy.
type contender struct {
	name  string
	start func(site) *exec.Cmd // nil for no proxy
}

// site is what a proxy needs to know.
type site struct {
	listen, upstream string // host:port
	cert, key, both  string // files; empty for plain TCP
	dir              string // for the proxy's own files
	workers          int
	sessions         int  // most that will be open at a time
	gc               bool // have Go's collector say what it does
}

func (s site) env() []string {
	env := append(os.Environ(), "LISTEN="+s.listen, "UPSTREAM=http://"+s.upstream,
		"XDG_DATA_HOME="+s.dir, "XDG_CONFIG_HOME="+s.dir)
	if s.cert != "" {
		env = append(env, "TLS_CERT="+s.cert, "TLS_KEY="+s.key)
	}
	if s.gc {
		env = append(env, "GODEBUG=gctrace=1")
	}
	return env
}

func (s site) file(name, text string) string {
	path := filepath.Join(s.dir, name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		panic(err)
	}
	return path
}

// builtIn lists the contenders that the tool knows.
func builtIn() []contender {
	list := []contender{{name: "direct"}}
	for _, kind := range []string{"wsproxy", "wsproxy-detached", "wsproxy-messages", "rawtcp", "reverseproxy", "koding", "coder-naive"} {
		list = append(list, contender{kind, func(site) *exec.Cmd { return self("proxy", kind) }})
	}
	return append(list,
		contender{"nginx", nginx},
		contender{"haproxy", haproxy},
		contender{"caddy", caddy},
	)
}

// ours makes a contender of a command line.
func ours(name, command string) contender {
	return contender{name, func(site) *exec.Cmd {
		args := strings.Fields(command)
		return exec.Command(args[0], args[1:]...)
	}}
}

// self returns a command that starts this program.
func self(args ...string) *exec.Cmd {
	exe, err := os.Executable()
	if err != nil {
		panic(err)
	}
	return exec.Command(exe, args...)
}

// nginx uses the location block of its manual, without access log and with
// enough connections, as anyone would who cares about speed.
func nginx(s site) *exec.Cmd {
	user, tls, reuse := "", "", ""
	if os.Geteuid() == 0 {
		user = "user root;"
	}
	if s.cert != "" {
		tls = " ssl"
	}
	if s.workers > 1 {
		reuse = " reuseport" // spreads the sessions evenly
	}
	conf := fmt.Sprintf(`daemon off; worker_processes %d;
%s pid %[3]s/nginx.pid; error_log %[3]s/nginx.log error;
events { worker_connections %[4]d; }
http {
  access_log off;
  client_body_temp_path %[3]s/body; proxy_temp_path %[3]s/proxy; fastcgi_temp_path %[3]s/fcgi;
  uwsgi_temp_path %[3]s/uwsgi; scgi_temp_path %[3]s/scgi;
  map $http_upgrade $connection_upgrade { default upgrade; '' close; }
  server {
    listen %[5]s%[6]s%[7]s;
    location / {
      proxy_pass http://%[8]s;
      proxy_http_version 1.1;
      proxy_set_header Upgrade $http_upgrade;
      proxy_set_header Connection $connection_upgrade;
      proxy_set_header Host $host;
      proxy_read_timeout 300s;
    }
`, s.workers, user, s.dir, 2*s.sessions+256, s.listen, tls, reuse, s.upstream)
	if s.cert != "" {
		conf += fmt.Sprintf("    ssl_certificate %s; ssl_certificate_key %s;\n", s.cert, s.key)
	}
	return exec.Command("nginx", "-c", s.file("nginx.conf", conf+"  }\n}\n"), "-e", s.dir+"/nginx.log")
}

// haproxy and caddy also follow their manuals, with timeouts that do not end
// idle sessions.
func haproxy(s site) *exec.Cmd {
	tls := ""
	if s.cert != "" {
		tls = " ssl crt " + s.both
	}
	return exec.Command("haproxy", "-db", "-f", s.file("haproxy.cfg", fmt.Sprintf(`global
  maxconn %d
  nbthread %d
defaults
  mode http
  timeout connect 5s
  timeout client 300s
  timeout server 300s
  timeout tunnel 300s
frontend front
  bind %s%s
  default_backend back
backend back
  server s %s
`, s.sessions+128, s.workers, s.listen, tls, s.upstream)))
}

func caddy(s site) *exec.Cmd {
	scheme, tls := "http", ""
	if s.cert != "" {
		scheme, tls = "https", "tls "+s.cert+" "+s.key
	}
	return exec.Command("caddy", "run", "--adapter", "caddyfile", "--config", s.file("Caddyfile", fmt.Sprintf(`{
	admin off
	auto_https off
}
%s://%s {
	%s
	reverse_proxy %s
}
`, scheme, s.listen, tls, s.upstream)))
}

// process is a process that the tool has started.
type process struct {
	pid   int
	ended chan struct{}
}

// launch starts a process with its output in a file. It exits with this
// process, and leads a process group, because some proxies fork.
func launch(cmd *exec.Cmd, env []string, logFile string) (*process, error) {
	out, err := os.Create(logFile)
	if err != nil {
		return nil, err
	}
	defer out.Close()
	cmd.Stdout, cmd.Stderr, cmd.Env = out, out, env
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	p := &process{cmd.Process.Pid, make(chan struct{})}
	go func() { _ = cmd.Wait(); close(p.ended) }()
	return p, nil
}

func (p *process) stop() {
	_ = syscall.Kill(-p.pid, syscall.SIGTERM)
	select {
	case <-p.ended:
	case <-time.After(3 * time.Second):
	}
	_ = syscall.Kill(-p.pid, syscall.SIGKILL)
	<-p.ended
}

// listens waits until addr accepts connections.
func (p *process) listens(ctx context.Context, addr string) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	for {
		c, err := net.Dial("tcp", addr)
		if err == nil {
			c.Close()
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("nothing listens on %s", addr)
		case <-p.ended:
			return errors.New("the process has ended")
		case <-time.After(25 * time.Millisecond):
		}
	}
}

// writeCert makes a certificate for the loopback address.
func writeCert(dir string) (cert, key, both string) {
	chain, private := wstest.PEM(wstest.NewAuthority().Issue("127.0.0.1"))
	s := site{dir: dir}
	cert, key = s.file("cert.pem", string(chain)), s.file("key.pem", string(private))
	return cert, key, s.file("both.pem", string(chain)+string(private))
}
