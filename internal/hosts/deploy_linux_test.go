package hosts

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/seed-ffb73231/wsproxy/internal/remains"
)

// The settings of the proxies.
const (
	pingInterval     = time.Second
	pingTimeout      = 2 * time.Second
	checkInterval    = 500 * time.Millisecond
	checkTimeout     = 500 * time.Millisecond
	checkFall        = 2
	handshakeTimeout = 4 * time.Second
	drainDelay       = 2 * time.Second // in which the balancer notices
	drainWindow      = 10 * time.Second
)

// A deployment is a balancer, two proxies and three upstreams, each on its own
// host, and a host for the clients.
type deployment struct {
	*events
	net       *network
	clients   *host
	http      *http.Client // on that host
	balancer  *balancer
	proxies   []*machine
	upstreams []*machine
}

// A machine is a host with a program on it.
type machine struct {
	*host
	*process
	run func() *process
}

// begin restarts the machine's program.
func (m *machine) begin() { m.process = m.run() }

func (m *machine) address(port int) string {
	return net.JoinHostPort(m.ip.String(), strconv.Itoa(port))
}

func (m *machine) String() string { return m.host.name }

// deploy creates all of it and waits until it serves.
func deploy(t *testing.T) *deployment {
	t.Helper()
	d := newDeployment(t, 3)
	gateway := buildGateway(t)
	config := d.proxyConfig()
	file := filepath.Join(t.TempDir(), "wsproxy.toml")
	must(t, os.WriteFile(file, []byte(config), 0o600))
	for i, name := range []string{"proxy-a", "proxy-b"} {
		p := &machine{host: d.net.host(t, name, 21+i)}
		p.run = func() *process { return p.start(t, name, nil, gateway, "--config", file) }
		p.begin()
		d.proxies = append(d.proxies, p)
	}
	for _, p := range d.proxies {
		d.awaitServing(p)
	}
	d.balancer = d.startBalancer()
	d.say("serving: 1 balancer, %d proxies, %d upstreams", len(d.proxies), len(d.upstreams))
	return d
}

// proxyConfig is the config of both proxies.
func (d *deployment) proxyConfig() string {
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	line("listen = [\":8080\"]\nadmin = \":8081\"\nlog_level = \"warn\"")
	line("shutdown_delay = %q\ndrain_window = %q\nshutdown_timeout = \"25s\"", drainDelay, drainWindow)
	for _, r := range []struct {
		path              string
		interval, timeout time.Duration // of pings
		checks            bool
	}{
		{"/rooms/", pingInterval, pingTimeout, false},
		{"/crowd/", patience, patience, false}, // too large to be pinged every second
		{"/checked/", patience, patience, true},
	} {
		line("\n[[route]]\npath = %q\nupstreams = [", r.path)
		for _, u := range d.upstreams {
			line("  { target = \"http://%s\" },", u.address(9000))
		}
		line("]\nbalance = \"rendezvous\"\nkey = \"query room\"\nretry = { share = 1.0, sent = false }\ndetach = true")
		line("ping = { interval = %q, timeout = %q }\nhandshake_timeout = %q", r.interval, r.timeout, handshakeTimeout)
		if r.checks {
			line("health_check = { path = \"/healthz\", interval = %q, timeout = %q, fall = %d, rise = 1, close = true }", checkInterval, checkTimeout, checkFall)
		}
	}
	return b.String()
}

// newDeployment makes a network with upstreams and a host for clients.
func newDeployment(t *testing.T, upstreams int) *deployment {
	t.Helper()
	d := &deployment{events: &events{t: t, began: time.Now()}, net: newNetwork(t)}
	d.clients = d.net.host(t, "clients", 100)
	d.http = d.clients.client()
	self, err := os.Executable()
	must(t, err)
	for i := range upstreams {
		name := fmt.Sprint("upstream-", i+1)
		u := &machine{host: d.net.host(t, name, 31+i)}
		u.run = func() *process { return u.start(t, name, []string{upstreamName + "=" + name}, self) }
		u.begin()
		d.upstreams = append(d.upstreams, u)
	}
	for _, u := range d.upstreams {
		d.awaitUpstream(u)
	}
	return d
}

// name returns the name of the proxy with an address.
func (d *deployment) name(ip string) string {
	for _, p := range d.proxies {
		if p.ip.String() == ip {
			return p.host.name
		}
	}
	return ip
}

// get sends a request to a machine from the clients' host.
func (d *deployment) get(m *machine, port int, path string) (status int, body []byte, err error) {
	resp, err := d.http.Get("http://" + m.address(port) + path)
	if err != nil {
		return 0, nil, err
	}
	defer resp.Body.Close()
	body, err = io.ReadAll(resp.Body)
	return resp.StatusCode, body, err
}

func (d *deployment) await(m *machine, port int) {
	d.t.Helper()
	waitFor(d.t, m.host.name+" to serve", patience, func() error {
		status, _, err := d.get(m, port, "/healthz")
		if err == nil && status != http.StatusOK {
			err = fmt.Errorf("status %d", status)
		}
		return err
	})
}

func (d *deployment) awaitServing(p *machine)  { d.t.Helper(); d.await(p, 8081) }
func (d *deployment) awaitUpstream(u *machine) { d.t.Helper(); d.await(u, 9000) }

// wantNothing waits until the proxies and the upstreams have no sessions.
func (d *deployment) wantNothing() {
	d.t.Helper()
	for _, p := range d.proxies {
		waitFor(d.t, p.host.name+" to have no session", patience, func() error {
			s, err := d.stats(p)
			if err == nil {
				err = s.nothing()
			}
			if err == nil {
				err = p.rests()
			}
			return err
		})
	}
	for _, u := range d.upstreams {
		waitFor(d.t, u.host.name+" to have no session", patience, func() error {
			_, body, err := d.get(u, 9000, "/open")
			if err == nil && string(body) != "0" {
				err = fmt.Errorf("has %s", body)
			}
			return err
		})
	}
	d.say("no session is left on any proxy or upstream, and no event loop")
}

// stats is a part of a gateway's /stats.
type stats struct {
	Open   int
	Routes []routeStats
}

type routeStats struct {
	Path       string
	Open       int
	Handshakes int
	Failed     map[string]uint64
	Retries    uint64
	Members    []struct {
		Name     string
		Sessions int
		Down     bool
	}
}

func (d *deployment) stats(p *machine) (s stats, err error) {
	_, body, err := d.get(p, 8081, "/stats")
	if err == nil {
		err = json.Unmarshal(body, &s)
	}
	return s, err
}

// awaitMembers waits until all members of all routes are up.
func (d *deployment) awaitMembers() {
	d.t.Helper()
	for _, p := range d.proxies {
		waitFor(d.t, "all upstreams to be well for "+p.host.name, patience, func() error {
			s, err := d.stats(p)
			if err != nil {
				return err
			}
			for _, r := range s.Routes {
				for _, m := range r.Members {
					if m.Down {
						return fmt.Errorf("%s: %s is down", r.Path, m.Name)
					}
				}
			}
			return nil
		})
	}
}

// route returns the stats of a route.
func (s stats) route(path string) routeStats {
	i := slices.IndexFunc(s.Routes, func(r routeStats) bool { return r.Path == path })
	if i < 0 {
		return routeStats{}
	}
	return s.Routes[i]
}

// nothing returns an error if anything is open.
func (s stats) nothing() error {
	if s.Open != 0 {
		return fmt.Errorf("%d sessions", s.Open)
	}
	for _, r := range s.Routes {
		if r.Open != 0 || r.Handshakes != 0 {
			return fmt.Errorf("%s: %d sessions, %d handshakes", r.Path, r.Open, r.Handshakes)
		}
		for _, m := range r.Members {
			if m.Sessions != 0 {
				return fmt.Errorf("%s: %d sessions at %s", r.Path, m.Sessions, m.Name)
			}
		}
	}
	return nil
}

// rests is an error if the proxy has descriptors of sessions: no event loop is left,
// and of sockets only those that it listens at, and of requests for its figures and
// its health.
func (m *machine) rests() error {
	pid := m.cmd.Process.Pid
	if n := remains.Polls(pid); n > remains.RuntimePolls {
		return fmt.Errorf("%d descriptors for events, the runtime has %d", n, remains.RuntimePolls)
	}
	if n := remains.Files(pid, "socket:"); n > 10 {
		return fmt.Errorf("%d sockets", n)
	}
	return nil
}

// end stops all programs. Each must exit without an error.
func (d *deployment) end() {
	d.t.Helper()
	if d.balancer != nil {
		d.balancer.end()
	}
	for _, m := range append(d.proxies, d.upstreams...) {
		m.stop(d.t, patience)
	}
	for _, h := range d.net.hosts {
		if pids := processes(prefix + h.name); len(pids) > 0 {
			d.t.Errorf("on %s still run processes %v", h.name, pids)
		}
	}
	d.say("all programs have ended, with exit code 0")
}
