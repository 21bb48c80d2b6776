package wsproxy_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/seed-ffb73231/wsproxy"
	"github.com/seed-ffb73231/wsproxy/internal/wstest"
)

// A scene is a proxy whose members act as the test says, in memory and in
// simulated time.
type scene struct {
	t       *testing.T
	proxy   *wsproxy.Proxy
	logs    *wstest.Logs
	act     map[string]act // by host; without an entry a member is healthy and answers 403
	clients int            // number of clients that take turns; 0: one
	mu      sync.Mutex
	dialled []string // guarded by mu
	served  int      // guarded by mu
}

// An act says what happens when a member is dialled.
type act func(ctx context.Context) (net.Conn, error)

func failing(err error) act {
	return func(context.Context) (net.Conn, error) { return nil, &net.OpError{Op: "dial", Err: err} }
}

func answering(text string) act {
	return func(context.Context) (net.Conn, error) { return scripted(func(string) string { return text }), nil }
}

func answeringStatus(code int) act {
	return answering(fmt.Sprintf("HTTP/1.1 %d x\r\nContent-Length: 0\r\n\r\n", code))
}

// hanging never connects.
func hanging(ctx context.Context) (net.Conn, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

// silent takes the request and does not answer.
func silent(context.Context) (net.Conn, error) {
	near, far := wstest.MemPair(1 << 16)
	go io.Copy(io.Discard, far)
	return near, nil
}

// newScene makes a proxy for members a.test, b.test, and so on.
func newScene(t *testing.T, n int, options ...wsproxy.Option) *scene {
	t.Helper()
	s := &scene{t: t, logs: new(wstest.Logs), act: make(map[string]act)}
	members := make([]wsproxy.Member, n)
	for i := range members {
		members[i].Target = "http://" + string(rune('a'+i)) + ".test"
	}
	p, err := wsproxy.New("", append([]wsproxy.Option{
		wsproxy.WithLogger(discard),
		wsproxy.WithUpstreams(members...),
		wsproxy.WithDialContext(func(ctx context.Context, _, address string) (net.Conn, error) {
			host, _, _ := strings.Cut(address, ".")
			s.mu.Lock()
			s.dialled = append(s.dialled, host)
			s.mu.Unlock()
			if f := s.act[host]; f != nil {
				return f(ctx)
			}
			return answeringStatus(403)(ctx)
		}),
	}, options...)...)
	if err != nil {
		t.Fatal(err)
	}
	s.proxy = p
	t.Cleanup(func() { p.Close() })
	return s
}

// handshake performs a handshake. It returns the members that were dialled for
// it, one letter each, and the status.
func (s *scene) handshake() (dialled string, status int) {
	s.dialledSince()
	w := s.serve(context.Background())
	return s.dialledSince(), w.Code
}

// dialledSince returns what was dialled since the last call.
func (s *scene) dialledSince() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := strings.Join(s.dialled, "")
	s.dialled = nil
	return all
}

func (s *scene) serve(ctx context.Context) *response {
	r := httptest.NewRequestWithContext(ctx, "GET", "http://front.test/", nil)
	r.Header = http.Header{"Connection": {"Upgrade"}, "Upgrade": {"websocket"}, "Sec-Websocket-Version": {"13"}, "Sec-Websocket-Key": {wstest.Key}}
	if s.clients > 0 {
		s.mu.Lock()
		s.served++
		r.RemoteAddr = fmt.Sprintf("192.0.2.%d:1", s.served%s.clients)
		s.mu.Unlock()
	}
	w := new(response)
	w.Body = new(bytes.Buffer)
	s.proxy.ServeHTTP(w, r)
	return w
}

// want makes a handshake and compares.
func (s *scene) want(dialled string, status int) {
	s.t.Helper()
	got, code := s.handshake()
	if got != dialled || code != status {
		s.t.Errorf("dialled %q and answered %d, want %q and %d", got, code, dialled, status)
	}
}

// inTurn has the members tried in the order of their names.
func inTurn() wsproxy.Option {
	return wsproxy.WithBalance(wsproxy.BalanceFunc(func(_ *http.Request, members []wsproxy.MemberState) int { return 0 }))
}

// F1 to F4, F7, F9, F16, F17: a handshake that fails before the request is sent
// is retried with the next member, never twice with the same one. A handshake
// that fails later is not retried.
func TestNextMember(t *testing.T) {
	t.Attr("case", "F1 F2 F3 F4 F7 F9 F16 F17")
	t.Parallel()
	other := errors.New("other")
	for _, test := range []struct {
		name    string
		a, b    act
		dialled string
		status  int
	}{
		{"F1 refused", failing(syscall.ECONNREFUSED), nil, "ab", 403},
		{"F1 unreachable", failing(syscall.EHOSTUNREACH), nil, "ab", 403},
		{"F1 no such name", failing(&net.DNSError{Err: "no such host", Name: "a.test", IsNotFound: true}), nil, "ab", 403},
		{"F1 something else", failing(other), nil, "ab", 403},
		{"F2 no answer to SYN", hanging, nil, "ab", 403},
		{"F1 all refused", failing(syscall.ECONNREFUSED), failing(syscall.ECONNREFUSED), "ab", 502},
		{"F1 F2 the last one says it", failing(syscall.ECONNREFUSED), hanging, "ab", 504},
		{"F16 out of buffers", failing(syscall.ENOBUFS), nil, "ab", 403},
		{"F17 out of ports", failing(syscall.EADDRNOTAVAIL), nil, "ab", 403},
		{"F17 out of ports for all", failing(syscall.EADDRNOTAVAIL), failing(syscall.EADDRNOTAVAIL), "ab", 503},
		{"F4 closed with no answer", answering(""), nil, "a", 502},
		{"F9 garbage", answering("garbage\r\n\r\n"), nil, "a", 502},
		{"F7 503", answeringStatus(503), nil, "a", 503},
		{"F3 silent", silent, nil, "a", 504},
		{"F17 out of memory for the request", func(context.Context) (net.Conn, error) { return full{}, nil }, nil, "a", 503},
		{"panic in the dialler", func(context.Context) (net.Conn, error) { panic("x") }, nil, "a", 500},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newScene(t, 2, inTurn())
				s.act["a"], s.act["b"] = test.a, test.b
				began := time.Now()
				s.want(test.dialled, test.status)
				if d := time.Since(began); d > 60*time.Second {
					t.Errorf("it took %v, more than the handshake timeout", d)
				}
				for _, m := range s.proxy.Stats().Members {
					if m.Sessions != 0 {
						t.Errorf("%s still has %d sessions", m.Name, m.Sessions)
					}
				}
				if st := s.proxy.Stats(); st.Retries != uint64(len(test.dialled)-1) || st.Handshakes != 0 {
					t.Errorf("%d retries, %d handshakes", st.Retries, st.Handshakes)
				}
			})
		})
	}
}

// F3, F4: with the option, a handshake that got no answer, or 502, 503 or 504,
// is also retried.
func TestNextMemberForSent(t *testing.T) {
	t.Attr("case", "F3 F4")
	t.Parallel()
	for _, test := range []struct {
		name    string
		a       act
		dialled string
		status  int
	}{
		{"F4 closed with no answer", answering(""), "ab", 403},
		{"an answer that is none", answering("SSH-2.0-x\r\n\r\n"), "a", 502},
		{"F3 silent", silent, "ab", 403},
		{"502", answeringStatus(502), "ab", 403},
		{"503", answeringStatus(503), "ab", 403},
		{"504", answeringStatus(504), "ab", 403},
		{"500", answeringStatus(500), "a", 500},
		{"501", answeringStatus(501), "a", 501},
		{"404", answeringStatus(404), "a", 404},
		{"503 whose body never ends", answering("HTTP/1.1 503 x\r\nContent-Length: 100000\r\n\r\nx"), "ab", 403},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newScene(t, 2, inTurn(), wsproxy.WithRetryAfterSend())
				s.act["a"] = test.a
				s.want(test.dialled, test.status)
			})
		})
	}
	// The last member's answer is relayed, whatever it is.
	synctest.Test(t, func(t *testing.T) {
		s := newScene(t, 2, inTurn(), wsproxy.WithRetryAfterSend())
		s.act["a"], s.act["b"] = answeringStatus(503), answeringStatus(504)
		s.want("ab", 504)
	})
}

// All members share one time limit: each gets half of the remaining time, the
// last one all of it.
func TestAttemptsShareTheTime(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newScene(t, 3, inTurn(), wsproxy.WithHandshakeTimeout(8*time.Second))
		var times []time.Duration
		began := time.Now()
		for _, name := range []string{"a", "b", "c"} {
			s.act[name] = func(ctx context.Context) (net.Conn, error) {
				times = append(times, time.Since(began))
				return hanging(ctx)
			}
		}
		s.want("abc", 504)
		times = append(times, time.Since(began))
		if want := []time.Duration{0, 4 * time.Second, 6 * time.Second, 8 * time.Second}; !slices.Equal(times, want) {
			t.Errorf("members were tried at %v, want %v", times, want)
		}
	})
}

// A client that leaves ends the search, and no member is blamed.
func TestClientLeavesDuringSearch(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newScene(t, 3, inTurn())
		s.act["a"] = hanging
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(time.Second, cancel)
		w := s.serve(ctx)
		if got := s.dialledSince(); got != "a" || w.Code != 499 {
			t.Errorf("dialled %q and answered %d", got, w.Code)
		}
		for _, m := range s.proxy.Stats().Members {
			if m.Down || m.Sessions != 0 {
				t.Errorf("got %+v", m)
			}
		}
	})
}

// F19: the proxy backs off from a member that fails, twice as long each time.
// Then one handshake is tried alone, and when it succeeds, the member is as
// before.
func TestPassiveHealth(t *testing.T) {
	t.Attr("case", "F19")
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newScene(t, 2, inTurn())
		s.act["a"] = failing(syscall.ECONNREFUSED)
		for i, rest := range []time.Duration{1, 2, 4, 8, 16, 30, 30} {
			rest *= time.Second
			s.want("ab", 403)
			s.want("b", 403)
			if st := s.proxy.Stats().Members; !st[0].Down || st[1].Down {
				t.Errorf("failure %d: got %+v", i, st)
			}
			wstest.Elapse(rest - time.Millisecond)
			s.want("b", 403)
			wstest.Elapse(time.Millisecond)
		}
		s.act["a"] = nil
		s.want("a", 403)
		s.want("a", 403)
		// The failures are forgotten: the next backoff is short again.
		s.act["a"] = failing(syscall.ECONNREFUSED)
		s.want("ab", 403)
		wstest.Elapse(time.Second)
		s.want("ab", 403)
	})
}

// F16, F17: failures of this machine, a hook or the client count against no
// member. Failures that a request may have caused do not count either, unless
// the option says so and several clients have seen them.
func TestBlame(t *testing.T) {
	t.Attr("case", "F16 F17")
	t.Parallel()
	for _, test := range []struct {
		name     string
		a        act
		failures int // after which it is down; 0: never
		judged   int // the argument of WithJudgeAnswers, and the number of clients
	}{
		{"F16 descriptors", failing(syscall.EMFILE), 0, 0},
		{"F16 descriptors of the system", failing(syscall.ENFILE), 0, 0},
		{"F17 memory", failing(syscall.ENOBUFS), 0, 0},
		{"F17 ports", failing(syscall.EADDRNOTAVAIL), 0, 0},
		{"F17 ports of a source address", failing(syscall.EADDRINUSE), 0, 0},
		{"401", answeringStatus(401), 0, 0},
		{"429", answeringStatus(429), 0, 0},
		{"refused", failing(syscall.ECONNREFUSED), 1, 1},
		{"not HTTP", answering("SSH-2.0-x\r\n\r\n"), 1, 1},
		{"an alert of TLS", answering("\x15\x03\x01\x00\x02\x02\x46"), 1, 1},
		{"hanging", hanging, 1, 1},
		{"closed", answering(""), 0, 3},
		{"bad 101", answering("HTTP/1.1 101 x\r\n\r\n"), 0, 3},
		{"HTTP/2", answering("HTTP/2 200 x\r\n\r\n"), 0, 3},
		{"silent", silent, 0, 3},
		{"500", answeringStatus(500), 0, 3},
		{"503", answeringStatus(503), 0, 3},
	} {
		for name, clients := range map[string]int{"one client": 1, "two clients": 2, "three clients": 3} {
			for option, failures := range map[string]int{"": test.failures, "judged": test.judged} {
				options := []wsproxy.Option{inTurn()}
				if option != "" {
					options = append(options, wsproxy.WithJudgeAnswers(3))
				}
				if failures > 1 && clients < failures {
					failures = 0
				}
				t.Run(test.name+", "+name+" "+option, func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						s := newScene(t, 2, options...)
						s.act["a"], s.clients = test.a, clients
						for i := range 7 {
							s.handshake()
							if down, want := s.proxy.Stats().Members[0].Down, failures > 0 && i+1 >= failures; down != want {
								t.Fatalf("after %d: down = %v", i+1, down)
							}
							if failures > 0 && i+1 == failures { // it recovers by itself
								break
							}
						}
					})
				})
			}
		}
	}
	// Two errors, a success, two errors: never three in a row.
	synctest.Test(t, func(t *testing.T) {
		s := newScene(t, 2, inTurn(), wsproxy.WithJudgeAnswers(3))
		s.clients = 100
		for _, code := range []int{500, 500, 404, 500, 500} {
			s.act["a"] = answeringStatus(code)
			s.want("a", code)
		}
		s.want("a", 500)
		s.want("b", 403)
	})
}

// A member that takes connections and never answers is backed off from even if
// clients are less patient than the proxy. Clients that leave at once do not
// count.
func TestImpatientClients(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newScene(t, 2, inTurn())
		s.act["a"] = hanging
		s.clients = 3
		for name, leave := range map[string]func(after time.Duration){
			"the client": func(after time.Duration) {
				ctx, cancel := context.WithCancel(t.Context())
				time.AfterFunc(after, cancel)
				s.serve(ctx)
			},
			"middleware": func(after time.Duration) {
				ctx, cancel := context.WithTimeout(t.Context(), after)
				defer cancel()
				s.serve(ctx)
			},
		} {
			for range 10 {
				leave(900 * time.Millisecond)
			}
			if s.proxy.Stats().Members[0].Down {
				t.Fatalf("%s: down", name)
			}
			s.clients = 1
			for range 10 { // one client alone does not count; time spent in middleware is not the client's
				if name == "the client" {
					leave(1500 * time.Millisecond)
				}
			}
			if s.proxy.Stats().Members[0].Down {
				t.Fatalf("%s: down", name)
			}
			s.clients = 3
			for range 3 {
				leave(1500 * time.Millisecond)
			}
			s.dialledSince()
			s.want("b", 403)
			s.act["a"] = nil
			wstest.Elapse(time.Minute)
			s.want("a", 403)
			s.act["a"] = hanging
		}
	})
}

// full is a connection whose socket gets no memory from the kernel.
type full struct{ net.Conn }

func (full) Write(b []byte) (int, error)     { return len(b), nil }
func (full) Read([]byte) (int, error)        { return 0, syscall.ENOBUFS }
func (full) SetDeadline(time.Time) error     { return nil }
func (full) SetReadDeadline(time.Time) error { return nil }
func (full) Close() error                    { return nil }

// F17: members that no local port is left for, or that have an IPv6 address
// where IPv6 is off, are not at fault, and cost the others nothing: no time of
// their clients, and no retries that real failures need.
func TestNoPortTowardsSome(t *testing.T) {
	t.Attr("case", "F17")
	t.Parallel()
	for share, want := range map[float64]string{0.05: "abc", 0: "a"} {
		synctest.Test(t, func(t *testing.T) {
			s := newScene(t, 3, inTurn(), wsproxy.WithRetry(share))
			s.act["a"], s.act["b"] = failing(syscall.EADDRNOTAVAIL), failing(syscall.EADDRINUSE)
			status := 403
			if share == 0 {
				status = 503
			}
			for range 100 {
				s.want(want, status)
			}
			for _, m := range s.proxy.Stats().Members {
				if m.Down || m.Sessions != 0 {
					t.Errorf("got %+v", m)
				}
			}
			if share > 0 {
				s.act["a"] = failing(syscall.ECONNREFUSED)
				s.want(want, status)
			}
		})
	}
}

// Whatever one client requests, and however often, it decides nothing for
// others: not that the proxy backs off from a member, nor that it continues to,
// nor where a room is.
func TestOneClientDecidesNothing(t *testing.T) {
	t.Attr("case", "A85")
	t.Parallel()
	for name, a := range map[string]act{
		"500":     answeringStatus(500),
		"503":     answeringStatus(503),
		"bad 101": answering("HTTP/1.1 101 x\r\n\r\n"),
		"closed":  answering(""),
	} {
		for option, options := range map[string][]wsproxy.Option{
			"":        nil,
			"judged":  {wsproxy.WithJudgeAnswers(3)},
			"retried": {wsproxy.WithRetryAfterSend()},
		} {
			t.Run(name+" "+option, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					room := func(*http.Request) string { return "room" }
					s := newScene(t, 3, append(options, wsproxy.WithBalance(wsproxy.Rendezvous(room)))...)
					home, _ := s.handshake()
					for range 5 * 31 { // five a second, longer than any back-off
						s.act[home] = a
						s.handshake()
						s.act[home] = nil
						s.want(home, 403)
						wstest.Elapse(200 * time.Millisecond)
					}
					s.act[home] = a
					for range 3 {
						s.handshake()
					}
					for _, m := range s.proxy.Stats().Members {
						if m.Down {
							t.Errorf("%s is down", m.Name)
						}
					}
				})
			})
		}
	}
}

// One client's answers do not keep a member from recovering, and a slow client
// does not hold the trial.
func TestOneClientKeepsNobodyDown(t *testing.T) {
	t.Attr("case", "A85")
	t.Parallel()
	for name, a := range map[string]act{"500": answeringStatus(500), "silent": silent} {
		for option, options := range map[string][]wsproxy.Option{"": nil, "judged": {wsproxy.WithJudgeAnswers(3)}} {
			t.Run(name+" "+option, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					s := newScene(t, 2, append(options, inTurn())...)
					s.act["a"] = failing(syscall.ECONNREFUSED)
					s.want("ab", 403)
					wstest.Elapse(time.Second)
					// The first client gets the trial and is slow.
					s.act["a"] = a
					ctx, cancel := context.WithCancel(t.Context())
					done := make(chan struct{})
					go func() {
						defer close(done)
						s.serve(ctx)
					}()
					synctest.Wait()
					s.act["a"] = nil
					s.want("a", 403)
					cancel()
					<-done
					s.want("a", 403)
				})
			})
		}
	}
}

// A hook that blocks holds the trial for a limited time.
func TestHookHoldsTrial(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var blocking atomic.Bool
		release := make(chan struct{})
		s := newScene(t, 2, inTurn(), wsproxy.WithRewrite(func(pr *httputil.ProxyRequest) {
			if blocking.Load() {
				blocking.Store(false)
				<-release
			}
		}))
		s.act["a"] = failing(syscall.ECONNREFUSED)
		s.want("ab", 403)
		wstest.Elapse(time.Second)
		s.act["a"] = nil
		blocking.Store(true)
		done := make(chan struct{})
		go func() {
			defer close(done)
			s.serve(t.Context())
		}()
		synctest.Wait()
		s.want("b", 403)
		wstest.Elapse(30 * time.Second)
		s.want("a", 403)
		close(release)
		<-done
	})
}

// Failures that a client can cause use up none of the retries that are reserved
// for members that cannot be connected to.
func TestRetriesKeptForConnecting(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newScene(t, 2, inTurn(), wsproxy.WithRetryAfterSend())
		s.act["a"] = answeringStatus(503)
		for range 200 {
			s.handshake()
		}
		for range 5 {
			s.act["a"] = failing(syscall.ECONNREFUSED)
			s.want("ab", 403)
			wstest.Elapse(time.Minute)
			s.act["a"] = nil
			s.want("a", 403)
		}
	})
}

// If the healthy members are full, members that are down are not tried instead.
func TestFullAndDown(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newScene(t, 2, inTurn(), wsproxy.WithUpstreams(
			wsproxy.Member{Target: "http://a.test"}, wsproxy.Member{Target: "http://b.test", MaxSessions: 1}))
		s.act["a"] = failing(syscall.ECONNREFUSED)
		s.want("ab", 403)
		wstest.Elapse(time.Second)
		s.want("ab", 403) // and a is backed off for 2 s
		s.act["b"] = silent
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() {
			defer close(done)
			s.serve(ctx)
		}()
		synctest.Wait()
		s.dialledSince()
		s.want("", 503)
		cancel()
		wstest.Receive(t, done)
	})
}

// The result of a handshake with a member that has been removed does not count
// for a member that is added later under the same name.
func TestGoneIsNotJudged(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		logs := new(wstest.Logs)
		s := newScene(t, 2, inTurn(), wsproxy.WithLogger(slog.New(logs)))
		gone := make(chan struct{})
		s.act["a"] = func(context.Context) (net.Conn, error) {
			<-gone
			return nil, syscall.ECONNREFUSED
		}
		done := make(chan struct{})
		go func() {
			defer close(done)
			s.serve(t.Context())
		}()
		synctest.Wait()
		if err := s.proxy.SetUpstreams(wsproxy.Member{Target: "http://b.test"}, wsproxy.Member{Target: "http://c.test"}); err != nil {
			t.Fatal(err)
		}
		close(gone)
		wstest.Receive(t, done)
		if text := logs.String(); strings.Contains(text, "backed off") {
			t.Errorf("logged %s", text)
		}
	})
}

// If the other member has been removed meanwhile, a refusal that would have
// been retried is relayed to the client in full.
func TestRefusalIsKept(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newScene(t, 2, inTurn(), wsproxy.WithRetryAfterSend())
		s.act["a"] = func(ctx context.Context) (net.Conn, error) {
			if err := s.proxy.SetUpstreams(wsproxy.Member{Target: "http://a.test"}); err != nil {
				t.Error(err)
			}
			return answering("HTTP/1.1 503 x\r\nRetry-After: 77\r\nContent-Length: 4\r\n\r\nbusy")(ctx)
		}
		w := s.serve(t.Context())
		if w.Code != 503 || w.Header().Get("Retry-After") != "77" || w.Body.String() != "busy" {
			t.Errorf("answered %d, %v, %q", w.Code, w.Header(), w.Body)
		}
		if n := s.proxy.Stats().Retries; n != 0 {
			t.Errorf("%d retries", n)
		}
	})
}

// The first handshake after a backoff is tried alone: while it is under way,
// others go elsewhere.
func TestSingleProbe(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newScene(t, 2, inTurn())
		s.act["a"] = failing(syscall.ECONNREFUSED)
		s.want("ab", 403)
		wstest.Elapse(time.Second)
		s.act["a"] = hanging
		done := make(chan struct{})
		go func() {
			defer close(done)
			s.serve(context.Background())
		}()
		synctest.Wait()
		for range 3 {
			s.want("b", 403)
		}
		wstest.Receive(t, done)
	})
}

// F19: when all members are down, the one that has been backed off longest is
// tried once, and its result is the answer.
func TestAllDown(t *testing.T) {
	t.Attr("case", "F19")
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newScene(t, 3, inTurn())
		for _, name := range []string{"a", "b", "c"} {
			s.act[name] = failing(syscall.ECONNREFUSED)
		}
		s.want("abc", 502)
		s.want("a", 502)
		s.act["a"] = nil
		s.want("a", 403)
		s.want("a", 403)
	})
}

// When a whole cluster fails, only a share of the handshakes is retried.
func TestRetryBudget(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		share   float64
		retries int
	}{{0, 0}, {0.05, 10 + 50}, {0.2, 10 + 200}, {1, 500}} { // the other half of the 20 is reserved for connecting
		synctest.Test(t, func(t *testing.T) {
			s := newScene(t, 2, inTurn(), wsproxy.WithRetry(test.share), wsproxy.WithRetryAfterSend())
			retries := 0
			for i := range 1000 { // every other one fails, and recovers before that counts
				s.act["a"] = answeringStatus([]int{404, 503}[i%2])
				dialled, _ := s.handshake()
				retries += len(dialled) - 1
			}
			if retries < test.retries-1 || retries > test.retries {
				t.Errorf("share %v: %d retries in 1000 handshakes of which half failed, want %d", test.share, retries, test.retries)
			}
			if got := s.proxy.Stats().Retries; got != uint64(retries) {
				t.Errorf("Stats has %d retries, want %d", got, retries)
			}
		})
	}
}

// If WithRewrite chooses another host, its failures do not count against the
// member, and nothing is retried.
func TestRewriteLeavesMembersAlone(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newScene(t, 2, inTurn(), wsproxy.WithRewrite(rewriteHost("z.test")))
		s.act["z"] = failing(syscall.ECONNREFUSED)
		s.want("z", 502)
		s.want("z", 502)
		for _, m := range s.proxy.Stats().Members {
			if m.Down || m.Sessions != 0 {
				t.Errorf("got %+v", m)
			}
		}
	})
}

// The first handshake after a backoff does not hold its member for ever,
// however it ends.
func TestProbeIsGivenBack(t *testing.T) {
	t.Parallel()
	for name, probe := range map[string]struct {
		option wsproxy.Option
		a      act
	}{
		"the rewrite goes elsewhere": {wsproxy.WithRewrite(func(pr *httputil.ProxyRequest) {
			if time.Since(testEpoch)%(2*time.Second) >= time.Second {
				pr.Out.URL.Host = "z.test"
			}
		}), nil},
		"the connection panics": {wsproxy.WithHandshakeTimeout(time.Hour), func(context.Context) (net.Conn, error) { return panickingConn{}, nil }},
		"the client leaves":     {wsproxy.WithHandshakeTimeout(time.Hour), hanging},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newScene(t, 2, inTurn(), probe.option)
				s.act["a"] = failing(syscall.ECONNREFUSED)
				s.want("ab", 403)
				wstest.Elapse(time.Second)
				s.act["a"] = probe.a
				func() {
					defer func() { _ = recover() }()
					ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
					defer cancel()
					s.serve(ctx)
				}()
				s.act["a"] = nil
				wstest.Elapse(time.Hour + time.Second)
				s.want("a", 403)
			})
		})
	}
}

// testEpoch is the time at which the clock of a synctest bubble starts.
var testEpoch = time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)

type panickingConn struct{ net.Conn }

func (panickingConn) Write(b []byte) (int, error)     { return len(b), nil }
func (panickingConn) Read([]byte) (int, error)        { panic("x") }
func (panickingConn) SetDeadline(time.Time) error     { return nil }
func (panickingConn) SetReadDeadline(time.Time) error { return nil }
func (panickingConn) Close() error                    { return nil }

// When no member is healthy, they are tried in turn, so that one that has
// recovered is found soon. A member that hangs does not delay everyone.
func TestAllDownInTurn(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newScene(t, 3, inTurn())
		for _, name := range []string{"a", "b", "c"} {
			s.act[name] = failing(syscall.ECONNREFUSED)
		}
		for range 500 { // the backoffs grow to 30 s
			s.handshake()
			wstest.Elapse(200 * time.Millisecond)
		}
		delete(s.act, "b")
		for i := range 4 {
			if dialled, code := s.handshake(); code == 403 {
				break
			} else if i == 3 {
				t.Errorf("b is not found; last dialled %s", dialled)
			}
			wstest.Elapse(time.Millisecond)
		}
	})
}

// Without retries, one member has all the time.
func TestNoRetryNoShare(t *testing.T) {
	t.Parallel()
	for _, options := range [][]wsproxy.Option{
		{wsproxy.WithRetry(0)},
		{wsproxy.WithRetry(0), wsproxy.WithRetryAfterSend()},
	} {
		for _, a := range []act{hanging, silent} {
			synctest.Test(t, func(t *testing.T) {
				s := newScene(t, 2, append(options, inTurn())...)
				s.act["a"] = a
				began := time.Now()
				s.want("a", 504)
				if d := time.Since(began); d != 60*time.Second {
					t.Errorf("it had %v", d)
				}
			})
		}
	}
}

// However many members hang, a healthy one that is tried late gets at least a
// second.
func TestLeastShare(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newScene(t, 14, inTurn())
		for i := range 14 {
			s.act[string(rune('a'+i))] = hanging
		}
		s.act["d"] = func(ctx context.Context) (net.Conn, error) {
			wstest.Elapse(900 * time.Millisecond)
			if ctx.Err() != nil {
				return nil, ctx.Err()
			}
			return answeringStatus(403)(ctx)
		}
		s.want("abcd", 403)
		if m := s.proxy.Stats().Members[3]; m.Down {
			t.Errorf("got %+v", m)
		}
	})
}

// A proxy with a single upstream tries it every time.
func TestSingleMemberIsAlwaysTried(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newScene(t, 1)
		s.act["a"] = failing(syscall.ECONNREFUSED)
		for range 5 {
			s.want("a", 502)
		}
		if s.proxy.Stats().Members[0].Down {
			t.Error("it is down")
		}
	})
}

func rewriteHost(host string) func(*httputil.ProxyRequest) {
	return func(pr *httputil.ProxyRequest) { pr.Out.URL.Host = host }
}

// The same over real sockets: three requests for a path for which an
// application answers 500 or does not answer, and ten more.
func TestOneClientOverTCP(t *testing.T) {
	t.Attr("case", "A85")
	t.Parallel()
	for _, path := range []string{"/500", "/hangup", "/status/103"} {
		var members []wsproxy.Member
		for i := range 3 {
			s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("X-Member", fmt.Sprint(i))
				switch r.URL.Path {
				case "/500":
					w.WriteHeader(500)
				case "/hangup":
					panic(http.ErrAbortHandler)
				case "/status/103": // with a body
					c, _, err := w.(http.Hijacker).Hijack()
					if err != nil {
						t.Error(err)
						return
					}
					defer c.Close()
					io.WriteString(c, "HTTP/1.1 103 x\r\nContent-Length: 2\r\n\r\nok")
				default:
					w.WriteHeader(403)
				}
			}))
			defer s.Close()
			members = append(members, wsproxy.Member{Target: s.URL})
		}
		r := newRigTo(t, wstest.TCP, "", wsproxy.WithUpstreams(members...), wsproxy.WithDialContext(new(net.Dialer).DialContext),
			wsproxy.WithBalance(wsproxy.Rendezvous(func(*http.Request) string { return "room" })))
		ask := func(path string) *http.Response {
			c := r.client()
			defer c.Close()
			c.Send(wstest.Request(path, ""))
			return c.ReadResponse()
		}
		home := ask("/").Header.Get("X-Member")
		for range 13 {
			if status := ask(path).StatusCode; status < 500 {
				t.Fatalf("%s: answered %d", path, status)
			}
			if got := ask("/").Header.Get("X-Member"); got != home {
				t.Fatalf("after %s: the room moved from member %s to %s", path, home, got)
			}
		}
		if text := r.logs.String(); strings.Contains(text, "backed off") {
			t.Errorf("%s: logged %s", path, text)
		}
	}
}

// A dialer that ignores its deadline looks like a proxy that was not running
// when the time was up. That is excused a few times in a row; then it counts
// against the member.
func TestDialerIsLate(t *testing.T) {
	t.Parallel()
	late := func(ctx context.Context) (net.Conn, error) {
		<-ctx.Done()
		time.Sleep(2 * time.Second) // of the bubble's
		return nil, ctx.Err()
	}
	const excused = 10
	t.Run("handshakes", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			s := newScene(t, 2, inTurn(), wsproxy.WithRetry(1))
			s.act["a"] = late
			for range 2 {
				for range excused {
					s.want("ab", 403)
				}
				s.act["a"] = nil
				s.want("a", 403) // which ends the series
				s.act["a"] = late
			}
			for range excused + 1 {
				s.want("ab", 403)
			}
			s.want("b", 403)
		})
	})
	t.Run("checks", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			s := newScene(t, 1,
				wsproxy.WithHealthCheck(wsproxy.HealthCheck{Path: "/", Interval: 10 * time.Second, Timeout: time.Second, Fall: 1}),
				wsproxy.WithDialContext(func(ctx context.Context, _, _ string) (net.Conn, error) { return late(ctx) }))
			const longest = 13 * time.Second // one check, and until the next one
			for _, want := range []bool{false, true} {
				time.Sleep(excused * longest * 3 / 4)
				if got := s.proxy.Stats().Members[0].Down; got != want {
					t.Errorf("down: %v, want %v", got, want)
				}
			}
		})
	})
}
