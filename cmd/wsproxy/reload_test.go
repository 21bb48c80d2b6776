package main

import (
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
)

// routes returns routes to the upstreams, with their names as paths.
func routes(upstreams ...*upstream) string {
	var text strings.Builder
	for _, u := range upstreams {
		fmt.Fprintf(&text, "[[route]]\npath = \"/%s\"\n%s", u.name, members(u))
	}
	return text.String()
}

// Upstreams that stay keep their sessions; the sessions of removed ones are
// closed.
func TestReloadUpstreams(t *testing.T) {
	for _, keep := range []bool{false, true} {
		t.Run(fmt.Sprintf("keep_removed = %v", keep), func(t *testing.T) {
			a, b, c := newUpstream(t, "a"), newUpstream(t, "b"), newUpstream(t, "c")
			text := fmt.Sprintf("[[route]]\npath = \"/\"\nkeep_removed = %v\n", keep)
			in := start(t, text+members(a, b))
			url := in.url(t, "/")
			sessions := make(map[string]*client)
			for range 2 {
				s := dial(t, url, nil)
				sessions[s.name] = s
			}
			if err := in.rewrite(t, text+members(b, c)); err != nil {
				t.Fatal(err)
			}
			if keep { // for longer than the window in which it would be told to end
				for began := time.Now(); time.Since(began) < 300*time.Millisecond; {
					sessions["a"].echo(t)
				}
			} else if code := sessions["a"].ended(t); code != websocket.StatusServiceRestart {
				t.Errorf("the session with a, which is gone, has ended by %d, want 1012", code)
			}
			sessions["b"].echo(t)
			if s := dial(t, url, nil); s.name != "c" {
				t.Errorf("a new session is with %s, want c, which has none", s.name)
			}
			if got := in.stats().Routes[0].Opened; got != 3 {
				t.Errorf("the route counts %d sessions, want 3: has it another proxy?", got)
			}
		})
	}
}

// A target that becomes a list of upstreams is the same upstream.
func TestReloadTarget(t *testing.T) {
	a, b := newUpstream(t, "a"), newUpstream(t, "b")
	in := start(t, fmt.Sprintf("[[route]]\npath = \"/\"\ntarget = %q\n", a.URL))
	s := dial(t, in.url(t, "/"), nil)
	if err := in.rewrite(t, "[[route]]\npath = \"/\"\n"+members(a, b)); err != nil {
		t.Fatal(err)
	}
	s.echo(t)
	if s := dial(t, in.url(t, "/"), nil); s.name != "b" {
		t.Errorf("a new session is with %s, want b, which has none", s.name)
	}
	if got := in.stats().Routes[0].Opened; got != 2 {
		t.Errorf("the route counts %d sessions, want 2: has it another proxy?", got)
	}
}

// Shutdown also waits for the sessions of removed routes.
func TestShutdownAfterReload(t *testing.T) {
	a, b := newUpstream(t, "a"), newUpstream(t, "b")
	in := start(t, routes(a))
	for range 10 {
		dial(t, in.url(t, "/a"), nil).CloseRead(t.Context()) // which answers the Close
	}
	if err := in.rewrite(t, routes(b)); err != nil {
		t.Fatal(err)
	}
	if err := in.shutdown(t.Context()); err != nil {
		t.Error(err)
	}
	if n := in.stats().Old; n != 0 {
		t.Errorf("%d sessions are left", n)
	}
	if strings.Contains(in.logs.String(), "route cut") {
		t.Error("they were cut")
	}
}

// Routes are added and removed without affecting others.
func TestReloadRoutes(t *testing.T) {
	a, b, c := newUpstream(t, "a"), newUpstream(t, "b"), newUpstream(t, "c")
	in := start(t, routes(a, b))
	onA, onB := dial(t, in.url(t, "/a"), nil), dial(t, in.url(t, "/b"), nil)
	if err := in.rewrite(t, routes(c, b)); err != nil {
		t.Fatal(err)
	}
	if _, status, _ := tryDial(t, in.url(t, "/a"), nil); status != 404 {
		t.Errorf("a route that is gone: got status %d, want 404", status)
	}
	if code := onA.ended(t); code != websocket.StatusGoingAway {
		t.Errorf("the session of a route that is gone has ended by %d, want 1001", code)
	}
	onB.echo(t)
	dial(t, in.url(t, "/c"), nil).echo(t)
	eventually(t, "the old proxy forgotten", func() bool {
		in.mu.Lock()
		defer in.mu.Unlock()
		return len(in.old) == 0
	})
	if st := in.stats(); st.Open != 2 || st.Old != 0 || len(st.Routes) != 2 || st.Routes[1].Path != "/b" || st.Routes[1].Opened != 1 {
		t.Errorf("got the stats %+v, want two routes with a session each, and b's that it had", st)
	}
	if !strings.Contains(in.logs.String(), `msg="route drained" route=/a sessions=1`) {
		t.Error("no record of the drain of /a")
	}
}

// A route whose settings change gets a new proxy; the old one is drained.
func TestReloadSettings(t *testing.T) {
	a, b := newUpstream(t, "a"), newUpstream(t, "b")
	text := routes(b, a)
	in := start(t, text)
	onA, onB := dial(t, in.url(t, "/a"), nil), dial(t, in.url(t, "/b"), nil)
	if err := in.rewrite(t, text+"max_sessions = 1\n"); err != nil {
		t.Fatal(err)
	}
	dial(t, in.url(t, "/a"), nil) // the old one doesn't count
	if _, status, _ := tryDial(t, in.url(t, "/a"), nil); status != 503 {
		t.Errorf("the second session: got status %d, want 503", status)
	}
	if code := onA.ended(t); code != websocket.StatusGoingAway {
		t.Errorf("the session from before has ended by %d, want 1001", code)
	}
	onB.echo(t)
	// An unchanged config changes nothing.
	if err := in.rewrite(t, "# the same\n"+text+"max_sessions = 1\n"); err != nil {
		t.Fatal(err)
	}
	onB.echo(t)
	if st := in.stats(); st.Routes[1].Opened != 1 {
		t.Errorf("%d sessions counted, want 1: has the route another proxy?", st.Routes[1].Opened)
	}
}

// The log level may change, too.
func TestReloadLevel(t *testing.T) {
	a := newUpstream(t, "a")
	in := start(t, routes(a))
	level := new(slog.LevelVar)
	in.write(t, "log_level = \"warn\"\n"+routes(a))
	if err := in.reload(func() (*config, error) { return load(in.file) }, level); err != nil {
		t.Fatal(err)
	}
	if got := level.Level(); got != slog.LevelWarn {
		t.Errorf("the level is %v, want WARN", got)
	}
}

// An invalid file changes nothing at all.
func TestReloadMistakes(t *testing.T) {
	a, b := newUpstream(t, "a"), newUpstream(t, "b")
	in := start(t, routes(a))
	s := dial(t, in.url(t, "/a"), nil)
	before := in.stats()
	for _, test := range []struct{ text, want string }{
		{routes(b) + "max_age = \"-1s\"\n", "wsproxy.toml:9: route.max_age"},
		{routes(b) + "[[route]]\npath = \"/b\"\ntarget = \"http://a\"\n", "wsproxy.toml:10: route.path"},
		{routes(b, a) + "[[", "wsproxy.toml:14: "},
		{"log = \"json\"\n" + routes(b), "log cannot change at run time"},
	} {
		err := in.rewrite(t, test.text)
		if err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("got %v, want %s", err, test.want)
		}
		s.echo(t)
		after := in.stats()
		if len(after.Routes) != 1 || after.Routes[0].Path != before.Routes[0].Path || after.Routes[0].Opened != 1 || after.Old != 0 {
			t.Errorf("%s: the stats are %+v now, were %+v", test.want, after, before)
		}
	}
	os.Remove(in.file)
	if err := in.reload(func() (*config, error) { return load(in.file) }, nil); err == nil {
		t.Error("a file that is gone was read")
	}
	s.echo(t)
}

// Listeners that stay are not reopened, and one that cannot be opened changes
// nothing.
func TestReloadListeners(t *testing.T) {
	a, b := newUpstream(t, "a"), newUpstream(t, "b")
	in := start(t, routes(a))
	url := in.url(t, "/a")
	s := dial(t, url, nil)
	// listen changes the gateway's address as well.
	listen := func(list, routes string) error {
		text := fmt.Sprintf("listen = [%s]\nadmin = \"127.0.0.1:0\"\ndrain_window = \"200ms\"\n", list) + routes
		writeFile(t, filepath.Dir(in.file), "wsproxy.toml", text)
		c, err := load(in.file)
		if err != nil {
			t.Fatal(err)
		}
		return in.apply(c)
	}
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	other := taken.Addr().String()
	if err := listen(fmt.Sprintf(`"127.0.0.1:0", %q`, other), routes(b)); err == nil {
		t.Error("an address that is in use was taken")
	}
	dial(t, url, nil).echo(t) // still /a
	taken.Close()
	if err := listen(fmt.Sprintf(`"127.0.0.1:0", %q`, other), routes(a)); err != nil {
		t.Fatal(err)
	}
	dial(t, url, nil).echo(t)
	second := dial(t, "ws://"+other+"/a", nil)
	if err := listen(`"127.0.0.1:0"`, routes(a)); err != nil {
		t.Fatal(err)
	}
	if _, err := net.Dial("tcp", other); err == nil {
		t.Errorf("%s still listens", other)
	}
	second.echo(t) // accepted connections continue
	s.echo(t)
	dial(t, url, nil).echo(t)
}
