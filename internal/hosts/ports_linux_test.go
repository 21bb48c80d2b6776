package hosts

import (
	"fmt"
	"maps"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestPorts has a proxy run out of local ports: its host has 20 of them.
func TestPorts(t *testing.T) {
	const ports = 20
	d := newDeployment(t, 3)
	p := &machine{host: d.net.host(t, "proxy-c", 23)}
	d.proxies = append(d.proxies, p)
	other := netip.MustParseAddr(subnet + "24")
	p.addAddress(t, other)
	must(t, p.host.run("sysctl", "-q", "-w", fmt.Sprintf("net.ipv4.ip_local_port_range=%d %d", 20000, 20000+ports-1)))

	first, second := d.upstreams[0], d.upstreams[1]
	routes := []struct {
		path     string
		upstream *machine
		from     []netip.Addr
		want     map[string]int // how many sessions there is room for, by address
	}{
		{"/one/", first, []netip.Addr{p.ip}, map[string]int{p.ip.String(): ports}},
		// One of its addresses has no port left.
		{"/next/", first, []netip.Addr{p.ip, other}, map[string]int{other.String(): ports}},
		{"/two/", second, []netip.Addr{p.ip, other}, map[string]int{p.ip.String(): ports, other.String(): ports}},
		{"/any/", d.upstreams[2], nil, map[string]int{p.ip.String(): ports}},
	}
	var config strings.Builder
	config.WriteString("listen = [\":8080\"]\nadmin = \":8081\"\n")
	for _, r := range routes {
		fmt.Fprintf(&config, "\n[[route]]\npath = %q\ntarget = \"http://%s\"\nsource_addresses = [", r.path, r.upstream.address(9000))
		for _, address := range r.from {
			fmt.Fprintf(&config, "%q, ", address)
		}
		config.WriteString("]\n")
	}
	file := filepath.Join(t.TempDir(), "wsproxy.toml")
	must(t, os.WriteFile(file, []byte(config.String()), 0o600))
	gateway := buildGateway(t)
	p.run = func() *process { return p.start(t, "proxy-c", nil, gateway, "--config", file) }
	p.begin()
	d.awaitServing(p)
	d.say("proxy-c has %d ports at each of its 2 addresses", ports)

	// The routes are filled one after the other and stay full: ports to one
	// upstream are not used up by sessions to another.
	open := make(map[string][]*session)
	for _, r := range routes {
		from := make(map[string]int)
		for len(open[r.path]) <= 2*ports {
			s, err := d.dial(p.address(8080), r.path, "")
			if err != nil {
				if got := statusOf(err); got != http.StatusServiceUnavailable {
					t.Errorf("%s: session %d: %v, want 503", r.path, len(open[r.path])+1, err)
				}
				break
			}
			open[r.path] = append(open[r.path], s)
			from[s.Proxy]++
		}
		if !maps.Equal(from, r.want) {
			t.Errorf("%s has taken sessions %v by its addresses, want %v", r.path, from, r.want)
		}
		st, err := d.stats(p)
		must(t, err)
		told := st.route(r.path)
		if got := told.Failed["local"]; got != 1 {
			t.Errorf("%s: %d handshakes have failed by a fault of kind \"local\", want 1: %v", r.path, got, told.Failed)
		}
		for _, m := range told.Members {
			if m.Down {
				t.Errorf("%s: %s is blamed for it", r.path, m.Name)
			}
		}
		d.say("%s to %s, source addresses %v: %d sessions (%s), then 503, kind local", r.path, r.upstream, r.from, len(open[r.path]), tally(from))
	}

	// All of them work, and each that ends frees a port.
	for path, list := range open {
		for i, s := range list {
			if err := s.echo(fmt.Sprint("session ", i)); err != nil {
				t.Errorf("%s: session %d: %v", path, i+1, err)
			}
		}
	}
	for path, list := range open {
		list[0].close()
		waitFor(t, "room for a session on "+path, patience, func() (err error) {
			list[0], err = d.dial(p.address(8080), path, "")
			return err
		})
	}
	for _, list := range open {
		closeAll(list)
	}
	d.wantNothing()
	d.end()
}
