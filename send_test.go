package wsproxy_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/coder/websocket"

	"github.com/seed-ffb73231/wsproxy"
	"github.com/seed-ffb73231/wsproxy/internal/wstest"
)

// toSide is the side that a way's messages go to.
func (w way) toSide() wsproxy.Side {
	if w.masked() {
		return wsproxy.Upstream
	}
	return wsproxy.Client
}

// session opens a session and waits until messages can be sent: a client may have
// read its 101 before.
func (w way) session(r *rig, requestLines, answerLines string) (from, to *wstest.Wire, s *wsproxy.Session) {
	r.t.Helper()
	from, to = w.open(r, requestLines, answerLines)
	from.SendText("hello")
	to.Want(wstest.Text, "hello")
	for s = range r.proxy.Sessions() {
		return from, to, s
	}
	r.t.Fatal("there is no session")
	return nil, nil, nil
}

// send sends in the background. The channel gets the result.
func send(ctx context.Context, s *wsproxy.Session, to wsproxy.Side, payload string) <-chan error {
	done := make(chan error, 1)
	go func() { done <- s.Send(ctx, to, websocket.MessageText, []byte(payload)) }()
	return done
}

// wantSent waits for the result of a send.
func wantSent(t *testing.T, done <-chan error) {
	t.Helper()
	if err := wstest.Receive(t, done); err != nil {
		t.Errorf("Send: %v", err)
	}
}

// A message of the program's own arrives whole, whatever its size, in a frame that
// is neither compressed nor fragmented, and counts as nobody's.
func TestSend(t *testing.T) {
	t.Parallel()
	eachWay(t, func(t *testing.T, c carrier, w way) {
		r := c.rig(t)
		deflate := "Sec-WebSocket-Extensions: permessage-deflate\r\n"
		if c.whole { // the proxy would answer for itself
			deflate = ""
		}
		from, to, s := w.session(r, deflate, deflate)
		n := uint64(0)
		for _, size := range []int{0, 1, 125, 126, 0xFFFF, 0x10000, 3 << 20} {
			for first, kind := range map[byte]websocket.MessageType{wstest.Text: websocket.MessageText, wstest.Binary: websocket.MessageBinary} {
				if size > 1<<20 && kind == websocket.MessageText { // the large one is about the buffers
					continue
				}
				data := []byte(strings.Repeat("ü", size/2) + strings.Repeat("x", size%2))
				sent := make(chan error, 1)
				go func() { sent <- s.Send(t.Context(), w.toSide(), kind, data) }()
				to.Want(first, string(data))
				wantSent(t, sent)
				n++
			}
		}
		to.SendText("hello yourself")
		from.Want(wstest.Text, "hello yourself")
		if sent := r.proxy.Stats().Sent; sent[w.toSide()] != n || sent[w.side()] != 0 {
			t.Errorf("Stats counts %v sent, want %d to the %v", sent, n, w.toSide())
		}
		from.SendClose(1000, "")
		to.WantClose(1000)
		to.SendClose(1000, "")
		from.WantClose(1000)
		from.Close()
		to.Close()
		r.wantEnded(w.name, "closed")
		for _, side := range []wsproxy.Side{wsproxy.Client, wsproxy.Upstream} {
			if got := s.Counts(side); got.Messages != 1 || got.Frames != 2 || got.LargestMessage > 20 {
				t.Errorf("counted %+v from the %v, want one message and a Close", got, side)
			}
		}
	})
}

// No message of the program's own is put into a fragmented one. A Ping may be
// (RFC 6455, 5.4).
func TestSendBetweenMessages(t *testing.T) {
	t.Parallel()
	eachWay(t, func(t *testing.T, c carrier, w way) {
		r := c.rig(t)
		from, to, s := w.session(r, "", "")
		from.Send(from.Frame(wstest.OpText, "one"))
		to.Want(wstest.OpText, "one")
		sent := send(t.Context(), s, w.toSide(), "two")
		ctx, cancel := context.WithCancel(t.Context())
		dropped := send(ctx, s, w.toSide(), "never")
		if c.simulated() {
			synctest.Wait() // both wait for the end of the message
		}
		from.Send(from.Frame(wstest.Ping, "ping") + from.Frame(wstest.OpContinuation, "more"))
		to.Want(wstest.Ping, "ping")
		to.Want(wstest.OpContinuation, "more")
		cancel()
		if err := wstest.Receive(t, dropped); !errors.Is(err, context.Canceled) {
			t.Errorf("Send: %v, want its context's error", err)
		}
		from.Send(from.Frame(wstest.Fin|wstest.OpContinuation, "end"))
		to.Want(wstest.Fin|wstest.OpContinuation, "end")
		to.Want(wstest.Text, "two")
		wantSent(t, sent)
		from.SendText("three")
		to.Want(wstest.Text, "three")

		// Nor into a message whose end does not come.
		from.Send(from.Frame(wstest.OpBinary, "four"))
		to.Want(wstest.OpBinary, "four")
		sent = send(t.Context(), s, w.toSide(), "never")
		if c.simulated() {
			synctest.Wait()
		}
		if err := s.Close(4000, ""); err != nil {
			t.Fatal(err)
		}
		to.WantClose(map[bool]int{false: 4000, true: 1001}[w.toSide() == wsproxy.Upstream])
		if err := wstest.Receive(t, sent); !errors.Is(err, wsproxy.ErrNotOpen) {
			t.Errorf("Send: %v, want ErrNotOpen", err)
		}
	}, carrier.relaysFrames)
}

// A busy stream, whose reads seldom end at the end of a message, lets messages in,
// and several programs that send without a pause let the stream go on.
func TestSendIntoBusyStream(t *testing.T) {
	t.Parallel()
	eachWay(t, func(t *testing.T, c carrier, w way) {
		r := c.rig(t)
		from, to, s := w.session(r, "", "")
		for _, size := range []int{100, 15_000, 100_000} { // spliced, if large
			message := from.Frame(wstest.OpBinary, strings.Repeat("x", size)) + from.Frame(wstest.Fin|wstest.OpContinuation, strings.Repeat("y", size))
			var senders sync.WaitGroup
			ctx, enough := context.WithCancel(t.Context())
			var mu sync.Mutex
			left := 6 // messages of the programs
			for range 3 {
				senders.Go(func() {
					for ctx.Err() == nil {
						if err := s.Send(t.Context(), w.toSide(), websocket.MessageText, []byte("sent")); err != nil {
							t.Errorf("Send: %v", err)
							return
						}
						mu.Lock()
						left--
						mu.Unlock()
					}
				})
			}
			stopped := make(chan struct{})
			relayed := 0
			go func() {
				defer close(stopped)
				for {
					mu.Lock()
					over := relayed >= 3 && left <= 0
					relayed++
					mu.Unlock()
					if over {
						break
					}
					from.Send(message)
				}
				enough()
				senders.Wait()
				from.Send(from.Frame(wstest.Ping, "over"))
			}()
			within := false
			for over := false; !over; {
				f, err := to.ReadFrame()
				switch {
				case err != nil:
					t.Fatal(err)
				case f.First == wstest.Ping:
					over = true
				case f.First == wstest.Text && within:
					t.Fatal("a message within a fragmented one")
				default:
					within = f.First&wstest.Fin == 0
				}
			}
			wstest.Receive(t, stopped)
		}
	})
}

// A message gets into a read that ends within another one, at the end of the message
// before that.
func TestSendIntoRead(t *testing.T) {
	t.Parallel()
	eachWayInTime(t, func(t *testing.T, c carrier, w way) {
		r := c.rig(t)
		from, to, s := w.session(r, "", "")
		first := from.Frame(wstest.Text, strings.Repeat("x", 100))
		fragment := from.Frame(wstest.OpBinary, "one")
		ping := from.Frame(wstest.Ping, strings.Repeat("p", 100))
		from.Send(first[:50])
		synctest.Wait()
		sent := send(t.Context(), s, w.toSide(), "sent")
		synctest.Wait() // it waits for the end of the first message
		from.Send(first[50:] + fragment + ping[:50])
		to.WantBytes(first)
		to.Want(wstest.Text, "sent")
		to.WantBytes(fragment + ping[:50])
		wantSent(t, sent)
		sent = send(t.Context(), s, w.toSide(), "sent again")
		synctest.Wait()
		from.Send(ping[50:] + from.Frame(wstest.Fin|wstest.OpContinuation, strings.Repeat("y", 100))[:50])
		to.WantBytes(ping[50:])
		synctest.Wait() // within the message, at the start of the last frame
		select {
		case err := <-sent:
			t.Errorf("Send: %v, with a message unfinished", err)
		default:
		}
		from.Send(from.Frame(wstest.Fin|wstest.OpContinuation, strings.Repeat("y", 100))[50:])
		to.Want(wstest.Fin|wstest.OpContinuation, strings.Repeat("y", 100))
		to.Want(wstest.Text, "sent again")
		wantSent(t, sent)
		if got := s.Counts(w.side()); got.Messages != 3 || got.Frames != 5 {
			t.Errorf("counted %+v, want 3 messages in 5 frames", got)
		}
	}, carrier.relaysFrames)
}

// Messages that are added at random instants, to random frames that arrive in
// random pieces, with Pings in between: each is whole and outside of every other
// message, and what was relayed is byte for byte what was sent.
func TestSendInjection(t *testing.T) {
	t.Parallel()
	eachWay(t, func(t *testing.T, c carrier, w way) {
		r := c.rig(t)
		from, to, s := w.session(r, "", "")
		random := rand.New(rand.NewPCG(1, rand.Uint64()))
		var stream strings.Builder
		within := false
		for stream.Len() < 1<<18 || within {
			size := random.IntN(300)
			if random.IntN(20) == 0 {
				size = random.IntN(100_000)
			}
			first := byte(random.IntN(2) << 7)
			switch {
			case random.IntN(5) == 0:
				first, size = wstest.Ping+byte(random.IntN(2)), random.IntN(100)
			case within:
				within = first == 0
			default:
				within = first == 0
				first |= byte(1 + random.IntN(2))
			}
			stream.WriteString(from.Frame(first, strings.Repeat("x", size)))
		}
		var writers sync.WaitGroup
		writers.Go(func() {
			for rest := stream.String(); rest != ""; {
				n := 1 + random.IntN(min(len(rest), 1<<random.IntN(18)))
				from.Send(rest[:n])
				rest = rest[n:]
			}
		})
		const senders, each = 3, 20
		for i := range senders {
			writers.Go(func() {
				for j := range each {
					payload := fmt.Sprintf("sent %d %d ", i, j) + strings.Repeat("z", j*j*j)
					if err := s.Send(t.Context(), w.toSide(), websocket.MessageText, []byte(payload)); err != nil {
						t.Errorf("Send: %v", err)
					}
				}
			})
		}
		over := make(chan struct{})
		go func() {
			defer close(over)
			writers.Wait()
			from.SendClose(1000, "")
		}()
		var got strings.Builder
		var next [senders]int
		within = false
		for {
			f, err := to.ReadFrame()
			if err != nil {
				t.Fatal(err)
			}
			if f.First == wstest.Close {
				break
			}
			var i, j int
			if n, _ := fmt.Sscanf(f.Payload, "sent %d %d ", &i, &j); n == 2 {
				if within || f.First != wstest.Text || j != next[i] {
					t.Fatalf("got message %d of sender %d, want %d; within another: %v; %v", j, i, next[i], within, f)
				}
				next[i]++
				continue
			}
			if f.First&0x08 == 0 {
				within = f.First&wstest.Fin == 0
			}
			got.WriteString(from.Frame(f.First, f.Payload))
		}
		wstest.Receive(t, over)
		equal := got.String() == stream.String()
		if c.whole {
			messages, controls := parts(stream.String())
			gotMessages, gotControls := parts(got.String())
			equal = slices.Equal(gotMessages, messages) && slices.Equal(gotControls, controls)
		}
		if !equal {
			t.Errorf("%d bytes were relayed, not the %d that were sent", got.Len(), stream.Len())
		}
		if next != [senders]int{each, each, each} {
			t.Errorf("%v messages arrived, want %d of each", next, each)
		}
	})
}

// A peer that takes nothing: Send ends with its context. A message that has begun
// is written to its end nevertheless, others are dropped. The other direction and
// the end of the session do not wait.
func TestSendToOneThatTakesNothing(t *testing.T) {
	t.Parallel()
	for _, ending := range []string{"it reads again", "write timeout", "closed by proxy"} {
		t.Run(ending, func(t *testing.T) {
			eachWayInTime(t, func(t *testing.T, c carrier, w way) {
				r := c.rig(t)
				from, to, s := w.session(r, "", "")
				ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
				defer cancel()
				began := time.Now()
				first := strings.Repeat("x", 3*wstest.MemBuffer)
				begun := send(ctx, s, w.toSide(), first)
				synctest.Wait()
				waiting := send(ctx, s, w.toSide(), "second")
				synctest.Wait()
				to.SendText("the other way")
				from.Want(wstest.Text, "the other way")
				if time.Since(began) > 0 {
					t.Errorf("the other direction waited for %v", time.Since(began))
				}
				for _, done := range []<-chan error{begun, waiting} {
					if err := wstest.Receive(t, done); !errors.Is(err, context.DeadlineExceeded) || time.Since(began) != 10*time.Second {
						t.Errorf("Send: %v after %v, want the context's error after 10s", err, time.Since(began))
					}
				}
				switch ending {
				case "it reads again":
					from.SendText("third")
					to.Want(wstest.Text, first)
					to.Want(wstest.Text, "third")
				case "write timeout":
					synctest.Wait()
					r.wantEnded(to.Who(), "lost")
					if d := time.Since(began); d < time.Minute || d > time.Minute+5*time.Second {
						t.Errorf("ended after %v, want the write timeout of 1m and the close timeout", d)
					}
				case "closed by proxy":
					if err := s.Close(4000, ""); err != nil {
						t.Fatal(err)
					}
					if err := s.Send(t.Context(), w.toSide(), websocket.MessageText, nil); !errors.Is(err, wsproxy.ErrNotOpen) {
						t.Errorf("Send: %v, want ErrNotOpen", err)
					}
					r.wantEnded("proxy", "closed by proxy")
					if d := time.Since(began); d > 16*time.Second {
						t.Errorf("ended after %v, want 15s", d)
					}
				}
			})
		})
	}
}

// Send to a peer that takes a long message slowly goes on as long as that makes
// progress, however long that takes.
func TestSendSlowly(t *testing.T) {
	t.Parallel()
	eachWayInTime(t, func(t *testing.T, c carrier, w way) {
		r := c.rig(t)
		from, to, s := w.session(r, "", "")
		watched(from)
		sent := send(t.Context(), s, w.toSide(), strings.Repeat("x", 20*wstest.MemBuffer))
		for range 40 {
			wstest.Elapse(20 * time.Second)
			if _, err := io.CopyN(io.Discard, to.In, wstest.MemBuffer/2); err != nil {
				t.Fatal(err)
			}
		}
		wantSent(t, sent)
	})
}

// Send returns an error, and writes nothing, before the session is open and once
// it has begun to end.
func TestSendNotOpen(t *testing.T) {
	t.Parallel()
	eachWay(t, func(t *testing.T, c carrier, w way) {
		want := func(s *wsproxy.Session, when string) {
			t.Helper()
			for _, to := range []wsproxy.Side{wsproxy.Client, wsproxy.Upstream} {
				if err := s.Send(t.Context(), to, websocket.MessageText, []byte("no")); !errors.Is(err, wsproxy.ErrNotOpen) {
					t.Errorf("%s: Send to the %v: %v, want ErrNotOpen", when, to, err)
				}
			}
		}
		r := c.rig(t, wsproxy.WithOnOpen(func(s *wsproxy.Session, _ *http.Request) error {
			want(s, "before the 101")
			return nil
		}))
		from, to, s := w.session(r, "", "")
		from.SendClose(4001, "")
		to.WantClose(4001)
		want(s, "after a Close")
		to.SendText("still here")
		from.Want(wstest.Text, "still here")
		to.SendClose(4001, "")
		from.WantClose(4001)
		from.Close()
		to.Close()
		r.wantOver()
		want(s, "after the end")
	})
}

// A message that waits for its boundary is dropped as soon as the session begins to
// end, however that happens.
func TestSendCutShort(t *testing.T) {
	t.Parallel()
	eachWay(t, func(t *testing.T, c carrier, w way) {
		for name, end := range map[string]func(r *rig, s *wsproxy.Session, from, to *wstest.Wire){
			"from leaves":   func(_ *rig, _ *wsproxy.Session, from, _ *wstest.Wire) { from.Close() },
			"to leaves":     func(_ *rig, _ *wsproxy.Session, _, to *wstest.Wire) { to.Close() },
			"from errs":     func(_ *rig, _ *wsproxy.Session, from, _ *wstest.Wire) { from.Send("\xFF\xFF") },
			"from closes":   func(_ *rig, _ *wsproxy.Session, from, _ *wstest.Wire) { from.SendClose(1000, "") },
			"to closes":     func(_ *rig, _ *wsproxy.Session, _, to *wstest.Wire) { to.SendClose(1000, "") },
			"Proxy.Close":   func(r *rig, _ *wsproxy.Session, _, _ *wstest.Wire) { r.proxy.Close() },
			"Session.Close": func(_ *rig, s *wsproxy.Session, _, _ *wstest.Wire) { s.Close(1000, "") },
			"in a frame": func(_ *rig, _ *wsproxy.Session, from, _ *wstest.Wire) {
				from.Send(from.Frame(wstest.OpContinuation, strings.Repeat("x", 100))[:50])
				from.Close()
			},
		} {
			inCase(t, name, func() {
				r := c.rig(t)
				from, to, s := w.session(r, "", "")
				from.Send(from.Frame(wstest.OpText, "one"))
				to.Want(wstest.OpText, "one")
				began := time.Now()
				waiting := send(t.Context(), s, w.toSide(), "never")
				if c.simulated() {
					synctest.Wait()
				}
				end(r, s, from, to)
				if err := wstest.Receive(t, waiting); !errors.Is(err, wsproxy.ErrNotOpen) {
					t.Errorf("Send: %v, want ErrNotOpen", err)
				}
				if d := time.Since(began); c.simulated() && d > 0 {
					t.Errorf("Send returned after %v, want at once", d)
				}
			})
		}
	}, carrier.relaysFrames)
}

// What cannot be sent is an error, and writes nothing.
func TestSendMistakes(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, wstest.Memory)
		client, _, s := ways[0].session(r, "", "")
		ended, cancel := context.WithCancel(t.Context())
		cancel()
		for _, tt := range []struct {
			ctx  context.Context
			to   wsproxy.Side
			kind websocket.MessageType
			data string
			want string
		}{
			{t.Context(), wsproxy.Self, websocket.MessageText, "", "wsproxy: send to the proxy: only client and upstream can be sent messages"},
			{t.Context(), wsproxy.Client, 8, "", "wsproxy: send to the client: message type 8 is neither text nor binary"},
			{t.Context(), wsproxy.Client, 0, "", "wsproxy: send to the client: message type 0 is neither text nor binary"},
			{t.Context(), wsproxy.Client, websocket.MessageText, "\xC3\x28", "wsproxy: send to the client: text is not UTF-8"},
			{ended, wsproxy.Client, websocket.MessageText, "", "wsproxy: send to the client: context canceled"},
		} {
			if err := s.Send(tt.ctx, tt.to, tt.kind, []byte(tt.data)); err == nil || err.Error() != tt.want {
				t.Errorf("Send: %v, want %s", err, tt.want)
			}
		}
		if err := s.Send(t.Context(), wsproxy.Client, websocket.MessageBinary, []byte("\xC3\x28")); err != nil {
			t.Errorf("Send: %v", err)
		}
		client.Want(wstest.Binary, "\xC3\x28")
		synctest.Wait()
		if n := client.In.Buffered(); n > 0 {
			t.Errorf("%d more bytes were written", n)
		}
	})
}

// Sent messages do not keep a session from being idle: neither peer sent them.
func TestSendIsNoActivity(t *testing.T) {
	t.Parallel()
	eachWayInTime(t, func(t *testing.T, c carrier, w way) {
		r := c.rig(t, wsproxy.WithIdleTimeout(time.Minute))
		from, to, s := w.session(r, "", "")
		watched(from)
		for range 3 {
			wstest.Elapse(19 * time.Second)
			wantSent(t, send(t.Context(), s, w.toSide(), "tick"))
		}
		watched(to)
		r.wantEnded("proxy", "idle")
		if d := time.Since(s.Start()); d != time.Minute {
			t.Errorf("ended after %v, want 1m", d)
		}
	})
}
