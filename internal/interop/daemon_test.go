//go:build linux

package interop

import (
	"bytes"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/seed-ffb73231/wsproxy/internal/wstest"
)

// A program is a proxy from Debian.
type program struct {
	name string
	args []string       // run where its file "conf" is
	conf string         // around what a test configures, which stands for SITE
	quit syscall.Signal // asks it to end once its sessions have
}

var nginx = program{"nginx", []string{"-p", ".", "-c", "conf", "-e", "stderr"}, `
daemon off; user root; worker_processes 1; pid pid; error_log stderr info;
events {}
http {
  access_log off;
  client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path fastcgi;
  uwsgi_temp_path uwsgi; scgi_temp_path scgi;
  server {
    SITE
  }
}
`, syscall.SIGQUIT}

var haproxy = program{"haproxy", []string{"-db", "-f", "conf"}, `
global
  log stdout format raw local0
  maxconn 256
defaults
  mode http
  log global
  option httplog
  option dontlognull
  retries 0
  timeout connect 30s
  timeout client 30s
  timeout server 30s
SITE
`, syscall.SIGUSR1}

// A daemon is a program that runs on its own port.
type daemon struct {
	addr  string
	pid   int
	ended chan struct{}
}

// start runs the program until the test ends. In its configuration LISTEN
// stands for a free address, and PORT in its arguments for its port; further
// replacements are given in pairs. If the program is not installed, the test is
// skipped.
func (p program) start(t *testing.T, conf string, words ...string) *daemon {
	t.Helper()
	path, err := exec.LookPath(p.name)
	if err != nil { // its directory need not be in the PATH of those who aren't root
		path, err = exec.LookPath("/usr/sbin/" + p.name)
	}
	if err != nil {
		unavailable(t, p.name+" is not installed: run setup.sh")
	}
	version, _ := exec.Command(path, "-v").CombinedOutput()
	line, _, _ := bytes.Cut(version, []byte("\n"))
	t.Logf("%s: %s", p.name, line)

	for {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		addr := ln.Addr().String()
		ln.Close() // and somebody else may take the port before the program does
		dir := t.TempDir()
		conf := strings.NewReplacer(append(words, "LISTEN", addr)...).Replace(strings.Replace(p.conf, "SITE", conf, 1))
		if err := os.WriteFile(filepath.Join(dir, "conf"), []byte(conf), 0o600); err != nil {
			t.Fatal(err)
		}
		output, err := os.Create(filepath.Join(dir, "output"))
		if err != nil {
			t.Fatal(err)
		}
		_, port, _ := net.SplitHostPort(addr) // ours
		args := slices.Clone(p.args)
		for i := range args {
			args[i] = strings.ReplaceAll(args[i], "PORT", port)
		}
		cmd := exec.Command(path, args...)
		cmd.Dir, cmd.Stdout, cmd.Stderr = dir, output, output
		// nginx forks; no worker may outlive a test that is killed.
		cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		d := &daemon{addr, cmd.Process.Pid, make(chan struct{})}
		go func() {
			defer close(d.ended)
			_ = cmd.Wait() // however it ends
		}()
		t.Cleanup(func() {
			d.kill()
			if t.Failed() {
				said, _ := os.ReadFile(output.Name())
				t.Logf("%s on %s said:\n%s", p.name, addr, said)
			}
			output.Close()
		})
		if d.ready(t) {
			return d
		}
		if said, _ := os.ReadFile(output.Name()); !bytes.Contains(said, []byte("ddress already in use")) {
			t.Fatalf("%s has ended at once", p.name)
		}
	}
}

// ready waits until the daemon accepts connections, or exits.
func (d *daemon) ready(t *testing.T) bool {
	deadline := time.After(limit)
	for {
		c, err := net.Dial("tcp", d.addr)
		if err == nil {
			c.Close()
			return true
		}
		select {
		case <-d.ended:
			return false
		case <-deadline:
			t.Fatal(err)
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// kill kills the daemon and its workers.
func (d *daemon) kill() {
	_ = syscall.Kill(-d.pid, syscall.SIGKILL) // it may have ended
	<-d.ended
}

// signal sends a signal to the daemon, but not to its workers.
func (d *daemon) signal(t *testing.T, s syscall.Signal) {
	if err := syscall.Kill(d.pid, s); err != nil {
		t.Fatal(err)
	}
}

// files writes a certificate for name with its key, and the authority's
// certificate, to one file each.
func files(t *testing.T, a *wstest.Authority, name string) (cert, root string) {
	dir := t.TempDir()
	cert, root = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "root.pem")
	chain, key := wstest.PEM(a.Issue(name))
	for file, data := range map[string][]byte{cert: append(chain, key...), root: a.PEM()} {
		if err := os.WriteFile(file, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return cert, root
}
