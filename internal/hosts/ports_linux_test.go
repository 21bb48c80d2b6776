package hosts

import (
	"fmt"
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

	var config strings.Builder
	config.WriteString("listen = [\":8080\"]\nadmin = \":8081\"\n")
	routes := []struct {
		path      string
		addresses []netip.Addr
		room      int // how many sessions there is room for
	}{{"/one/", []netip.Addr{p.ip}, ports}, {"/two/", []netip.Addr{p.ip, other}, 2 * ports}, {"/any/", nil, ports}}
	for i, r := range routes {
		fmt.Fprintf(&config, "\n[[route]]\npath = %q\ntarget = \"http://%s\"\nsource_addresses = [", r.path, d.upstreams[i].address(9000))
		for _, address := range r.addresses {
			fmt.Fprintf(&config, "%q, ", address)
		}
		config.WriteString("]\n")
	}
	file := filepath.Join(t.TempDir(), "gateway.toml")
	must(t, os.WriteFile(file, []byte(config.String()), 0o600))
	gateway := buildGateway(t)
	p.run = func() *process { return p.start(t, "proxy-c", nil, gateway, "-config", file) }
	p.begin()
	d.awaitServing(p)
	d.say("proxy-c has %d ports at each of its 2 addresses", ports)

	// The routes are filled one after the other, and stay full: ports to one
	// upstream don't use up those to another.
	open := make(map[string][]*session)
	for i, r := range routes {
		for len(open[r.path]) <= r.room {
			s, err := d.dial(p.address(8080), r.path, "")
			if err != nil {
				if got := statusOf(err); got != http.StatusServiceUnavailable {
					t.Errorf("%s: session %d: %v, want 503", r.path, len(open[r.path])+1, err)
				}
				break
			}
			open[r.path] = append(open[r.path], s)
		}
		if got := len(open[r.path]); got != r.room {
			t.Errorf("%s has taken %d sessions, want %d", r.path, got, r.room)
		}
		from := make(map[string]int)
		for _, s := range open[r.path] {
			from[s.Proxy]++
		}
		for _, address := range r.addresses {
			if got := from[address.String()]; got != ports {
				t.Errorf("%s: %d sessions come from %s, want %d", r.path, got, address, ports)
			}
		}
		st, err := d.stats(p)
		must(t, err)
		told := st.route(r.path)
		if got := told.Refused["local"]; got != 1 {
			t.Errorf("%s: %d handshakes have failed by a fault of kind \"local\", want 1: %v", r.path, got, told.Refused)
		}
		for _, m := range told.Members {
			if m.Down {
				t.Errorf("%s: %s is blamed for it", r.path, m.Name)
			}
		}
		d.say("%s to %s, source addresses %v: %d sessions (%s), then 503, kind local", r.path, d.upstreams[i], r.addresses, len(open[r.path]), tally(from))
	}

	// All of them work, and each that ends makes room for another.
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
	closeAll(open["/one/"], open["/two/"], open["/any/"])
	d.wantNothing()
	d.end()
}
