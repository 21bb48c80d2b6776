package wsproxy_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/coder/websocket"

	"github.com/seed-ffb73231/wsproxy"
	"github.com/seed-ffb73231/wsproxy/internal/wstest"
)

// Active checks of both kinds, over plain TCP, TLS and a unix socket, tell a
// healthy member from an unhealthy one.
func TestHealthChecks(t *testing.T) {
	t.Parallel()
	for _, transport := range []string{"tcp", "tls", "unix"} {
		for _, test := range []struct {
			name  string
			check wsproxy.HealthCheck
		}{
			{"GET", wsproxy.HealthCheck{Path: "/healthz?a=b%20c"}},
			{"WebSocket", wsproxy.HealthCheck{}},
		} {
			t.Run(transport+" "+test.name, func(t *testing.T) {
				var well atomic.Bool
				well.Store(true)
				var saw atomic.Value
				handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					saw.Store(fmt.Sprintln(r.Method, r.Host, r.URL, r.Header.Get("X-Check"), r.Header.Get("Upgrade")))
					switch {
					case !well.Load():
						w.WriteHeader(503)
					case r.Header.Get("Upgrade") == "":
						w.Header().Set("Location", "/elsewhere")
						w.WriteHeader(302)
					default:
						conn, err := websocket.Accept(w, r, nil)
						if err != nil {
							return
						}
						conn.Read(context.Background())
						conn.CloseNow()
					}
				})
				s := httptest.NewUnstartedServer(handler)
				target := ""
				switch transport {
				case "tls":
					s.TLS = &tls.Config{Certificates: []tls.Certificate{wstest.Cert()}}
					s.StartTLS()
					target = "https://upstream.test/app?q"
				case "unix":
					s.Listener.Close()
					ln, err := net.Listen("unix", t.TempDir()+"/s")
					if err != nil {
						t.Fatal(err)
					}
					s.Listener = ln
					s.Start()
					target = "unix:" + ln.Addr().String()
				default:
					s.Start()
					target = s.URL + "/app?q"
				}
				defer s.Close()
				m := wsproxy.Member{Target: target}
				if transport == "tls" {
					m.Address = s.Listener.Addr().String()
				}
				check := test.check
				check.Interval, check.Rise, check.Fall = 10*time.Millisecond, 2, 2
				check.Header = http.Header{"X-Check": {"yes"}, "Host": {"checked.test"}}
				logs := new(wstest.Logs)
				p, err := wsproxy.New("", wsproxy.WithUpstreams(m), wsproxy.WithHealthCheck(check), wsproxy.WithLogger(slog.New(logs)),
					wsproxy.WithTLSConfig(&tls.Config{RootCAs: wstest.CA().Pool()}))
				if err != nil {
					t.Fatal(err)
				}
				defer p.Close()
				down := func(want bool) {
					t.Helper()
					wstest.Await(t, func() bool { return p.Stats().Members[0].Down == want }, func() string { return fmt.Sprintf("down = %v: %s", !want, logs.String()) })
				}
				wstest.Await(t, func() bool { return saw.Load() != nil }, func() string { return "no check comes" })
				for range 2 {
					well.Store(false)
					down(true)
					well.Store(true)
					down(false)
				}
				path := "/healthz?a=b%20c"
				if test.check.Path == "" && transport != "unix" {
					path = "/app?q"
				} else if test.check.Path == "" {
					path = "/"
				}
				upgrade := ""
				if test.check.Path == "" {
					upgrade = "websocket"
				}
				if got, want := saw.Load(), fmt.Sprintln("GET", "checked.test", path, "yes", upgrade); got != want {
					t.Errorf("the member saw %q, want %q", got, want)
				}
				wstest.Await(t, func() bool {
					text := logs.String()
					return strings.Count(text, "kind:refusal level:WARN") == 2 && strings.Count(text, "wsproxy: member down") == 2 && strings.Count(text, "wsproxy: member up") == 2
				}, func() string { return "logged " + logs.String() })
			})
		}
	}
}

// A member that opens WebSockets but does not answer Pings is unhealthy.
func TestHealthCheckWantsPong(t *testing.T) {
	t.Parallel()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		conn, brw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		defer conn.Close()
		brw.WriteString(wstest.AnswerTo(r, ""))
		brw.Flush()
		conn.Read(make([]byte, 100)) // the Ping
		conn.Read(make([]byte, 100))
	}))
	defer s.Close()
	p, err := wsproxy.New(s.URL, wsproxy.WithLogger(discard),
		wsproxy.WithHealthCheck(wsproxy.HealthCheck{Interval: 10 * time.Millisecond, Timeout: 20 * time.Millisecond, Fall: 1}))
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	wstest.Await(t, func() bool { return p.Stats().Members[0].Down }, func() string { return "it is not down" })
}

// A member that sends a greeting and does not answer a Close is healthy all the
// same, and is checked as often as the others.
func TestHealthCheckOfTalkers(t *testing.T) {
	t.Parallel()
	var asked atomic.Int32
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		conn, brw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		defer conn.Close()
		brw.WriteString(wstest.AnswerTo(r, "") + wstest.RawFrame(wstest.Text, false, "hello") + wstest.RawFrame(wstest.Text, false, strings.Repeat("x", 60_000)))
		brw.Flush()
		u := &wstest.Wire{Conn: conn, T: t, In: brw.Reader}
		for {
			f, err := u.ReadFrame()
			switch {
			case err != nil:
				return
			case f.First == wstest.Ping:
				brw.WriteString(wstest.RawFrame(wstest.Pong, false, f.Payload))
				brw.Flush()
			case f.First == wstest.Close:
				if f.Payload != wstest.CloseBody(1000, "") {
					t.Errorf("closed with %q", f.Payload)
				}
				return
			}
		}
	}))
	defer s.Close()
	logs := new(wstest.Logs)
	p, err := wsproxy.New(s.URL, wsproxy.WithLogger(slog.New(logs)),
		wsproxy.WithHealthCheck(wsproxy.HealthCheck{Interval: time.Millisecond, Fall: 1}))
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	wstest.Await(t, func() bool { return asked.Load() >= 3 }, func() string { return fmt.Sprint("asked ", asked.Load(), " times: ", logs.String()) })
	if p.Stats().Members[0].Down {
		t.Errorf("it is down: %s", logs.String())
	}
}

// F16, F17: a shortage of this machine's own does not count against a member.
func TestHealthCheckLocalFault(t *testing.T) {
	t.Attr("case", "F16 F17")
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		for _, fault := range []act{failing(syscall.EMFILE), failing(syscall.EADDRNOTAVAIL), failing(syscall.EADDRINUSE),
			func(context.Context) (net.Conn, error) { panic("x") }} {
			s := newScene(t, 2, wsproxy.WithHealthCheck(wsproxy.HealthCheck{Path: "/", Close: true}),
				wsproxy.WithDialContext(func(ctx context.Context, _, _ string) (net.Conn, error) { return fault(ctx) }))
			wstest.Elapse(time.Minute)
			synctest.Wait()
			for _, m := range s.proxy.Stats().Members {
				if m.Down {
					t.Errorf("got %+v", m)
				}
			}
			s.proxy.Close()
		}
	})
}

// A check that hangs, at whatever step, ends at its timeout, and so does
// everything that it has started. The same holds when the proxy is closed.
func TestHealthCheckEnds(t *testing.T) {
	t.Parallel()
	for name, dial := range map[string]act{
		"dial":   hanging,
		"silent": silent, // TLS, or the answer
		"silent, no deadlines": func(ctx context.Context) (net.Conn, error) {
			conn, err := silent(ctx)
			return undated{conn}, err
		},
	} {
		for _, scheme := range []string{"http", "https"} {
			for _, path := range []string{"/", ""} {
				t.Run(strings.Join([]string{name, scheme, path}, " "), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) { // which fails if a goroutine leaks
						var open, most, checks atomic.Int32
						p, err := wsproxy.New(scheme+"://a.test", wsproxy.WithLogger(discard),
							wsproxy.WithHealthCheck(wsproxy.HealthCheck{Path: path, Interval: 2 * time.Second, Timeout: time.Second}),
							wsproxy.WithDialContext(func(ctx context.Context, _, _ string) (net.Conn, error) {
								checks.Add(1)
								most.Store(max(most.Load(), open.Add(1)))
								conn, err := dial(ctx)
								if err != nil {
									open.Add(-1)
									return nil, err
								}
								return onClose{conn, sync.OnceFunc(func() { open.Add(-1) })}, nil
							}))
						if err != nil {
							t.Fatal(err)
						}
						wstest.Elapse(time.Minute)
						p.Close()
						synctest.Wait()
						if open.Load() != 0 || most.Load() != 1 || checks.Load() < 15 {
							t.Errorf("%d checks, %d at once, %d not over", checks.Load(), most.Load(), open.Load())
						}
						if !p.Stats().Members[0].Down {
							t.Error("it is not down")
						}
					})
				})
			}
		}
	}
}

// undated is a connection that accepts deadlines and ignores them.
type undated struct{ net.Conn }

func (undated) SetDeadline(time.Time) error      { return nil }
func (undated) SetReadDeadline(time.Time) error  { return nil }
func (undated) SetWriteDeadline(time.Time) error { return nil }

// A check by WebSocket closes it properly: it waits up to a second for the
// upstream's Close.
func TestHealthCheckGoodbye(t *testing.T) {
	t.Parallel()
	for _, wait := range []time.Duration{0, 500 * time.Millisecond, time.Hour} {
		synctest.Test(t, func(t *testing.T) {
			var checks atomic.Int32
			p, err := wsproxy.New("http://a.test", wsproxy.WithLogger(discard),
				wsproxy.WithHealthCheck(wsproxy.HealthCheck{Interval: time.Minute}),
				wsproxy.WithDialContext(func(context.Context, string, string) (net.Conn, error) {
					near, far := wstest.MemPair(1 << 16)
					go func() {
						u := wstest.NewWire(t, far, false)
						u.Answer("")
						f, err := u.ReadFrame()
						if err != nil || f.First != wstest.Ping {
							t.Errorf("got %#x, %v, want a Ping", f.First, err)
						}
						u.Send(u.Frame(wstest.Text, "a greeting") + u.Frame(wstest.Pong, f.Payload))
						u.WantClose(1000)
						began := time.Now()
						wstest.Elapse(min(wait, 900*time.Millisecond))
						if wait < time.Second {
							u.SendClose(1000, "")
						}
						_, err = u.ReadFrame()
						if d := time.Since(began); err == nil || d != min(wait, time.Second) {
							t.Errorf("%v, %v after its Close, want an end after %v", err, d, min(wait, time.Second))
						}
						far.Close()
						checks.Add(1)
					}()
					return near, nil
				}))
			if err != nil {
				t.Fatal(err)
			}
			wstest.Elapse(time.Minute + 10*time.Second)
			p.Close()
			synctest.Wait()
			if checks.Load() == 0 {
				t.Error("no check")
			}
		})
	}
}

type onClose struct {
	net.Conn
	f func()
}

func (c onClose) Close() error { c.f(); return c.Conn.Close() }

// A connection from WithDialContext that panics in a check fails only this
// check, and is logged once.
func TestHealthCheckPanics(t *testing.T) {
	t.Parallel()
	for _, path := range []string{"/", ""} {
		synctest.Test(t, func(t *testing.T) {
			logs := new(wstest.Logs)
			p, err := wsproxy.New("http://a.test", wsproxy.WithLogger(slog.New(logs)),
				wsproxy.WithHealthCheck(wsproxy.HealthCheck{Path: path}),
				wsproxy.WithDialContext(func(context.Context, string, string) (net.Conn, error) { return panickingConn{}, nil }))
			if err != nil {
				t.Fatal(err)
			}
			wstest.Elapse(time.Minute)
			p.Close()
			if text := logs.String(); strings.Count(text, "wsproxy: member not checked") != 1 || !strings.Contains(text, "kind:panic") || p.Stats().Members[0].Down {
				t.Errorf("logged %s", text)
			}
		})
	}
}

// A check by WebSocket reports what is wrong with the bytes after the 101.
func TestHealthCheckFrames(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ name, frames, kind string }{
		{"another Pong", wstest.RawFrame(wstest.Pong, false, "health") + wstest.RawFrame(wstest.Pong, false, "something else"), "closed"},
		{"Close", wstest.RawFrame(wstest.Close, false, wstest.CloseBody(1001, "")) + wstest.RawFrame(wstest.Pong, false, "health check"), "closed"},
		{"half a frame", "\x81", "closed"},
		{"masked", wstest.RawFrame(wstest.Pong, true, "health check"), "bad answer"},
		{"Pong behind a message in pieces", wstest.RawFrame(wstest.Text&^0x80, false, "a") + wstest.RawFrame(wstest.Ping, false, "b") + wstest.RawFrame(wstest.Pong, false, "health check"), ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				logs := new(wstest.Logs)
				p, err := wsproxy.New("http://a.test", wsproxy.WithLogger(slog.New(logs)), wsproxy.WithHealthCheck(wsproxy.HealthCheck{}),
					wsproxy.WithDialContext(func(context.Context, string, string) (net.Conn, error) {
						return scripted(func(request string) string {
							r, err := http.ReadRequest(bufio.NewReader(strings.NewReader(request)))
							if err != nil {
								t.Error(err)
								return ""
							}
							return wstest.AnswerTo(r, "") + test.frames
						}), nil
					}))
				if err != nil {
					t.Fatal(err)
				}
				wstest.Elapse(time.Minute)
				p.Close()
				if text := logs.String(); p.Stats().Members[0].Down != (test.kind != "") || !strings.Contains(text, "kind:"+test.kind) && test.kind != "" {
					t.Errorf("logged %s", text)
				}
			})
		})
	}
}

// An Option may be used for two proxies.
func TestOptionsAreReusable(t *testing.T) {
	t.Parallel()
	s := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	defer s.Close()
	options := []wsproxy.Option{wsproxy.WithLogger(discard), wsproxy.WithHealthCheck(wsproxy.HealthCheck{Path: "/x?y=1"}),
		wsproxy.WithSticky(http.Cookie{Name: "a"}, []byte("0123456789abcdef")), wsproxy.WithUpstreams(wsproxy.Member{Target: s.URL})}
	for range 3 {
		p, err := wsproxy.New("", options...)
		if err != nil {
			t.Fatal(err)
		}
		defer p.Close()
	}
}

// Checks run at the interval, or up to a tenth sooner. The thresholds hold. The
// checks of a member end when it is removed, and all checks end with the proxy.
func TestHealthCheckTimes(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var (
			mu    sync.Mutex
			times []time.Time
		)
		checks := func() int {
			synctest.Wait()
			mu.Lock()
			defer mu.Unlock()
			return len(times)
		}
		var status atomic.Int32
		status.Store(200)
		build := func(hosts ...string) (members []wsproxy.Member) {
			for _, h := range hosts {
				members = append(members, wsproxy.Member{Target: "http://" + h})
			}
			return members
		}
		p, err := wsproxy.New("", wsproxy.WithLogger(discard), wsproxy.WithUpstreams(build("a.test", "b.test")...),
			wsproxy.WithHealthCheck(wsproxy.HealthCheck{Path: "/", Interval: 10 * time.Second, Rise: 3, Fall: 4}),
			wsproxy.WithDialContext(func(_ context.Context, _, address string) (net.Conn, error) {
				code := int32(200)
				if strings.HasPrefix(address, "a.") {
					mu.Lock()
					times = append(times, time.Now())
					mu.Unlock()
					code = status.Load()
				}
				return scripted(func(string) string { return fmt.Sprintf("HTTP/1.1 %d x\r\nContent-Length: 0\r\n\r\n", code) }), nil
			}))
		if err != nil {
			t.Fatal(err)
		}
		next := func() {
			for before := checks(); checks() == before; {
				wstest.Elapse(100 * time.Millisecond)
			}
		}
		down := func() bool { return p.Stats().Members[0].Down }
		for range 20 {
			next()
		}
		jitter := false
		seen := times[:checks()]
		for i := range seen[1:] {
			d := seen[i+1].Sub(seen[i])
			if d < 9*time.Second || d > 10*time.Second {
				t.Errorf("%v between two checks", d)
			}
			jitter = jitter || i > 0 && d != seen[i].Sub(seen[i-1])
		}
		if !jitter {
			t.Error("no jitter")
		}
		status.Store(500)
		for i := range 4 {
			if down() {
				t.Fatalf("down after %d failures", i)
			}
			next()
		}
		if !down() {
			t.Fatal("not down after 4 failures")
		}
		status.Store(204)
		next()
		next()
		status.Store(400) // one failure, and the count starts again
		next()
		status.Store(204)
		for i := range 3 {
			if !down() {
				t.Fatalf("up after %d successes", i)
			}
			next()
		}
		if down() {
			t.Fatal("not up after 3 successes")
		}
		if err := p.SetUpstreams(build("b.test")...); err != nil {
			t.Fatal(err)
		}
		before := checks()
		wstest.Elapse(time.Minute)
		if checks() != before {
			t.Error("a member that is gone is checked")
		}
		if err := p.SetUpstreams(build("a.test", "b.test")...); err != nil {
			t.Fatal(err)
		}
		next()
		p.Close()
		before = checks()
		wstest.Elapse(time.Minute)
		if checks() != before {
			t.Error("members are checked after Close")
		}
	})
}

// A member that is marked down gets no new sessions. With the option, its open
// sessions are closed.
func TestDownMembersSessions(t *testing.T) {
	t.Parallel()
	for _, closing := range []bool{false, true} {
		c := newCluster(t, 2, wsproxy.WithDrain(time.Millisecond, 0),
			wsproxy.WithHealthCheck(wsproxy.HealthCheck{Path: "/healthz", Interval: 10 * time.Millisecond, Fall: 1, Rise: 1, Close: closing}))
		var sick atomic.Bool
		for i, m := range c.members {
			m.answer(func(w http.ResponseWriter, r *http.Request) bool {
				if r.URL.Path != "/healthz" {
					return false
				}
				if i == 0 && sick.Load() {
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
		sick.Store(true)
		wstest.Await(t, func() bool { return c.proxy.Stats().Members[0].Down }, func() string { return "it is not down" })
		if closing {
			codes := make(chan websocket.StatusCode, len(conns))
			for _, conn := range conns {
				go func() {
					_, _, err := conn.Read(context.Background())
					codes <- websocket.CloseStatus(err)
				}()
			}
			for range 2 {
				if code := wstest.Receive(t, codes); code != websocket.StatusServiceRestart {
					t.Errorf("closed with %v", code)
				}
			}
			c.wantSessions(0, 2)
			outcome := wsproxy.Outcome{By: wsproxy.Self, Reason: wsproxy.ReasonDown}
			wstest.Await(t, func() bool { return c.proxy.Stats().Ended[outcome] == 2 }, func() string { return fmt.Sprint(c.proxy.Stats().Ended) })
		} else {
			for _, conn := range conns {
				echoed(t, conn)
			}
			c.wantSessions(2, 2)
		}
		before := c.sessions()
		c.dial("/", nil)
		c.dial("/", nil)
		c.wantSessions(before[0], before[1]+2)
		sick.Store(false)
		wstest.Await(t, func() bool { return !c.proxy.Stats().Members[0].Down }, func() string { return "it is still down" })
	}
}
