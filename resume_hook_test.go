package wsproxy_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httputil"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/coder/websocket"

	"github.com/seed-ffb73231/wsproxy"
	"github.com/seed-ffb73231/wsproxy/internal/wstest"
)

// What OnResume sends comes before anything of the client's, with every kind of
// connection. It sees the session as it is now.
func TestOnResume(t *testing.T) {
	t.Parallel()
	eachSession(t, func(t *testing.T, c carrier) {
		attempts := make(chan int, 10)
		r := c.rig(t, resuming(wsproxy.Resume{OnResume: func(ctx context.Context, s *wsproxy.Session, attempt int) error {
			if ctx.Err() != nil || s.Upstream() == "" {
				t.Errorf("called with %v for %q", ctx.Err(), s.Upstream())
			}
			attempts <- attempt
			for _, text := range []string{"hello", strings.Repeat("again ", 20_000)} {
				if err := s.Send(ctx, wsproxy.Upstream, websocket.MessageText, []byte(text)); err != nil {
					return err
				}
			}
			return s.Send(ctx, wsproxy.Client, websocket.MessageBinary, []byte("for the client"))
		}})...)
		client, old := r.open("", "")
		client.SendText("one")
		old.Want(wstest.Text, "one")
		old.Conn.Close()
		next := r.upstream()
		client.SendText("two")
		next.Answer("")
		next.Want(wstest.Text, "hello")
		next.Want(wstest.Text, strings.Repeat("again ", 20_000))
		next.Want(wstest.Text, "two")
		client.Want(wstest.Binary, "for the client")
		if got := wstest.Receive(t, attempts); got != 1 {
			t.Errorf("attempt %d, want 1", got)
		}
	})
}

// If OnResume returns an error, its upstream is told so and another one is tried. Its
// context ends with the window, and with the session.
func TestOnResumeFails(t *testing.T) {
	t.Parallel()
	eachSessionInTime(t, func(t *testing.T, c carrier) {
		var calls []int
		r := c.rig(t, resuming(wsproxy.Resume{OnResume: func(ctx context.Context, s *wsproxy.Session, attempt int) error {
			calls = append(calls, attempt)
			switch attempt {
			case 1:
				return errors.New("not this one")
			case 2: // the upstream goes while it is called
				for {
					if err := s.Send(ctx, wsproxy.Upstream, websocket.MessageText, []byte("hello")); err != nil {
						return err
					}
					wstest.Elapse(time.Second)
				}
			}
			return s.Send(ctx, wsproxy.Upstream, websocket.MessageText, []byte("hello"))
		}})...)
		client, u := r.open("", "")
		u.Conn.Close()
		client.SendText("two")
		u = r.upstream()
		u.Answer("")
		u.WantClose(1001)
		u.WantEnd()
		synctest.Wait()
		if st := r.proxy.Stats(); st.Members[0].Sessions != 0 {
			t.Errorf("members %v between two attempts, want no session", st.Members)
		}
		u = r.upstream()
		u.Answer("")
		u.Want(wstest.Text, "hello")
		u.Conn.Close()
		u = r.upstream()
		u.Answer("")
		u.Want(wstest.Text, "hello")
		u.Want(wstest.Text, "two")
		synctest.Wait()
		if fmt.Sprint(calls) != "[1 2 3]" {
			t.Errorf("attempts %v, want 1, 2 and 3", calls)
		}
		if st := r.proxy.Stats(); st.Resumes != 1 || st.Members[0].Sessions != 1 {
			t.Errorf("%d resumes, members %v; want one session that resumed once", st.Resumes, st.Members)
		}
	})
	for name, end := range map[string]func(r *rig, client *wstest.Wire){
		"window":        func(_ *rig, c *wstest.Wire) { c.WantCloseAfterPings(1011) },
		"Session.Close": func(r *rig, c *wstest.Wire) { closeAll(r.proxy, 4000); c.WantClose(4000) },
		"client leaves": func(_ *rig, c *wstest.Wire) { c.Conn.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			eachSessionInTime(t, func(t *testing.T, c carrier) {
				r := c.rig(t, resuming(wsproxy.Resume{OnResume: func(ctx context.Context, _ *wsproxy.Session, _ int) error {
					<-ctx.Done()
					return nil
				}})...)
				client, u := r.open("", "")
				u.Conn.Close()
				u = r.upstream()
				u.Answer("")
				synctest.Wait()
				end(r, client)
				u.WantClose(1001)
				u.WantEnd()
				client.Conn.Close()
				r.wantOver()
			})
		})
	}
}

// closeAll ends all sessions.
func closeAll(p *wsproxy.Proxy, code websocket.StatusCode) {
	for s := range p.Sessions() {
		s.Close(code, "")
	}
}

// A panic in OnResume ends its session and nothing else.
func TestOnResumePanics(t *testing.T) {
	t.Parallel()
	eachSessionInTime(t, func(t *testing.T, c carrier) {
		r := c.rig(t, resuming(wsproxy.Resume{OnResume: func(context.Context, *wsproxy.Session, int) error { panic("oops") }})...)
		client, u := r.open("", "")
		u.Conn.Close()
		u = r.upstream()
		u.Answer("")
		client.WantClose(1011)
		u.WantClose(1001)
		client.SendClose(1011, "")
		client.WantEnd()
		r.wantOver()
		if m := r.logs.WaitFor(t, "wsproxy: panic in a hook", 0); m["hook"] != "WithResume" || m["panic"] != "oops" {
			t.Errorf("logged %v", m)
		}
		if m := r.logs.WaitFor(t, "wsproxy: session ended", 0); m["reason"] != string(wsproxy.ReasonPanic) {
			t.Errorf("logged %v", m)
		}
	})
}

// Send waits while there is no upstream, as long as its context and the session last.
func TestSendWhileHeld(t *testing.T) {
	t.Parallel()
	eachSessionInTime(t, func(t *testing.T, c carrier) {
		o := newOutage(t, c, wsproxy.Resume{OnResume: func(ctx context.Context, s *wsproxy.Session, _ int) error {
			return s.Send(ctx, wsproxy.Upstream, websocket.MessageText, []byte("hello"))
		}})
		client := o.hold()
		sent := make(chan error, 2)
		for s := range o.proxy.Sessions() {
			go func() { sent <- s.Send(t.Context(), wsproxy.Upstream, websocket.MessageText, []byte("notice")) }()
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			if err := s.Send(ctx, wsproxy.Upstream, websocket.MessageText, []byte("never")); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("Send while there is no upstream: %v", err)
			}
			if err := s.Send(t.Context(), wsproxy.Client, websocket.MessageText, []byte("wait")); err != nil {
				t.Error(err)
			}
		}
		client.Want(wstest.Text, "wait")
		o.down.Store(false)
		u := o.upstream()
		u.Answer("")
		u.Want(wstest.Text, "hello")
		u.Want(wstest.Text, "notice")
		if err := wstest.Receive(t, sent); err != nil {
			t.Error(err)
		}
		o.down.Store(true)
		u.Conn.Close()
		synctest.Wait()
		for s := range o.proxy.Sessions() {
			go func() { sent <- s.Send(t.Context(), wsproxy.Upstream, websocket.MessageText, []byte("never")) }()
		}
		synctest.Wait()
		closeAll(o.proxy, 4000)
		if err := wstest.Receive(t, sent); !errors.Is(err, wsproxy.ErrNotOpen) {
			t.Errorf("Send as the session ends: %v", err)
		}
		client.WantClose(4000)
	})
}

// Each codec has its upstream's own compression, and messages that wait are packed for
// the one that gets them.
func TestResumeCompression(t *testing.T) {
	t.Parallel()
	r := newRig(t, wstest.TCP, resuming(wsproxy.Resume{}, wsproxy.WithCompression(wsproxy.Upstream, websocket.CompressionContextTakeover, 1),
		wsproxy.WithInsecureAnyOrigin())...)
	client, u := r.open("", "Sec-WebSocket-Extensions: permessage-deflate\r\n")
	text := strings.Repeat("compressible ", 100)
	packs := true
	for range 6 {
		for range 2 {
			client.SendText(text)
			f, err := u.ReadFrame()
			if packed := f.First&0x40 != 0; err != nil || packed != packs || packed == (f.Payload == text) {
				t.Fatalf("the upstream got %.40v, %v; want it packed: %v", f, err, packs)
			}
		}
		u.Conn.Close()
		u = r.upstream()
		if packs = !packs; packs {
			u.Answer("Sec-WebSocket-Extensions: permessage-deflate; client_no_context_takeover\r\n")
		} else {
			u.Answer("")
		}
	}
}

// A subprotocol that the client does not have ends the session.
func TestResumeSubprotocol(t *testing.T) {
	t.Parallel()
	for _, answer := range []string{"", "Sec-WebSocket-Protocol: other\r\n"} {
		eachSessionInTime(t, func(t *testing.T, c carrier) {
			r := c.rig(t, resuming(wsproxy.Resume{})...)
			client, u := r.open("Sec-WebSocket-Protocol: chat, other\r\n", "Sec-WebSocket-Protocol: chat\r\n")
			u.SendClose(1012, "")
			u.WantClose(1012)
			u.Conn.Close()
			u = r.upstream()
			u.Answer(answer)
			client.WantClose(1011)
			client.SendClose(1011, "")
			client.WantEnd()
			u.WantGone()
			r.wantOver()
			r.logs.WaitFor(t, "wsproxy: session not resumed", 0)
			if m := r.logs.WaitFor(t, "wsproxy: session ended", 0); m["by"] != "upstream" || m["reason"] != string(wsproxy.ReasonLost) || !strings.Contains(fmt.Sprint(m["error"]), "subprotocol") {
				t.Errorf("logged %v, want a reason", m)
			}
		})
	}
}

// Codes that say that the session is over are final, and pass verbatim.
func TestResumeFinal(t *testing.T) {
	t.Parallel()
	for _, code := range []int{0, 1000, 1002, 1008, 1011, 4001} {
		eachSessionInTime(t, func(t *testing.T, c carrier) {
			r := c.rig(t, resuming(wsproxy.Resume{})...)
			client, u := r.open("", "")
			u.SendClose(code, "")
			client.WantClose(code)
			client.SendClose(code, "")
			u.WantClose(code)
			u.Conn.Close()
			client.WantEnd()
			r.wantOver()
			if st := r.proxy.Stats(); st.Resumes+st.ResumesFailed != 0 {
				t.Errorf("%d: resumed", code)
			}
		})
	}
	eachSessionInTime(t, func(t *testing.T, c carrier) {
		r := c.rig(t, resuming(wsproxy.Resume{})...)
		client, u := r.open("", "")
		u.Send("\x81\x80mask") // masked
		client.WantClose(1011)
		u.WantClose(1002)
	})
}

// The handshake is repeated as the hooks of WithOnOpen left it, and those of
// WithRewrite are called again, with the values of the request's context.
func TestResumeHandshake(t *testing.T) {
	t.Parallel()
	type userKey struct{}
	for _, c := range carriers() {
		if c.client != wstest.TCP || c.upstream != wstest.TCP {
			continue
		}
		t.Run(c.String(), func(t *testing.T) {
			t.Parallel()
			calls := 0
			r := c.rig(t, resuming(wsproxy.Resume{},
				wsproxy.WithOnOpen(func(_ *wsproxy.Session, r *http.Request) error {
					r.Header.Set("X-User", "ann")
					*r = *r.WithContext(context.WithValue(r.Context(), userKey{}, "ann"))
					return nil
				}),
				wsproxy.WithRewrite(func(pr *httputil.ProxyRequest) {
					calls++
					pr.Out.Header.Set("X-Call", fmt.Sprint(calls, pr.In.Context().Value(userKey{}), pr.In.Context().Err()))
				}))...)
			_, u := r.open("X-Client: yes\r\n", "")
			for i := range 3 {
				u.Conn.Close()
				u = r.upstream()
				req := u.Answer("")
				want := fmt.Sprint(i+2, "ann", nil)
				if req.Header.Get("X-User") != "ann" || req.Header.Get("X-Client") != "yes" || req.Header.Get("X-Call") != want {
					t.Errorf("the upstream was asked with %v, want X-Call %s", req.Header, want)
				}
				if got := req.Header["X-Forwarded-For"]; len(got) != 1 || got[0] != "127.0.0.1" {
					t.Errorf("X-Forwarded-For %q", got)
				}
			}
		})
	}
}

// An upstream that takes only a part of what OnResume sends is given up for the next
// one: nothing of the client's was lost with it.
func TestOnResumeTorn(t *testing.T) {
	t.Parallel()
	for _, stuck := range []bool{false, true} {
		t.Run(fmt.Sprint("stuck ", stuck), func(t *testing.T) {
			eachSessionInTime(t, func(t *testing.T, c carrier) {
				r := c.rig(t, resuming(wsproxy.Resume{OnResume: func(ctx context.Context, s *wsproxy.Session, attempt int) error {
					size := 10
					if attempt == 1 {
						size = 1 << 20
					}
					ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
					defer cancel()
					return s.Send(ctx, wsproxy.Upstream, websocket.MessageText, []byte(strings.Repeat("x", size)))
				}})...)
				client, u := r.open("", "")
				u.Conn.Close()
				u = r.upstream()
				u.Answer("")
				synctest.Wait()
				if !stuck {
					u.Conn.Close()
				}
				client.SendText("two")
				next := r.upstream()
				next.Answer("")
				next.Want(wstest.Text, strings.Repeat("x", 10))
				next.Want(wstest.Text, "two")
				next.SendText("three")
				client.Want(wstest.Text, "three")
				u.Conn.Close()
			})
		})
	}
}
