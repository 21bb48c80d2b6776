package console_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/seed-ffb73231/wsproxy"
	"github.com/seed-ffb73231/wsproxy/console"
)

// patience limits every wait, on a machine that may be busy.
const patience = 30 * time.Second

type userKey struct{}

// A site is a proxy, and a console that shows it.
type site struct {
	t     *testing.T
	ctx   context.Context
	proxy *wsproxy.Proxy
	front string // URLs
	desk  string
}

func newSite(t *testing.T, o *console.Options) *site {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	s := &site{t: t, ctx: ctx}
	s.proxy, s.front = newProxy(t)
	desk := httptest.NewServer(console.Handler(s.proxy, o))
	t.Cleanup(desk.Close)
	s.desk = desk.URL
	return s
}

// newProxy returns a proxy to an upstream that echoes, and its URL.
func newProxy(t *testing.T) (proxy *wsproxy.Proxy, front string) {
	t.Helper()
	upstream := httptest.NewServer(http.HandlerFunc(echo))
	t.Cleanup(upstream.Close)
	proxy, err := wsproxy.New(upstream.URL,
		wsproxy.WithOnOpen(func(s *wsproxy.Session, r *http.Request) error {
			s.Set(userKey{}, r.URL.Query().Get("user"))
			return nil
		}),
		wsproxy.WithDrain(100*time.Millisecond, websocket.StatusServiceRestart),
		wsproxy.WithLogger(slog.New(slog.DiscardHandler)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { proxy.Close() })
	server := httptest.NewServer(proxy)
	t.Cleanup(server.Close)
	return proxy, server.URL
}

func echo(w http.ResponseWriter, r *http.Request) {
	conn, err := websocket.Accept(w, r, nil)
	if err != nil {
		return
	}
	defer conn.CloseNow()
	for {
		kind, message, err := conn.Read(r.Context())
		if err != nil || conn.Write(r.Context(), kind, message) != nil {
			return
		}
	}
}

// withUsers are options that show users.
func withUsers() *console.Options {
	return &console.Options{User: func(s *wsproxy.Session) string {
		user, _ := s.Value(userKey{}).(string)
		return user
	}}
}

// open opens a session.
func (s *site) open(path, user string) *websocket.Conn {
	s.t.Helper()
	return open(s.t, s.ctx, s.front+path+"?user="+url.QueryEscape(user))
}

func open(t *testing.T, ctx context.Context, url string) *websocket.Conn {
	t.Helper()
	conn, _, err := websocket.Dial(ctx, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.CloseNow() })
	return conn
}

// echoes checks that a session works.
func (s *site) echoes(conn *websocket.Conn) {
	s.t.Helper()
	if err := conn.Write(s.ctx, websocket.MessageText, []byte("hello")); err != nil {
		s.t.Fatal(err)
	}
	if _, _, err := conn.Read(s.ctx); err != nil {
		s.t.Fatal(err)
	}
}

// A snapshot is what the page gets, as it reads it.
type snapshot struct {
	Title, Notice                     string
	Users, Routes, CanClose, CanDrain bool
	Rows                              []row
	Matching, Open                    int
	Opened                            uint64
	Ended, Failed                     []tally
	Messages                          [2]uint64
	Members                           []struct {
		Route, Name string
		Sessions    int
		Down        bool
	}
	Drain *drain
}

type row struct {
	Route, User, Client, Path, Upstream string
	ID                                  uint64
	Messages, Bytes                     [2]uint64
}

type (
	tally struct {
		Name  string
		Count uint64
	}
	drain struct{ Total, Told, Open, Cut int }
)

// look takes a snapshot.
func (s *site) look(query string) (snap snapshot) {
	s.t.Helper()
	status, header, body := s.do("GET", "snapshot?"+query, "", nil)
	if status != http.StatusOK || header.Get("Content-Type") != "application/json" {
		s.t.Fatalf("the snapshot is answered %d %q: %s", status, header.Get("Content-Type"), body)
	}
	if strings.ContainsAny(body, "<>") {
		s.t.Errorf("the snapshot has an unescaped bracket: %s", body)
	}
	if err := json.Unmarshal([]byte(body), &snap); err != nil {
		s.t.Fatal(err)
	}
	return snap
}

// await waits for a snapshot for which a condition holds.
func (s *site) await(f func(snapshot) bool) snapshot {
	s.t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		if snap := s.look(""); f(snap) {
			return snap
		}
		select {
		case <-tick.C:
		case <-s.ctx.Done():
			s.t.Fatal("no such snapshot in time")
		}
	}
}

// do makes a request. Fields that change the default ones are in header.
func (s *site) do(method, path, body string, header http.Header) (int, http.Header, string) {
	s.t.Helper()
	r, err := http.NewRequestWithContext(s.ctx, method, s.desk+"/"+path, strings.NewReader(body))
	if err != nil {
		s.t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/json")
	for name := range header {
		r.Header.Set(name, header.Get(name))
	}
	resp, err := http.DefaultTransport.RoundTrip(r)
	if err != nil {
		s.t.Fatal(err)
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err != nil {
		s.t.Fatal(err)
	}
	return resp.StatusCode, resp.Header, string(answer)
}

// closed waits for a session's Close and checks it.
func (s *site) closed(conn *websocket.Conn, code websocket.StatusCode, reason string) {
	s.t.Helper()
	_, _, err := conn.Read(s.ctx)
	got, _ := errors.AsType[websocket.CloseError](err)
	if want := (websocket.CloseError{Code: code, Reason: reason}); got != want {
		s.t.Errorf("the session ended with %v, want %v", err, want)
	}
}

func TestSnapshot(t *testing.T) {
	t.Parallel()
	o := withUsers()
	o.Title, o.Notice = "Chat", "For operators."
	s := newSite(t, o)
	conn := s.open("/chat/%3Cimg%20src=x%3E", "<b>\u202edesk")
	for range 3 {
		s.echoes(conn)
	}
	snap := s.await(func(s snapshot) bool { return s.Messages[wsproxy.Upstream] == 3 })
	if snap.Title != "Chat" || snap.Notice != "For operators." || !snap.Users || snap.Routes || !snap.CanClose || snap.CanDrain {
		t.Errorf("got %+v, want what the options say", snap)
	}
	if snap.Open != 1 || snap.Opened != 1 || snap.Matching != 1 || len(snap.Rows) != 1 || snap.Drain != nil {
		t.Fatalf("got %+v, want the one session", snap)
	}
	if len(snap.Members) != 1 || snap.Members[0].Sessions != 1 || snap.Members[0].Down {
		t.Errorf("got the members %+v, want one that is up and has the session", snap.Members)
	}
	r := snap.Rows[0]
	// 3 messages of 5 bytes, each with a header of 2 and, from the client, a key of 4.
	got := [...]any{r.User, r.Path, r.Client != "", r.Upstream != "", r.Messages, r.Bytes}
	want := [...]any{"<b>\ufffddesk", "/chat/<img src=x>", true, true, [2]uint64{3, 3}, [2]uint64{33, 21}}
	if got != want {
		t.Errorf("the row has %v, want %v", got, want)
	}
	conn.Close(websocket.StatusNormalClosure, "")
	snap = s.await(func(s snapshot) bool { return s.Open == 0 && len(s.Ended) > 0 })
	if want := (tally{"closed by client", 1}); len(snap.Rows) != 0 || snap.Ended[0] != want {
		t.Errorf("after its end: rows %v, ended %v, want none and %v", snap.Rows, snap.Ended, want)
	}
}

func TestView(t *testing.T) {
	t.Parallel()
	s := newSite(t, withUsers())
	for _, user := range []string{"kiosk-2", "desk-1", "Kiosk-1", "phone-1"} {
		s.open("/", user)
	}
	for _, test := range []struct{ query, want string }{
		{"", "kiosk-2 desk-1 Kiosk-1 phone-1"},
		{"sort=id&descending=true", "phone-1 Kiosk-1 desk-1 kiosk-2"},
		{"sort=user", "Kiosk-1 desk-1 kiosk-2 phone-1"},
		{"filter=+KIOSK", "kiosk-2 Kiosk-1"},
		{"filter=-1&sort=user&descending=true", "phone-1 desk-1 Kiosk-1"},
		{"sort=nonsense", "kiosk-2 desk-1 Kiosk-1 phone-1"},
		{"filter=nobody", ""},
	} {
		var users []string
		snap := s.look(test.query)
		for _, r := range snap.Rows {
			users = append(users, r.User)
		}
		if got := strings.Join(users, " "); got != test.want || snap.Matching != len(users) || snap.Open != 4 {
			t.Errorf("%q: got %s (%d match, %d open), want %s", test.query, got, snap.Matching, snap.Open, test.want)
		}
	}
}

// TestMost has more sessions than a snapshot shows, and more than it collects
// before it drops some.
func TestMost(t *testing.T) {
	t.Parallel()
	s := newSite(t, withUsers())
	const n, most = 1100, 500
	var opening sync.WaitGroup
	for first := range 10 {
		opening.Go(func() {
			for i := first; i < n; i += 10 {
				conn, _, err := websocket.Dial(s.ctx, fmt.Sprintf("%s?user=desk-%04d", s.front, i), nil)
				if err != nil {
					t.Error(err)
					return
				}
				t.Cleanup(func() { conn.CloseNow() })
			}
		})
	}
	if opening.Wait(); t.Failed() {
		return
	}
	snap := s.look("sort=user&descending=true")
	if len(snap.Rows) != most || snap.Matching != n || snap.Open != n {
		t.Fatalf("%d rows of %d, %d open, want %d of %d", len(snap.Rows), snap.Matching, snap.Open, most, n)
	}
	for i, r := range snap.Rows {
		if want := fmt.Sprintf("desk-%04d", n-1-i); r.User != want {
			t.Fatalf("row %d is %s, want %s", i, r.User, want)
		}
	}
	// This one is not among the rows.
	if snap = s.look("filter=desk-0001"); len(snap.Rows) != 1 {
		t.Errorf("%d rows hold the text, want 1", len(snap.Rows))
	}
}

func TestClose(t *testing.T) {
	t.Parallel()
	s := newSite(t, nil)
	conn, other := s.open("/", ""), s.open("/", "")
	id := s.look("").Rows[0].ID
	for _, test := range []struct {
		body   string
		status int
		want   string
	}{
		{fmt.Sprintf(`{"session":%d,"code":1005}`, id), 422, "close code 1005 may not be sent"},
		{fmt.Sprintf(`{"session":%d,"code":1008,"reason":%q}`, id, strings.Repeat("x", 124)), 422, "123 bytes"},
		{`{"session":1000000,"code":1008}`, 410, "session 1000000 has already ended"},
		{fmt.Sprintf(`{"route":"none","session":%d,"code":1008}`, id), 410, "has already ended"},
		{fmt.Sprintf(`{"session":%d,"code":1008,"all":true}`, id), 400, "body"},
		{fmt.Sprintf(`{"session":%d,"reason":%q}`, id, strings.Repeat("x", 5000)), 400, "body"},
		{``, 400, "body"},
	} {
		if status, _, got := s.do("POST", "close", test.body, nil); status != test.status || !strings.Contains(got, test.want) {
			t.Errorf("%.80s: got %d %q, want %d %q", test.body, status, got, test.status, test.want)
		}
	}
	s.echoes(conn)
	if status, _, got := s.do("POST", "close", fmt.Sprintf(`{"session":%d,"code":4401,"reason":"token expired"}`, id), nil); status != 204 {
		t.Errorf("got %d %q, want 204", status, got)
	}
	s.closed(conn, 4401, "token expired")
	snap := s.await(func(s snapshot) bool { return len(s.Rows) == 1 && len(s.Ended) == 1 })
	if snap.Rows[0].ID == id || snap.Ended[0] != (tally{"closed by proxy", 1}) {
		t.Errorf("got %+v, want the other session alone", snap)
	}
	s.echoes(other)
}

func TestDrain(t *testing.T) {
	t.Parallel()
	o := withUsers()
	var draining sync.WaitGroup
	t.Cleanup(draining.Wait)
	var s *site
	o.Drain = func() {
		draining.Go(func() {
			ctx, cancel := context.WithTimeout(context.Background(), patience)
			defer cancel()
			if err := s.proxy.Shutdown(ctx); err != nil {
				t.Error(err)
			}
		})
	}
	s = newSite(t, o)
	var conns []*websocket.Conn
	for range 5 {
		conns = append(conns, s.open("/", ""))
	}
	if snap := s.look(""); snap.Open != 5 || !snap.CanDrain || snap.Drain != nil {
		t.Errorf("got %+v, want 5 sessions that can be drained", snap)
	}
	if status, _, got := s.do("POST", "drain", "{}", nil); status != 204 {
		t.Errorf("got %d %q, want 204", status, got)
	}
	for _, conn := range conns {
		s.closed(conn, websocket.StatusServiceRestart, "shutting down")
	}
	snap := s.await(func(s snapshot) bool { return s.Open == 0 })
	if want := (drain{Total: 5, Told: 5}); snap.Drain == nil || *snap.Drain != want {
		t.Errorf("the drain is shown as %+v, want %+v", snap.Drain, want)
	}
	if _, _, err := websocket.Dial(s.ctx, s.front, nil); err == nil {
		t.Error("a new session was opened, want a refusal")
	}
	s.await(func(s snapshot) bool { return len(s.Failed) == 1 && s.Failed[0] == tally{"shutting down", 1} })
}

// A read-only console changes nothing.
func TestReadOnly(t *testing.T) {
	t.Parallel()
	s := newSite(t, &console.Options{ReadOnly: true, Drain: func() { t.Error("drained") }})
	conn := s.open("/", "")
	snap := s.look("")
	if snap.CanClose || snap.CanDrain {
		t.Errorf("got %+v, want no actions", snap)
	}
	for path, body := range map[string]string{"close": fmt.Sprintf(`{"session":%d,"code":1008}`, snap.Rows[0].ID), "drain": "{}"} {
		if status, _, got := s.do("POST", path, body, nil); status != 403 || got != "this console is read-only\n" {
			t.Errorf("%s: got %d %q, want 403", path, status, got)
		}
	}
	s.echoes(conn)
}

// Several proxies are shown as one. The set may change between requests, and
// IDs are those of a route.
func TestRoutes(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	chat, chatURL := newProxy(t)
	feed, feedURL := newProxy(t)
	routes := []console.Route{{Name: "/chat", Proxy: chat}, {Name: "/feed", Proxy: feed}}
	desk := httptest.NewServer(console.RoutesHandler(func() []console.Route { return routes }, nil))
	defer desk.Close()
	s := &site{t: t, ctx: ctx, desk: desk.URL}
	onChat, onFeed := open(t, ctx, chatURL), open(t, ctx, feedURL)
	snap := s.look("sort=route")
	if !snap.Routes || snap.Open != 2 || len(snap.Members) != 2 || len(snap.Rows) != 2 || snap.Rows[0].Route != "/chat" || snap.Rows[1].Route != "/feed" {
		t.Fatalf("got %+v, want a session of each route", snap)
	}
	if snap.Rows[0].ID != snap.Rows[1].ID {
		t.Fatalf("IDs %d and %d: the test wants them to be the same", snap.Rows[0].ID, snap.Rows[1].ID)
	}
	if status, _, got := s.do("POST", "close", fmt.Sprintf(`{"route":"/feed","session":%d,"code":1008}`, snap.Rows[1].ID), nil); status != 204 {
		t.Errorf("got %d %q, want 204", status, got)
	}
	s.closed(onFeed, 1008, "")
	s.echoes(onChat)

	// A drain of one of them is not one of all.
	if err := feed.Shutdown(ctx); err != nil {
		t.Fatal(err)
	}
	if snap = s.look(""); snap.Drain != nil {
		t.Errorf("a drain is shown: %+v", snap.Drain)
	}
	routes = routes[1:]
	if snap = s.look(""); snap.Open != 0 || len(snap.Rows) != 0 || snap.Drain == nil {
		t.Errorf("got %+v, want the other route, drained", snap)
	}
}

// Requests that are not the page's own change nothing, and every answer has the
// fields that protect the page.
func TestStrangers(t *testing.T) {
	t.Parallel()
	s := newSite(t, &console.Options{Drain: func() { t.Error("drained") }})
	conn := s.open("/", "")
	body := fmt.Sprintf(`{"session":%d,"code":1008}`, s.look("").Rows[0].ID)
	field := func(pairs ...string) http.Header {
		h := make(http.Header)
		for i := 0; i < len(pairs); i += 2 {
			h.Set(pairs[i], pairs[i+1])
		}
		return h
	}
	for _, test := range []struct {
		method, path string
		header       http.Header
		status       int
	}{
		{"GET", "", nil, 200},
		{"HEAD", "", nil, 200},
		{"GET", "page.js", nil, 200},
		{"GET", "page.css", nil, 200},
		{"GET", "icon.svg", nil, 200},
		{"GET", "snapshot", nil, 200},
		{"GET", "index.htm", nil, 404},
		{"GET", "page", nil, 404},
		{"GET", "..", nil, 404},
		{"GET", "close", nil, 405},
		{"GET", "drain", nil, 405},
		{"POST", "", nil, 405},
		{"POST", "snapshot", nil, 405},
		{"PUT", "close", nil, 405},

		{"POST", "close", field("Origin", "http://elsewhere.example"), 403},
		{"POST", "drain", field("Origin", "http://elsewhere.example"), 403},
		{"POST", "close", field("Origin", "null"), 403},
		{"POST", "close", field("Sec-Fetch-Site", "cross-site"), 403},
		{"POST", "close", field("Sec-Fetch-Site", "same-site"), 403},
		{"POST", "drain", field("Sec-Fetch-Site", "cross-site"), 403},
		// What a form can send, in a browser that tells nothing.
		{"POST", "close", field("Content-Type", "text/plain"), 415},
		{"POST", "drain", field("Content-Type", "application/x-www-form-urlencoded"), 415},
		{"POST", "drain", field("Content-Type", ""), 415},
	} {
		status, header, _ := s.do(test.method, test.path, body, test.header)
		if status != test.status {
			t.Errorf("%s %s %v: got %d, want %d", test.method, test.path, test.header, status, test.status)
		}
		for name, want := range map[string]string{
			"Content-Security-Policy": "frame-ancestors 'none'", "X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer",
			"Cache-Control": "no-store", "Cross-Origin-Resource-Policy": "same-origin", "Cross-Origin-Opener-Policy": "same-origin",
		} {
			if got := header.Get(name); !strings.Contains(got, want) {
				t.Errorf("%s %s: %s is %q, want %q", test.method, test.path, name, got, want)
			}
		}
	}
	s.echoes(conn)
	if status, _, got := s.do("POST", "close", body, field("Origin", s.desk, "Sec-Fetch-Site", "same-origin")); status != 204 {
		t.Errorf("the page's own request: got %d %q, want 204", status, got)
	}
}

// The handler can be mounted on any path, with or without http.StripPrefix.
func TestMount(t *testing.T) {
	t.Parallel()
	s := newSite(t, nil)
	h := console.Handler(s.proxy, nil)
	mux := http.NewServeMux()
	mux.Handle("/a/b/", h)
	mux.Handle("/c/", http.StripPrefix("/c", h))
	mux.Handle("/d/", http.StripPrefix("/d/", h))
	server := httptest.NewServer(mux)
	defer server.Close()
	for _, dir := range []string{"/a/b/", "/c/", "/d/"} {
		for path, want := range map[string]string{"": "<!doctype html>", "snapshot": `{"title":"Sessions"`, "page.js": "const"} {
			s.desk = server.URL + strings.TrimSuffix(dir, "/")
			if status, _, got := s.do("GET", path, "", nil); status != 200 || !strings.HasPrefix(got, want) {
				t.Errorf("%s%s: got %d %.30q, want %q", dir, path, status, got, want)
			}
		}
	}
}

// The page has nothing inline, which its content security policy would not
// allow, and no absolute path, which would be wrong wherever it is mounted.
func TestPage(t *testing.T) {
	t.Parallel()
	s := newSite(t, nil)
	_, _, page := s.do("GET", "", "", nil)
	for _, wrong := range []string{` style=`, ` onclick=`, `<style`, `<script>`, `href="/`, `src="/`, `http://`, `https://`} {
		if strings.Contains(page, wrong) {
			t.Errorf("the page contains %s", wrong)
		}
	}
	_, _, script := s.do("GET", "page.js", "", nil)
	for _, wrong := range []string{"innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", `fetch("/`} {
		if strings.Contains(script, wrong) {
			t.Errorf("the script contains %s", wrong)
		}
	}
}
