package wsproxy_test

import (
	"bytes"
	"context"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"github.com/coder/websocket"

	"github.com/seed-ffb73231/wsproxy"
	"github.com/seed-ffb73231/wsproxy/internal/wstest"
)

// A tap gets a copy of each message that goes on, as the hooks have left it, in
// order, and before WithOnClose. It cannot change what goes on.
func TestTap(t *testing.T) {
	t.Parallel()
	eachWay(t, func(t *testing.T, c carrier, w way) {
		seen := make(chan wsproxy.Message, 10)
		var closed atomic.Bool
		r := c.rig(t,
			onMessage(func(m *wsproxy.Message) error {
				if string(m.Data) == "drop" {
					return wsproxy.ErrDrop
				}
				m.Data = bytes.ToUpper(m.Data)
				return nil
			}),
			wsproxy.WithTap(func(s *wsproxy.Session, m wsproxy.Message) {
				if closed.Load() {
					t.Error("called after WithOnClose")
				}
				for i := range m.Data {
					m.Data[i] = 'x'
				}
			}),
			wsproxy.WithTap(func(s *wsproxy.Session, m wsproxy.Message) {
				if s.ID() == 0 {
					t.Error("called with a session without an ID")
				}
				seen <- m
			}),
			wsproxy.WithOnClose(func(*wsproxy.Session) { closed.Store(true) }))
		from, to := w.open(r, "", "")
		from.Send(from.Frame(wstest.OpText, "on") + from.Frame(wstest.Fin|wstest.OpContinuation, "e"))
		to.Want(wstest.Text, "ONE")
		from.SendText("drop")
		from.Send(from.Frame(wstest.Binary, "three"))
		to.Want(wstest.Binary, "THREE")
		want := []wsproxy.Message{{From: w.side(), Type: websocket.MessageText, Data: []byte("xxx")}, {From: w.side(), Type: websocket.MessageBinary, Data: []byte("xxxxx")}}
		for _, want := range want {
			if got := wstest.Receive(t, seen); got.From != want.From || got.Type != want.Type || !bytes.Equal(got.Data, want.Data) {
				t.Errorf("the tap got %v %v %q, want %v %v %q", got.From, got.Type, got.Data, want.From, want.Type, want.Data)
			}
		}
		for range 100 { // they may wait when the session ends
			to.SendText("back")
			from.Want(wstest.Text, "BACK")
			<-seen
		}
		to.SendText("last")
		from.Want(wstest.Text, "LAST")
		from.SendClose(1000, "")
		to.WantClose(1000)
		to.SendClose(1000, "")
		from.WantClose(1000)
		from.Close()
		to.Close()
		wstest.Receive(t, seen)
		r.wantOver()
		if n := r.proxy.Stats().Untapped; n != 0 {
			t.Errorf("%d messages were passed over", n)
		}
	})
}

// A tap that blocks holds up neither the messages, nor other sessions' taps; only
// the end of its session. What it does not take is counted, and takes little memory.
func TestTapThatBlocks(t *testing.T) {
	t.Parallel()
	const most = 256
	for name, test := range map[string]struct {
		size, sent, tapped int
	}{
		"many":  {10, most + 20, 1 + most}, // one is in the call
		"large": {100 << 10, 20, 10},
		"huge":  {1<<20 + 1, 2, 1},
	} {
		t.Run(name, func(t *testing.T) {
			eachSessionInTime(t, func(t *testing.T, c carrier) {
				var blocks, tapped atomic.Int32
				goOn := make(chan struct{})
				r := c.rig(t, wsproxy.WithMaxMessageSize(wsproxy.Upstream, 4<<20), wsproxy.WithTap(func(s *wsproxy.Session, m wsproxy.Message) {
					if s.Path() != "/blocks" {
						return
					}
					blocks.Add(1)
					<-goOn
					tapped.Add(1)
				}))
				client := r.client()
				client.Send(wstest.Request("/blocks", ""))
				upstream := r.upstream()
				upstream.Answer("")
				client.WantStatus(101)
				message := strings.Repeat("x", test.size)
				for i := range test.sent {
					upstream.SendLater(upstream.Frame(wstest.Text, message))
					client.Want(wstest.Text, message)
					if i == 0 {
						synctest.Wait() // in the call
					}
				}
				if n := blocks.Load(); n != 1 {
					t.Errorf("%d calls at a time", n)
				}
				if n := r.proxy.Stats().Untapped; n != uint64(test.sent-test.tapped) {
					t.Errorf("%d messages were passed over, want %d", n, test.sent-test.tapped)
				}
				other, far := r.open("", "")
				other.SendText("another")
				far.Want(wstest.Text, "another")
				other.Close()
				far.Close()
				r.wantOver()
				client.SendClose(1000, "")
				upstream.WantClose(1000)
				upstream.SendClose(1000, "")
				client.WantClose(1000)
				client.Close()
				upstream.Close()
				synctest.Wait()
				if !c.detach {
					select {
					case <-r.returned:
						t.Error("ServeHTTP returned while the tap blocked")
					default:
					}
				}
				close(goOn)
				r.wantOver()
				synctest.Wait()
				if n := int(tapped.Load()); n != test.tapped {
					t.Errorf("tapped %d messages, want %d", n, test.tapped)
				}
			})
		})
	}
}

// A tap that panics, or ends its goroutine, gets the next message all the same; the
// session goes on. A tap may shut down the proxy.
func TestTapThatFails(t *testing.T) {
	t.Parallel()
	eachSessionInTime(t, func(t *testing.T, c carrier) {
		seen := make(chan string, 10)
		var r *rig
		r = c.rig(t, wsproxy.WithTap(func(s *wsproxy.Session, m wsproxy.Message) {
			seen <- string(m.Data)
			switch string(m.Data) {
			case "panic":
				panic("boom")
			case "exit":
				runtime.Goexit()
			case "shutdown":
				if err := r.proxy.Shutdown(context.Background()); err == nil || !strings.Contains(err.Error(), "called from a hook") {
					t.Errorf("Shutdown: %v, want it to go on in the background", err)
				}
			}
		}))
		client, upstream := r.open("", "")
		for _, message := range []string{"panic", "exit", "panic", "shutdown"} {
			client.SendText(message)
			upstream.Want(wstest.Text, message)
			if got := wstest.Receive(t, seen); got != message {
				t.Errorf("the tap saw %q, want %q", got, message)
			}
		}
		client.WantClose(1001)
		upstream.WantClose(1001)
		client.Close()
		upstream.Close()
		r.wantOver()
		wantPanic(t, r.logs.Wait(t, 0), "WithTap")
	})
}
