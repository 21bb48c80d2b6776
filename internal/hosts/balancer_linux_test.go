package hosts

import (
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// A balancer is HAProxy. It distributes connections in turn over the proxies
// that report that they are ready. It checks them every 500ms, and every 100ms
// after a failed check; three results in a row count.
type balancer struct {
	*machine
	d      *deployment
	socket string
}

func (d *deployment) startBalancer() *balancer {
	d.t.Helper()
	dir := d.t.TempDir()
	b := &balancer{d: d, machine: &machine{host: d.net.host(d.t, "balancer", 10)}, socket: filepath.Join(dir, "socket")}
	var config strings.Builder
	fmt.Fprintf(&config, `
global
  maxconn 4000
  stats socket %s mode 600 level admin
  log stdout format raw local0 notice
defaults
  mode tcp
  log global
  timeout connect 5s
  timeout check 5s
  timeout client 1h
  timeout server 1h
  option log-health-checks
frontend front
  bind :80
  default_backend proxies
backend proxies
  balance roundrobin
  option redispatch 1
  option httpchk GET /healthz
  default-server check port 8081 inter 500ms fastinter 100ms fall 3 rise 1
`, b.socket)
	for _, p := range d.proxies {
		fmt.Fprintf(&config, "  server %s %s\n", p.host.name, p.address(8080))
	}
	file := filepath.Join(dir, "haproxy.cfg")
	must(d.t, os.WriteFile(file, []byte(config.String()), 0o600))
	b.run = func() *process { return b.start(d.t, "haproxy", nil, "haproxy", "-db", "-f", file) }
	b.begin()
	for _, p := range d.proxies {
		b.await(p, "UP")
	}
	return b
}

// ask runs a command of HAProxy's.
func (b *balancer) ask(command string) (string, error) {
	conn, err := net.Dial("unix", b.socket)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(patience))
	if _, err := io.WriteString(conn, command+"\n"); err != nil {
		return "", err
	}
	answer, err := io.ReadAll(conn)
	return string(answer), err
}

// set takes a proxy out ("maint") or puts it back ("ready"). Its sessions
// continue.
func (b *balancer) set(p *machine, state string) {
	b.d.t.Helper()
	answer, err := b.ask(fmt.Sprintf("set server proxies/%s state %s", p.host.name, state))
	if answer = strings.TrimSpace(answer); err == nil && answer != "" {
		err = errors.New(answer)
	}
	must(b.d.t, err)
}

// await waits until a proxy has the given status.
func (b *balancer) await(p *machine, status string) {
	b.d.t.Helper()
	waitFor(b.d.t, fmt.Sprintf("%s to be %s for the balancer", p.host.name, status), patience, func() error {
		text, err := b.ask("show stat")
		if err != nil {
			return err
		}
		rows, err := csv.NewReader(strings.NewReader(strings.TrimSpace(strings.TrimPrefix(text, "# ")))).ReadAll()
		if err != nil {
			return err
		}
		column := make(map[string]int)
		for i, name := range rows[0] {
			column[name] = i
		}
		for _, row := range rows[1:] {
			if row[column["svname"]] != p.host.name {
				continue
			}
			if got := row[column["status"]]; !strings.HasPrefix(got, status) || status == "UP" && row[column["check_status"]] != "L7OK" {
				return fmt.Errorf("is %s (%s)", got, row[column["check_status"]])
			}
			return nil
		}
		return errors.New("isn't there")
	})
}

// end stops HAProxy, which has no sessions left.
func (b *balancer) end() {
	b.d.t.Helper()
	must(b.d.t, b.cmd.Process.Signal(syscall.SIGUSR1))
	b.process.await(b.d.t, patience)
}
