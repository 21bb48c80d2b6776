package wscaddy

import (
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"
)

// many opens n sessions at once.
func many(t *testing.T, s *server, n int) []*websocket.Conn {
	t.Helper()
	conns, limit := make([]*websocket.Conn, n), make(chan struct{}, 16)
	var wg sync.WaitGroup
	for i := range conns {
		wg.Go(func() {
			limit <- struct{}{}
			defer func() { <-limit }()
			conn, _, err := s.dial(t, "/websocket", nil)
			if err != nil {
				t.Error(err)
				return
			}
			conns[i] = conn
		})
	}
	wg.Wait()
	if t.Failed() {
		t.FailNow()
	}
	return conns
}

// A reload loses no session of a handler whose configuration is the same,
// whatever else changes.
func TestReload(t *testing.T) {
	const sessions = 500
	u := newUpstream(t, "a")
	site := fmt.Sprintf("SITE {\n\t%%s\n\twsproxy /websocket %s\n}\n", u.addr())
	s := start(t, fmt.Sprintf(site, "log"))
	conns := many(t, s, sessions)
	for i, change := range []string{
		"log", // --force
		"respond /new 204",
		"header X-Site changed",
		"route /other {\n\t\twsproxy " + u.addr() + " {\n\t\t\tmax_sessions 1\n\t\t}\n\t}",
	} {
		s.reload(t, fmt.Sprintf(site, change))
		var wg sync.WaitGroup
		for _, conn := range conns {
			wg.Go(func() {
				if err := echo(conn); err != nil {
					t.Errorf("after reload %d: a session is lost: %v", i+1, err)
				}
			})
		}
		wg.Wait()
		if t.Failed() {
			t.FailNow()
		}
		s.open(t, "/websocket", nil)
	}
}

// The sessions of a handler that has changed are told to end, not all at once,
// while new ones are let in.
func TestReloadChanged(t *testing.T) {
	const sessions = 100
	u := newUpstream(t, "a")
	site := fmt.Sprintf("SITE {\n\twsproxy /websocket %s {\n\t\tdrain 3s\n\t\tmax_sessions %%d\n\t}\n}\n", u.addr())
	s := start(t, fmt.Sprintf(site, 1000))
	ends := make([]time.Time, sessions)
	var wg sync.WaitGroup
	for i, conn := range many(t, s, sessions) {
		wg.Go(func() { // a reload may take long, and they end from the middle of it
			if code := ended(conn); code != websocket.StatusGoingAway {
				t.Errorf("a session has ended with %d, want 1001", code)
			}
			ends[i] = time.Now()
		})
	}
	s.reload(t, fmt.Sprintf(site, 2000))
	s.open(t, "/websocket", nil)
	wg.Wait()
	began := slices.MinFunc(ends, time.Time.Compare)
	early, late := 0, 0
	for _, end := range ends {
		switch after := end.Sub(began); {
		case after < time.Second:
			early++
		case after > 2*time.Second:
			late++
		}
	}
	if early < sessions/6 || early > sessions/2 || late < sessions/6 || late > sessions/2 {
		t.Errorf("%d sessions have ended in the first third of the time and %d in the last, want about %d", early, late, sessions/3)
	}
	if got := s.record(t, "wsproxy: draining")["sessions"]; got != float64(sessions) {
		t.Errorf("the record of the drain has %v sessions, want %d", got, sessions)
	}
}

// So do those of a handler that is gone.
func TestReloadRemoved(t *testing.T) {
	u := newUpstream(t, "a")
	s := start(t, "SITE {\n\twsproxy /websocket "+u.addr()+"\n}\n")
	conn := s.open(t, "/websocket", nil)
	s.reload(t, "SITE {\n\trespond /websocket 404\n}\n")
	if code := ended(conn); code != websocket.StatusGoingAway {
		t.Errorf("the session has ended with %d, want 1001", code)
	}
	if _, resp, err := s.dial(t, "/websocket", nil); err == nil || resp.StatusCode != 404 {
		t.Errorf("a new one: got %v, want 404", err)
	}
}

// A configuration that Caddy rejects changes nothing.
func TestReloadRejected(t *testing.T) {
	u := newUpstream(t, "a")
	site := "SITE {\n\twsproxy /websocket " + u.addr() + " {\n\t\t%s\n\t}\n}\n"
	s := start(t, fmt.Sprintf(site, ""))
	conn := s.open(t, "/websocket", nil)
	s.write(t, fmt.Sprintf(site, "idle_timeout -5s"))
	if out, err := command(t, s.dir, "reload", "--config", "Caddyfile").CombinedOutput(); err == nil {
		t.Errorf("accepted: %s", out)
	}
	if err := echo(conn); err != nil {
		t.Errorf("the session is lost: %v", err)
	}
	s.open(t, "/websocket", nil)
}

// Caddy exits when the sessions of all handlers have been told, those of
// earlier configurations as well.
func TestExit(t *testing.T) {
	u := newUpstream(t, "a")
	site := "SITE {\n\twsproxy /websocket %s {\n\t\tmax_sessions %d\n\t\tdrain 2s 1012\n\t}\n}\n"
	s := start(t, fmt.Sprintf(site, u.addr(), 10))
	conns := many(t, s, 10)
	s.reload(t, fmt.Sprintf(site, u.addr(), 20))
	conns = append(conns, many(t, s, 20)...)
	for _, conn := range conns {
		go conn.CloseRead(t.Context()) // answers the Close
	}
	s.stop(t)
	s.mu.Lock()
	defer s.mu.Unlock()
	drained := 0
	for _, r := range s.records {
		if r["msg"] == "wsproxy: session ended" {
			if r["reason"] != "drained" || r["code"] != float64(1012) {
				t.Errorf("got the record %v, want reason drained and code 1012", r)
			}
			drained++
		}
	}
	if drained != len(conns) {
		t.Errorf("%d sessions were drained before Caddy exited, want %d", drained, len(conns))
	}
}
