//go:build linux

package zoo

import (
	"cmp"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gorilla/websocket"
)

// A client is a program that opens WebSockets.
type client struct {
	name   string
	source source
	// args is the command. It does the errand below and prints the outcome of
	// each step, "step: outcome", one per line. In it, URL stands for the URL to
	// open, and ROOT for the file with the private authority.
	args []string
	// run does the errand in another way, unless it is nil.
	run func(t *testing.T, url, root string) ([]outcome, error)
	// page: it opens a page of the host first.
	page bool
	// of is the animal that a client of one protocol connects to, instead of the
	// host below. Such a client is a guest: see guest_test.go.
	of *server
	// patience is how long a guest that reconnects by itself may take for it. If
	// it is 0, the guest doesn't reconnect.
	patience time.Duration
}

// A client's errand: open URL, offering the subprotocols zoo.v1 and zoo.v2;
// send a small text, a large text (70,000), a small and a large (300,000) binary
// message, and get each back; ping if it can; send "leave" and report the host's
// Close. Then open once more, and close with 1000 and "bye", or in its usual way.
// At last open /private without a login, and report the refusal.

// A host is the server that clients connect to. It echoes and records what it
// sees.
type host struct {
	mu     sync.Mutex
	visits int       // guarded by mu
	seen   []outcome // guarded by mu
	wg     sync.WaitGroup
}

func (h *host) saw(what, format string, args ...any) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.seen = append(h.seen, outcome{"host: " + what, fmt.Sprintf(format, args...)})
}

func (h *host) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if strings.HasPrefix(r.URL.Path, "/private") && r.Header.Get("Authorization") == "" {
		w.Header().Set("WWW-Authenticate", `Basic realm="zoo"`)
		http.Error(w, "who are you", http.StatusUnauthorized)
		return
	}
	switch r.URL.Path {
	case "/page":
		servePage(w, r)
		return
	case "/favicon.ico": // browsers want it
		http.NotFound(w, r)
		return
	}
	h.wg.Add(1)
	defer h.wg.Done()
	upgrader := websocket.Upgrader{
		Subprotocols:      []string{"zoo.v2"},
		EnableCompression: true,
		CheckOrigin:       func(*http.Request) bool { return true },
	}
	c, err := upgrader.Upgrade(w, r, nil)
	if err != nil {
		h.saw("opening", "fails: %v", err)
		return
	}
	defer c.Close()
	h.mu.Lock()
	h.visits++
	visit := h.visits
	h.mu.Unlock()
	tokens := func(field string) string {
		return strings.Join(strings.Fields(strings.ReplaceAll(strings.Join(r.Header[field], ","), ",", " , ")), " ")
	}
	if visit == 1 {
		h.saw("offered", "%s", strings.ReplaceAll(
			tokens("Sec-Websocket-Protocol")+" / "+cmp.Or(tokens("Sec-Websocket-Extensions"), "no extension"), " ,", ","))
	}
	_ = c.SetReadDeadline(time.Now().Add(limit))
	pongs := 0
	c.SetPongHandler(func(string) error { pongs++; return nil })
	if visit == 1 { // on the second visit some clients break if it crosses their Close
		_ = c.WriteControl(websocket.PingMessage, []byte("are you there"), time.Now().Add(limit))
	}
	for {
		kind, data, err := c.ReadMessage()
		if err != nil {
			if visit == 1 {
				h.saw("Pongs", "%d", pongs)
			}
			h.saw(fmt.Sprintf("end %d", visit), "%s", strings.TrimPrefix(err.Error(), "websocket: "))
			return
		}
		if string(data) == "leave" {
			_ = c.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(4001, "as asked"), time.Now().Add(limit))
			continue
		}
		if err := c.WriteMessage(kind, data); err != nil {
			h.saw(fmt.Sprintf("end %d", visit), "writing: %v", err)
			return
		}
	}
}

// carryClient runs a client both ways and compares the outcomes.
func carryClient(t *testing.T, c client) {
	if c.of != nil {
		carryGuest(t, c)
		return
	}
	version := c.source.version(t)
	began := time.Now()
	h := new(host)
	server := httptest.NewServer(h)
	t.Cleanup(server.Close)
	upstream := strings.TrimPrefix(server.URL, "http://")
	var outcomes [2][]outcome
	for i, w := range []*way{throughNginx(t, upstream, ""), throughProxy(t, upstream, c.page, 0)} {
		for _, f := range []struct {
			what string
			form form
		}{{"", w.plain}, {"wss: ", w.secure}} {
			did, err := c.do(t, f.form.url("/zoo"))
			if err != nil {
				t.Errorf("%s: %s%v", w.name, f.what, err)
			}
			h.wg.Wait()
			h.mu.Lock()
			// A client may reconnect before the host has seen the end of its
			// first connection.
			slices.SortFunc(h.seen, func(a, b outcome) int { return strings.Compare(a.what, b.what) })
			for _, o := range append(did, h.seen...) {
				outcomes[i] = append(outcomes[i], outcome{f.what + o.what, o.came})
			}
			h.seen, h.visits = nil, 0
			h.mu.Unlock()
		}
	}
	t.Logf("%s %s: all done after %.1f s", c.source.pkg, version, time.Since(began).Seconds())
	enter(t, row{table: "clients", name: c.name, from: c.source, version: version}, outcomes[0], outcomes[1])
}

// do does the errand.
func (c client) do(t *testing.T, url string) ([]outcome, error) {
	t.Helper()
	_, root := certificates(t)
	if c.run != nil {
		return c.run(t, url, root)
	}
	args := make([]string, len(c.args))
	for i, a := range c.args {
		args[i] = words(a, "URL", url, "ROOT", root)
	}
	lines, err := run(t, args...)
	return said(lines), err
}

// said parses outcomes from a program's output.
func said(lines []string) (all []outcome) {
	for _, line := range lines {
		if what, came, ok := strings.Cut(line, ": "); ok {
			all = append(all, outcome{what, came})
		}
	}
	return all
}
