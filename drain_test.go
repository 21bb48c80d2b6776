package wsproxy_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"runtime"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/seed-ffb73231/wsproxy"
	"github.com/seed-ffb73231/wsproxy/internal/wstest"
)

// opened opens n sessions whose ends answer Close frames. when holds the time
// at which each client got its Close, relative to the start of the bubble.
func (r *rig) opened(n int) (when func() []time.Duration, clients, upstreams []*wstest.Wire) {
	began := time.Now()
	var mu sync.Mutex
	told := make([]time.Duration, n)
	for i := range n {
		client, upstream := r.open("", "")
		clients, upstreams = append(clients, client), append(upstreams, upstream)
		go func() {
			for {
				f, err := client.ReadFrame()
				if err != nil {
					return
				}
				if f.First == wstest.Close {
					mu.Lock()
					told[i] = time.Since(began)
					mu.Unlock()
					io.WriteString(client, client.Frame(wstest.Close, f.Payload)) // it may be closed already
				}
			}
		}()
		go func() {
			for {
				f, err := upstream.ReadFrame()
				if err != nil {
					upstream.Close()
					return
				}
				if f.First == wstest.Close {
					upstream.Send(upstream.Frame(wstest.Close, f.Payload))
					upstream.Close()
					return
				}
			}
		}()
	}
	synctest.Wait() // until all have started
	return func() []time.Duration {
		mu.Lock()
		defer mu.Unlock()
		return slices.Clone(told)
	}, clients, upstreams
}

// Sessions are ended one by one and evenly spread: over the window that was
// set, over the time until the context's deadline, or in less time if they are
// few.
func TestDrainSpread(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name     string
		options  []wsproxy.Option
		sessions int
		limit    time.Duration // of the context; 0: none
		window   time.Duration // expected
	}{
		{"window", []wsproxy.Option{wsproxy.WithDrain(time.Minute, 1001)}, 60, 0, time.Minute},
		{"window, few sessions", []wsproxy.Option{wsproxy.WithDrain(time.Minute, 1012)}, 3, 0, time.Minute},
		{"window, longer than the context", []wsproxy.Option{wsproxy.WithDrain(time.Hour, 0)}, 60, 66 * time.Second, time.Minute},
		{"what the context leaves", nil, 150, 20 * time.Second, 14 * time.Second}, // minus the close timeout and a second
		{"few sessions", nil, 20, 5 * time.Minute, 2 * time.Second},
		{"little time", nil, 50, 4 * time.Second, 2 * time.Second}, // half of it
		{"a window, and little time", []wsproxy.Option{wsproxy.WithDrain(time.Minute, 1001)}, 60, 6 * time.Second, 3 * time.Second},
		{"no deadline", nil, 50, 0, 0},
	} {
		t.Run(row.name, func(t *testing.T) {
			eachSessionInTime(t, func(t *testing.T, c carrier) {
				r := c.rig(t, append([]wsproxy.Option{wsproxy.WithPing(0, 0)}, row.options...)...)
				when, _, _ := r.opened(row.sessions)
				ctx := t.Context()
				if row.limit > 0 {
					var cancel context.CancelFunc
					ctx, cancel = context.WithTimeout(ctx, row.limit)
					defer cancel()
				}
				if err := r.proxy.Shutdown(ctx); err != nil {
					t.Errorf("Shutdown: %v", err)
				}
				told := when()
				slices.Sort(told)
				slot := row.window / time.Duration(row.sessions)
				jittered := slot == 0
				for i, d := range told {
					jittered = jittered || d != time.Duration(i)*slot
					if d < time.Duration(i)*slot || d > time.Duration(i+1)*slot {
						t.Fatalf("session %d of %d was told after %v, want it in its slot of %v", i, row.sessions, d, slot)
					}
				}
				if !jittered {
					t.Error("all were told at their slot's very beginning, want some jitter")
				}
				d := r.proxy.Stats().Drain
				if d.Total != row.sessions || d.Told != row.sessions || d.Cut != 0 || d.Began.IsZero() {
					t.Errorf("got %+v, want all %d told and none cut", d, row.sessions)
				}
			})
		})
	}
}

// Ending many sessions at once starts no goroutine for each of them.
func TestEndingTakesNoGoroutines(t *testing.T) {
	if !alone(t) {
		return
	}
	if runtime.GOOS != "linux" {
		t.Skip("whether a write waits can't be told here")
	}
	for _, c := range carriers() {
		if c.simulated() {
			continue // it is not known there whether a write would block
		}
		t.Run(c.String(), func(t *testing.T) {
			r := c.rig(t, wsproxy.WithCloseTimeout(time.Minute))
			var clients, upstreams []*wstest.Wire
			for range 20 {
				client, upstream := r.open("", "")
				clients, upstreams = append(clients, client), append(upstreams, upstream)
			}
			wstest.Await(t, func() bool { return r.proxy.Stats().Handshakes == 0 }, func() string { return "handshakes don't end" })
			sessions := slices.Collect(r.proxy.Sessions())
			before := runtime.NumGoroutine()
			most := 0
			for _, s := range sessions {
				s.Close(4000, "all of you")
				most = max(most, runtime.NumGoroutine())
			}
			if most > before+5 { // for those of the runtime
				t.Errorf("%d goroutines with %d sessions open, and up to %d when they were ended", before, len(sessions), most)
			}
			for i := range clients {
				clients[i].WantClose(4000)
				upstreams[i].WantClose(1001)
			}
		})
	}
}

// Sessions that have been idle longest are ended first.
func TestDrainOrder(t *testing.T) {
	t.Parallel()
	eachSessionInTime(t, func(t *testing.T, c carrier) {
		r := c.rig(t, wsproxy.WithPing(0, 0), wsproxy.WithDrain(10*time.Second, 1012))
		when, clients, _ := r.opened(5)
		for _, i := range []int{3, 0, 4, 2, 1} { // 1 is the last to speak
			wstest.Elapse(time.Second)
			clients[i].SendText("x")
		}
		synctest.Wait()
		if err := r.proxy.Shutdown(t.Context()); err != nil {
			t.Errorf("Shutdown: %v", err)
		}
		told := when()
		order := []int{0, 1, 2, 3, 4}
		slices.SortFunc(order, func(a, b int) int { return int(told[a] - told[b]) })
		if !slices.Equal(order, []int{3, 0, 4, 2, 1}) {
			t.Errorf("told in the order %v, want the longest idle first", order)
		}
		for m := range 5 {
			if rec := r.wantRecord(m, "proxy", "drained"); rec["code"] != int64(1012) {
				t.Errorf("logged %v, want code 1012", rec)
			}
		}
	})
}

// The sessions that are cut when the context ends are counted, in the error and
// in the stats.
func TestDrainCut(t *testing.T) {
	t.Parallel()
	eachSessionInTime(t, func(t *testing.T, c carrier) {
		r := c.rig(t, wsproxy.WithPing(0, 0), wsproxy.WithDrain(time.Minute, 1001))
		r.opened(60)
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		began := time.Now()
		others := make(chan error)
		go func() { others <- r.proxy.Shutdown(t.Context()) }()
		synctest.Wait()
		err := r.proxy.Shutdown(ctx) // an impatient call beside a patient one
		wantAt(t, began, 30*time.Second)
		if !errors.Is(err, context.DeadlineExceeded) || err.Error() != "wsproxy: 30 sessions cut: context deadline exceeded" {
			t.Errorf("Shutdown: %v", err)
		}
		if err := wstest.Receive(t, others); err != nil {
			t.Errorf("the other Shutdown: %v", err)
		}
		if d := r.proxy.Stats().Drain; d.Cut != 30 || d.Total != 60 {
			t.Errorf("got %+v, want 30 of 60 cut", d)
		}
	})
}

// A drain is over when all sessions have ended by themselves.
func TestDrainEndsEarly(t *testing.T) {
	t.Parallel()
	eachSessionInTime(t, func(t *testing.T, c carrier) {
		r := c.rig(t, wsproxy.WithPing(0, 0), wsproxy.WithDrain(time.Hour, 1001))
		_, clients, _ := r.opened(10)
		began := time.Now()
		done := make(chan error)
		go func() { done <- r.proxy.Shutdown(t.Context()) }()
		wstest.Elapse(time.Minute)
		for _, c := range clients {
			io.WriteString(c, c.Frame(wstest.Close, wstest.CloseBody(1000, ""))) // it may be closed already
		}
		if err := wstest.Receive(t, done); err != nil {
			t.Errorf("Shutdown: %v", err)
		}
		wantAt(t, began, time.Minute)
	})
}

// ShutdownServer shuts down the server and its proxies: while the proxies
// drain, the server still answers.
func TestShutdownServer(t *testing.T) {
	t.Parallel()
	const message = "still there"
	p, err := wsproxy.New("http://upstream.test", wsproxy.WithLogger(discard))
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{t: t, legs: bothLegs(wstest.TCP), proxy: p, logs: new(wstest.Logs), front: wstest.Listen(t, wstest.TCP), back: wstest.Listen(t, wstest.TCP), returned: make(chan struct{}, 10)}
	r.proxy, err = wsproxy.New("http://upstream.test", wsproxy.WithLogger(discard), wsproxy.WithDialContext(func(ctx context.Context, _, _ string) (net.Conn, error) {
		return wstest.Dial(ctx, r.back)
	}))
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.Handle("/ws", r.proxy)
	mux.Handle("/other", p)
	mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, message) })
	server := &http.Server{Handler: mux}
	served := make(chan error)
	go func() { served <- server.Serve(r.front) }()
	client := r.client()
	client.Send(wstest.Request("/ws", ""))
	upstream := r.upstream()
	upstream.Answer("")
	client.ReadResponse()
	done := make(chan error)
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), wstest.Timeout)
		defer cancel()
		done <- wsproxy.ShutdownServer(ctx, server, p, r.proxy)
	}()
	client.WantClose(1001)
	c := r.client()
	c.Send("GET / HTTP/1.1\r\nHost: front.test\r\n\r\n")
	if body, _ := io.ReadAll(c.ReadResponse().Body); string(body) != message {
		t.Errorf("while the proxy drains, the server answers %q", body)
	}
	late := r.client()
	late.Send(wstest.Request("/ws", ""))
	late.WantRefusal(503)
	client.SendClose(1001, "")
	upstream.WantClose(1001)
	upstream.SendClose(1001, "")
	upstream.Close()
	if err := wstest.Receive(t, done); err != nil {
		t.Errorf("ShutdownServer: %v", err)
	}
	if err := wstest.Receive(t, served); err != http.ErrServerClosed {
		t.Errorf("Serve: %v", err)
	}

	// The errors of all of them are returned.
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := wsproxy.ShutdownServer(ctx, new(http.Server), r.proxy); err != nil {
		t.Errorf("ShutdownServer of what is shut down: %v", err)
	}
}
