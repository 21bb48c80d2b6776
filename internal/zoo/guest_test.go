//go:build linux

package zoo

import (
	"context"
	"log/slog"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/seed-ffb73231/wsproxy"
)

// Guests are clients that speak one protocol, and connect to an animal that
// speaks it as well. A guest is a command with more arguments: what to do, which
// testdata/npm/guest.js describes, and URLs.

// carryGuest runs a guest both ways and compares the outcomes.
func carryGuest(t *testing.T, c client) {
	t.Parallel() // it waits most of the time
	version := c.source.version(t)
	c.of.source.version(t)
	began := time.Now()
	p := c.of.start(t)
	ways := []*way{throughNginx(t, p.addr, c.of.nginx), throughProxy(t, p.addr, c.of.fallback, 0)}

	// By itself: the time-outs are short.
	silent, err := c.act(t, "silent", "3750", ways[0].short.http(""), ways[1].short.http(""))
	if err != nil {
		t.Error(err)
	}
	var beside sync.WaitGroup
	var again []string
	if c.patience > 0 {
		beside.Go(func() { again = c.reconnects(t, p.addr) })
	}
	var outcomes [2][]outcome
	for i, w := range ways {
		for _, f := range []struct {
			what string
			form form
		}{{"", w.plain}, {"wss: ", w.secure}} {
			lines, err := c.act(t, "visit", f.form.http(""))
			if err != nil {
				t.Errorf("%s: %s%v", w.name, f.what, err)
			}
			for _, o := range said(lines) {
				outcomes[i] = append(outcomes[i], outcome{f.what + o.what, o.came})
			}
		}
	}
	beside.Wait()
	for i, o := range said(silent) {
		outcomes[i] = append(outcomes[i], outcome{"silence", o.came})
	}
	t.Logf("%s %s: all done after %.1f s", c.source.pkg, version, time.Since(began).Seconds())
	r := row{table: "clients", name: c.name, from: c.source, version: version, keeps: c.of.keeps}
	enter(t, r, outcomes[0], outcomes[1])
	if c.patience > 0 && !t.Failed() {
		enterRow(row{table: "reconnecting", name: c.name, from: c.source, version: version, cells: again})
	}
}

// act runs the command.
func (c client) act(t *testing.T, args ...string) ([]string, error) {
	return run(t, append(c.command(t), args...)...)
}

func (c client) command(t *testing.T) []string {
	_, root := certificates(t)
	return append([]string{"env", "NODE_EXTRA_CA_CERTS=" + root, "SSL_CERT_FILE=" + root}, c.args...)
}

// reconnects tells after which endings a client connects again, in the order of
// endings.
func (c client) reconnects(t *testing.T, server string) []string {
	fuses, proxies := make([]*fuse, len(endings)), make([]*wsproxy.Proxy, len(endings))
	args := append(c.command(t), "stay")
	for i, e := range endings {
		fuses[i] = newFuse(server)
		front := httptest.NewServer(fuses[i].watch(fuses[i]))
		t.Cleanup(front.Close)
		if !e.direct {
			p, err := wsproxy.New(front.URL, wsproxy.WithFallback(fuses[i].pages), wsproxy.WithLogger(slog.New(slog.DiscardHandler)))
			if err != nil {
				t.Fatal(err)
			}
			proxies[i] = p
			front = httptest.NewServer(fuses[i].watch(p))
			t.Cleanup(func() {
				ctx, cancel := context.WithTimeout(context.Background(), time.Second)
				defer cancel()
				_ = p.Shutdown(ctx) // it ends the remaining sessions
				front.Close()
			})
		}
		args = append(args, front.URL)
	}
	guest := command{args: args, ready: func(string) bool { return true }}.start(t)
	for deadline := time.Now().Add(2 * limit); !strings.Contains("\n"+guest.said(), "\nup\n"); {
		select {
		case <-guest.ended:
			t.Fatalf("staying: %v\n%s", guest.err, guest.said())
		case <-time.After(20 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			t.Fatalf("it doesn't connect; it said:\n%s", guest.said())
		}
	}
	cells := make([]string, len(endings))
	var all sync.WaitGroup
	for i, e := range endings {
		all.Go(func() {
			e.end(t, fuses[i], proxies[i])
			select {
			case <-fuses[i].again:
				cells[i] = "yes"
			case <-time.After(c.patience):
				cells[i] = "**no**"
			case <-guest.ended:
				t.Errorf("after %s: %v\n%s", e.name, guest.err, guest.said())
			}
		})
	}
	all.Wait()
	return cells
}
