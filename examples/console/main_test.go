package main

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/seed-ffb73231/wsproxy"
)

// patience limits every wait, on a machine that may be busy.
const patience = 30 * time.Second

// asProgram in the environment makes the test binary the program itself.
const asProgram = "WSPROXY_EXAMPLE_CONSOLE"

func TestMain(m *testing.M) {
	if os.Getenv(asProgram) != "" {
		main()
		return
	}
	os.Exit(m.Run())
}

// A bench is a proxy and its console, each on its own server.
type bench struct {
	t              *testing.T
	ctx            context.Context
	proxy          *wsproxy.Proxy
	public, secret string // URLs
}

func newBench(t *testing.T) *bench {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	upstream := httptest.NewServer(http.HandlerFunc(echo))
	t.Cleanup(upstream.Close)
	proxy, err := wsproxy.New(upstream.URL,
		wsproxy.WithOnOpen(keepUser),
		wsproxy.WithDrain(100*time.Millisecond, websocket.StatusServiceRestart),
		wsproxy.WithLogger(slog.New(slog.DiscardHandler)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { proxy.Close() })
	public := httptest.NewServer(proxy)
	t.Cleanup(public.Close)
	b := &bench{t: t, ctx: ctx, proxy: proxy, public: public.URL}

	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	con := newConsole(proxy, settings{window: 100 * time.Millisecond}, b.public, ln.Addr().(*net.TCPAddr))
	watching, stopWatching := context.WithCancel(context.Background())
	private := &http.Server{Handler: con, BaseContext: func(net.Listener) context.Context { return watching }}
	go private.Serve(ln)
	t.Cleanup(func() {
		stopWatching()
		private.Shutdown(context.Background())
		con.wait()
	})
	b.secret = "http://" + ln.Addr().String()
	return b
}

// open opens a session through the proxy, with the query.
func (b *bench) open(path, user string) *websocket.Conn {
	b.t.Helper()
	conn, _, err := websocket.Dial(b.ctx, b.public+path+"?user="+url.QueryEscape(user), nil)
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { conn.CloseNow() })
	return conn
}

// A page is a client of the console.
type page struct {
	*bench
	conn *websocket.Conn
}

func (b *bench) watch() *page {
	b.t.Helper()
	conn, _, err := websocket.Dial(b.ctx, b.secret+"/feed", nil)
	if err != nil {
		b.t.Fatal(err)
	}
	conn.SetReadLimit(1 << 20)
	b.t.Cleanup(func() { conn.CloseNow() })
	return &page{b, conn}
}

func (p *page) send(format string, args ...any) {
	p.t.Helper()
	if err := p.conn.Write(p.ctx, websocket.MessageText, fmt.Appendf(nil, format, args...)); err != nil {
		p.t.Fatal(err)
	}
}

func (p *page) next() (m message) {
	p.t.Helper()
	_, data, err := p.conn.Read(p.ctx)
	if err != nil {
		p.t.Fatal(err)
	}
	if err := json.Unmarshal(data, &m); err != nil {
		p.t.Fatal(err)
	}
	return m
}

// await returns the first snapshot for which a condition holds.
func (p *page) await(f func(*snapshot) bool) *snapshot {
	p.t.Helper()
	for {
		if m := p.next(); m.Snapshot != nil && f(m.Snapshot) {
			return m.Snapshot
		}
	}
}

// reply returns the error of the next reply.
func (p *page) reply(id int) string {
	p.t.Helper()
	for {
		if m := p.next(); m.Reply != nil {
			if m.Reply.ID != id {
				p.t.Errorf("reply to %d, want %d", m.Reply.ID, id)
			}
			return m.Reply.Error
		}
	}
}

func TestSnapshot(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	conn := b.open("/chat/%3Cimg%20src=x%3E", "<b>\u202edesk")
	for range 3 {
		if err := conn.Write(b.ctx, websocket.MessageText, []byte("hello")); err != nil {
			t.Fatal(err)
		}
		if _, _, err := conn.Read(b.ctx); err != nil {
			t.Fatal(err)
		}
	}
	p := b.watch()
	if m := p.next(); m.Hello == nil || !m.Hello.Local || m.Hello.Public != b.public || m.Hello.Most != most {
		t.Errorf("the page is greeted with %+v", m.Hello)
	}
	snap := p.await(func(s *snapshot) bool { return s.Messages[wsproxy.Upstream] == 3 })
	if snap.Open != 1 || snap.Opened != 1 || snap.Matching != 1 || len(snap.Rows) != 1 {
		t.Fatalf("got %+v, want the one session", snap)
	}
	r := snap.Rows[0]
	// 3 messages of 5 bytes, each with a header of 2 and, from the client, a key of 4.
	got := [...]any{r.User, r.Path, r.Client != "", r.Upstream != "", r.Messages, r.Bytes}
	want := [...]any{"<b>\ufffddesk", "/chat/<img src=x>", true, true, [2]uint64{3, 3}, [2]uint64{33, 21}}
	if got != want {
		t.Errorf("the row has %v, want %v", got, want)
	}
	conn.Close(websocket.StatusNormalClosure, "")
	snap = p.await(func(s *snapshot) bool { return s.Open == 0 && len(s.Ended) > 0 })
	if want := (tally{"closed by client", 1}); len(snap.Rows) != 0 || snap.Ended[0] != want {
		t.Errorf("after its end: rows %v, ended %v, want none and %v", snap.Rows, snap.Ended, want)
	}
}

func TestView(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	for _, user := range []string{"kiosk-2", "desk-1", "Kiosk-1", "phone-1"} {
		b.open("/", user)
	}
	p := b.watch()
	for _, test := range []struct{ view, want string }{
		{`{"do":"view"}`, "kiosk-2 desk-1 Kiosk-1 phone-1"},
		{`{"do":"view","sort":"id","descending":true}`, "phone-1 Kiosk-1 desk-1 kiosk-2"},
		{`{"do":"view","sort":"user"}`, "Kiosk-1 desk-1 kiosk-2 phone-1"},
		{`{"do":"view","filter":" KIOSK"}`, "kiosk-2 Kiosk-1"},
		{`{"do":"view","filter":"-1","sort":"user","descending":true}`, "phone-1 desk-1 Kiosk-1"},
		{`{"do":"view","sort":"nonsense"}`, "kiosk-2 desk-1 Kiosk-1 phone-1"},
		{`{"do":"view","filter":"nobody"}`, ""},
	} {
		p.send("%s", test.view)
		p.await(func(s *snapshot) bool { // an older view's snapshot may come before
			var users []string
			for _, r := range s.Rows {
				users = append(users, r.User)
			}
			return strings.Join(users, " ") == test.want && s.Matching == len(users)
		})
	}
}

// TestMost has more sessions than a snapshot shows.
func TestMost(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	const n = most + 20
	for i := range n {
		b.open("/", fmt.Sprintf("desk-%03d", i))
	}
	snap := take(b.proxy, view{Sort: "user", Descending: true})
	if len(snap.Rows) != most || snap.Matching != n || snap.Open != n {
		t.Errorf("%d rows of %d, %d open, want %d of %d", len(snap.Rows), snap.Matching, snap.Open, most, n)
	}
	if got, want := snap.Rows[0].User, fmt.Sprintf("desk-%03d", n-1); got != want {
		t.Errorf("the first row is %s, want %s", got, want)
	}
	// This one is not among the rows otherwise.
	snap = take(b.proxy, view{Filter: fmt.Sprintf("desk-%03d", n-1)})
	if len(snap.Rows) != 1 {
		t.Errorf("%d rows hold the text, want 1", len(snap.Rows))
	}
}

func TestKick(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	conn, other := b.open("/", "desk-1"), b.open("/", "desk-2")
	p := b.watch()
	snap := p.await(func(s *snapshot) bool { return len(s.Rows) == 2 })
	id := snap.Rows[0].ID
	for i, test := range []struct{ command, err string }{
		{fmt.Sprintf(`"do":"kick","session":%d,"code":1005`, id), "may not be sent"},
		{fmt.Sprintf(`"do":"kick","session":%d,"code":1008,"reason":%q`, id, strings.Repeat("x", 124)), "123 bytes"},
		{`"do":"kick","session":1000000,"code":1008`, "has ended already"},
		{`"do":"dance"`, "unknown command"},
	} {
		p.send(`{"id":%d,%s}`, i, test.command)
		if got := p.reply(i); !strings.Contains(got, test.err) {
			t.Errorf("%s: got %q, want %q", test.command, got, test.err)
		}
	}
	p.send(`{"id":9,"do":"kick","session":%d,"code":4401,"reason":"token expired"}`, id)
	if got := p.reply(9); got != "" {
		t.Errorf("the kick failed: %s", got)
	}
	_, _, err := conn.Read(b.ctx)
	closed, _ := errors.AsType[websocket.CloseError](err)
	if want := (websocket.CloseError{Code: 4401, Reason: "token expired"}); closed != want {
		t.Errorf("the client's session ended with %v, want %v", err, want)
	}
	p.await(func(s *snapshot) bool {
		return len(s.Rows) == 1 && s.Rows[0].ID != id && len(s.Ended) == 1 && s.Ended[0] == tally{"closed by proxy", 1}
	})
	if err := other.Write(b.ctx, websocket.MessageText, []byte("still there")); err != nil {
		t.Error(err)
	}
	if _, _, err := other.Read(b.ctx); err != nil {
		t.Errorf("the other session: %v", err)
	}
}

func TestDrain(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	var conns []*websocket.Conn
	for range 5 {
		conns = append(conns, b.open("/", ""))
	}
	p := b.watch()
	p.await(func(s *snapshot) bool { return s.Open == 5 && s.Drain == nil })
	for id := range 2 { // the second one changes nothing
		p.send(`{"id":%d,"do":"drain"}`, id)
		if got := p.reply(id); got != "" {
			t.Errorf("the drain failed: %s", got)
		}
	}
	for _, conn := range conns {
		if _, _, err := conn.Read(b.ctx); websocket.CloseStatus(err) != websocket.StatusServiceRestart {
			t.Errorf("a session ended with %v, want Close 1012, as WithDrain has it", err)
		}
	}
	snap := p.await(func(s *snapshot) bool { return s.Open == 0 })
	if want := (drainState{Total: 5, Told: 5}); snap.Drain == nil || *snap.Drain != want {
		t.Errorf("the drain is shown as %+v, want %+v", snap.Drain, want)
	}
	_, resp, err := websocket.Dial(b.ctx, b.public, nil)
	if err == nil || resp == nil || resp.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("a new handshake got %v, %v, want 503", resp, err)
	}
	p.await(func(s *snapshot) bool { return len(s.Refused) == 1 && s.Refused[0] == tally{"shutting down", 1} })
}

// TestStrangers makes requests that are not the page's own.
func TestStrangers(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	host := strings.TrimPrefix(b.secret, "http://")
	_, port, _ := net.SplitHostPort(host)
	get := func(method, path, host, origin string) *http.Response {
		t.Helper()
		r, err := http.NewRequestWithContext(b.ctx, method, b.secret+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Host = host
		if path == "/feed" {
			r.Header = http.Header{"Connection": {"Upgrade"}, "Upgrade": {"websocket"}, "Sec-Websocket-Version": {"13"}, "Sec-Websocket-Key": {"dGhlIHNhbXBsZSBub25jZQ=="}}
		}
		if origin != "" {
			r.Header.Set("Origin", origin)
		}
		resp, err := http.DefaultTransport.RoundTrip(r)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		return resp
	}
	for _, test := range []struct {
		method, path, host, origin string
		status                     int
	}{
		{"GET", "/", host, "", 200},
		{"GET", "/", "localhost:" + port, "", 200},
		{"GET", "/", "[::1]:" + port, "", 200},
		{"GET", "/page.js", host, "", 200},
		{"GET", "/feed", host, "http://" + host, 101},
		{"GET", "/feed", "localhost:" + port, "http://localhost:" + port, 101},

		{"GET", "/feed", host, "http://elsewhere.example", 403},
		{"GET", "/feed", host, "http://localhost:" + port, 403},
		{"GET", "/feed", host, "null", 403},
		// A stranger's name that resolves to the console's address.
		{"GET", "/", "rebound.example:" + port, "", 421},
		{"GET", "/feed", "rebound.example:" + port, "http://rebound.example:" + port, 421},
		{"GET", "/feed", "127.0.0.1.rebound.example", "http://127.0.0.1.rebound.example", 421},
		{"POST", "/", host, "", 405},
		{"POST", "/feed", host, "", 405},
	} {
		resp := get(test.method, test.path, test.host, test.origin)
		if resp.StatusCode != test.status {
			t.Errorf("%s %s, host %s, origin %q: got %d, want %d", test.method, test.path, test.host, test.origin, resp.StatusCode, test.status)
		}
		if got := resp.Header.Get("Content-Security-Policy"); got != contentPolicy {
			t.Errorf("%s %s: content security policy %q", test.method, test.path, got)
		}
	}
}

// TestProgram runs the whole program with its own clients and interrupts it.
func TestProgram(t *testing.T) {
	t.Parallel()
	if runtime.GOOS == "windows" {
		t.Skip("no os.Interrupt there")
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), self, "-addr=127.0.0.1:0", "-console=127.0.0.1:0", "-window=1s", "-visitors=10")
	cmd.Env = append(os.Environ(), asProgram+"=1")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Process.Kill()
	lines := bufio.NewScanner(stdout)
	secret := ""
	for secret == "" && lines.Scan() {
		if rest, ok := strings.CutPrefix(lines.Text(), "console"); ok {
			secret = strings.TrimSuffix(strings.TrimSpace(rest), "/")
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	p := (&bench{t: t, ctx: ctx, secret: secret}).watch()
	p.await(func(s *snapshot) bool { return s.Open == 10 && s.Messages[wsproxy.Client] > 0 })
	if err := cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	// The console outlives the drain and reports its result.
	var last *snapshot
	for {
		_, data, err := p.conn.Read(ctx)
		if err != nil {
			if got := websocket.CloseStatus(err); got != websocket.StatusGoingAway {
				t.Errorf("the console's page got %v, want Close 1001", err)
			}
			break
		}
		var m message
		json.Unmarshal(data, &m)
		last = cmp.Or(m.Snapshot, last)
	}
	if last == nil || last.Drain == nil || last.Open != 0 || last.Drain.Cut != 0 {
		t.Errorf("the last that the page saw was %+v, want all drained", last)
	}
	rest, _ := io.ReadAll(stdout)
	if err := cmd.Wait(); err != nil || stderr.Len() > 0 {
		t.Errorf("the program has ended with %v, stderr %q\n%s", err, stderr.String(), rest)
	}
}
