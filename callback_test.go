package wsproxy_test

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/seed-ffb73231/wsproxy"
	"github.com/seed-ffb73231/wsproxy/internal/wstest"
)

// hooking is a log handler that calls a function.
type hooking struct{ f func() }

func (hooking) Enabled(context.Context, slog.Level) bool    { return true }
func (h hooking) Handle(context.Context, slog.Record) error { h.f(); return nil }
func (h hooking) WithAttrs([]slog.Attr) slog.Handler        { return h }
func (h hooking) WithGroup(string) slog.Handler             { return h }

// answerAll is an upstream that opens every session and ends it when the client
// does.
func (r *rig) answerAll() {
	go func() {
		for {
			c, err := r.back.Accept()
			if err != nil {
				return
			}
			go func() {
				w := wstest.NewWire(r.t, c, false)
				defer c.Close()
				if req, err := http.ReadRequest(w.In); err == nil {
					io.WriteString(c, wstest.AnswerTo(req, ""))
					w.ReadFrame()
				}
			}()
		}
	}()
}

// Whatever the proxy calls may call the proxy: nothing deadlocks, and a
// Shutdown that would have to wait for its own caller returns an error at once.
func TestCallsBack(t *testing.T) {
	t.Attr("case", "F54")
	t.Parallel()
	type fire = func()
	hooks := []struct {
		name    string
		request string // "": a valid one
		option  func(r **rig, f fire) wsproxy.Option
	}{
		{"WithOnOpen", "", func(_ **rig, f fire) wsproxy.Option {
			return wsproxy.WithOnOpen(func(*wsproxy.Session, *http.Request) error { f(); return nil })
		}},
		{"WithOnClose", "", func(_ **rig, f fire) wsproxy.Option {
			return wsproxy.WithOnClose(func(*wsproxy.Session) { f() })
		}},
		{"WithErrorHandler", "GET / HTTP/1.1\r\nHost: front.test\r\n\r\n", func(_ **rig, f fire) wsproxy.Option {
			return wsproxy.WithErrorHandler(func(w http.ResponseWriter, _ *http.Request, _ *wsproxy.Error) { f(); w.WriteHeader(400) })
		}},
		{"WithRewrite", "", func(_ **rig, f fire) wsproxy.Option {
			return wsproxy.WithRewrite(func(*httputil.ProxyRequest) { f() })
		}},
		{"WithMaxSessionsPerClient", "", func(_ **rig, f fire) wsproxy.Option {
			return wsproxy.WithMaxSessionsPerClient(9, func(*http.Request) string { f(); return "key" })
		}},
		{"Rendezvous", "", func(_ **rig, f fire) wsproxy.Option {
			return wsproxy.WithBalance(wsproxy.Rendezvous(func(*http.Request) string { f(); return "key" }))
		}},
		{"BalanceFunc", "", func(_ **rig, f fire) wsproxy.Option {
			return wsproxy.WithBalance(wsproxy.BalanceFunc(func(*http.Request, []wsproxy.MemberState) int { f(); return 0 }))
		}},
		{"WithDialContext", "", func(r **rig, f fire) wsproxy.Option {
			return wsproxy.WithDialContext(func(ctx context.Context, _, _ string) (net.Conn, error) {
				f()
				return wstest.Dial(ctx, (*r).back)
			})
		}},
		{"WithLogger", "", func(_ **rig, f fire) wsproxy.Option { return wsproxy.WithLogger(slog.New(hooking{f})) }},
		{"WithSource", "", nil},
	}
	background := context.Background()
	calls := map[string]func(p *wsproxy.Proxy, s *wsproxy.Session) error{
		"Shutdown": func(p *wsproxy.Proxy, _ *wsproxy.Session) error { return p.Shutdown(background) },
		"ShutdownServer": func(p *wsproxy.Proxy, _ *wsproxy.Session) error {
			return wsproxy.ShutdownServer(background, new(http.Server), p)
		},
		"Close": func(p *wsproxy.Proxy, _ *wsproxy.Session) error { return p.Close() },
		"SetUpstreams": func(p *wsproxy.Proxy, _ *wsproxy.Session) error {
			return p.SetUpstreams(wsproxy.Member{Target: "http://another.test"})
		},
		"Stats": func(p *wsproxy.Proxy, _ *wsproxy.Session) error { p.Stats(); return nil },
		"Sessions": func(p *wsproxy.Proxy, _ *wsproxy.Session) error {
			for s := range p.Sessions() {
				s.LastActivity()
			}
			return nil
		},
		"Session.Close": func(_ *wsproxy.Proxy, s *wsproxy.Session) error {
			if s != nil {
				return s.Close(4000, "")
			}
			return nil
		},
		"Done": func(_ *wsproxy.Proxy, s *wsproxy.Session) error {
			if s != nil {
				s.Close(4000, "")
				<-s.Done()
				if s.Err() == nil {
					return errors.New("done, and no error")
				}
			}
			return nil
		},
	}
	for _, hook := range hooks {
		for name, call := range calls {
			t.Run(hook.name+" "+name, func(t *testing.T) {
				var (
					r       *rig
					ready   = make(chan struct{})
					fired   atomic.Bool
					session atomic.Pointer[wsproxy.Session]
					told    = make(chan error, 1)
				)
				fire := func() {
					select {
					case <-ready:
					default:
						return // in New
					}
					if hook.name == "WithLogger" && name == "Done" && session.Load() != nil && session.Load().Err() == nil {
						return // the record of its start: a hook that waits here for its end would wait for ever
					}
					if fired.CompareAndSwap(false, true) {
						told <- call(r.proxy, session.Load())
					}
				}
				options := []wsproxy.Option{wsproxy.WithInsecureAnyOrigin(), wsproxy.WithCloseTimeout(time.Second),
					wsproxy.WithOnOpen(func(s *wsproxy.Session, _ *http.Request) error { session.CompareAndSwap(nil, s); return nil })}
				target := "http://upstream.test"
				if hook.option != nil {
					options = append(options, hook.option(&r, fire))
				} else {
					target = ""
					options = append(options, wsproxy.WithSource(time.Millisecond, func(context.Context) ([]wsproxy.Member, error) {
						fire()
						return []wsproxy.Member{{Target: "http://upstream.test"}}, nil
					}))
				}
				r = newRigTo(t, wstest.TCP, target, options...)
				close(ready)
				r.answerAll()
				c := r.client()
				if hook.request != "" {
					c.Send(hook.request)
				} else {
					c.Send(wstest.Request("/", ""))
				}
				if resp, err := http.ReadResponse(c.In, nil); err == nil && resp.StatusCode == 101 {
					io.WriteString(c, c.Frame(wstest.Close, wstest.CloseBody(1000, "")))
				}
				select {
				case err := <-told:
					waits := (name == "Shutdown" || name == "ShutdownServer") && hook.name != "WithSource"
					if waits != (err != nil) {
						t.Errorf("got %v", err)
					}
				case <-time.After(wstest.Timeout):
					t.Fatal("the call doesn't return")
				}
				c.Close()
				ctx, cancel := context.WithTimeout(t.Context(), wstest.Timeout)
				defer cancel()
				if err := r.proxy.Shutdown(ctx); err != nil {
					t.Errorf("Shutdown: %v", err)
				}
			})
		}
	}
}

// A hook or rule that waits can also wait for its request's context, which ends
// when the proxy is shut down, the session is closed or the client leaves.
func TestHookContextEnds(t *testing.T) {
	t.Attr("case", "F54")
	t.Parallel()
	hooks := map[string]func(wait func(context.Context)) wsproxy.Option{
		"WithOnOpen": func(wait func(context.Context)) wsproxy.Option {
			return wsproxy.WithOnOpen(func(_ *wsproxy.Session, r *http.Request) error { wait(r.Context()); return r.Context().Err() })
		},
		"WithRewrite, in": func(wait func(context.Context)) wsproxy.Option {
			return wsproxy.WithRewrite(func(pr *httputil.ProxyRequest) { wait(pr.In.Context()) })
		},
		"WithRewrite, out": func(wait func(context.Context)) wsproxy.Option {
			return wsproxy.WithRewrite(func(pr *httputil.ProxyRequest) { wait(pr.Out.Context()) })
		},
		"WithMaxSessionsPerClient": func(wait func(context.Context)) wsproxy.Option {
			return wsproxy.WithMaxSessionsPerClient(9, func(r *http.Request) string { wait(r.Context()); return "key" })
		},
		"Rendezvous": func(wait func(context.Context)) wsproxy.Option {
			return wsproxy.WithBalance(wsproxy.Rendezvous(func(r *http.Request) string { wait(r.Context()); return "key" }))
		},
		"BalanceFunc": func(wait func(context.Context)) wsproxy.Option {
			return wsproxy.WithBalance(wsproxy.BalanceFunc(func(r *http.Request, _ []wsproxy.MemberState) int { wait(r.Context()); return 0 }))
		},
	}
	ends := map[string]struct {
		end    func(r *rig, client *wstest.Wire, s *wsproxy.Session)
		status int
	}{
		"Shutdown": {func(r *rig, _ *wstest.Wire, _ *wsproxy.Session) {
			ctx, cancel := context.WithTimeout(context.Background(), wstest.Timeout)
			defer cancel()
			if err := r.proxy.Shutdown(ctx); err != nil {
				r.t.Errorf("Shutdown: %v", err)
			}
		}, 503},
		"Close":         {func(r *rig, _ *wstest.Wire, _ *wsproxy.Session) { r.proxy.Close() }, 503},
		"Session.Close": {func(_ *rig, _ *wstest.Wire, s *wsproxy.Session) { s.Close(4000, "") }, 403},
		"client leaves": {func(_ *rig, client *wstest.Wire, _ *wsproxy.Session) { client.Close() }, 0},
	}
	for hook, option := range hooks {
		for name, end := range ends {
			if hook == "WithMaxSessionsPerClient" && name == "Session.Close" {
				continue // there is no session yet
			}
			for _, watched := range []bool{false, true} { // a hook of WithOnOpen changes how the request is copied
				if !watched && name == "Session.Close" {
					continue
				}
				t.Run(hook+" "+name, func(t *testing.T) {
					called := make(chan context.Context, 1)
					waited := make(chan struct{})
					var session atomic.Pointer[wsproxy.Session]
					var options []wsproxy.Option
					if watched {
						options = append(options, wsproxy.WithOnOpen(func(s *wsproxy.Session, _ *http.Request) error { session.Store(s); return nil }))
					}
					r := newRig(t, wstest.TCP, append(options, option(func(ctx context.Context) {
						called <- ctx
						select {
						case <-ctx.Done():
							close(waited)
						case <-time.After(wstest.Timeout):
						}
					}))...)
					c := r.client()
					c.Send(wstest.Request("/", ""))
					<-called
					end.end(r, c, session.Load())
					select {
					case <-waited:
					case <-time.After(wstest.Timeout):
						t.Fatal("the context doesn't end")
					}
					if end.status != 0 {
						if got := c.ReadResponse().StatusCode; got != end.status {
							t.Errorf("answered %d, want %d", got, end.status)
						}
					}
					<-r.returned
				})
			}
		}
	}
}

// The context of a hook's request is the session's: it continues after the 101.
func TestHookContextGoesOn(t *testing.T) {
	t.Parallel()
	var shown atomic.Pointer[http.Request]
	r := newRig(t, wstest.TCP, wsproxy.WithOnOpen(func(_ *wsproxy.Session, r *http.Request) error { shown.Store(r); return nil }))
	client, upstream := r.open("", "")
	client.SendText("x")
	upstream.Want(wstest.Text, "x")
	if err := shown.Load().Context().Err(); err != nil {
		t.Errorf("the context has ended in an open session: %v", err)
	}
	client.Close()
	upstream.Close()
	<-r.returned
	if shown.Load().Context().Err() == nil {
		t.Error("the context goes on when the session is over")
	}
}

// A Shutdown whose context has ended reports what it was waiting for.
func TestShutdownNamesHooks(t *testing.T) {
	t.Attr("case", "F54")
	t.Parallel()
	for _, row := range []struct {
		name, text string
		option     func(wait func()) wsproxy.Option
		open       bool
	}{
		{"WithOnClose", "wsproxy: 0 sessions cut, 1 still in a hook of WithOnClose: context deadline exceeded", func(wait func()) wsproxy.Option {
			return wsproxy.WithOnClose(func(*wsproxy.Session) { wait() })
		}, true},
		{"WithOnOpen", "wsproxy: 0 sessions cut, 1 still in a handshake: context deadline exceeded", func(wait func()) wsproxy.Option {
			return wsproxy.WithOnOpen(func(*wsproxy.Session, *http.Request) error { wait(); return nil })
		}, false},
	} {
		t.Run(row.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				release := make(chan struct{})
				r := newRig(t, wstest.Memory, row.option(func() { <-release }))
				if row.open {
					client, upstream := r.open("", "")
					client.Close()
					upstream.Close()
				} else {
					r.client().Send(wstest.Request("/", ""))
				}
				synctest.Wait()
				if n := len(r.proxy.Stats().Members); n != 1 || r.proxy.Stats().Open != 0 {
					t.Errorf("got %+v, want the session to be over", r.proxy.Stats())
				}
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				if err := r.proxy.Shutdown(ctx); err == nil || err.Error() != row.text || !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("got %v, want %s", err, row.text)
				}
				close(release)
				if err := r.proxy.Shutdown(t.Context()); err != nil {
					t.Errorf("Shutdown: %v", err)
				}
			})
		})
	}
}
