package wsproxy_test

import (
	"context"
	"fmt"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/seed-ffb73231/wsproxy"
	"github.com/seed-ffb73231/wsproxy/internal/wstest"
)

// member returns the member of a test's set with that name; the upstream sees it as the
// first element of the path.
func member(name string) wsproxy.Member {
	return wsproxy.Member{Target: "http://upstream.test/" + name}
}

// When a member is removed, its sessions move to another one. What the old one still
// sends before it closes arrives, and nothing is lost or comes twice.
func TestResumeMoves(t *testing.T) {
	t.Parallel()
	eachSession(t, func(t *testing.T, c carrier) {
		target := "http://upstream.test/"
		if c.upstream == wstest.TLS {
			target = "https://upstream.test/"
		}
		r := newCarrierRig(t, c, "", resuming(wsproxy.Resume{}, wsproxy.WithUpstreams(wsproxy.Member{Target: target + "a"}),
			wsproxy.WithDrain(time.Millisecond, 0), wsproxy.WithInsecureAnyOrigin())...)
		client, old := r.open("", "")
		client.SendText("one")
		old.Want(wstest.Text, "one")
		if err := r.proxy.SetUpstreams(wsproxy.Member{Target: target + "b"}); err != nil {
			t.Fatal(err)
		}
		old.WantClose(1001)
		client.Send(client.Frame(wstest.Ping, "still there?")) // the old one can no longer be asked
		client.Want(wstest.Pong, "still there?")
		client.SendText("for the next one")
		old.SendText("two")
		old.Send(old.Frame(wstest.Ping, "ping"))
		client.Want(wstest.Text, "two")
		client.Want(wstest.Ping, "ping")
		client.Send(client.Frame(wstest.Pong, "ping")) // nobody waits for it any more
		old.SendText("three")
		old.SendClose(1001, "")
		client.Want(wstest.Text, "three")
		next := r.upstream()
		if req := next.Answer(""); req.URL.Path != "/b/" {
			t.Errorf("the next upstream was asked for %q", req.URL.Path)
		}
		next.Want(wstest.Text, "for the next one")
		old.Conn.Close()
		next.SendText("four")
		client.Want(wstest.Text, "four")
		if m := r.proxy.Stats().Members; len(m) != 1 || m[0].Sessions != 1 {
			t.Errorf("the members are %v, want one with one session", m)
		}
		client.SendClose(1000, "")
		next.Want(wstest.Pong, "ping")
		next.WantClose(1000)
	})
}

// An upstream that does not answer the Close of a move is dropped after the close
// timeout. A session that finds no other one ends as it would have at once.
func TestResumeMovesInTime(t *testing.T) {
	t.Parallel()
	eachSessionInTime(t, func(t *testing.T, c carrier) {
		r := newCarrierRig(t, c, "", resuming(wsproxy.Resume{Window: 10 * time.Second}, wsproxy.WithUpstreams(member("a")),
			wsproxy.WithCloseTimeout(3*time.Second), wsproxy.WithInsecureAnyOrigin())...)
		client, old := r.open("", "")
		began := time.Now()
		if err := r.proxy.SetUpstreams(member("b")); err != nil {
			t.Fatal(err)
		}
		old.WantClose(1001)
		moved := time.Since(began)
		next := r.upstream()
		if d := time.Since(began) - moved; d < 3*time.Second || d > 3200*time.Millisecond {
			t.Errorf("the old upstream was dropped after %v, want 3 s", d)
		}
		old.WantEnd()
		next.Answer("")

		if err := r.proxy.SetUpstreams(member("c")); err != nil {
			t.Fatal(err)
		}
		next.WantClose(1001)
		next.SendClose(1001, "")
		next.Conn.Close()
		r.back.Close()
		began = time.Now()
		client.WantClose(1012)
		wantAt(t, began, 10*time.Second)
		client.SendClose(1012, "")
		r.wantOver()
		if m := r.logs.WaitFor(t, "wsproxy: session ended", 0); m["reason"] != string(wsproxy.ReasonRemoved) || fmt.Sprint(m["resumes"]) != "1" {
			t.Errorf("logged %v, want an end because the member was removed", m)
		}
	})
}

// A member that is removed while a session is on its way to it is left again.
func TestResumeToRemoved(t *testing.T) {
	t.Parallel()
	eachSessionInTime(t, func(t *testing.T, c carrier) {
		r := newCarrierRig(t, c, "", resuming(wsproxy.Resume{}, wsproxy.WithUpstreams(member("a")),
			wsproxy.WithDrain(time.Millisecond, 0), wsproxy.WithInsecureAnyOrigin())...)
		client, old := r.open("", "")
		old.Conn.Close()
		next := r.upstream()
		next.ReadRequest()
		if err := r.proxy.SetUpstreams(member("b")); err != nil {
			t.Fatal(err)
		}
		next.Send("HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
		next = r.upstream()
		if req := next.Answer(""); req.URL.Path != "/b/" {
			t.Errorf("asked for %q", req.URL.Path)
		}
		next.SendText("two")
		client.Want(wstest.Text, "two")
	})
}

// When a member is marked down, its sessions move, and clients that echo see nothing.
// The member that is well gets them, and its limit holds.
func TestResumeDown(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 2, resuming(wsproxy.Resume{}, wsproxy.WithDrain(time.Millisecond, 0),
		wsproxy.WithHealthCheck(wsproxy.HealthCheck{Path: "/healthz", Interval: 10 * time.Millisecond, Fall: 1, Rise: 1, Close: true}))...)
	var sick atomic.Int32
	sick.Store(-1)
	for i, m := range c.members {
		m.answer(func(w http.ResponseWriter, r *http.Request) bool {
			if r.URL.Path != "/healthz" {
				return false
			}
			if int(sick.Load()) == i {
				w.WriteHeader(500)
			}
			return true
		})
	}
	var conns []*websocket.Conn
	for range 4 {
		conns = append(conns, c.dial("/", nil))
	}
	c.wantSessions(2, 2)
	for round := range 4 {
		sick.Store(int32(round % 2))
		wstest.Await(t, func() bool {
			return c.proxy.Stats().Members[round%2].Sessions == 0 && c.proxy.Stats().Members[1-round%2].Sessions == 4
		},
			func() string { return fmt.Sprint(c.proxy.Stats().Members) })
		for _, conn := range conns {
			echoed(t, conn)
		}
		sick.Store(-1) // if both were down, sessions could go to either
		wstest.Await(t, func() bool { return !c.proxy.Stats().Members[round%2].Down }, func() string { return "still down" })
	}
	c.wantSessions(4, 0)
	if st := c.proxy.Stats(); st.Open != 4 || st.Resumes != 2+4+4+4 || st.ResumesFailed > 0 {
		t.Errorf("%d open, %d resumes, %d failed; want 4 and 14", st.Open, st.Resumes, st.ResumesFailed)
	}
}

// A session whose member is gone goes to another one, at once: the one that failed is
// backed off.
func TestResumeToOthers(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 3, resuming(wsproxy.Resume{})...)
	var mu sync.Mutex
	var accepted []*websocket.Conn // guarded by mu; of the second member
	c.members[1].answer(func(w http.ResponseWriter, r *http.Request) bool {
		conn, err := websocket.Accept(w, r, nil)
		if err != nil {
			return true
		}
		mu.Lock()
		accepted = append(accepted, conn)
		mu.Unlock()
		conn.Read(context.Background())
		return true
	})
	var conns []*websocket.Conn
	for range 6 {
		conns = append(conns, c.dial("/?token="+wstest.Secret, nil))
	}
	c.wantSessions(2, 2, 2)
	c.members[1].Listener.Close()
	mu.Lock()
	for _, conn := range accepted {
		conn.CloseNow()
	}
	mu.Unlock()
	wstest.Await(t, func() bool { return c.proxy.Stats().Resumes == 2 }, func() string { return "no two resumes" })
	for _, conn := range conns {
		echoed(t, conn)
	}
	c.wantSessions(3, 0, 3)
	for s := range c.proxy.Sessions() {
		if s.Upstream() == c.members[1].URL {
			t.Errorf("session %d says that it is at %s", s.ID(), s.Upstream())
		}
	}
}
