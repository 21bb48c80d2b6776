package wsproxy_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"net/netip"
	"os"
	"runtime"
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

// What operators and hooks see of sessions, and how they end them.

// the returns the proxy's only session.
func (r *rig) the() *wsproxy.Session {
	r.t.Helper()
	all := slices.Collect(r.proxy.Sessions())
	if len(all) != 1 {
		r.t.Fatalf("%d sessions are listed, want 1", len(all))
	}
	return all[0]
}

// For a value that is neither side, the methods return zeros.
func TestNeither(t *testing.T) {
	t.Parallel()
	r := newRig(t, wstest.TCP)
	r.open("", "")
	s := r.the()
	for _, side := range []wsproxy.Side{wsproxy.Self, 200} {
		if c, d := s.Counts(side), s.RoundTrip(side); c != (wsproxy.Counts{}) || d != 0 {
			t.Errorf("side %d: got %+v and %v, want zeros", side, c, d)
		}
	}
}

// A session is listed from its 101 to its end, with everything that is known
// about it.
func TestSessions(t *testing.T) {
	t.Parallel()
	wstest.EachKind(t, func(t *testing.T, k wstest.Kind) {
		r := newRig(t, k)
		if n := len(slices.Collect(r.proxy.Sessions())); n != 0 {
			t.Errorf("%d sessions are listed, want none", n)
		}
		before := time.Now()
		client := r.client()
		client.Send(wstest.Request("/room?token=secret", "Sec-WebSocket-Protocol: chat, other\r\n"))
		upstream := r.upstream()
		upstream.Answer("Sec-WebSocket-Protocol: chat\r\n")
		client.ReadResponse()
		client.SendText("hello")
		upstream.Want(wstest.Text, "hello")
		s := r.the()
		scheme := "http"
		if k == wstest.TLS {
			scheme = "https"
		}
		if s.ID() == 0 || s.Client() == "" || s.Path() != "/room" || s.Upstream() != scheme+"://upstream.test" || s.Subprotocol() != "chat" ||
			s.Start().Before(before) || s.Start().After(time.Now()) || s.LastActivity().Before(s.Start()) || s.Err() != nil {
			t.Errorf("got id %d, client %q, path %q, upstream %q, subprotocol %q, start %v, activity %v, error %v",
				s.ID(), s.Client(), s.Path(), s.Upstream(), s.Subprotocol(), s.Start(), s.LastActivity(), s.Err())
		}
		select {
		case <-s.Done():
			t.Error("a running session is done")
		default:
		}

		// The counters are live and separate for each direction.
		client.Send(client.Frame(0x01, "ab") + client.Frame(wstest.Ping, "x") + client.Frame(0x80, "cde"))
		upstream.Want(0x01, "ab")
		upstream.Want(wstest.Ping, "x")
		upstream.Want(0x80, "cde")
		upstream.Send(upstream.Frame(wstest.Pong, "x") + upstream.Frame(wstest.Binary, strings.Repeat("d", 200)))
		client.Want(wstest.Pong, "x")
		client.Want(wstest.Binary, strings.Repeat("d", 200))
		wantCounts(t, s, wsproxy.Client, wsproxy.Counts{Frames: 4, Messages: 2, Bytes: 11 + 8 + 7 + 9, Pings: 1, LargestMessage: 5})
		wantCounts(t, s, wsproxy.Upstream, wsproxy.Counts{Frames: 2, Messages: 1, Bytes: 3 + 204, LargestMessage: 200})

		second, _ := r.open("", "")
		if all := slices.Collect(r.proxy.Sessions()); len(all) != 2 || all[0] != s || all[1].ID() <= s.ID() {
			t.Errorf("listed are %v, want two, the older one first", all)
		}
		client.SendClose(1000, "bye")
		upstream.WantClose(1000)
		upstream.SendClose(1000, "bye")
		client.WantClose(1000)
		upstream.Close()
		wstest.Receive(t, s.Done())
		var e *wsproxy.SessionError
		if err := s.Err(); !errors.As(err, &e) || *e != (wsproxy.SessionError{By: wsproxy.Client, Reason: wsproxy.ReasonClosed, Code: 1000}) {
			t.Errorf("got %v, want that the client has closed it with 1000", err)
		}
		if r.the() == s {
			t.Error("a session that is over is still listed")
		}
		wstest.Receive(t, s.Done()) // a channel that is requested late is closed, too
		second.Close()
	})
}

// Upstream returns what was dialled, to hooks and in log records, too, and to whoever
// keeps a session that is over and whose member is gone.
func TestSessionUpstream(t *testing.T) {
	t.Parallel()
	member := wsproxy.Member{Target: "ws://A.test:80/path?query"}
	withAddress := wsproxy.Member{Target: member.Target, Address: "192.0.2.1:9000"}
	next := wsproxy.Member{Target: "http://b.test", Address: "192.0.2.2:9000"}
	for _, row := range []struct {
		name        string
		member      wsproxy.Member
		hosts       []string // of WithRewrite; nil: without
		first, next string   // next: with WithResume
	}{
		{"a member", member, nil, "http://a.test", "http://b.test#192.0.2.2:9000"},
		{"a member with an address", withAddress, nil, "http://a.test#192.0.2.1:9000", "http://b.test#192.0.2.2:9000"},
		{"a socket", wsproxy.Member{Target: "unix:/run/a"}, nil, "unix:///run/a", "http://b.test#192.0.2.2:9000"},
		{"a rewrite that stays", withAddress, []string{"a.test", "b.test"}, "http://a.test#192.0.2.1:9000", "http://b.test#192.0.2.2:9000"},
		{"a rewrite", withAddress, []string{"y.test:81", "z.test"}, "http://y.test:81", "http://z.test"},
	} {
		for _, resumes := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, resumes=%v", row.name, resumes), func(t *testing.T) {
				t.Parallel()
				opened, closed := make(chan string, 1), make(chan string, 1)
				options := []wsproxy.Option{wsproxy.WithUpstreams(row.member), wsproxy.WithKeepRemovedMembers(), wsproxy.WithInsecureAnyOrigin(),
					wsproxy.WithOnOpen(func(s *wsproxy.Session, _ *http.Request) error { opened <- s.Upstream(); return nil }),
					wsproxy.WithOnClose(func(s *wsproxy.Session) { closed <- s.Upstream() })}
				if hosts := row.hosts; hosts != nil {
					options = append(options, wsproxy.WithRewrite(func(pr *httputil.ProxyRequest) { pr.Out.URL.Host, hosts = hosts[0], hosts[1:] }))
				}
				if resumes {
					options = append(options, wsproxy.WithResume(wsproxy.Resume{}))
				}
				r := newRigTo(t, wstest.Memory, "", options...)
				client, upstream := r.open("", "")
				s := r.the()
				want := func(when, got, want string) {
					t.Helper()
					if got != want {
						t.Errorf("%s it is %q, want %q", when, got, want)
					}
				}
				want("before the 101", wstest.Receive(t, opened), "")
				want("at first", s.Upstream(), row.first)
				if err := r.proxy.SetUpstreams(next); err != nil {
					t.Fatal(err)
				}
				want("when the member is gone", s.Upstream(), row.first)
				last := row.first
				if resumes {
					upstream.Close()
					upstream = r.upstream()
					upstream.Answer("")
					record := r.logs.WaitFor(t, "wsproxy: session resumed", 0)
					last = row.next
					want("where it has resumed", s.Upstream(), last)
					want("where it has resumed, logged,", fmt.Sprint(record["upstream"]), last)
					want("where it was, logged,", fmt.Sprint(record["from"]), row.first)
				}
				s.Close(1000, "")
				client.Close()
				upstream.Close()
				r.wantOver()
				want("when it is over", s.Upstream(), last)
				want("when it is over, for a hook,", wstest.Receive(t, closed), last)
				want("when it is over, logged,", fmt.Sprint(r.logs.WaitFor(t, "wsproxy: session ended", 0)["upstream"]), last)
			})
		}
	}
}

// wantCounts waits for the counters, which may lag behind the bytes.
func wantCounts(t *testing.T, s *wsproxy.Session, from wsproxy.Side, want wsproxy.Counts) {
	t.Helper()
	deadline := time.Now().Add(wstest.Timeout)
	for s.Counts(from) != want {
		if time.Now().After(deadline) {
			t.Fatalf("from %v: counted %+v, want %+v", from, s.Counts(from), want)
		}
		runtime.Gosched()
	}
}

// An operator ends a session: its client gets the code and the reason, between
// two frames, and the upstream 1001.
func TestKick(t *testing.T) {
	t.Parallel()
	wstest.EachKind(t, func(t *testing.T, k wstest.Kind) {
		r := newRig(t, k)
		client, upstream := r.open("", "")
		half := upstream.Frame(wstest.Text, "whole")
		upstream.Send(half[:4])
		client.WantBytes(half[:4])
		s := r.the()
		for _, bad := range []struct {
			code   websocket.StatusCode
			reason string
		}{{1005, ""}, {1006, ""}, {999, ""}, {2000, ""}, {5000, ""}, {1000, strings.Repeat("x", 124)}, {1000, "\xff"}} {
			if err := s.Close(bad.code, bad.reason); err == nil {
				t.Errorf("Close(%d, %q): no error", bad.code, bad.reason)
			}
		}
		reason := strings.Repeat("é", 61) + "!"
		for range 3 {
			if err := s.Close(4401, reason); err != nil {
				t.Errorf("Close: %v", err)
			}
		}
		upstream.Want(wstest.Close, wstest.CloseBody(1001, reason))
		upstream.Send(half[4:] + upstream.Frame(wstest.Close, wstest.CloseBody(1001, "")))
		client.WantBytes(half[4:])
		client.Want(wstest.Close, wstest.CloseBody(4401, reason))
		client.SendClose(4401, "")
		client.WantEnd()
		upstream.Close()
		wstest.Receive(t, s.Done())
		var e *wsproxy.SessionError
		if !errors.As(s.Err(), &e) || e.By != wsproxy.Self || e.Reason != wsproxy.ReasonClosedByProxy || e.Code != 4401 {
			t.Errorf("got %v, want kicked with 4401", s.Err())
		}
		r.wantEnded("proxy", "closed by proxy")
		normal, _ := r.open("", "")
		s2 := r.the()
		s2.Close(1000, "")
		normal.WantClose(1000)
		r.proxy.Close()
		wstest.Receive(t, s2.Done())
		if !errors.As(s2.Err(), &e) || e.Code != 1000 {
			t.Errorf("got %v, want the code that the client was sent", s2.Err())
		}
		if err := s.Close(1000, ""); err != nil {
			t.Errorf("Close of a session that is over: %v", err)
		}
	})
}

// A hook that refuses sets the answer; nothing is dialled, and the hooks for
// the end are called.
func TestOnOpen(t *testing.T) {
	t.Parallel()
	type key struct{}
	for _, row := range []struct {
		name   string
		hook   func(s *wsproxy.Session, r *http.Request) error
		status int
		body   string
		field  string
	}{
		{"refusal", func(*wsproxy.Session, *http.Request) error {
			return &wsproxy.Refusal{Status: 401, Text: "who are you?", Header: http.Header{"www-authenticate": {"Bearer"}}}
		}, 401, "who are you?\n", "Www-Authenticate: Bearer\r\n"},
		{"wrapped", func(*wsproxy.Session, *http.Request) error {
			return fmt.Errorf("secret detail: %w", &wsproxy.Refusal{Status: 429})
		}, 429, "Too Many Requests\n", "Retry-After: 5\r\n"},
		{"JSON", func(*wsproxy.Session, *http.Request) error {
			return &wsproxy.Refusal{Status: 401, Text: `{"error":1}`, Header: http.Header{"Content-Type": {"application/json"}, "Connection": {"keep-alive"}}}
		}, 401, `{"error":1}`, "Content-Type: application/json\r\n"},
		{"an error of the proxy's", func(*wsproxy.Session, *http.Request) error {
			return fmt.Errorf("secret detail: %w", wsproxy.ErrBadHandshake)
		}, 403, "Forbidden\n", ""},
		{"any error", func(*wsproxy.Session, *http.Request) error { return errors.New("secret detail") }, 403, "Forbidden\n", ""},
		{"no status to refuse with", func(*wsproxy.Session, *http.Request) error { return &wsproxy.Refusal{Status: 200} }, 500, "Internal Server Error\n", ""},
		{"panic", func(*wsproxy.Session, *http.Request) error { panic("secret detail") }, 500, "Internal Server Error\n", ""},
	} {
		t.Run(row.name, func(t *testing.T) {
			var dials atomic.Int32
			ended := make(chan *wsproxy.Session, 10)
			second := false
			r := newRig(t, wstest.TCP, noDial(&dials),
				wsproxy.WithOnOpen(func(s *wsproxy.Session, _ *http.Request) error { s.Set(key{}, "first"); return nil }),
				wsproxy.WithOnOpen(row.hook),
				wsproxy.WithOnOpen(func(*wsproxy.Session, *http.Request) error { second = true; return nil }),
				wsproxy.WithOnClose(func(s *wsproxy.Session) { ended <- s }))
			c := r.client()
			c.Send(wstest.Request("/", "") + secondRequest)
			head, body := c.WantRefusal(row.status)
			if body != row.body || !strings.Contains(head, row.field) {
				t.Errorf("client: got %q with body %q, want %q with %q", head, body, row.field, row.body)
			}
			if dials.Load() > 0 || second {
				t.Errorf("dialled %d times; a later hook was called: %v", dials.Load(), second)
			}
			s := wstest.Receive(t, ended)
			var e *wsproxy.Error
			if !errors.As(s.Err(), &e) || e.Status != row.status || s.Value(key{}) != "first" || !s.Start().IsZero() {
				t.Errorf("OnClose: got error %v, value %v", s.Err(), s.Value(key{}))
			}
			kind := "hook"
			if row.name == "panic" {
				kind = "panic"
			}
			if m := r.logs.Wait(t, 0); m["kind"] != kind {
				t.Errorf("logged %v, want kind %q", m, kind)
			}
			r.wantReturned()
			if len(ended) > 0 {
				t.Error("OnClose was called twice")
			}
		})
	}
}

// Fields that a hook sets in the request are sent to the upstream, whatever the
// client nominates. The server's own request does not change.
func TestOnOpenHeader(t *testing.T) {
	t.Parallel()
	r := newRig(t, wstest.TCP, wsproxy.WithOnOpen(func(_ *wsproxy.Session, r *http.Request) error {
		r.Header.Set("X-User", "42")
		return nil
	}))
	c := r.client()
	c.Send(edited("Connection: Upgrade", "Connection: Upgrade, X-User, X-Other\r\nX-User: 1\r\nX-Other: 1"))
	req := r.upstream().ReadRequest()
	if got := req.Header["X-User"]; !slices.Equal(got, []string{"42"}) {
		t.Errorf("upstream: got X-User %q, want the hook's", got)
	}
	if got := req.Header["X-Other"]; got != nil {
		t.Errorf("upstream: got X-Other %q, which the client has nominated", got)
	}

	var held *http.Request
	direct(t, "http://upstream.test", edited("Connection: Upgrade", "Connection: Upgrade, X-Other\r\nX-Other: 1"), func(r *http.Request) { held = r },
		wsproxy.WithOnOpen(func(_ *wsproxy.Session, r *http.Request) error { r.Header.Set("X-User", "42"); return nil }))
	if held.Header.Get("X-User") != "" || held.Header.Get("X-Other") != "1" {
		t.Errorf("the server's request has become %v", held.Header)
	}
}

// OnClose is called once, whatever ended the session, also if it panics; but
// never for a session that no hook has seen.
func TestOnClose(t *testing.T) {
	t.Parallel()
	for _, detached := range []bool{false, true} {
		var mu sync.Mutex
		var errs []error
		options := []wsproxy.Option{
			wsproxy.WithOnClose(func(*wsproxy.Session) { panic("hook") }),
			wsproxy.WithOnClose(func(s *wsproxy.Session) {
				mu.Lock()
				defer mu.Unlock()
				errs = append(errs, s.Err())
			}),
		}
		if detached {
			options = append(options, wsproxy.WithDetach())
		}
		r := newRig(t, wstest.TCP, options...)
		next := func(by wsproxy.Side, reason wsproxy.Reason) {
			t.Helper()
			deadline := time.Now().Add(wstest.Timeout)
			for {
				mu.Lock()
				if len(errs) > 0 {
					defer mu.Unlock()
					var e *wsproxy.SessionError
					if !errors.As(errs[0], &e) || e.By != by || e.Reason != reason || len(errs) > 1 {
						t.Errorf("OnClose was called with %v, want one that was ended by %v for %q", errs, by, reason)
					}
					errs = nil
					return
				}
				mu.Unlock()
				if time.Now().After(deadline) {
					t.Fatal("OnClose isn't called")
				}
				runtime.Gosched()
			}
		}
		c := r.client() // without a handshake
		c.Send("GET / HTTP/1.1\r\nHost: front.test\r\n\r\n")
		c.WantRefusal(426)

		client, upstream := r.open("", "")
		client.Reset()
		upstream.WantClose(1001)
		upstream.Close()
		next(wsproxy.Client, wsproxy.ReasonLost)

		client, upstream = r.open("", "")
		upstream.Send("\x83\x00")
		client.WantClose(1011)
		client.Close()
		upstream.WantClose(1002)
		upstream.Close()
		next(wsproxy.Upstream, wsproxy.ReasonProtocolError)

		r.open("", "")
		r.proxy.Close()
		next(wsproxy.Self, wsproxy.ReasonCut)
	}
}

// A hook that ends its goroutine, or that panics together with the logger,
// leaks nothing, and neither does a logger that does so at the start.
func TestOnCloseNeverReturns(t *testing.T) {
	for _, row := range []struct {
		name    string
		options []wsproxy.Option
	}{
		{"Goexit", []wsproxy.Option{wsproxy.WithOnClose(func(*wsproxy.Session) { runtime.Goexit() })}},
		{"Goexit, detached", []wsproxy.Option{wsproxy.WithOnClose(func(*wsproxy.Session) { runtime.Goexit() }), wsproxy.WithDetach()}},
		{"Goexit at the start", []wsproxy.Option{wsproxy.WithLogger(slog.New(exiting{}))}},
		{"Goexit at the start, detached", []wsproxy.Option{wsproxy.WithLogger(slog.New(exiting{})), wsproxy.WithDetach()}},
		{"panics", []wsproxy.Option{wsproxy.WithOnClose(func(*wsproxy.Session) { panic("hook") }), wsproxy.WithLogger(slog.New(panicking{}))}},
		{"panics, detached", []wsproxy.Option{wsproxy.WithOnClose(func(*wsproxy.Session) { panic("hook") }), wsproxy.WithLogger(slog.New(panicking{})), wsproxy.WithDetach()}},
	} {
		t.Run(row.name, func(t *testing.T) {
			log.SetOutput(io.Discard)
			defer log.SetOutput(os.Stderr)
			r := newRig(t, wstest.TCP, row.options...)
			client, upstream := r.open("", "")
			client.SendText("x")
			upstream.Want(wstest.Text, "x")
			s := r.the()
			upstream.SendClose(1000, "")
			upstream.Close()
			client.WantClose(1000)
			client.SendClose(1000, "")
			client.WantEnd()
			wstest.Receive(t, s.Done())
			if st := r.proxy.Stats(); st.Open != 0 || st.Handshakes != 0 {
				t.Errorf("left are %d sessions, %d handshakes", st.Open, st.Handshakes)
			}
		})
	}
}

// panicking is a log handler that panics.
type panicking struct{}

func (panicking) Enabled(context.Context, slog.Level) bool  { return true }
func (panicking) Handle(context.Context, slog.Record) error { panic("logger") }
func (p panicking) WithAttrs([]slog.Attr) slog.Handler      { return p }
func (p panicking) WithGroup(string) slog.Handler           { return p }

// exiting is a log handler that ends the goroutine of a session that begins.
type exiting struct{ panicking }

func (exiting) Handle(_ context.Context, r slog.Record) error {
	if r.Message == "wsproxy: session opened" {
		runtime.Goexit()
	}
	return nil
}

// A session may be closed before its 101: its client is then refused.
func TestKickInHandshake(t *testing.T) {
	t.Parallel()
	r := newRig(t, wstest.TCP, wsproxy.WithOnOpen(func(s *wsproxy.Session, _ *http.Request) error {
		go s.Close(1008, "")
		return nil
	}))
	c := r.client()
	c.Send(wstest.Request("/", "") + secondRequest)
	c.WantRefusal(403)
	if m := r.logs.Wait(t, 0); m["kind"] != "closed by proxy" {
		t.Errorf("logged %v, want kind closed by proxy", m)
	}
}

// A session ends at its expiry, which may be changed.
func TestExpiry(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, wstest.Memory, wsproxy.WithPing(0, 0), wsproxy.WithOnOpen(func(s *wsproxy.Session, _ *http.Request) error {
			if err := s.SetExpiry(time.Now(), 1006, ""); err == nil {
				t.Error("SetExpiry takes a code that may not be sent")
			}
			return s.SetExpiry(time.Now().Add(time.Minute).Round(0), 4401, "token expired")
		}))
		expire := func(after time.Duration, change func(s *wsproxy.Session)) {
			t.Helper()
			client, upstream := r.open("", "")
			began := time.Now()
			change(r.the())
			client.Want(wstest.Close, wstest.CloseBody(4401, "token expired"))
			wantAt(t, began, after)
			upstream.WantClose(1001)
			client.SendClose(4401, "")
			upstream.SendClose(1001, "")
			upstream.Close()
			r.wantReturned()
		}
		expire(time.Minute, func(*wsproxy.Session) {})
		for _, d := range []time.Duration{30 * time.Second, 10 * time.Minute, 0, -time.Minute} {
			expire(max(d, 0), func(s *wsproxy.Session) { s.SetExpiry(time.Now().Add(d), 4401, "token expired") })
		}
		// Removed again.
		client, _ := r.open("", "")
		if err := errors.Join(r.the().SetExpiry(time.Now().Add(time.Hour), 1000, ""), r.the().SetExpiry(time.Time{}, 0, "")); err != nil {
			t.Fatal(err)
		}
		wstest.Elapse(24 * time.Hour)
		if r.the().Err() != nil {
			t.Error("a session whose expiry was taken back has ended")
		}
		client.Close()
		r.wantRecord(0, "proxy", "expired")
	})
}

// A session whose expiry passes before it is open ends as soon as it is.
func TestExpiryPassed(t *testing.T) {
	t.Parallel()
	eachSession(t, func(t *testing.T, c carrier) {
		r := c.rig(t, wsproxy.WithPing(0, 0), wsproxy.WithOnOpen(func(s *wsproxy.Session, _ *http.Request) error {
			return s.SetExpiry(time.Now().Add(-time.Minute), 4401, "token expired")
		}))
		client, upstream := r.open("", "")
		client.Want(wstest.Close, wstest.CloseBody(4401, "token expired"))
		upstream.WantClose(1001)
		client.SendClose(4401, "")
		upstream.SendClose(1001, "")
		upstream.Close()
		client.WantEnd()
		r.wantOver()
		r.wantRecord(0, "proxy", "expired")
	})
}

// Sessions end at the maximum age or up to a tenth earlier, and not in step.
func TestMaxAge(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, wstest.Memory, wsproxy.WithMaxAge(100*time.Minute))
		began := time.Now()
		var ages []time.Duration
		var mu sync.Mutex
		var all sync.WaitGroup
		for range 30 {
			client, upstream := r.open("", "")
			watched(upstream)
			watched(client)
			all.Go(func() {
				r.wantReturned()
				mu.Lock()
				defer mu.Unlock()
				ages = append(ages, time.Since(began))
			})
		}
		all.Wait()
		slices.Sort(ages)
		if ages[0] < 90*time.Minute || ages[29] > 100*time.Minute+time.Second || ages[29]-ages[0] < 2*time.Minute {
			t.Errorf("sessions have ended at the age of %v to %v, want them spread over 90 to 100 minutes", ages[0], ages[29])
		}
		r.wantRecord(0, "proxy", "age")
	})
}

// Round trips are measured with the proxy's own Pings, separately for each leg.
func TestRoundTrip(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, wstest.Memory, wsproxy.WithPing(10*time.Second, 5*time.Second))
		client, upstream := r.open("", "")
		s := r.the()
		answer := func(w *wstest.Wire, after time.Duration) (pinged string) {
			f, err := w.ReadFrame()
			if err != nil || f.First != wstest.Ping {
				t.Errorf("%s: got frame %#x, %v, want a Ping", w.Who(), f.First, err)
			}
			wstest.Elapse(after)
			w.Send(w.Frame(wstest.Pong, f.Payload))
			return f.Payload
		}
		var both sync.WaitGroup
		var first string
		both.Go(func() { first = answer(client, 30*time.Millisecond) })
		both.Go(func() { answer(upstream, 2*time.Second) })
		both.Wait()
		synctest.Wait()
		if c, u := s.RoundTrip(wsproxy.Client), s.RoundTrip(wsproxy.Upstream); c != 30*time.Millisecond || u != 2*time.Second {
			t.Errorf("got round trips of %v and %v, want 30 ms and 2 s", c, u)
		}
		st := r.proxy.Stats().RoundTrips
		if st[wsproxy.Client].Sum != 30*time.Millisecond || st[wsproxy.Upstream].Sum != 2*time.Second ||
			st[wsproxy.Client].Counts[3] != 1 || st[wsproxy.Upstream].Counts[6] != 1 {
			t.Errorf("got histograms %+v", st)
		}
		// A late answer to an older Ping does not count for the next one.
		client.ReadFrame()
		wstest.Elapse(time.Second)
		client.Send(client.Frame(wstest.Pong, first))
		synctest.Wait()
		if c := s.RoundTrip(wsproxy.Client); c != 30*time.Millisecond {
			t.Errorf("got a round trip of %v by the answer to an older Ping", c)
		}
	})
}

// F15, A68: above the limits, clients are refused before anything is dialled. A
// session that ends, in whatever way, frees its place.
func TestMaxSessions(t *testing.T) {
	t.Attr("case", "F15")
	t.Parallel()
	for _, row := range []struct {
		name   string
		option wsproxy.Option
		status int
	}{
		{"in all", wsproxy.WithMaxSessions(2), 503},
		{"per client", wsproxy.WithMaxSessionsPerClient(2, nil), 429},
		{"per client, by header", wsproxy.WithMaxSessionsPerClient(2, func(r *http.Request) string { return r.Header.Get("X-User") }), 429},
	} {
		t.Run(row.name, func(t *testing.T) {
			r := newRig(t, wstest.TCP, row.option)
			const user = "X-User: 42\r\n"
			refused := func() {
				t.Helper()
				c := r.client()
				c.Send(wstest.Request("/", user) + secondRequest)
				if head, _ := c.WantRefusal(row.status); !strings.Contains(head, "\r\nRetry-After: 5\r\n") {
					t.Errorf("got %q, want Retry-After", head)
				}
				r.wantReturned()
			}
			// A handshake under way counts as well.
			first, upstream := r.open(user, "")
			waiting := r.client()
			waiting.Send(wstest.Request("/", user))
			pending := r.upstream()
			pending.ReadRequest()
			refused()
			pending.Send("HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n") // that handshake has ended
			waiting.WantRefusal(403)
			r.wantReturned()
			second, upstream2 := r.open(user, "")
			refused()
			first.Reset()
			upstream.WantClose(1001)
			upstream.Close()
			r.wantReturned()
			third, _ := r.open(user, "")
			refused()
			if row.status == 429 { // another client has its own limit
				if strings.Contains(row.name, "header") {
					r.open("X-User: 43\r\n", "")
					r.open("", "") // not counted
					r.open("", "")
					r.open("", "")
				}
			}
			second.SendClose(1000, "")
			upstream2.WantClose(1000)
			upstream2.SendClose(1000, "")
			upstream2.Close()
			r.wantReturned()
			r.open(user, "")
			third.Close()
		})
	}
	t.Run("panic", func(t *testing.T) {
		var dials atomic.Int32
		r := newRig(t, wstest.TCP, noDial(&dials), wsproxy.WithMaxSessionsPerClient(1, func(*http.Request) string { panic("key") }))
		c := r.client()
		c.Send(wstest.Request("/", ""))
		c.WantRefusal(500)
	})
}

// Handshakes under way have their own limit; open sessions do not count.
func TestMaxHandshakes(t *testing.T) {
	t.Parallel()
	r := newRig(t, wstest.TCP, wsproxy.WithMaxHandshakes(1))
	r.open("", "")
	r.open("", "")
	waiting := r.client()
	waiting.Send(wstest.Request("/", ""))
	pending := r.upstream()
	req := pending.ReadRequest()
	c := r.client()
	c.Send(wstest.Request("/", "") + secondRequest)
	c.WantRefusal(503)
	if st := r.proxy.Stats(); st.Open != 2 || st.Handshakes != 1 || st.Failed["limit"] != 1 {
		t.Errorf("got %+v", st)
	}
	pending.Send(wstest.AnswerTo(req, ""))
	if resp := waiting.ReadResponse(); resp.StatusCode != 101 {
		t.Errorf("got %d, want 101", resp.StatusCode)
	}
	r.open("", "")
}

// A client is identified by its address without the port, and by the /64 of an
// IPv6 address. Behind a trusted proxy, it is the address that the proxy
// reports.
func TestClientKeys(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		first, second, forwarded string // addresses; X-Forwarded-For of the second
		same                     bool
	}{
		{"192.0.2.1:1", "192.0.2.1:2", "", true},
		{"192.0.2.1:1", "192.0.2.2:1", "", false},
		{"192.0.2.1:1", "[::ffff:192.0.2.1]:1", "", true},
		{"[2001:db8::1]:1", "[2001:db8::ffff:1]:1", "", true},
		{"[2001:db8::1]:1", "[2001:db8:0:1::1]:1", "", false},
		{"[fe80::1%eth0]:1", "[fe80::2%eth1]:1", "", true},
		{"@", "@", "", true},
		{"192.0.2.1:1", "10.0.0.1:5", "192.0.2.1", true},
		{"192.0.2.1:1", "192.0.2.9:5", "192.0.2.1", false}, // not trusted
	} {
		hang := make(chan struct{})
		dialled := make(chan struct{}, 2)
		p, err := wsproxy.New("http://upstream.test", wsproxy.WithMaxSessionsPerClient(1, nil), wsproxy.WithLogger(discard),
			wsproxy.WithTrustedProxies(netip.MustParsePrefix("10.0.0.0/8")),
			wsproxy.WithDialContext(func(context.Context, string, string) (net.Conn, error) {
				dialled <- struct{}{}
				<-hang
				return nil, io.EOF
			}))
		if err != nil {
			t.Fatal(err)
		}
		request := func(addr, forwarded string) *http.Request {
			req, _ := http.NewRequest("GET", "/", nil)
			req.Header = http.Header{"Upgrade": {"websocket"}, "Connection": {"Upgrade"}, "Sec-Websocket-Version": {"13"}, "Sec-Websocket-Key": {wstest.Key}}
			if forwarded != "" {
				req.Header.Set("X-Forwarded-For", forwarded)
			}
			req.RemoteAddr, req.Host = addr, "front.test"
			return req
		}
		var first sync.WaitGroup
		first.Go(func() { p.ServeHTTP(new(response), request(row.first, "")) })
		wstest.Receive(t, dialled)
		code := make(chan int)
		go func() {
			w := new(response)
			p.ServeHTTP(w, request(row.second, row.forwarded))
			code <- w.Code
		}()
		select {
		case <-dialled:
			if row.same {
				t.Errorf("%+v: two sessions of one client", row)
			}
			close(hang)
			wstest.Receive(t, code)
		case got := <-code:
			if !row.same || got != 429 {
				t.Errorf("%+v: answered %d", row, got)
			}
			close(hang)
		}
		first.Wait()
	}
}

// The totals include what passed in sessions that are over and in those that
// are open, and the failed handshakes by kind.
func TestStats(t *testing.T) {
	t.Parallel()
	r := newRig(t, wstest.TCP)
	client, upstream := r.open("", "")
	client.SendText("12345")
	upstream.Want(wstest.Text, "12345")
	client.SendClose(1000, "")
	upstream.WantClose(1000)
	upstream.SendClose(1000, "")
	upstream.Close()
	r.wantReturned()
	second, upstream2 := r.open("", "")
	upstream2.SendText("1234567")
	second.Want(wstest.Text, "1234567")
	c := r.client()
	c.Send("GET / HTTP/1.1\r\nHost: front.test\r\n\r\n")
	c.WantRefusal(426)
	r.wantReturned()
	wantCounts(t, r.the(), wsproxy.Upstream, wsproxy.Counts{Frames: 1, Messages: 1, Bytes: 9, LargestMessage: 7})
	st := r.proxy.Stats()
	var ended, refused uint64
	for _, n := range st.Ended {
		ended += n
	}
	for _, n := range st.Failed {
		refused += n
	}
	if st.Open != 1 || st.Handshakes != 0 || st.Opened != 2 || ended != 1 || refused != 1 || len(st.Ended) != 19 || len(st.Failed) < 20 ||
		st.Ended[wsproxy.Outcome{By: wsproxy.Client, Reason: wsproxy.ReasonClosed}] != 1 || st.Failed["bad handshake"] != 1 {
		t.Errorf("got %+v", st)
	}
	if want := (wsproxy.Counts{Frames: 2, Messages: 1, Bytes: 11 + 8, LargestMessage: 5}); st.FromClients != want {
		t.Errorf("from clients: got %+v, want %+v", st.FromClients, want)
	}
	if want := (wsproxy.Counts{Frames: 2, Messages: 1, Bytes: 9 + 4, LargestMessage: 7}); st.FromUpstreams != want {
		t.Errorf("from upstreams: got %+v, want %+v", st.FromUpstreams, want)
	}
	if h := st.Durations; len(h.Counts) != len(h.Bounds)+1 || h.Counts[0] != 1 || h.Sum <= 0 {
		t.Errorf("durations: got %+v", h)
	}
	b, err := json.Marshal(st)
	if want := `"Ended":{"age by proxy":0,"cancelled by proxy":0,"closed by client":1,`; err != nil || !strings.Contains(string(b), want) {
		t.Errorf("as JSON: %s, %v, want %s", b, err, want)
	}
}

// Listing, counting, ending and opening sessions concurrently is consistent:
// for the race detector.
func TestRegistryUnderLoad(t *testing.T) {
	t.Parallel()
	r := newRig(t, wstest.TCP, wsproxy.WithMaxSessionsPerClient(1000, nil), wsproxy.WithOnOpen(func(s *wsproxy.Session, _ *http.Request) error {
		s.Set("user", s.ID())
		return s.SetExpiry(time.Now().Add(time.Hour), 1008, "")
	}))
	stop := make(chan struct{})
	var watching sync.WaitGroup
	for range 2 {
		watching.Go(func() {
			for {
				for s := range r.proxy.Sessions() {
					_ = fmt.Sprint(s.ID(), s.Client(), s.Path(), s.Upstream(), s.Subprotocol(), s.Start(), s.LastActivity(),
						s.RoundTrip(wsproxy.Client), s.Counts(wsproxy.Client), s.Value("user"), s.Err())
					s.Set("seen", true)
					s.SetExpiry(time.Now().Add(time.Hour), 1008, "")
				}
				r.proxy.Stats()
				select {
				case <-stop:
					return
				case <-time.After(time.Millisecond):
				}
			}
		})
	}
	for i := range 100 {
		client, upstream := r.open("Sec-WebSocket-Protocol: a\r\n", "Sec-WebSocket-Protocol: a\r\n")
		client.SendText("x")
		upstream.Want(wstest.Text, "x")
		if i%2 == 0 {
			s := slices.Collect(r.proxy.Sessions())[0]
			s.Close(1000, "")
		}
		upstream.Close()
		client.Close()
		r.wantReturned()
	}
	close(stop)
	watching.Wait()
	if st := r.proxy.Stats(); st.Open != 0 || st.Opened != 100 {
		t.Errorf("got %+v, want 100 sessions, all over", st)
	}
}

// A session that is ended while its 101 is being written, by the operator or by
// a drain, ends as soon as it is open.
func TestEndWhileAnswering(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name   string
		end    func(p *wsproxy.Proxy, s *wsproxy.Session)
		code   int
		reason wsproxy.Reason
	}{
		{"kicked", func(_ *wsproxy.Proxy, s *wsproxy.Session) { s.Close(4401, "") }, 4401, wsproxy.ReasonClosedByProxy},
		{"drained", func(p *wsproxy.Proxy, _ *wsproxy.Session) {
			go p.Shutdown(context.Background())
			for p.Stats().Drain.Began.IsZero() {
				runtime.Gosched()
			}
		}, 1001, wsproxy.ReasonDrained},
	} {
		t.Run(row.name, func(t *testing.T) {
			shown := make(chan *wsproxy.Session, 1)
			r := newRig(t, wstest.TCP, wsproxy.WithOnOpen(func(s *wsproxy.Session, _ *http.Request) error { shown <- s; return nil }))
			front := wstest.Listen(t, wstest.TCP)
			server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
				r.proxy.ServeHTTP(hijackHook{w, func() {
					s := wstest.Receive(t, shown)
					row.end(r.proxy, s)
					shown <- s
				}}, req)
			})}
			go server.Serve(front)
			t.Cleanup(func() { server.Close() })
			conn, err := wstest.Dial(t.Context(), front)
			if err != nil {
				t.Fatal(err)
			}
			client := wstest.NewWire(t, conn, true)
			client.Send(wstest.Request("/", ""))
			upstream := r.upstream()
			upstream.Answer("")
			if resp := client.ReadResponse(); resp.StatusCode != 101 {
				t.Fatalf("got %d, want 101", resp.StatusCode)
			}
			s := <-shown
			client.WantClose(row.code)
			client.SendClose(row.code, "")
			upstream.WantClose(1001)
			upstream.SendClose(1001, "")
			upstream.Close()
			wstest.Receive(t, s.Done())
			var e *wsproxy.SessionError
			if !errors.As(s.Err(), &e) || e.Reason != row.reason {
				t.Errorf("got %v, want %s", s.Err(), row.reason)
			}
		})
	}
}

// hijackHook calls f when the connection is about to be hijacked.
type hijackHook struct {
	http.ResponseWriter
	f func()
}

func (h hijackHook) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	h.f()
	return h.ResponseWriter.(http.Hijacker).Hijack()
}
