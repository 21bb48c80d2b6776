package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// names opens sessions and returns the names of their upstreams.
func names(t *testing.T, n int, dial func(i int) *client) string {
	t.Helper()
	var all []string
	for i := range n {
		all = append(all, dial(i).name)
	}
	return strings.Join(all, " ")
}

func TestBalance(t *testing.T) {
	a, b := newUpstream(t, "a"), newUpstream(t, "b")
	for _, test := range []struct{ lines, want string }{
		{members(a, b), "a b a b"},
		{members(a, b) + "balance = \"least_sessions\"\n", "a b a b"},
		{members(a, b) + "balance = \"round_robin\"\n", "a b a b"},
		{fmt.Sprintf("upstreams = [{ target = %q, weight = 3 }, { target = %q }]\n", a.URL, b.URL), "a a a b"},
		{fmt.Sprintf("upstreams = [{ target = %q, weight = 1, max_sessions = 1 }, { target = %q }]\n", a.URL, b.URL), "a b b b"},
		{fmt.Sprintf("upstreams = [{ target = \"http://nowhere.invalid:1\", address = %q }]\n", a.Listener.Addr()), "a a a a"},
	} {
		in := start(t, "[[route]]\npath = \"/\"\n"+test.lines)
		url := in.url(t, "/")
		got := strings.Fields(names(t, 4, func(int) *client { return dial(t, url, nil) }))
		if a, want := count(got), count(strings.Fields(test.want)); a != want {
			t.Errorf("%s: sessions with %v, want as many with each as in %s", test.lines, got, test.want)
		}
	}
	t.Run("two_choices", func(t *testing.T) { // of two, both
		in := start(t, "[[route]]\npath = \"/\"\nbalance = \"two_choices\"\n"+members(a, b))
		url := in.url(t, "/")
		if got := count(strings.Fields(names(t, 20, func(int) *client { return dial(t, url, nil) }))); got[0] == 0 || got[1] == 0 {
			t.Errorf("got %v sessions with a and b, want some with each", got)
		}
	})
}

// count returns the number of sessions with a and with b.
func count(names []string) (n [2]int) {
	for _, name := range names {
		n[name[0]-'a']++
	}
	return n
}

// Sessions with the same key have the same upstream, and different keys are
// distributed.
func TestRendezvous(t *testing.T) {
	a, b := newUpstream(t, "a"), newUpstream(t, "b")
	for key, request := range map[string]func(room string) (path string, header http.Header){
		"header X-Room": func(room string) (string, http.Header) { return "/", http.Header{"X-Room": {room}} },
		"cookie room": func(room string) (string, http.Header) {
			return "/", http.Header{"Cookie": {"other=1; room=" + room}}
		},
		"query room": func(room string) (string, http.Header) { return "/?a=b&room=" + room, nil },
		"path 2":     func(room string) (string, http.Header) { return "/rooms/" + room + "/ws", nil },
		"client": func(room string) (string, http.Header) {
			return "/", http.Header{"X-Forwarded-For": {"192.0.2." + room}}
		},
	} {
		t.Run(key, func(t *testing.T) {
			in := start(t, fmt.Sprintf("[[route]]\npath = \"/\"\nbalance = \"rendezvous\"\nkey = %q\ntrusted_proxies = [\"127.0.0.1/32\"]\n%s", key, members(a, b)))
			base := in.url(t, "")
			all := make(map[string]bool)
			for room := range 20 { // one in a million that all are with the same
				path, header := request(fmt.Sprint(room))
				first := dial(t, base+path, header).name
				all[first] = true
				for range 2 {
					if next := dial(t, base+path, header).name; next != first {
						t.Fatalf("room %d is with %s and with %s", room, first, next)
					}
				}
			}
			if len(all) < 2 {
				t.Errorf("all rooms are with %v", all)
			}
		})
	}
}

// The cookie returns a client to its upstream.
func TestSticky(t *testing.T) {
	a, b := newUpstream(t, "a"), newUpstream(t, "b")
	text := "[[route]]\npath = \"/chat/\"\nbalance = \"round_robin\"\n" + members(a, b) +
		"sticky = { cookie = \"ws_member\", secret_file = \"sticky.key\", max_age = \"24h\" }\n"
	dir := t.TempDir()
	secret := writeFile(t, dir, "sticky.key", "0123456789abcdef\n")
	text = strings.Replace(text, "sticky.key", secret, 1)
	in := start(t, text)
	url := in.url(t, "/chat/")
	first := dial(t, url, nil)
	if len(first.cookies) != 1 {
		t.Fatalf("got %d cookies, want one", len(first.cookies))
	}
	cookie := first.cookies[0]
	if cookie.Name != "ws_member" || cookie.Path != "/chat/" || cookie.MaxAge != 24*3600 || !cookie.Secure || !cookie.HttpOnly || cookie.SameSite != http.SameSiteLaxMode {
		t.Errorf("got the cookie %v", cookie)
	}
	back := http.Header{"Cookie": {cookie.Name + "=" + cookie.Value}}
	for range 4 {
		if again := dial(t, url, back); again.name != first.name {
			t.Errorf("back with %s, want %s", again.name, first.name)
		}
	}
	// Another gateway with the same secret accepts it, too.
	if again := dial(t, start(t, text).url(t, "/chat/"), back); again.name != first.name {
		t.Errorf("in another gateway with %s, want %s", again.name, first.name)
	}
	// A new secret requires a new proxy.
	writeFile(t, dir, "sticky.key", "another, as long as that")
	if err := in.rewrite(t, text); err != nil {
		t.Fatal(err)
	}
	if again := dial(t, url, back); len(again.cookies) != 1 || again.cookies[0].Value == cookie.Value {
		t.Error("the old secret is still in use")
	}
}

func TestCookiePath(t *testing.T) {
	for pattern, want := range map[string]string{
		"/": "/", "/chat": "/chat", "/chat/": "/chat/", "example.com/chat/": "/chat/", "/rooms/{room}/ws": "/rooms/", "/{$}": "/",
	} {
		if got := cookiePath(pattern); got != want {
			t.Errorf("%s: got %s, want %s", pattern, got, want)
		}
	}
}

// A handshake that fails with one upstream is retried with another, as retry
// says.
func TestRetry(t *testing.T) {
	down := newUpstream(t, "down")
	up := newUpstream(t, "up")
	down.stop()
	refusing := newUpstream(t, "refusing")
	refusing.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(http.StatusServiceUnavailable) })
	for _, test := range []struct {
		first *upstream
		line  string
		well  bool
	}{
		{down, "", true},
		{down, "retry = { share = 0 }", false},
		{refusing, "", false},
		{refusing, "retry = { sent = true }", true},
	} {
		in := start(t, "[[route]]\npath = \"/\"\nbalance = \"round_robin\"\n"+members(test.first, up)+test.line+"\n")
		failed := 0
		for range 2 { // each is the first once
			if _, _, err := tryDial(t, in.url(t, "/"), nil); err != nil {
				failed++
			}
		}
		if (failed == 0) != test.well {
			t.Errorf("%s, with %q: %d of 2 sessions have failed, want some to fail: %v", test.first.name, test.line, failed, !test.well)
		}
	}
}

// Upstreams that are down by the health check get no sessions, and with close
// lose those that they have.
func TestHealthCheck(t *testing.T) {
	a, b := newUpstream(t, "a"), newUpstream(t, "b")
	in := start(t, "[[route]]\npath = \"/\"\n"+members(a, b)+
		"health_check = { path = \"/healthz\", interval = \"50ms\", timeout = \"5s\", fall = 1, rise = 1, close = true }\n")
	url := in.url(t, "/")
	sessions := map[string]*client{}
	for range 2 {
		c := dial(t, url, nil)
		sessions[c.name] = c
	}
	a.Listener.Close() // sessions live on by themselves
	down := func() (names []string) {
		for _, m := range in.stats().Routes[0].Members {
			if m.Down {
				names = append(names, m.Name)
			}
		}
		return names
	}
	eventually(t, "a down", func() bool { return fmt.Sprint(down()) == fmt.Sprint([]string{a.URL}) })
	if code := sessions["a"].ended(t); code != 1012 {
		t.Errorf("a's session has ended by %d, want 1012", code)
	}
	sessions["b"].echo(t)
	for range 4 {
		if c := dial(t, url, nil); c.name != "b" {
			t.Error("a session with a, which is down")
		}
	}
}

// The gateway follows a file that another program writes, without a reload.
func TestMembersFile(t *testing.T) {
	a, b := newUpstream(t, "a"), newUpstream(t, "b")
	dir := t.TempDir()
	file := filepath.Join(dir, "members.json")
	write := func(text string) {
		t.Helper()
		if err := os.Rename(writeFile(t, dir, "new", text), file); err != nil {
			t.Fatal(err)
		}
	}
	list := func(upstreams ...*upstream) string {
		var list []map[string]any
		for _, u := range upstreams {
			list = append(list, map[string]any{"target": u.URL, "weight": 1})
		}
		text, err := json.Marshal(list)
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	write(list(a))
	in := start(t, fmt.Sprintf("[[route]]\npath = \"/\"\nupstreams_file = %q\nevery = \"20ms\"\n", file))
	members := func() int { return len(in.stats().Routes[0].Members) }
	url := in.url(t, "/")
	first := dial(t, url, nil)
	write(list(a, b))
	eventually(t, "two members", func() bool { return members() == 2 })
	if second := dial(t, url, nil); second.name != "b" {
		t.Errorf("the next session is with %s, want b, which has none", second.name)
	}
	// A file that cannot be used is logged and changes nothing.
	for _, bad := range []string{"[", `[{"target": "ftp://a"}]`, "[]", `[{"colour": 1}]`} {
		before := strings.Count(in.logs.String(), "members not updated")
		write(bad)
		eventually(t, "a record of "+bad, func() bool { return strings.Count(in.logs.String(), "members not updated") > before })
		if members() != 2 {
			t.Errorf("%s: %d members, want 2 still", bad, members())
		}
	}
	write(list(b))
	eventually(t, "one member", func() bool { return members() == 1 })
	if code := first.ended(t); code != 1012 {
		t.Errorf("the session with a has ended by %d, want 1012", code)
	}
}

// A name is resolved to its addresses; this one is in every machine's hosts
// file.
func TestAddressesOf(t *testing.T) {
	u := newUpstream(t, "u")
	_, port, _ := strings.Cut(strings.TrimPrefix(u.URL, "http://"), ":")
	in := start(t, fmt.Sprintf("[[route]]\npath = \"/\"\naddresses_of = \"http://localhost:%s\"\nevery = \"1h\"\n", port))
	found := false
	for _, m := range in.stats().Routes[0].Members {
		found = found || m.Name == fmt.Sprintf("http://localhost:%s#127.0.0.1:%s", port, port)
	}
	if !found {
		t.Fatalf("got %+v, want 127.0.0.1 among them", in.stats().Routes[0].Members)
	}
	if c := dial(t, in.url(t, "/"), nil); c.name != "u" {
		t.Errorf("got a session with %s", c.name)
	}
}

// If name servers do not answer, the gateway starts all the same and answers
// 503.
func TestNoAddresses(t *testing.T) {
	in := start(t, "[[route]]\npath = \"/\"\nsrv = \"http://_ws._tcp.nowhere.invalid\"\nhandshake_timeout = \"200ms\"\n")
	began := time.Now()
	if _, status, err := tryDial(t, in.url(t, "/"), nil); status != http.StatusServiceUnavailable {
		t.Errorf("got status %d, %v, want 503", status, err)
	}
	if took := time.Since(began); took > patience {
		t.Errorf("that took %v", took)
	}
}
