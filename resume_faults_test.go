package wsproxy_test

import (
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/seed-ffb73231/wsproxy"
	"github.com/seed-ffb73231/wsproxy/internal/wstest"
)

// A stamped message says whose it is, its number, and whether it is whole.
func stamped(client, n, size int) string {
	text := strings.Repeat(string(rune('a'+n%26)), size)
	return fmt.Sprintf("%d %d %08x %s", client, n, crc32.ChecksumIEEE([]byte(text)), text)
}

func parseStamped(b []byte) (client, n int, err error) {
	head, text, _ := strings.Cut(string(b), " ")
	number, text, _ := strings.Cut(text, " ")
	sum, text, _ := strings.Cut(text, " ")
	fmt.Sscan(head, &client)
	fmt.Sscan(number, &n)
	if want := fmt.Sprintf("%08x", crc32.ChecksumIEEE([]byte(text))); want != sum {
		return 0, 0, fmt.Errorf("a torn message: %.60q", b)
	}
	return client, n, nil
}

// A mortal upstream echoes stamped messages, and its connections are reset at random
// instants: before the handshake, within a message, or later.
type mortal struct {
	t      *testing.T
	deaths atomic.Int64 // that are still to come
	mu     sync.Mutex
	seen   map[[2]int]bool // the client and number of each message
}

// mortalListener resets connections.
type mortalListener struct {
	net.Listener
	m *mortal
}

func (l mortalListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err == nil && l.m.deaths.Add(-1) >= 0 {
		time.AfterFunc(rand.N(25*time.Millisecond), func() { wstest.Reset(c) })
	}
	return c, err
}

func (m *mortal) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	conn, err := websocket.Accept(w, r, &websocket.AcceptOptions{CompressionMode: websocket.CompressionContextTakeover, CompressionThreshold: 1})
	if err != nil {
		return
	}
	defer conn.CloseNow()
	last := -1 // of this connection; another one may see newer messages first
	for {
		typ, b, err := conn.Read(context.Background())
		if err != nil {
			return
		}
		client, n, err := parseStamped(b)
		m.mu.Lock()
		switch {
		case err != nil:
			m.t.Errorf("the upstream got %v", err)
		case last < 0 && n > 1 && m.seen[[2]int{client, 1}]: // that of OnResume has number 0
			m.t.Errorf("the upstream got message %d of client %d before that of OnResume", n, client)
		case n <= last, n > 0 && m.seen[[2]int{client, n}]:
			m.t.Errorf("the upstream got message %d of client %d again, or after %d", n, client, last)
		}
		m.seen[[2]int{client, n}] = true
		last = n
		m.mu.Unlock()
		if n == 0 {
			continue
		}
		if conn.Write(context.Background(), typ, b) != nil {
			return
		}
	}
}

// Upstreams die at random instants under load, hundreds of times. No client sees its
// session end, no message is torn or comes twice in either direction, and what the
// program sends first comes first. The memory of the proxy does not grow.
func TestResumeUnderFaults(t *testing.T) {
	if !alone(t) {
		return
	}
	share := int64(1)
	if wstest.Race {
		share = 2
	}
	t.Run("plain", func(t *testing.T) {
		resumeUnderFaults(t, faults{websocket.CompressionDisabled, 20, 400 / share, 8 << 20})
	})
	// A packer takes a megabyte: if each resume left one behind, that would show.
	t.Run("compressed", func(t *testing.T) {
		resumeUnderFaults(t, faults{websocket.CompressionContextTakeover, 5, 80 / share, 40 << 20})
	})
}

// faults is what a run of TestResumeUnderFaults does.
type faults struct {
	mode    websocket.CompressionMode
	clients int
	deaths  int64
	growth  uint64 // that is accepted of the memory
}

func resumeUnderFaults(t *testing.T, f faults) {
	mode, clients, deaths := f.mode, f.clients, f.deaths
	m := &mortal{t: t, seen: make(map[[2]int]bool)}
	m.deaths.Store(deaths)
	back := httptest.NewUnstartedServer(m)
	back.Listener = mortalListener{back.Listener, m}
	back.Start()
	defer back.Close()
	logs := new(wstest.Logs)
	proxy, err := wsproxy.New(back.URL, wsproxy.WithLogger(slog.New(logs)),
		wsproxy.WithCompression(wsproxy.Client, mode, 1), wsproxy.WithCompression(wsproxy.Upstream, mode, 1),
		wsproxy.WithResume(wsproxy.Resume{OnResume: func(ctx context.Context, s *wsproxy.Session, attempt int) error {
			id := 0
			fmt.Sscan(s.Path()[1:], &id)
			return s.Send(ctx, wsproxy.Upstream, websocket.MessageText, []byte(stamped(id, 0, 100)))
		}}))
	if err != nil {
		t.Fatal(err)
	}
	front := httptest.NewServer(proxy)
	defer front.Close()
	defer proxy.Close()

	ctx, cancel := context.WithTimeout(t.Context(), wstest.Timeout)
	defer cancel()
	memory := func() uint64 {
		runtime.GC()
		runtime.GC() // pools keep what they hold for one more
		var s runtime.MemStats
		runtime.ReadMemStats(&s)
		return s.HeapAlloc + s.StackInuse
	}
	var wg sync.WaitGroup
	for id := range clients {
		var conn *websocket.Conn
		for conn == nil { // the first upstream may die in the handshake
			c, _, err := websocket.Dial(ctx, fmt.Sprintf("%s/%d", front.URL, id), &websocket.DialOptions{CompressionMode: mode, CompressionThreshold: 1})
			if err == nil {
				conn = c
			} else if ctx.Err() != nil {
				t.Fatal(err)
			}
		}
		defer conn.CloseNow()
		conn.SetReadLimit(1 << 20)
		var sent, got atomic.Int64
		echoes := make(chan struct{}, 1)
		wg.Go(func() {
			for n := 1; ; n++ {
				if m.deaths.Load() <= 0 && got.Load() > 0 && got.Load() == sent.Load() {
					return
				}
				if err := conn.Write(ctx, websocket.MessageType(1+n%2), []byte(stamped(id, n, rand.IntN(2000)))); err != nil {
					t.Errorf("client %d: write: %v", id, err)
					return
				}
				sent.Store(int64(n))
				// A few may be on their way. Those that were lost are not waited for.
				pause := time.After(rand.N(8 * time.Millisecond))
				patience := time.After(100 * time.Millisecond)
				for got.Load() < int64(n-8) {
					select {
					case <-echoes:
						continue
					case <-patience:
					}
					break
				}
				<-pause
			}
		})
		go func() {
			for {
				_, b, err := conn.Read(ctx)
				if err != nil {
					if m.deaths.Load() > 0 || !errors.Is(err, net.ErrClosed) && websocket.CloseStatus(err) != -1 {
						t.Errorf("client %d: read: %v", id, err)
					}
					return
				}
				whose, n, err := parseStamped(b)
				switch last := got.Load(); {
				case err != nil:
					t.Errorf("client %d got %v", id, err)
				case whose != id, int64(n) <= last:
					t.Errorf("client %d got message %d of client %d after %d", id, n, whose, last)
				}
				got.Store(int64(n))
				select {
				case echoes <- struct{}{}:
				default:
				}
			}
		}()
	}
	wstest.Await(t, func() bool { return m.deaths.Load() <= deaths*3/4 }, func() string { return "too few deaths" })
	early, before := memory(), runtime.NumGoroutine()
	wstest.Await(t, func() bool { return m.deaths.Load() <= 0 }, func() string { return "too few deaths" })
	late, after := memory(), runtime.NumGoroutine()
	wg.Wait()
	st := proxy.Stats()
	t.Logf("%d resumes; %d KiB and %d goroutines after a quarter, %d KiB and %d in the end", st.Resumes, early>>10, before, late>>10, after)
	if st.Open != clients || st.Resumes < uint64(deaths/5) || st.ResumesFailed > 0 {
		t.Errorf("%d sessions are open, %d resumes, %d failed; want %d, and hundreds of resumes", st.Open, st.Resumes, st.ResumesFailed, clients)
	}
	if late > early+f.growth || after > before+clients {
		t.Errorf("%d KiB and %d goroutines after a quarter, %d KiB and %d in the end", early>>10, before, late>>10, after)
	}
}
