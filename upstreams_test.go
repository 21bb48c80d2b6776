package wsproxy_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/coder/websocket"

	"github.com/seed-ffb73231/wsproxy"
	"github.com/seed-ffb73231/wsproxy/internal/wstest"
)

// A cluster is a proxy with several members, each a real server.
type cluster struct {
	t       testing.TB
	members []*clusterMember
	proxy   *wsproxy.Proxy
	front   *httptest.Server
	logs    *wstest.Logs
}

type clusterMember struct {
	*httptest.Server
	open       atomic.Int32 // number of WebSockets
	handshakes atomic.Int32
	handle     atomic.Value // func(http.ResponseWriter, *http.Request) bool; true: it has answered
}

func (m *clusterMember) answer(f func(http.ResponseWriter, *http.Request) bool) { m.handle.Store(f) }

func (m *clusterMember) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	m.handshakes.Add(1)
	if f, _ := m.handle.Load().(func(http.ResponseWriter, *http.Request) bool); f != nil && f(w, r) {
		return
	}
	conn, err := websocket.Accept(w, r, nil)
	if err != nil {
		return
	}
	defer conn.CloseNow()
	m.open.Add(1)
	defer m.open.Add(-1)
	for {
		kind, message, err := conn.Read(context.Background())
		if err != nil {
			return
		}
		conn.Write(context.Background(), kind, message)
	}
}

func newMember(t testing.TB) *clusterMember {
	m := new(clusterMember)
	m.Server = httptest.NewServer(m)
	t.Cleanup(m.Close)
	return m
}

// newCluster starts n members and a proxy for them.
func newCluster(t testing.TB, n int, options ...wsproxy.Option) *cluster {
	t.Helper()
	c := &cluster{t: t, logs: new(wstest.Logs)}
	var members []wsproxy.Member
	for range n {
		m := newMember(t)
		c.members = append(c.members, m)
		members = append(members, wsproxy.Member{Target: m.URL})
	}
	options = append([]wsproxy.Option{wsproxy.WithLogger(slog.New(c.logs)), wsproxy.WithUpstreams(members...)}, options...)
	p, err := wsproxy.New("", options...)
	if err != nil {
		t.Fatal(err)
	}
	c.proxy = p
	c.front = httptest.NewServer(p)
	t.Cleanup(func() {
		p.Close()
		c.front.Close()
	})
	return c
}

// dial opens a session.
func (c *cluster) dial(path string, header http.Header) *websocket.Conn {
	c.t.Helper()
	conn, _, err := c.try(path, header)
	if err != nil {
		c.t.Fatal(err)
	}
	return conn
}

func (c *cluster) try(path string, header http.Header) (*websocket.Conn, *http.Response, error) {
	ctx, cancel := context.WithTimeout(context.Background(), wstest.Timeout)
	defer cancel()
	conn, resp, err := websocket.Dial(ctx, c.front.URL+path, &websocket.DialOptions{HTTPHeader: header})
	if err == nil {
		c.t.Cleanup(func() { conn.CloseNow() })
	}
	return conn, resp, err
}

// wantRefusal makes a handshake and expects it to be refused with that status.
func (c *cluster) wantRefusal(status int) {
	c.t.Helper()
	_, resp, err := c.try("/", nil)
	if err == nil || resp == nil || resp.StatusCode != status {
		c.t.Fatalf("got %v, %v, want %d", resp, err, status)
	}
	if after := resp.Header.Get("Retry-After"); (after != "") != (status == 502 || status == 503) {
		c.t.Errorf("%d with Retry-After %q", status, after)
	}
}

// sessions returns the number of each member's sessions, as the proxy counts
// them.
func (c *cluster) sessions() []int {
	var n []int
	for _, m := range c.proxy.Stats().Members {
		n = append(n, m.Sessions)
	}
	return n
}

// handshakes returns the number of handshakes that each member has seen.
func (c *cluster) handshakes() []int {
	var n []int
	for _, m := range c.members {
		n = append(n, int(m.handshakes.Load()))
	}
	return n
}

func (c *cluster) wantSessions(want ...int) {
	c.t.Helper()
	wstest.Await(c.t, func() bool { return slices.Equal(c.sessions(), want) }, func() string {
		return fmt.Sprintf("the members have %v sessions, want %v", c.sessions(), want)
	})
}

func echoed(t testing.TB, conn *websocket.Conn) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), wstest.Timeout)
	defer cancel()
	if err := conn.Write(ctx, websocket.MessageText, []byte("still there?")); err != nil {
		t.Fatal(err)
	}
	if _, message, err := conn.Read(ctx); err != nil || string(message) != "still there?" {
		t.Fatalf("got %q, %v", message, err)
	}
}

// closedWith waits for a session's end and checks its close code.
func closedWith(t testing.TB, conn *websocket.Conn, code websocket.StatusCode) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), wstest.Timeout)
	defer cancel()
	_, _, err := conn.Read(ctx)
	if got := websocket.CloseStatus(err); got != code {
		t.Fatalf("closed with %v (%v), want %v", got, err, code)
	}
}

// Each rule, over real sockets: how sessions are distributed, and that the
// counts return to zero.
func TestBalanceOverSockets(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name    string
		balance wsproxy.Balance
		check   func(n []int) bool
	}{
		{"least sessions", wsproxy.LeastSessions(), func(n []int) bool { return slices.Equal(n, []int{10, 10, 10}) }},
		{"round robin", wsproxy.RoundRobin(), func(n []int) bool { return slices.Equal(n, []int{10, 10, 10}) }},
		{"two choices", wsproxy.TwoChoices(), func(n []int) bool { return slices.Max(n) <= 14 && slices.Min(n) >= 6 }},
		{"rendezvous", wsproxy.Rendezvous(func(r *http.Request) string { return r.URL.Query().Get("room") }),
			func(n []int) bool { slices.Sort(n); return slices.Equal(n, []int{0, 0, 30}) }},
		{"rendezvous by address", wsproxy.Rendezvous(nil), func(n []int) bool { slices.Sort(n); return slices.Equal(n, []int{0, 0, 30}) }},
		{"rendezvous without a key", wsproxy.Rendezvous(func(*http.Request) string { return "" }), func(n []int) bool { return slices.Equal(n, []int{10, 10, 10}) }},
		{"one's own", wsproxy.BalanceFunc(func(r *http.Request, members []wsproxy.MemberState) int {
			return len(members) - 1
		}), func(n []int) bool { return slices.Equal(n, []int{0, 0, 30}) }},
		{"one's own that has no opinion", wsproxy.BalanceFunc(func(*http.Request, []wsproxy.MemberState) int { return 99 }), func(n []int) bool { return slices.Equal(n, []int{10, 10, 10}) }},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := newCluster(t, 3, wsproxy.WithBalance(test.balance))
			var conns []*websocket.Conn
			for range 30 {
				conns = append(conns, c.dial("/?room=7", nil))
			}
			got := c.sessions()
			if !test.check(slices.Clone(got)) {
				t.Errorf("the members have %v sessions", got)
			}
			for i, m := range c.members {
				if n := int(m.handshakes.Load()); n != got[i] {
					t.Errorf("member %d has seen %d handshakes, counts say %d", i, n, got[i])
				}
			}
			for _, conn := range conns {
				echoed(t, conn)
				conn.Close(websocket.StatusNormalClosure, "")
			}
			c.wantSessions(0, 0, 0)
		})
	}
}

// If a user's function panics, the answer is 500, and nothing is dialled or
// leaked.
func TestChoosePanics(t *testing.T) {
	t.Parallel()
	for _, b := range []wsproxy.Balance{
		wsproxy.BalanceFunc(func(*http.Request, []wsproxy.MemberState) int { panic("x") }),
		wsproxy.Rendezvous(func(*http.Request) string { panic("x") }),
	} {
		c := newCluster(t, 2, wsproxy.WithBalance(b))
		c.wantRefusal(500)
		c.wantSessions(0, 0)
		if n := c.handshakes(); !slices.Equal(n, []int{0, 0}) {
			t.Errorf("the members have seen %v", n)
		}
	}
}

// A user's function may use the proxy, and is passed only members that are
// available.
func TestChooseSees(t *testing.T) {
	t.Parallel()
	var c *cluster
	var mu sync.Mutex
	var seen []wsproxy.MemberState
	wantSeen := func(want ...wsproxy.MemberState) {
		t.Helper()
		mu.Lock()
		defer mu.Unlock()
		if !slices.Equal(seen, want) {
			t.Errorf("got %+v, want %+v", seen, want)
		}
	}
	c = newCluster(t, 2, wsproxy.WithBalance(wsproxy.BalanceFunc(func(_ *http.Request, members []wsproxy.MemberState) int {
		mu.Lock()
		defer mu.Unlock()
		c.proxy.Stats()
		seen = members
		return len(members) - 1
	})))
	if err := c.proxy.SetUpstreams(
		wsproxy.Member{Target: c.members[0].URL + "/v2?token=s3cr3t", Weight: 2, MaxSessions: 5},
		wsproxy.Member{Target: c.members[1].URL, MaxSessions: 1}); err != nil {
		t.Fatal(err)
	}
	c.dial("/", nil)
	first := wsproxy.MemberState{Name: c.members[0].URL + "/v2", Weight: 2, MaxSessions: 5}
	wantSeen(first, wsproxy.MemberState{Name: c.members[1].URL, Weight: 1, MaxSessions: 1})
	c.dial("/", nil)
	wantSeen(first)
}

// F49: in whatever way a session ends, or fails to open, its member's count
// returns to zero.
func TestCountsReturn(t *testing.T) {
	t.Attr("case", "F49")
	t.Parallel()
	// The close timeout is so short that the Close may be left out on a busy machine.
	told := func(w *wstest.Wire) { w.In.Peek(1) }
	open := func(r *rig) (client, upstream *wstest.Wire) { return r.open("", "") }
	for _, test := range []struct {
		name    string
		end     func(r *rig)
		options []wsproxy.Option
	}{
		{"the client closes", func(r *rig) {
			c, u := open(r)
			c.SendClose(1000, "")
			told(u)
			u.SendClose(1000, "")
			u.Close()
		}, nil},
		{"the upstream closes", func(r *rig) {
			c, u := open(r)
			u.SendClose(1000, "")
			told(c)
			c.SendClose(1000, "")
			u.Close()
		}, nil},
		{"the client's FIN", func(r *rig) { c, u := open(r); c.Close(); told(u); u.Close() }, nil},
		{"the upstream's FIN", func(r *rig) { c, u := open(r); u.Close(); told(c) }, nil},
		{"the client's RST", func(r *rig) { c, u := open(r); c.Reset(); told(u); u.Close() }, nil},
		{"the upstream's RST", func(r *rig) { c, u := open(r); u.Reset(); told(c) }, nil},
		{"the client breaks the protocol", func(r *rig) { c, u := open(r); c.Send("\xFF\xFF"); told(u); u.Close() }, nil},
		{"the upstream breaks the protocol", func(r *rig) { c, u := open(r); u.Send("\xFF\xFF"); told(c); c.Close() }, nil},
		{"too big", func(r *rig) { c, u := open(r); c.SendText("12345678"); told(u); u.Close(); c.Close() },
			[]wsproxy.Option{wsproxy.WithMaxMessageSize(wsproxy.Client, 4)}},
		{"kicked", func(r *rig) { _, u := open(r); r.the().Close(4000, ""); told(u); u.Close() }, nil},
		{"idle", func(r *rig) { _, u := open(r); told(u); u.Close() }, []wsproxy.Option{wsproxy.WithIdleTimeout(20 * time.Millisecond)}},
		{"too old", func(r *rig) { _, u := open(r); told(u); u.Close() }, []wsproxy.Option{wsproxy.WithMaxAge(20 * time.Millisecond)}},
		{"dead", func(r *rig) { open(r) }, []wsproxy.Option{wsproxy.WithPing(10*time.Millisecond, 10*time.Millisecond)}},
		{"Close", func(r *rig) { open(r); r.proxy.Close() }, nil},
		{"Shutdown", func(r *rig) {
			_, u := open(r)
			go r.proxy.Shutdown(context.Background())
			told(u)
			u.Close()
		}, nil},
		{"refused by the upstream", func(r *rig) {
			c := r.client()
			c.Send(wstest.Request("/", ""))
			u := r.upstream()
			u.ReadHead()
			u.Send("HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")
			c.WantRefusal(403)
		}, nil},
		{"a bad answer", func(r *rig) {
			c := r.client()
			c.Send(wstest.Request("/", ""))
			u := r.upstream()
			u.ReadHead()
			u.Send("HTTP/1.1 101 x\r\n\r\n")
			c.WantRefusal(502)
		}, nil},
		{"the client leaves before the 101", func(r *rig) {
			c := r.client()
			c.Send(wstest.Request("/", ""))
			u := r.upstream()
			u.ReadHead()
			c.Close()
			u.WantGone()
		}, nil},
		{"a hook refuses", func(r *rig) { c := r.client(); c.Send(wstest.Request("/", "")); c.WantRefusal(403) },
			[]wsproxy.Option{wsproxy.WithOnOpen(func(*wsproxy.Session, *http.Request) error { return errors.New("no") })}},
		{"a hook panics", func(r *rig) { c := r.client(); c.Send(wstest.Request("/", "")); c.WantRefusal(500) },
			[]wsproxy.Option{wsproxy.WithRewrite(func(*httputil.ProxyRequest) { panic("x") })}},
		{"the last hook panics", func(r *rig) { c, u := open(r); c.Close(); told(u); u.Close() },
			[]wsproxy.Option{wsproxy.WithOnClose(func(*wsproxy.Session) { panic("x") })}},
		{"no connection", func(r *rig) { c := r.client(); c.Send(wstest.Request("/", "")); c.WantRefusal(502) },
			[]wsproxy.Option{wsproxy.WithDialContext(func(context.Context, string, string) (net.Conn, error) { return nil, errors.New("no") })}},
		{"no time", func(r *rig) {
			c := r.client()
			c.Send(wstest.Request("/", "")) // the upstream's kernel accepts
			c.WantRefusal(504)
		}, []wsproxy.Option{wsproxy.WithHandshakeTimeout(20 * time.Millisecond)}},
	} {
		for _, detach := range []bool{false, true} {
			t.Run(fmt.Sprint(test.name, "/detached=", detach), func(t *testing.T) {
				options := append([]wsproxy.Option{wsproxy.WithCloseTimeout(20 * time.Millisecond)}, test.options...)
				if detach {
					options = append(options, wsproxy.WithDetach())
				}
				r := newRig(t, wstest.TCP, options...)
				test.end(r)
				zero := func() bool {
					st := r.proxy.Stats()
					return st.Open == 0 && st.Handshakes == 0 && st.Members[0].Sessions == 0
				}
				wstest.Await(t, zero, func() string { return fmt.Sprintf("got %+v", r.proxy.Stats()) })
			})
		}
	}
}

// A member that has reached MaxSessions gets no more. When all are full,
// clients are answered 503. A place that becomes free is used again.
func TestMemberMaxSessions(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 2)
	limited := []wsproxy.Member{{Target: c.members[0].URL, MaxSessions: 2}, {Target: c.members[1].URL, MaxSessions: 1}}
	if err := c.proxy.SetUpstreams(limited...); err != nil {
		t.Fatal(err)
	}
	first := c.dial("/", nil)
	c.dial("/", nil)
	c.dial("/", nil)
	c.wantSessions(2, 1)
	c.wantRefusal(503)
	if n := c.proxy.Stats().Failed["limit"]; n != 1 {
		t.Errorf("%d refused for a limit, want 1", n)
	}
	first.Close(websocket.StatusNormalClosure, "")
	wstest.Await(t, func() bool { return c.proxy.Stats().Open == 2 }, func() string { return "the session doesn't end" })
	c.dial("/", nil)
	c.wantSessions(2, 1)
}

// Members that stay keep their sessions and counts. Removed ones get no new
// sessions, and theirs are drained with 1012. Added ones get their share.
func TestSetUpstreams(t *testing.T) {
	t.Parallel()
	for _, detach := range []bool{false, true} {
		options := []wsproxy.Option{wsproxy.WithDrain(time.Millisecond, 0)}
		if detach {
			options = append(options, wsproxy.WithDetach())
		}
		c := newCluster(t, 2, options...)
		fresh := newMember(t)
		var conns []*websocket.Conn
		for range 6 {
			conns = append(conns, c.dial("/", nil))
		}
		c.wantSessions(3, 3)
		staying := c.members[0]
		if err := c.proxy.SetUpstreams(wsproxy.Member{Target: fresh.URL}, wsproxy.Member{Target: staying.URL, Weight: 1}); err != nil {
			t.Fatal(err)
		}
		codes := make(chan websocket.StatusCode, len(conns))
		for _, conn := range conns {
			go func() {
				_, _, err := conn.Read(context.Background())
				codes <- websocket.CloseStatus(err)
			}()
		}
		for range 3 {
			if code := wstest.Receive(t, codes); code != websocket.StatusServiceRestart {
				t.Errorf("a session ended by %v", code)
			}
		}
		c.wantSessions(0, 3)
		for range 3 {
			c.dial("/", nil)
		}
		c.wantSessions(3, 3)
		if n := fresh.handshakes.Load(); n != 3 {
			t.Errorf("the new member has seen %d handshakes, want 3", n)
		}
		removed := wsproxy.Outcome{By: wsproxy.Self, Reason: wsproxy.ReasonRemoved}
		wstest.Await(t, func() bool { return c.proxy.Stats().Ended[removed] == 3 }, func() string {
			return fmt.Sprintf("%d sessions ended because of it, want 3", c.proxy.Stats().Ended[removed])
		})
		if len(codes) > 0 {
			t.Errorf("one of the others ended, too, by %v", wstest.Receive(t, codes))
		}
	}
}

// With the option, the sessions of a removed member continue; if it is added
// again, they count again.
func TestKeepRemoved(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 2, wsproxy.WithKeepRemovedMembers())
	var conns []*websocket.Conn
	for range 4 {
		conns = append(conns, c.dial("/", nil))
	}
	a, b := wsproxy.Member{Target: c.members[0].URL}, wsproxy.Member{Target: c.members[1].URL}
	set := func(members ...wsproxy.Member) {
		t.Helper()
		if err := c.proxy.SetUpstreams(members...); err != nil {
			t.Fatal(err)
		}
	}
	set(a)
	c.dial("/", nil)
	c.wantSessions(3)
	for _, conn := range conns {
		echoed(t, conn)
	}
	set(b, a)
	c.wantSessions(2, 3)
	set(b)
	for _, conn := range conns {
		conn.Close(websocket.StatusNormalClosure, "")
	}
	c.wantSessions(0)
	set(a, b)
	c.wantSessions(1, 0)
}

// A session whose member is removed during its handshake gets its Close as soon
// as it is open.
func TestRemovedDuringHandshake(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 1)
	other := newMember(t)
	c.members[0].answer(func(http.ResponseWriter, *http.Request) bool {
		if err := c.proxy.SetUpstreams(wsproxy.Member{Target: other.URL}); err != nil {
			t.Error(err)
		}
		return false
	})
	conn := c.dial("/", nil)
	closedWith(t, conn, websocket.StatusServiceRestart)
	c.wantSessions(0)
}

// A member that is added again before its sessions were closed keeps them, and
// so does one whose query has changed.
func TestBackInTime(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, wstest.Memory, wsproxy.WithDrain(time.Hour, 0), wsproxy.WithPing(0, 0))
		clients := make([]*watch, 4)
		for i := range clients {
			client, upstream := r.open("", "")
			client.SetDeadline(time.Time{})
			upstream.SetDeadline(time.Time{})
			clients[i] = watched(client)
			watched(upstream)
		}
		set := func(target string) {
			t.Helper()
			if err := r.proxy.SetUpstreams(wsproxy.Member{Target: target}); err != nil {
				t.Fatal(err)
			}
			wstest.Elapse(time.Minute)
		}
		told := func() (n int) {
			synctest.Wait()
			for _, c := range clients {
				if len(c.frames) > 0 {
					n++
				}
			}
			return n
		}
		set("http://upstream.test?token=2")
		wstest.Elapse(2 * time.Hour)
		if n := told(); n != 0 {
			t.Fatalf("%d sessions were told when the query changed", n)
		}
		set("http://other.test")
		early := told()
		set("http://upstream.test")
		wstest.Elapse(2 * time.Hour)
		if n := told(); n != early || n == 4 {
			t.Errorf("%d sessions were told, %d of them before their member was back", n, early)
		}
		if n := r.proxy.Stats().Members[0].Sessions; n != 4-early {
			t.Errorf("it has %d sessions, want %d", n, 4-early)
		}
		set("http://other.test")
		wstest.Elapse(2 * time.Hour)
		if n := told(); n != 4 {
			t.Errorf("%d sessions were told in the end, want 4", n)
		}
	})
}

// From then on a changed query is sent to the upstream.
func TestChangedQuery(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 1)
	var query atomic.Value
	c.members[0].answer(func(_ http.ResponseWriter, r *http.Request) bool {
		query.Store(r.URL.RawQuery)
		return false
	})
	for _, want := range []string{"token=1", "token=2", ""} {
		if err := c.proxy.SetUpstreams(wsproxy.Member{Target: c.members[0].URL + "?" + want}); err != nil {
			t.Fatal(err)
		}
		c.dial("/", nil)
		if got := query.Load(); got != want {
			t.Errorf("the upstream saw %q, want %q", got, want)
		}
	}
	c.wantSessions(3)
}

// Mistakes change nothing and are reported all at once.
func TestSetUpstreamsMistakes(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 2)
	before := c.proxy.Stats().Members
	for _, test := range []struct {
		members []wsproxy.Member
		want    int // number of mistakes
	}{
		{nil, 1},
		{[]wsproxy.Member{{Target: "http://a"}, {Target: "http://a"}}, 1},
		{[]wsproxy.Member{{Target: "ws://a"}, {Target: "http://a?x=1"}}, 1},
		{[]wsproxy.Member{{Target: "http://a", Weight: -1}, {Target: "http://b", MaxSessions: -1}, {Target: "ftp://c"}, {Target: "http://d", Weight: 1 << 16}}, 4},
		{[]wsproxy.Member{{Target: "http://a", Address: "10.0.0.1"}, {Target: "http://a", Address: ":80"}, {Target: "unix:/x", Address: "a:1"}}, 3},
		{[]wsproxy.Member{{Target: "http://user:s3cr3t@a"}}, 1},
	} {
		err := c.proxy.SetUpstreams(test.members...)
		if got := optionErrors(t, err); len(got) != test.want {
			t.Errorf("%+v: got %v, want %d mistakes", test.members, err, test.want)
		}
		if strings.Contains(fmt.Sprintf("%v %+v", err, err), "s3cr3t") {
			t.Errorf("the secret is in %v", err)
		}
	}
	if after := c.proxy.Stats().Members; !slices.Equal(before, after) {
		t.Errorf("the members changed to %+v", after)
	}
	for _, good := range [][]wsproxy.Member{
		{{Target: "http://a", Address: "10.0.0.1:80"}, {Target: "http://a", Address: "10.0.0.2:80"}, {Target: "http://a"}},
		{{Target: "unix:/run/a.sock"}, {Target: "wss://a:1/x", Weight: 3, MaxSessions: 1}},
	} {
		if err := c.proxy.SetUpstreams(good...); err != nil {
			t.Error(err)
		}
	}
}

// Address is where to connect to a member; its target is its identity.
func TestMemberAddress(t *testing.T) {
	t.Parallel()
	ln, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{wstest.Cert()}})
	if err != nil {
		t.Fatal(err)
	}
	var host atomic.Value
	s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		host.Store(r.TLS.ServerName + " " + r.Host)
		w.WriteHeader(403)
	})}
	go s.Serve(ln)
	defer s.Close()
	logs := new(wstest.Logs)
	p, err := wsproxy.New("", wsproxy.WithUpstreams(wsproxy.Member{Target: "https://upstream.test:444/x?y", Address: ln.Addr().String()}),
		wsproxy.WithHost(""), wsproxy.WithTLSConfig(&tls.Config{RootCAs: wstest.CA().Pool()}), wsproxy.WithLogger(slog.New(logs)))
	if err != nil {
		t.Fatal(err)
	}
	front := httptest.NewServer(p)
	defer front.Close()
	_, resp, _ := websocket.Dial(t.Context(), front.URL, nil)
	if resp == nil || resp.StatusCode != 403 || host.Load() != "upstream.test upstream.test:444" {
		t.Errorf("got %v, and the upstream saw %v: %s", resp, host.Load(), logs.String())
	}
	if got, want := p.Stats().Members[0].Name, "https://upstream.test:444/x#"+ln.Addr().String(); got != want {
		t.Errorf("it is called %s, want %s", got, want)
	}
}

// A changing set under load: no session of a member that stays is disturbed,
// and all counts are consistent at the end.
func TestChangesUnderLoad(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 4, wsproxy.WithDrain(time.Millisecond, 0), wsproxy.WithBalance(wsproxy.TwoChoices()))
	stays := wsproxy.Member{Target: c.members[0].URL}
	if err := c.proxy.SetUpstreams(stays); err != nil {
		t.Fatal(err)
	}
	steady := c.dial("/", nil)
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				conn, _, err := c.try("/", nil)
				if err != nil {
					t.Errorf("no session: %v", err)
					return
				}
				ctx, cancel := context.WithTimeout(context.Background(), wstest.Timeout)
				if conn.Write(ctx, websocket.MessageText, []byte("x")) == nil {
					conn.Read(ctx)
				}
				conn.Close(websocket.StatusNormalClosure, "")
				cancel()
			}
		})
	}
	for i := range 200 {
		members := []wsproxy.Member{stays}
		for j, m := range c.members[1:] {
			if (i>>j)&1 == 1 {
				members = append(members, wsproxy.Member{Target: m.URL, Weight: 1 + i%3})
			}
		}
		if err := c.proxy.SetUpstreams(members...); err != nil {
			t.Fatal(err)
		}
		echoed(t, steady)
	}
	close(stop)
	wg.Wait()
	echoed(t, steady)
	if err := c.proxy.SetUpstreams(stays); err != nil {
		t.Fatal(err)
	}
	c.wantSessions(1)
	steady.Close(websocket.StatusNormalClosure, "")
	c.wantSessions(0)
}

// A client returns to the member of its last session, at every proxy that has
// the secret. A cookie that is not valid has no effect.
func TestSticky(t *testing.T) {
	t.Parallel()
	secret := []byte("0123456789abcdef")
	cookie := http.Cookie{Name: "member", Path: "/ws", HttpOnly: true, SameSite: http.SameSiteStrictMode}
	c := newCluster(t, 5, wsproxy.WithSticky(cookie, secret))
	_, resp, err := c.try("/", nil)
	if err != nil {
		t.Fatal(err)
	}
	set := resp.Header.Get("Set-Cookie")
	if !strings.HasPrefix(set, "member=") || !strings.HasSuffix(set, "; Path=/ws; HttpOnly; SameSite=Strict") || strings.Contains(set, "127.0.0.1") {
		t.Fatalf("got %q", set)
	}
	got := resp.Cookies()[0]
	mine := slices.Index(c.sessions(), 1)
	back := http.Header{"Cookie": {"a=b; " + got.Name + "=" + got.Value}}
	for range 10 {
		_, resp, err := c.try("/", back)
		if err != nil {
			t.Fatal(err)
		}
		if again := resp.Header.Get("Set-Cookie"); again != "" {
			t.Errorf("set again: %q", again)
		}
	}
	if n := c.sessions()[mine]; n != 11 {
		t.Errorf("the member has %d sessions, want 11", n)
	}

	// Another proxy with the same secret, and the set in another order.
	second, err := wsproxy.New("", wsproxy.WithUpstreams(func() (list []wsproxy.Member) {
		for _, m := range slices.Backward(c.members) {
			list = append(list, wsproxy.Member{Target: m.URL})
		}
		return list
	}()...), wsproxy.WithSticky(cookie, secret), wsproxy.WithLogger(discard))
	if err != nil {
		t.Fatal(err)
	}
	front := httptest.NewServer(second)
	defer front.Close()
	defer second.Close()
	before := c.members[mine].handshakes.Load()
	for range 5 {
		conn, _, err := websocket.Dial(t.Context(), front.URL, &websocket.DialOptions{HTTPHeader: back})
		if err != nil {
			t.Fatal(err)
		}
		defer conn.CloseNow()
	}
	if n := c.members[mine].handshakes.Load() - before; n != 5 {
		t.Errorf("the other proxy came to it %d times, want 5", n)
	}

	// The member is removed: the client gets another one, and its cookie.
	var rest []wsproxy.Member
	for i, m := range c.members {
		if i != mine {
			rest = append(rest, wsproxy.Member{Target: m.URL})
		}
	}
	if err := c.proxy.SetUpstreams(rest...); err != nil {
		t.Fatal(err)
	}
	if _, resp, err = c.try("/", back); err != nil || len(resp.Cookies()) != 1 || resp.Cookies()[0].Value == got.Value {
		t.Errorf("got %v, %v", resp, err)
	}
	// Not a cookie of this proxy's, or signed with another secret.
	for _, value := range []string{"x", strings.Repeat("A", 22), ""} {
		_, resp, err := c.try("/", http.Header{"Cookie": {"member=" + value}})
		if err != nil || len(resp.Cookies()) != 1 {
			t.Errorf("%q: got %v, %v", value, resp, err)
		}
	}
}

// Members are identified by the meaning of their targets, not by the spelling
// (RFC 3986, 6.2.2 and 6.2.3): sessions stay with a member whose target is
// written differently.
func TestSpellingsOfMembers(t *testing.T) {
	t.Parallel()
	r := newRig(t, wstest.TCP)
	client, upstream := r.open("", "")
	for _, target := range []string{"http://upstream.test:80", "http://UPSTREAM.test/", "ws://upstream.test", "HTTP://upstream.test:080", "http://upstream.test?a=b"} {
		if err := r.proxy.SetUpstreams(wsproxy.Member{Target: target}); err != nil {
			t.Fatal(err)
		}
		client.SendText(target)
		upstream.Want(wstest.Text, target)
		if m := r.proxy.Stats().Members; len(m) != 1 || m[0].Sessions != 1 || m[0].Name != "http://upstream.test" {
			t.Errorf("%s: got %+v, want the member that there was", target, m)
		}
	}
	if text := r.logs.String(); text != "" {
		t.Errorf("logged %s, want nothing: nothing has changed", text)
	}
	for _, two := range [][2]wsproxy.Member{
		{{Target: "http://a.test"}, {Target: "http://A.test:80/"}},
		{{Target: "http://a.test", Address: "[::1]:80"}, {Target: "http://a.test", Address: "[0:0:0:0:0:0:0:1]:80"}},
	} {
		if err := r.proxy.SetUpstreams(two[0], two[1]); err == nil || !strings.Contains(err.Error(), "duplicate") {
			t.Errorf("%v: got %v, want a mistake", two, err)
		}
	}
	if err := r.proxy.SetUpstreams(wsproxy.Member{Target: "http://upstream.test/other"}); err != nil { // and a different one is different
		t.Fatal(err)
	}
	client.WantClose(1012)
	upstream.WantClose(1001)
}
