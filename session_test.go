package wsproxy_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/seed-ffb73231/wsproxy"
	"github.com/seed-ffb73231/wsproxy/internal/relay"
	"github.com/seed-ffb73231/wsproxy/internal/remains"
	"github.com/seed-ffb73231/wsproxy/internal/wstest"
)

// F38: Shutdown sends Close 1001 to both sides of every session and returns
// when the last one is over. New clients are answered 503.
func TestShutdown(t *testing.T) {
	t.Attr("case", "C29 F38")
	t.Parallel()
	eachSession(t, func(t *testing.T, c carrier) {
		r := c.rig(t)
		var wires [][2]*wstest.Wire
		for range 8 {
			client, upstream := r.open("", "")
			wires = append(wires, [2]*wstest.Wire{client, upstream})
		}
		done := make(chan error)
		go func() { done <- r.proxy.Shutdown(t.Context()) }()
		for i, w := range wires {
			client, upstream := w[0], w[1]
			client.WantClose(1001)
			upstream.WantClose(1001)
			if i == 0 { // now Shutdown has started
				late := r.client()
				late.Send(wstest.Request("/", ""))
				resp := late.ReadResponse()
				if resp.StatusCode != 503 || resp.Header.Get("Retry-After") == "" {
					t.Errorf("answered %d %v, want 503 and Retry-After", resp.StatusCode, resp.Header)
				}
			}
			select {
			case err := <-done:
				t.Fatalf("Shutdown returned %v with %d sessions left", err, len(wires)-i)
			default:
			}
			client.SendClose(1001, "")
			client.WantEnd()
			upstream.SendClose(1001, "")
			upstream.Close()
		}
		if err := wstest.Receive(t, done); err != nil {
			t.Errorf("Shutdown: %v", err)
		}
	})
}

// F40: Shutdown and Close may be called at any time, repeatedly, concurrently,
// and without sessions.
func TestShutdownAgain(t *testing.T) {
	t.Attr("case", "C29 F40")
	t.Parallel()
	eachSessionInTime(t, func(t *testing.T, c carrier) {
		r := c.rig(t)
		client, upstream := r.open("", "")
		watched(client)
		watched(upstream)
		var all sync.WaitGroup
		for range 10 {
			all.Go(func() {
				if err := r.proxy.Shutdown(t.Context()); err != nil {
					t.Errorf("Shutdown: %v", err)
				}
			})
		}
		all.Wait()
		if err := r.proxy.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
		if err := r.proxy.Shutdown(t.Context()); err != nil {
			t.Errorf("Shutdown after all: %v", err)
		}
		r.wantEnded("proxy", "drained")

		r = c.rig(t)
		if err := r.proxy.Shutdown(t.Context()); err != nil {
			t.Errorf("Shutdown with no sessions: %v", err)
		}
	})
}

// F38: Shutdown waits no longer than its context or, if that has no deadline,
// the close timeout: for peers that do not answer, and for peers that have no
// room for a Close. These delay nobody else's Close.
func TestShutdownDeadline(t *testing.T) {
	t.Attr("case", "C29 F38")
	t.Parallel()
	const window = time.Millisecond // the minimum
	wantAt := func(t *testing.T, began time.Time, d time.Duration) {
		t.Helper()
		if got := time.Since(began); got < d || got > d+window {
			t.Errorf("%v have passed, want %v", got, d)
		}
	}
	for _, full := range []bool{false, true} {
		for _, limit := range []time.Duration{2 * time.Second, time.Minute} {
			t.Run(fmt.Sprintf("full=%v limit=%v", full, limit), func(t *testing.T) {
				eachSessionInTime(t, func(t *testing.T, c carrier) {
					r := c.rig(t, wsproxy.WithDrain(window, 1001))
					var clients, upstreams []*wstest.Wire
					for range 5 {
						client, upstream := r.open("", "")
						if full {
							upstream.Send(fill(upstream))
						}
						clients, upstreams = append(clients, client), append(upstreams, upstream)
					}
					synctest.Wait()
					began := time.Now()
					ctx, cancel := context.WithTimeout(t.Context(), limit)
					defer cancel()
					done := make(chan error, 1)
					go func() { done <- r.proxy.Shutdown(ctx) }()
					for i := range clients {
						upstreams[i].WantClose(1001)
						if !full {
							clients[i].WantClose(1001)
						}
					}
					wantAt(t, began, 0)
					err := wstest.Receive(t, done)
					wantAt(t, began, min(limit, 5*time.Second))
					if want := limit < 5*time.Second; errors.Is(err, context.DeadlineExceeded) != want {
						t.Errorf("Shutdown: %v", err)
					}
					for i := range clients {
						r.wantOver()
						if full {
							clients[i].WantBytes(fill(upstreams[i]))
						}
						clients[i].WantEnd()
						upstreams[i].WantEnd()
						r.wantRecord(i, "proxy", "drained")
					}
					wantAt(t, began, min(limit, 5*time.Second))
				})
			})
		}
	}
}

// fill is a frame that fills a [wstest.MemConn].
func fill(w *wstest.Wire) string {
	overhead := len(w.Frame(wstest.Binary, strings.Repeat("x", 1000))) - 1000
	return w.Frame(wstest.Binary, strings.Repeat("x", wstest.MemBuffer-overhead))
}

// F40: a handshake under way during Shutdown is refused.
func TestShutdownInHandshake(t *testing.T) {
	t.Attr("case", "C29 F40")
	t.Parallel()
	wstest.EachKind(t, func(t *testing.T, k wstest.Kind) {
		r := newRig(t, k)
		client := r.client()
		client.Send(wstest.Request("/", ""))
		upstream := r.upstream()
		upstream.ReadRequest()
		done := make(chan error)
		go func() { done <- r.proxy.Shutdown(t.Context()) }()
		if got := client.ReadResponse().StatusCode; got != 503 {
			t.Errorf("answered %d, want 503", got)
		}
		upstream.WantEnd()
		if err := wstest.Receive(t, done); err != nil {
			t.Errorf("Shutdown: %v", err)
		}
	})
}

// Close cuts all sessions without Close frames, also those whose peers read
// nothing or send without end.
func TestClose(t *testing.T) {
	t.Parallel()
	eachSession(t, func(t *testing.T, c carrier) {
		r := c.rig(t)
		const n = 3 // one that is silent, one that flows, one that nobody reads
		var wires [n][2]*wstest.Wire
		for i := range wires {
			client, upstream := r.open("", "")
			client.SendText("it has begun")
			upstream.Want(wstest.Text, "it has begun")
			wires[i] = [2]*wstest.Wire{client, upstream}
		}
		var busy, flowing sync.WaitGroup
		for i, ends := range wires {
			for _, w := range ends {
				if i%3 == 0 { // a silent one
					continue
				}
				message := w.Frame(wstest.Binary, strings.Repeat("x", 1<<18))
				busy.Go(func() {
					for {
						if _, err := io.WriteString(w, message); err != nil {
							return
						}
					}
				})
				if i%3 == 1 { // and reads
					flowing.Add(1)
					busy.Go(func() {
						io.CopyN(io.Discard, w.In, 1<<18)
						flowing.Done()
						io.Copy(io.Discard, w.In)
					})
				}
			}
		}
		flowing.Wait()
		r.proxy.Close()
		for range n {
			r.wantOver()
		}
		for i := 0; i < n; i += 3 {
			wires[i][0].WantEnd()
			wires[i][1].WantEnd()
		}
		busy.Wait()
		for i := range n {
			r.wantRecord(i, "proxy", "cut")
		}
	})
}

// F41: when the request's context ends, both sides get a Close and the session
// is over.
func TestContextEnds(t *testing.T) {
	t.Attr("case", "F41")
	t.Parallel()
	eachSession(t, func(t *testing.T, c carrier) {
		if c.detach {
			return // a detached session does not end with its request
		}
		r := c.rig(t)
		ctx, cancel := context.WithCancelCause(t.Context())
		r.front = wstest.Listen(t, c.client)
		r.serve(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			r.proxy.ServeHTTP(w, req.WithContext(ctx))
		}))
		client, upstream := r.open("", "")
		cancel(errors.New("enough"))
		client.WantClose(1001)
		upstream.WantClose(1001)
		client.SendClose(1001, "")
		upstream.Close()
		client.WantEnd()
		r.wantOver()
		if m := r.wantEnded("proxy", "cancelled"); m["error"] != "enough" {
			t.Errorf("logged error %v, want the context's cause", m["error"])
		}
	})
}

// F42, F46: however a session ends, when ServeHTTP has returned, none of its
// goroutines and descriptors is left, and soon nothing of the event driver's.
func TestNothingIsLeft(t *testing.T) {
	t.Attr("case", "C30 F42 F46")
	if !alone(t) {
		return
	}
	const long = 3 << 20
	payload := strings.Repeat("x", long)
	frames := map[bool][]byte{true: []byte(wstest.RawFrame(wstest.Binary, true, payload)), false: []byte(wstest.RawFrame(wstest.Binary, false, payload))}
	ends := map[string]func(client, upstream *wstest.Wire){
		"client closes":          func(c, u *wstest.Wire) { c.SendClose(1000, ""); u.WantClose(1000); u.SendClose(1000, ""); u.Close() },
		"upstream closes":        func(c, u *wstest.Wire) { u.SendClose(1000, ""); c.WantClose(1000); c.SendClose(1000, ""); u.Close() },
		"Closes cross":           func(c, u *wstest.Wire) { c.SendClose(1000, ""); u.SendClose(1000, ""); u.Close() },
		"client leaves":          func(c, u *wstest.Wire) { c.Close() },
		"upstream leaves":        func(c, u *wstest.Wire) { u.Close() },
		"both leave":             func(c, u *wstest.Wire) { c.Close(); u.Close() },
		"client is reset":        func(c, u *wstest.Wire) { c.Reset() },
		"upstream is reset":      func(c, u *wstest.Wire) { u.Reset() },
		"client breaks rules":    func(c, u *wstest.Wire) { c.Send("\xFF") },
		"upstream breaks rules":  func(c, u *wstest.Wire) { u.Send("\xFF") },
		"client leaves early":    func(c, u *wstest.Wire) { c.Write(frames[true][:100_000]); c.Reset() },
		"upstream leaves early":  func(c, u *wstest.Wire) { u.Write(frames[false][:100_000]); u.Reset() },
		"reader leaves":          func(c, u *wstest.Wire) { flood(u, long); io.CopyN(io.Discard, c.In, 1000); c.Reset() },
		"upstream reader leaves": func(c, u *wstest.Wire) { flood(c, long); io.CopyN(io.Discard, u.In, 1000); u.Reset() },
		"long frame, no reader": func(c, u *wstest.Wire) {
			go u.Write(frames[false])
			io.CopyN(io.Discard, c.In, 100_000)
			c.Reset()
		},
		"long frame, no sender": func(c, u *wstest.Wire) {
			go c.Write(frames[true])
			io.CopyN(io.Discard, u.In, 100_000)
			c.Reset()
		},
	}
	// A connection that is merely dropped must not go unnoticed because its
	// finalizer closes it.
	defer debug.SetGCPercent(debug.SetGCPercent(-1))
	for _, c := range carriers() {
		if c.simulated() || c.client != c.upstream {
			continue // the bubble checks it, or it adds no kind of leg
		}
		t.Run(c.String(), func(t *testing.T) {
			r := c.rig(t)
			sockets, pipes := -1, 0
			for range 2 {
				for name, end := range ends {
					client, upstream := r.open("", "")
					end(client, upstream)
					client.Close()
					upstream.Close()
					select {
					case <-r.over:
					case <-time.After(wstest.Timeout):
						t.Fatalf("%s: the session isn't over", name)
					}
					s := remains.Goroutines()
					for range 1000 { // the last one may be about to end
						if s == "" {
							break
						}
						runtime.Gosched()
						s = remains.Goroutines()
					}
					if s != "" {
						t.Fatalf("%s: still there after the session:\n%s", name, s)
					}
				}
				if sockets < 0 {
					sockets, pipes = descriptors(t)
				}
			}
			if found := remains.Find(); found != "" {
				t.Errorf("sessions have left: %s", found)
			}
			afterwards, pipesAfterwards := descriptors(t)
			if afterwards > sockets {
				t.Errorf("%d sockets, %d before %d sessions", afterwards, sockets, len(ends))
			}
			// Empty pipes are kept for the next long frame: two descriptors
			// each, one pipe for each processor.
			if pipesAfterwards > pipes+2*runtime.NumCPU() {
				t.Errorf("%d pipe ends, %d before %d sessions", pipesAfterwards, pipes, len(ends))
			}
		})
	}
}

// Pipes in which long frames were stuck are closed when the frames have been
// relayed. The garbage collector would close them eventually, but the process
// may run out of descriptors before that.
func TestPipesAfterStuckFrames(t *testing.T) {
	t.Attr("case", "F52")
	if !alone(t) {
		return
	}
	defer debug.SetGCPercent(debug.SetGCPercent(-1))
	r := newRig(t, wstest.TCP)
	_, before := descriptors(t)
	const sessions, size = 12, 6 << 20
	frame := wstest.RawFrame(wstest.Binary, false, strings.Repeat("x", size))
	var clients []*wstest.Wire
	for range sessions {
		c, u := r.open("", "")
		c.TCP().SetReadBuffer(64 << 10) // so that its kernel takes little
		u.SendLater(frame)
		clients = append(clients, c)
	}
	wstest.Await(t, func() bool { // until all are stuck
		_, pipes := descriptors(t)
		return pipes >= 2*sessions
	}, func() string {
		_, pipes := descriptors(t)
		return fmt.Sprintf("%d pipe ends, want %d", pipes, 2*sessions)
	})
	for _, c := range clients {
		if _, err := io.CopyN(io.Discard, c.In, int64(len(frame))); err != nil {
			t.Fatal(err)
		}
	}
	wstest.Await(t, func() bool {
		_, pipes := descriptors(t)
		return pipes <= before+2*runtime.NumCPU()
	}, func() string {
		_, pipes := descriptors(t)
		return fmt.Sprintf("%d pipe ends, %d before", pipes, before)
	})
}

// descriptors returns the number of the process's open sockets and pipes.
func descriptors(t *testing.T) (sockets, pipes int) {
	t.Helper()
	if runtime.GOOS != "linux" {
		t.Skip("descriptors are counted on Linux only")
	}
	return remains.Files(0, "socket:"), remains.Files(0, "pipe:")
}

// F50: a session logs one record, with the number of bytes on the wire.
func TestRecord(t *testing.T) {
	t.Attr("case", "F50")
	t.Parallel()
	eachSession(t, func(t *testing.T, c carrier) {
		r := c.rig(t)
		client, upstream := r.open("", "")
		script := func(w *wstest.Wire) []string {
			return []string{
				w.Frame(wstest.Text, "hello"), w.Frame(wstest.Ping, "p"), w.Frame(0x01, "a"), w.Frame(0x00, ""), w.Frame(0x80, "b"),
				w.Frame(wstest.Binary, strings.Repeat("x", 70_000)), w.Frame(wstest.Binary, strings.Repeat("y", 300_000)),
			}
		}
		up, down := script(client), append(script(upstream), upstream.Frame(wstest.Pong, "p"))
		client.SendLater(strings.Join(up, ""))
		c.want(upstream, strings.Join(up, ""))
		upstream.SendLater(strings.Join(down, ""))
		c.want(client, strings.Join(down, ""))
		if c.whole { // the fragments went on in one frame
			up = slices.Replace(up, 2, 5, client.Frame(wstest.Text, "ab"))
			down = slices.Replace(down, 2, 5, upstream.Frame(wstest.Text, "ab"))
		}
		goodbye := wstest.CloseBody(1000, "done")
		client.SendClose(1000, "done")
		upstream.Want(wstest.Close, goodbye)
		upstream.SendClose(1000, "done")
		client.Want(wstest.Close, goodbye)
		upstream.Close()
		r.wantOver()
		m := r.wantEnded("client", "closed")
		for key, want := range map[string]int{
			"from_client.bytes":      len(strings.Join(up, "")) + len(client.Frame(wstest.Close, goodbye)),
			"from_upstream.bytes":    len(strings.Join(down, "")) + len(upstream.Frame(wstest.Close, goodbye)),
			"from_client.frames":     len(up) + 1,
			"from_upstream.frames":   len(down) + 1,
			"from_client.messages":   4,
			"from_upstream.messages": 4,
		} {
			if m[key] != uint64(want) {
				t.Errorf("%s: got %v, want %d", key, m[key], want)
			}
		}
		r.proxy.Close()
		if all := r.logs.Records(); len(all) != 1 {
			t.Errorf("got records %v, want one", all)
		}
	})
}

// A brittle is a connection whose methods panic when they are told to.
type brittle struct {
	net.Conn
	read, write, close *atomic.Bool
}

func (b *brittle) Read(p []byte) (int, error) {
	n, err := b.Conn.Read(p)
	if b.read.Load() {
		panic("brittle: Read")
	}
	return n, err
}

func (b *brittle) Write(p []byte) (int, error) {
	if b.write.Load() {
		panic("brittle: Write")
	}
	return b.Conn.Write(p)
}

func (b *brittle) SetWriteDeadline(t time.Time) error {
	if b.write.Load() {
		panic("brittle: SetWriteDeadline")
	}
	return b.Conn.SetWriteDeadline(t)
}

func (b *brittle) Close() error {
	b.Conn.Close()
	if b.close.Load() {
		panic("brittle: Close")
	}
	return nil
}

// F47, F48: a connection from the user's own code that panics ends its session
// and nothing else, in whichever goroutine it panics. The other side gets a
// Close, and the log gives the reason.
func TestConnPanics(t *testing.T) {
	t.Attr("case", "F47 F48")
	t.Parallel()
	type rigged struct {
		*rig
		client, upstream   *wstest.Wire
		read, write, close atomic.Bool
		cancel             context.CancelFunc
	}
	told := func(s *rigged) { s.client.WantClose(1011) }
	maybe := func(s *rigged) { s.client.ReadFrame() }
	for name, test := range map[string]struct {
		do     func(s *rigged)
		ends   func(s *rigged)
		reason string
	}{
		"reading": {func(s *rigged) { s.read.Store(true); s.upstream.SendText("x") }, func(s *rigged) { told(s); s.upstream.WantClose(1001) }, "panic"},
		"writing": {func(s *rigged) { s.write.Store(true); s.client.SendText("x") }, told, "panic"},
		"writing a Ping": {func(s *rigged) { s.write.Store(true); wstest.Elapse(pingMost) }, func(s *rigged) {
			if b, err := s.client.In.Peek(1); err == nil && b[0] == wstest.Ping { // its own came first
				s.client.ReadFrame()
			}
			told(s)
		}, "panic"},
		"writing, while a Ping is": {func(s *rigged) {
			s.write.Store(true)
			wstest.Elapse(pingLeast - time.Second)
			flood(s.client, 10*wstest.MemBuffer)
		}, told, "panic"},
		"writing a Close": {func(s *rigged) { s.write.Store(true); s.client.Close() }, nil, "lost"},
		// Here the client gets its Close only if that came first.
		"in Shutdown":       {func(s *rigged) { s.write.Store(true); s.proxy.Shutdown(s.t.Context()) }, maybe, "drained"},
		"in a cancelling":   {func(s *rigged) { s.write.Store(true); s.cancel() }, maybe, "cancelled"},
		"closing":           {func(s *rigged) { s.close.Store(true); s.upstream.Close() }, told, "lost"},
		"closing, in Close": {func(s *rigged) { s.close.Store(true); s.proxy.Close() }, nil, "cut"},
	} {
		t.Run(name, func(t *testing.T) {
			eachSessionInTime(t, func(t *testing.T, c carrier) {
				if c.detach && name == "in a cancelling" {
					return // a detached session does not end with its request
				}
				s := new(rigged)
				option := wsproxy.WithDialContext(func(ctx context.Context, _, _ string) (net.Conn, error) {
					conn, err := wstest.Dial(ctx, s.back)
					return &brittle{conn, &s.read, &s.write, &s.close}, err
				})
				s.rig = c.rig(t, option)
				ctx, cancel := context.WithCancel(t.Context())
				s.cancel = cancel
				s.front = wstest.Listen(t, c.client)
				s.serve(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
					s.proxy.ServeHTTP(w, req.WithContext(ctx))
				}))
				s.client, s.upstream = s.open("", "")
				synctest.Wait()
				test.do(s)
				if test.ends != nil {
					test.ends(s)
				}
				s.wantOver()
				s.client.WantEnd()
				s.upstream.WantEnd()
				m := s.logs.Wait(t, 0)
				if m["reason"] != test.reason {
					t.Errorf("logged %v, want reason %q", m, test.reason)
				}
				if text := fmt.Sprint(m["error"]); test.reason == "panic" && !strings.Contains(text, "brittle: ") {
					t.Errorf("logged error %q, want the panic", text)
				}
			})
		})
	}
}

// No memory is allocated for a frame that passes through a session. (With TLS,
// crypto/tls allocates for each record.)
func TestSessionAllocs(t *testing.T) {
	if wstest.Race {
		t.Skip("the race detector has sync.Pool forget things")
	}
	if !alone(t) {
		return
	}
	for _, c := range carriers() {
		if c.has(wstest.TLS) {
			continue
		}
		t.Run(c.String(), func(t *testing.T) {
			r := c.rig(t)
			client, upstream := r.open("", "")
			for _, size := range []int{20, 3000, 100_000} {
				up, down := []byte(client.Frame(wstest.Binary, strings.Repeat("x", size))), []byte(upstream.Frame(wstest.Binary, strings.Repeat("y", size)))
				got := make([]byte, len(up))
				n := testing.AllocsPerRun(50, func() {
					for _, way := range [...]struct {
						from, to *wstest.Wire
						b        []byte
					}{{client, upstream, up}, {upstream, client, down}} {
						for b, g := way.b, got[:len(way.b)]; len(b) > 0; { // in pieces smaller than any buffer
							m := min(len(b), 10_000)
							if c.whole { // nothing goes on before its end
								m = len(b)
							}
							way.from.Write(b[:m])
							if _, err := io.ReadFull(way.to.In, g[:m]); err != nil {
								t.Fatal(err)
							}
							b, g = b[m:], g[m:]
						}
					}
				})
				if n > 0 {
					t.Errorf("%v allocations for two frames of %d bytes, want none", n, size)
				}
			}
		})
	}
}

// A connection from the user's own code may return nothing from Read.
func TestEmptyReads(t *testing.T) {
	t.Parallel()
	var r *rig
	r = newRig(t, wstest.TCP, wsproxy.WithDialContext(func(ctx context.Context, _, _ string) (net.Conn, error) {
		c, err := wstest.Dial(ctx, r.back)
		return &stuttering{Conn: c}, err
	}))
	client, upstream := r.open("", "")
	for range 10 {
		upstream.SendText("hello")
		client.Want(wstest.Text, "hello")
	}
}

type stuttering struct {
	net.Conn
	reads int
}

func (c *stuttering) Read(b []byte) (int, error) {
	if c.reads++; c.reads%2 == 1 {
		return 0, nil
	}
	return c.Conn.Read(b)
}

// An idle session in the event driver takes no stack. One that goroutines carry, as
// with the build tag noloop, takes two of the smallest size, 2 KiB each, which is most
// of its memory: a few more words on the path from a read to a write would double
// that.
func TestRestingStacks(t *testing.T) {
	if wstest.Race {
		t.Skip("the race detector needs more stack")
	}
	if !alone(t) {
		return
	}
	r := newRig(t, wstest.TCP, wsproxy.WithDetach())
	stacks := func() int {
		runtime.GC() // frees the stacks of goroutines that have ended
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return int(m.StackInuse)
	}
	most := 5 << 10
	if relay.HasEvents {
		most = 1 << 10
	}
	const sessions = 400
	before := stacks()
	for range sessions {
		client, upstream := r.open("", "")
		r.wantReturned()
		client.SendText("up")
		upstream.Want(wstest.Text, "up")
		upstream.SendText("down")
		client.Want(wstest.Text, "down")
	}
	if each := (stacks() - before) / sessions; each > most {
		t.Errorf("%d bytes of stack for each session, want %d at most", each, most)
	}
}

// F50: bytes that are dropped because their receiver has been sent a Close are
// not counted as relayed.
func TestDroppedIsNotCounted(t *testing.T) {
	t.Attr("case", "F50")
	t.Parallel()
	eachSessionInTime(t, func(t *testing.T, c carrier) {
		r := c.rig(t, wsproxy.WithIdleTimeout(time.Minute), wsproxy.WithPing(0, 0))
		client, upstream := r.open("", "")
		client.SendText("relayed")
		upstream.Want(wstest.Text, "relayed")
		client.WantClose(1001)
		synctest.Wait() // until the upstream got its Close, too
		client.SendText("dropped")
		client.SendClose(1001, "")
		upstream.WantClose(1001)
		upstream.WantEnd()
		m := r.wantEnded("proxy", "idle")
		if got, want := m["from_client.bytes"], uint64(len(client.Frame(wstest.Text, "relayed"))); got != want || m["from_client.frames"] != uint64(1) {
			t.Errorf("counted %v frames, %v bytes from the client, want 1, %v", m["from_client.frames"], got, want)
		}
	})
}

// F48, 5.9: a panic that passes through the callback of a raw connection leaves
// that connection closed like any other.
func TestPanicUnderRawRead(t *testing.T) {
	t.Attr("case", "F48")
	t.Parallel()
	var write, never atomic.Bool
	var r *rig
	r = newRig(t, wstest.TCP, wsproxy.WithDialContext(func(ctx context.Context, _, _ string) (net.Conn, error) {
		c, err := wstest.Dial(ctx, r.back)
		return &brittle{c, &never, &write, &never}, err
	}))
	client, _ := r.open("", "")
	write.Store(true)
	client.SendText("x")
	r.wantReturned()
	client.WantClose(1011)
	client.WantEnd()
}

// An upstream that violates the protocol and reads nothing cannot hold the
// session, not even over a connection without deadlines.
func TestNoDeadlinesAtTheEnd(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		near, far := wstest.MemPair(1 << 10)
		r := newRig(t, wstest.Memory, wsproxy.WithDialContext(func(context.Context, string, string) (net.Conn, error) {
			return noDeadlines{near}, nil
		}))
		client := r.client()
		client.Send(wstest.Request("/", ""))
		upstream := wstest.NewWire(t, far, false)
		upstream.Answer("")
		client.ReadResponse()
		client.Send(client.Frame(wstest.Binary, strings.Repeat("x", 1<<10-6-2))) // fills its buffer except for 2 bytes
		synctest.Wait()
		upstream.Send("\x83\x00")
		client.WantClose(1011)
		r.wantReturned()
	})
}

// 5.9: a wrapper that embeds a TLS connection is closed with its own Close
// method.
func TestWrappedTLSClose(t *testing.T) {
	t.Parallel()
	var closed atomic.Int32
	var r *rig
	r = newRig(t, wstest.TCP, wsproxy.WithCloseTimeout(time.Second), wsproxy.WithDialContext(func(ctx context.Context, _, _ string) (net.Conn, error) {
		c, err := wstest.Dial(ctx, r.back)
		return countsClose{tls.Client(c, &tls.Config{RootCAs: wstest.CA().Pool(), ServerName: "upstream.test"}), &closed}, err
	}))
	client := r.client()
	client.Send(wstest.Request("/", ""))
	c, err := r.back.Accept()
	if err != nil {
		t.Fatal(err)
	}
	wstest.NewWire(t, tls.Server(c, &tls.Config{Certificates: []tls.Certificate{wstest.Cert()}}), false).Answer("")
	client.ReadResponse()
	client.Reset()
	r.wantReturned()
	if n := closed.Load(); n != 1 {
		t.Errorf("Close was called %d times, want 1", n)
	}
}

type countsClose struct {
	*tls.Conn
	n *atomic.Int32
}

func (c countsClose) Close() error { c.n.Add(1); return c.Conn.Close() }

// 4.2, F29: a slow client gets everything that was sent before the Close, and
// the Close, even if that takes longer than the close timeout.
func TestSlowTail(t *testing.T) {
	t.Attr("case", "F29")
	t.Parallel()
	if runtime.GOOS != "linux" {
		t.Skip("what a peer has taken shows on Linux only")
	}
	const timeout, size = time.Second, 1 << 20
	r := newRig(t, wstest.TCP, wsproxy.WithCloseTimeout(timeout), wsproxy.WithPing(0, 0))
	client, upstream := r.open("", "")
	client.TCP().SetReadBuffer(16 << 10) // it tells of what it has read often enough, even on a busy machine
	upstream.Send(upstream.Frame(wstest.Binary, strings.Repeat("x", size)))
	upstream.SendClose(4000, "")
	began := time.Now()
	pace := time.NewTicker(10 * time.Millisecond)
	defer pace.Stop()
	slow := &wstest.Wire{Conn: client.Conn, T: t, Client: true, In: bufio.NewReader(readerFunc(func(b []byte) (int, error) {
		<-pace.C
		// Pings that reach a closed connection cause a reset.
		client.Write([]byte(client.Frame(wstest.Ping, "")))
		return client.In.Read(b[:min(len(b), 4<<10)])
	}))}
	slow.Want(wstest.Binary, strings.Repeat("x", size))
	slow.WantClose(4000)
	if d := time.Since(began); d < 2*timeout {
		t.Errorf("it took %v only: not slow enough to show anything", d)
	}
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(b []byte) (int, error) { return f(b) }

// F39: a peer that takes bytes extends the close timeout only for what was sent
// before its end, not for a frame that goes on without end.
func TestEndlessFrameIsCut(t *testing.T) {
	t.Attr("case", "F39")
	t.Parallel()
	r := newRig(t, wstest.TCP, wsproxy.WithCloseTimeout(300*time.Millisecond))
	client, upstream := r.open("", "")
	go func() {
		upstream.Write([]byte("\x82\x7f\x00\x00\x01\x00\x00\x00\x00\x00"))
		for b := make([]byte, 64<<10); ; {
			if _, err := upstream.Write(b); err != nil {
				return
			}
		}
	}()
	begun, cut := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(cut)
		pace := time.NewTicker(time.Millisecond)
		defer pace.Stop()
		b := make([]byte, 4<<10)
		for i := 0; ; i++ {
			if i == 10 {
				close(begun)
			}
			<-pace.C
			if _, err := client.Read(b); err != nil {
				return
			}
		}
	}()
	wstest.Receive(t, begun)
	began := time.Now()
	if err := r.proxy.Shutdown(t.Context()); err != nil {
		t.Error(err)
	}
	if d := time.Since(began); d > 10*time.Second {
		t.Errorf("Shutdown took %v, want about the close timeout of 300 ms", d)
	}
	client.Close()
	wstest.Receive(t, cut)
}

// F25: a reset that arrives with the last bytes is detected at the next write,
// not only when the session's time to end is over.
func TestResetFoundByWriting(t *testing.T) {
	t.Attr("case", "F25")
	t.Parallel()
	for _, side := range []string{"client", "upstream"} {
		t.Run(side, func(t *testing.T) {
			r := newRig(t, wstest.TCP, wsproxy.WithCloseTimeout(wstest.Timeout/2))
			for range 20 {
				client, upstream := r.open("", "")
				gone, stays, code := client, upstream, 1001
				if side == "upstream" {
					gone, stays, code = upstream, client, 1011
				}
				gone.SendText("last words")
				gone.Reset()
				stays.Want(wstest.Text, "last words")
				stays.SendText("an answer")
				begun := time.Now()
				stays.WantClose(code)
				if d := time.Since(begun); d > wstest.Timeout/4 {
					t.Fatalf("took %v", d)
				}
				stays.Close()
			}
		})
	}
}
