package wsproxy_test

import (
	"context"
	"net"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/coder/websocket"

	"github.com/seed-ffb73231/wsproxy"
	"github.com/seed-ffb73231/wsproxy/internal/wstest"
)

// An outage is a rig whose upstream can be unreachable.
type outage struct {
	*rig
	down  atomic.Bool
	dials []time.Time // while it was down; read them after a synctest.Wait
}

func newOutage(t *testing.T, c carrier, r wsproxy.Resume, more ...wsproxy.Option) *outage {
	t.Helper()
	o := new(outage)
	o.rig = c.rig(t, resuming(r, append(more, wsproxy.WithDialContext(func(ctx context.Context, _, _ string) (net.Conn, error) {
		if o.down.Load() {
			o.dials = append(o.dials, time.Now())
			return nil, syscall.ECONNREFUSED
		}
		return wstest.Dial(ctx, o.back)
	}))...)...)
	return o
}

// hold opens a session and has it lose its upstream, while there is no other one.
func (o *outage) hold() (client *wstest.Wire) {
	o.t.Helper()
	client, upstream := o.open("", "")
	client.SendText("one")
	upstream.Want(wstest.Text, "one")
	o.down.Store(true)
	upstream.Conn.Close()
	synctest.Wait()
	return client
}

// A session waits for the window at most, and then the client is told what it would
// have been told without it. Meanwhile the upstream is dialled at growing intervals.
func TestResumeWindow(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name   string
		leave  func(u *wstest.Wire)
		code   int
		reason string
		by     string
	}{
		{"lost", func(u *wstest.Wire) { u.Conn.Close() }, 1011, "upstream lost", "upstream"},
		{"closed", func(u *wstest.Wire) { u.SendClose(1012, "restart"); u.WantClose(1012); u.Conn.Close() }, 1012, "restart", "upstream"},
	} {
		for _, window := range []time.Duration{0, time.Minute} {
			t.Run(tt.name+" "+window.String(), func(t *testing.T) {
				t.Parallel()
				eachSessionInTime(t, func(t *testing.T, c carrier) {
					o := newOutage(t, c, wsproxy.Resume{Window: window})
					client, upstream := o.open("", "")
					o.down.Store(true)
					began := time.Now()
					tt.leave(upstream)
					heard := watched(client)
					want := window
					if want == 0 {
						want = 30 * time.Second
					}
					o.wantOver()
					synctest.Wait()
					wantAt(t, began, want)
					closes, at := heard.only(wstest.Close)
					if len(closes) != 1 || closes[0] != wstest.CloseBody(tt.code, tt.reason) || at[0] != want {
						t.Errorf("the client got Closes %q at %v, want %d after %v", closes, at, tt.code, want)
					}
					if pings, _ := heard.only(wstest.Ping); len(pings) != int(want/pingMost) {
						t.Errorf("the client got %d Pings", len(pings))
					}
					last := began
					for i, at := range o.dials {
						least, most := time.Duration(0), 100*time.Millisecond
						if i > 0 {
							most = min(most<<i, 5*time.Second)
							least = most / 2
						}
						if d := at.Sub(last); d < least || d > most {
							t.Errorf("attempt %d came after %v, want %v to %v", i+1, d, least, most)
						}
						last = at
					}
					if d := began.Add(want).Sub(last); d > 5*time.Second {
						t.Errorf("the last attempt was %v before the end", d)
					}
					m := o.logs.WaitFor(t, "wsproxy: session not resumed", 0)
					if m["level"] != "WARN" && m["kind"] != string(wsproxy.KindRefused) {
						t.Errorf("logged %v, want a warning that says why", m)
					}
					m = o.logs.WaitFor(t, "wsproxy: session ended", 0)
					if m["by"] != tt.by {
						t.Errorf("logged %v, want an end by the %s", m, tt.by)
					}
					if st := o.proxy.Stats(); st.Resumes != 0 || st.ResumesFailed != 1 {
						t.Errorf("%d resumes, %d failed, want one that failed", st.Resumes, st.ResumesFailed)
					}
				})
			})
		}
	}
}

// A session that waits goes on when the upstream is back, with what the client has
// sent meanwhile: that is held back, and sent once and in order. The client's Pings
// are answered.
func TestResumeWaits(t *testing.T) {
	t.Parallel()
	eachSessionInTime(t, func(t *testing.T, c carrier) {
		o := newOutage(t, c, wsproxy.Resume{})
		client := o.hold()
		client.Send(client.Frame(wstest.Ping, "are you there"))
		client.Want(wstest.Pong, "are you there")
		client.Send(client.Frame(wstest.Pong, "unasked")) // it is dropped
		client.SendLater(client.Frame(wstest.Text, "two") + client.Frame(wstest.Ping, "ping") + client.Frame(0x01, "thr") + client.Frame(0x80, "ee"))
		wstest.Elapse(12 * time.Second)
		o.down.Store(false)
		upstream := o.upstream()
		upstream.Answer("")
		upstream.Want(wstest.Text, "two")
		upstream.Want(wstest.Ping, "ping")
		upstream.Want(wstest.Text, "three")
		upstream.SendText("four")
		client.Want(wstest.Text, "four")
		m := o.logs.WaitFor(t, "wsproxy: session resumed", 0)
		if m["attempts"] == nil || m["after"] == nil {
			t.Errorf("logged %v", m)
		}
	})
}

// Whatever ends a session also ends one that waits, at once.
func TestResumeEnds(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name    string
		options []wsproxy.Option
		end     func(o *outage, client *wstest.Wire)
		after   time.Duration // from the loss of the upstream
		code    int           // that the client is sent; 0: none
		by      string
		reason  wsproxy.Reason
	}{
		{"Session.Close", nil, func(o *outage, _ *wstest.Wire) {
			for s := range o.proxy.Sessions() {
				s.Close(4001, "enough")
			}
		}, 0, 4001, "proxy", wsproxy.ReasonClosedByProxy},
		{"expiry", nil, func(o *outage, _ *wstest.Wire) {
			for s := range o.proxy.Sessions() {
				s.SetExpiry(time.Now().Add(3*time.Second), 4002, "expired")
			}
		}, 3 * time.Second, 4002, "proxy", wsproxy.ReasonExpired},
		{"idle", []wsproxy.Option{wsproxy.WithIdleTimeout(4 * time.Second)}, nil, 4 * time.Second, 1001, "proxy", wsproxy.ReasonIdle},
		{"Shutdown", nil, func(o *outage, _ *wstest.Wire) { go o.proxy.Shutdown(context.Background()) }, 0, 1001, "proxy", wsproxy.ReasonDrained},
		{"Proxy.Close", nil, func(o *outage, _ *wstest.Wire) { o.proxy.Close() }, 0, 0, "proxy", wsproxy.ReasonCut},
		{"client closes", nil, func(_ *outage, c *wstest.Wire) { c.SendClose(1000, "bye") }, 0, 1000, "client", wsproxy.ReasonClosed},
		{"client leaves", nil, func(_ *outage, c *wstest.Wire) { c.Conn.Close() }, 0, 0, "client", wsproxy.ReasonLost},
		{"client breaks the protocol", nil, func(_ *outage, c *wstest.Wire) { c.Send("\x83\x80\x00\x00\x00\x00") }, 0, 1002, "client", wsproxy.ReasonProtocolError},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			eachSessionInTime(t, func(t *testing.T, c carrier) {
				o := newOutage(t, c, wsproxy.Resume{}, tt.options...)
				client := o.hold()
				began := time.Now()
				if tt.end != nil {
					tt.end(o, client)
				}
				if tt.code != 0 {
					client.WantClose(tt.code)
					wantAt(t, began, tt.after)
					client.Conn.Close()
				} else {
					client.WantGone()
				}
				o.wantOver()
				wantAt(t, began, tt.after)
				m := o.logs.WaitFor(t, "wsproxy: session ended", 0)
				if m["by"] != tt.by || m["reason"] != string(tt.reason) {
					t.Errorf("logged %v, want %s by %s", m, tt.reason, tt.by)
				}
				if st := o.proxy.Stats(); st.ResumesFailed != 0 {
					t.Error("counted as a resume that failed")
				}
			})
		})
	}
}

// A client is also noticed to be gone when it is not read, because a message of its
// waits for an upstream.
func TestResumeClientLost(t *testing.T) {
	t.Parallel()
	eachSessionInTime(t, func(t *testing.T, c carrier) {
		o := newOutage(t, c, wsproxy.Resume{Window: time.Hour})
		client := o.hold()
		client.SendText("two")
		synctest.Wait()
		client.Conn.Close()
		began := time.Now()
		o.wantOver()
		if d := time.Since(began); d > 2*pingMost {
			t.Errorf("noticed after %v", d)
		}
		o.logs.WaitFor(t, "wsproxy: session ended", 0)
	})
}

// An upstream that says nothing, or takes nothing, is lost as in any session, and then
// the session resumes. A message of which it took nothing goes to the next one.
func TestResumeSilentUpstream(t *testing.T) {
	t.Parallel()
	t.Run("no Pong", func(t *testing.T) {
		eachSessionInTime(t, func(t *testing.T, c carrier) {
			r := c.rig(t, resuming(wsproxy.Resume{})...)
			client, old := r.open("", "")
			heard := watched(client)
			answerOnce(t, old)
			began := time.Now()
			silent := heardBy(old)
			next := r.upstream()
			if d := time.Since(began); d < pingLeast+pongTime || d > pingMost+pongTime+time.Second {
				t.Errorf("given up after %v", d)
			}
			next.Answer("")
			next.SendText("hello")
			answerOnce(t, next) // it is watched like the first
			r.upstream().Answer("")
			synctest.Wait()
			if silent.end == 0 {
				t.Error("the silent upstream's connection is open")
			}
			if texts, _ := heard.only(wstest.Text); len(texts) != 1 || heard.end != 0 {
				t.Errorf("the client got %v, end %v; want one message and no end", texts, heard.end)
			}
		})
	})
	t.Run("takes nothing", func(t *testing.T) {
		eachSessionInTime(t, func(t *testing.T, c carrier) {
			r := c.rig(t, resuming(wsproxy.Resume{}, wsproxy.WithWriteTimeout(7*time.Second), wsproxy.WithPing(0, 0))...)
			client, old := r.open("", "")
			client.Send(fill(client))
			client.SendText("two")
			began := time.Now()
			next := r.upstream()
			if d := time.Since(began); d < 7*time.Second || d > 8*time.Second {
				t.Errorf("given up after %v", d)
			}
			next.Answer("")
			next.Want(wstest.Text, "two")
			old.WantGone()
			next.SendText("three")
			client.Want(wstest.Text, "three")
		})
	})
}

// A message that an upstream took in part ends the session: another one could not
// understand the rest, and the whole of it might come twice.
func TestResumeTorn(t *testing.T) {
	t.Parallel()
	eachSessionInTime(t, func(t *testing.T, c carrier) {
		r := c.rig(t, resuming(wsproxy.Resume{})...)
		client, upstream := r.open("", "")
		client.SendLater(client.Frame(wstest.Binary, string(make([]byte, 100_000))))
		if _, err := upstream.In.Peek(1); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		upstream.Conn.Close()
		client.WantClose(1011)
		client.SendClose(1011, "")
		client.WantEnd()
		r.wantOver()
		r.wantEnded("upstream", "lost")
	})
}

// The end of a window, and an upstream that is lost twice, are the same for a session
// that had resumed before.
func TestResumeAgain(t *testing.T) {
	t.Parallel()
	eachSessionInTime(t, func(t *testing.T, c carrier) {
		o := newOutage(t, c, wsproxy.Resume{Window: 10 * time.Second})
		client, upstream := o.open("", "")
		for i := range 20 {
			wstest.Elapse(time.Second)
			upstream.Conn.Close()
			upstream = o.upstream()
			upstream.Answer("")
			client.SendText("x")
			upstream.Want(wstest.Text, "x")
			for s := range o.proxy.Sessions() {
				if got := s.Resumes(); got != i+1 {
					t.Fatalf("%d resumes, want %d", got, i+1)
				}
				if d := time.Since(s.LastActivity()); d != 0 {
					t.Fatalf("the last activity was %v ago", d)
				}
			}
		}
		o.down.Store(true)
		began := time.Now()
		upstream.Conn.Close()
		client.WantClose(1011)
		wantAt(t, began, 10*time.Second)
		client.SendClose(1011, "")
		o.wantOver()
	})
}

// An upstream that accepts sessions and leaves at once is not dialled all the time. When
// it stays again, it is found as fast as ever.
func TestResumeUseless(t *testing.T) {
	t.Parallel()
	eachSessionInTime(t, func(t *testing.T, c carrier) {
		r := c.rig(t, resuming(wsproxy.Resume{})...)
		client, upstream := r.open("", "")
		watched(client)
		began, dials := time.Now(), 0
		for time.Since(began) < time.Minute {
			upstream.SendClose(1013, "")
			upstream.Conn.Close()
			upstream = r.upstream()
			upstream.Answer("")
			dials++
		}
		if dials < 15 || dials > 40 {
			t.Errorf("dialled %d times in a minute", dials)
		}
		upstream.SendText("well again")
		synctest.Wait()
		upstream.Conn.Close()
		began = time.Now()
		r.upstream().Answer("")
		if d := time.Since(began); d > 100*time.Millisecond {
			t.Errorf("dialled after %v", d)
		}
	})
}

// A window is for the whole search, not for one upstream that accepts connections and
// does not answer.
func TestResumeHangs(t *testing.T) {
	t.Parallel()
	eachSessionInTime(t, func(t *testing.T, c carrier) {
		r := c.rig(t, resuming(wsproxy.Resume{})...)
		client, upstream := r.open("", "")
		upstream.Conn.Close()
		began := time.Now()
		r.upstream().ReadRequest() // and no answer
		next := r.upstream()
		if d := time.Since(began); d < 10*time.Second || d > 11*time.Second {
			t.Errorf("dialled again after %v, want about 10 s", d)
		}
		next.ReadRequest()
		next.Send("HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n")
		next = r.upstream()
		next.Answer("")
		next.SendText("two")
		client.Want(wstest.Text, "two")
		if websocket.StatusCode(r.proxy.Stats().ResumesFailed) != 0 {
			t.Error("counted as failed")
		}
	})
}

// A brokenConn panics in the Write that is under way when it is closed.
type brokenConn struct {
	net.Conn
	broken  *atomic.Bool
	writing chan struct{}
	closed  chan struct{}
}

func (c *brokenConn) Write(b []byte) (int, error) {
	if !c.broken.Load() {
		return c.Conn.Write(b)
	}
	close(c.writing)
	<-c.closed
	panic("closed")
}

func (c *brokenConn) Close() error {
	if c.broken.Load() {
		close(c.closed)
	}
	return c.Conn.Close()
}

// A custom connection that panics while a message is written to it ends its session,
// also if its reader finds the upstream lost at the same time.
func TestResumePanics(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name  string
		first byte
	}{{"message", wstest.Text}, {"Ping", wstest.Ping}} {
		t.Run(tt.name, func(t *testing.T) {
			eachSessionInTime(t, func(t *testing.T, c carrier) {
				var r *rig
				conn := &brokenConn{broken: new(atomic.Bool), writing: make(chan struct{}), closed: make(chan struct{})}
				r = c.rig(t, resuming(wsproxy.Resume{}, wsproxy.WithDialContext(func(ctx context.Context, _, _ string) (_ net.Conn, err error) {
					conn.Conn, err = wstest.Dial(ctx, r.back)
					return conn, err
				}))...)
				client, upstream := r.open("", "")
				conn.broken.Store(true)
				client.Send(client.Frame(tt.first, "x"))
				wstest.Receive(t, conn.writing)
				upstream.Conn.Close()
				client.WantClose(1011)
				r.wantOver()
				r.logs.WaitFor(t, "wsproxy: session ended", 0)
			})
		})
	}
}
