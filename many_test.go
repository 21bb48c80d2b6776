package wsproxy

import (
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"
)

// crowd registers n sessions of a new proxy. Those for which open returns true
// are listed.
func crowd(t testing.TB, n int, open func(i int) bool) (*Proxy, []*Session) {
	p, err := New("http://upstream.test", WithMaxSessions(2*n))
	if err != nil {
		t.Fatal(err)
	}
	r := httptest.NewRequest("GET", "/room", nil)
	all := make([]*Session, n)
	for i := range all {
		all[i] = admitted(t, p, r)
		if open(i) {
			p.list(all[i], "http://upstream.test", "")
		}
	}
	return p, all
}

func admitted(t testing.TB, p *Proxy, r *http.Request) *Session {
	_, s, err := p.admit(r)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// A listing yields the sessions that were open when it started, oldest first
// and each once, whichever sessions come and go meanwhile and whatever other
// listings do.
func TestListing(t *testing.T) {
	const n = 3*listedAtOnce + 7
	odd := func(i int) bool { return i%2 == 1 }
	p, all := crowd(t, n, odd)
	r := httptest.NewRequest("GET", "/", nil)
	for _, row := range []struct {
		name    string
		removed func(i, at int) bool // after the session at was yielded
		want    func(i int) bool
	}{
		{"nobody leaves", func(i, at int) bool { return false }, odd},
		{"who was yielded leaves", func(i, at int) bool { return i == at }, odd},
		{"the end leaves", func(i, at int) bool { return at == 1 && i >= 2*listedAtOnce }, func(i int) bool { return odd(i) && i < 2*listedAtOnce }},
		{"the place of the cursor leaves", func(i, at int) bool { return at == 1 && i >= listedAtOnce && i < n-9 },
			func(i int) bool { return odd(i) && (i < listedAtOnce || i >= n-9) }},
		{"all leave", func(i, at int) bool { return at == 1 }, func(i int) bool { return odd(i) && i < listedAtOnce }},
	} {
		t.Run(row.name, func(t *testing.T) {
			p, all = crowd(t, n, odd)
			var got, want []int
			gone := make(map[int]bool)
			for s := range p.Sessions() {
				at := slices.Index(all, s)
				got = append(got, at)
				for i, s := range all {
					if row.removed(i, at) && !gone[i] {
						gone[i] = true
						p.leave(s)
					}
				}
				p.list(admitted(t, p, r), "", "") // a later one
				for range p.Sessions() {
					break
				}
				if len(got) > n {
					t.Fatal("the listing does not end")
				}
			}
			for i := range all {
				if row.want(i) {
					want = append(want, i)
				}
			}
			if !slices.Equal(got, want) {
				t.Errorf("got %d: %v, want %d: %v", len(got), got, len(want), want)
			}
			if len(p.registry.cursors) != 0 {
				t.Errorf("%d cursors are left", len(p.registry.cursors))
			}
			if st := p.Stats(); st.Open+st.Handshakes != p.registry.count || st.Open < len(got)-len(gone) {
				t.Errorf("got %+v of %d sessions", st, p.registry.count)
			}
		})
	}
}

// A listing ends, even if for each session that it yields another one comes.
func TestListingEnds(t *testing.T) {
	t.Parallel()
	const n = 2 * listedAtOnce
	p, _ := crowd(t, n, func(int) bool { return false })
	r := httptest.NewRequest("GET", "/", nil)
	count := 0
	for range p.registry.all() {
		if count++; count > n {
			t.Fatal("it goes on to those that came later")
		}
		admitted(t, p, r)
	}
	if count != n {
		t.Errorf("got %d sessions, want %d", count, n)
	}
}

// A drain counts each session once, whether Shutdown finds it open, its 101
// being written, or already ending: Told equals Total when all are over.
func TestDrainCounts(t *testing.T) {
	for round := range 50 {
		const n = 40
		p, all := crowd(t, n, func(int) bool { return true })
		var ends sync.WaitGroup
		for i, s := range all {
			s.relay.Join(&p.relay, (*sessionHost)(s), s.id, [2]net.Conn{deadConn{}, deadConn{}}, [2][]byte{}, [2]byte{}, [2]byte{}, nil)
			if i%4 > 0 {
				p.begin(s)
			}
		}
		for i, s := range all {
			ends.Go(func() {
				if i%4 == 0 {
					p.begin(s)
				}
				if i%4 < 2 {
					p.leave(s)
				}
			})
		}
		ends.Go(func() {
			open, _ := p.drain(false)
			for _, s := range open {
				p.told(s)
			}
			for i, s := range all {
				if i%4 >= 2 {
					p.leave(s)
				}
			}
		})
		ends.Wait()
		if d := p.Stats().Drain; d.Told != d.Total || d.Total < n/2 || d.Total > n {
			t.Fatalf("round %d: got %+v of %d sessions", round, d, n)
		}
		select {
		case <-p.registry.empty:
		default:
			t.Fatalf("round %d: not empty: %+v", round, p.registry.load())
		}
	}
}

// What a drain counts of a session, whenever it comes and goes.
func TestDrainCount(t *testing.T) {
	t.Parallel()
	drain := func(p *Proxy, _ *Session) { p.drain(false) }
	list := func(p *Proxy, s *Session) { p.list(s, "http://upstream.test", "") }
	begin := func(p *Proxy, s *Session) {
		s.relay.Join(&p.relay, (*sessionHost)(s), s.id, [2]net.Conn{deadConn{}, deadConn{}}, [2][]byte{}, [2]byte{}, [2]byte{}, nil)
		p.begin(s)
	}
	told, leave := (*Proxy).told, (*Proxy).leave
	for _, tt := range []struct {
		name        string
		steps       []func(*Proxy, *Session)
		total, told int
	}{
		{"no drain", []func(*Proxy, *Session){list, begin, leave}, 0, 0},
		{"left before", []func(*Proxy, *Session){list, begin, leave, drain}, 0, 0},
		{"open", []func(*Proxy, *Session){list, begin, drain}, 1, 0},
		{"open, told", []func(*Proxy, *Session){list, begin, drain, told}, 1, 1},
		{"open, told, left", []func(*Proxy, *Session){list, begin, drain, told, leave}, 1, 1},
		{"open, left by itself, told", []func(*Proxy, *Session){list, begin, drain, leave, told}, 1, 1},
		{"handshake that fails", []func(*Proxy, *Session){drain, leave}, 0, 0},
		{"handshake that fails at its end", []func(*Proxy, *Session){drain, list, leave}, 1, 1},
		{"101 that fails", []func(*Proxy, *Session){list, drain, leave}, 1, 1},
		{"101 under way", []func(*Proxy, *Session){list, drain}, 1, 0},
		{"101 under way, open", []func(*Proxy, *Session){list, drain, begin}, 1, 1},
		{"101 under way, open, left", []func(*Proxy, *Session){list, drain, begin, leave}, 1, 1},
		{"handshake, open", []func(*Proxy, *Session){drain, list, begin}, 1, 1},
		{"cut", []func(*Proxy, *Session){list, begin, func(p *Proxy, _ *Session) { p.Close() }, leave}, 1, 0},
	} {
		p, all := crowd(t, 1, func(int) bool { return false })
		for _, step := range tt.steps {
			step(p, all[0])
		}
		if d := p.Stats().Drain; d.Total != tt.total || d.Told != tt.told {
			t.Errorf("%s: told %d of %d, want %d of %d", tt.name, d.Told, d.Total, tt.told, tt.total)
		}
	}
}

// What happened while a 101 was being sent ends the session, first of all a
// Close of the proxy.
func TestBeginEnds(t *testing.T) {
	t.Parallel()
	const keep, shut, drain, kick, remove = 1, 2, 4, 8, 16
	for what, want := range map[int]Reason{
		0:                            "",
		drain:                        ReasonDrained,
		kick:                         ReasonClosedByProxy,
		remove:                       ReasonRemoved,
		remove | keep:                "",
		remove | drain:               ReasonDrained,
		remove | drain | kick:        ReasonClosedByProxy,
		remove | drain | kick | shut: ReasonCut,
		remove | drain | keep:        ReasonDrained,
		shut:                         ReasonCut,
	} {
		options := []Option{WithUpstreams(Member{Target: "http://a.test"})}
		if what&keep > 0 {
			options = append(options, WithKeepRemovedMembers())
		}
		p, err := New("", options...)
		if err != nil {
			t.Fatal(err)
		}
		r := httptest.NewRequest("GET", "/", nil)
		admitted(t, p, r)
		s := admitted(t, p, r)
		admitted(t, p, r)
		if m, _ := p.pool.Place(&s.seat, new(search), nil); m == nil {
			t.Fatal("no member")
		}
		p.list(s, "http://a.test", "")
		s.relay.Join(&p.relay, (*sessionHost)(s), s.id, [2]net.Conn{deadConn{}, deadConn{}}, [2][]byte{}, [2]byte{}, [2]byte{}, nil)
		if what&remove > 0 {
			p.SetUpstreams(Member{Target: "http://b.test"})
		}
		if what&kick > 0 {
			s.Close(4000, "")
		}
		if what&drain > 0 {
			p.drain(false)
		}
		if what&shut > 0 {
			p.Close()
		}
		p.begin(s)
		got := Reason("")
		if c, _, _ := s.relay.Result(); c != nil {
			got = Reason(c.Reason)
		}
		if got != want {
			t.Errorf("%b: ended as %q, want %q", what, got, want)
		}
		p.leave(s)
		if s.older != nil || s.newer != nil || s.seat.Member() != nil {
			t.Errorf("%b: it has left, and keeps its neighbors or its member", what)
		}
		p.Close()
	}
}

// A session's memory stays within its size class: 704 bytes, of which the allocator
// uses 8. In the event driver that is all it has, apart from a string of its client's
// address and path and its connections' places in the loop's table.
func TestSessionSize(t *testing.T) {
	if size := unsafe.Sizeof(Session{}); size > 704-8 {
		t.Errorf("a Session takes %d bytes", size)
	}
}

// A client that has left leaves no entry in the map that counts sessions.
func TestNoKeysLeft(t *testing.T) {
	p, err := New("http://upstream.test", WithMaxSessionsPerClient(2, nil))
	if err != nil {
		t.Fatal(err)
	}
	for i := range 100 {
		r := httptest.NewRequest("GET", "/", nil)
		r.RemoteAddr = fmt.Sprintf("192.0.2.%d:1", i)
		_, s, e := p.admit(r)
		if e != nil {
			t.Fatal(e)
		}
		p.leave(s)
	}
	if g := &p.registry; len(g.perClient) > 0 || g.count > 0 || g.oldest != nil || g.newest != nil {
		t.Errorf("%d clients and %d sessions are left", len(g.perClient), g.count)
	}
}

// All sessions of a proxy together hold at most 64 MiB for their taps, or one message.
func TestTapTotal(t *testing.T) {
	goOn := make(chan struct{})
	p, err := New("http://upstream.test", WithTap(func(*Session, Message) { <-goOn }))
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	sessions := make([]*Session, 4)
	put := func(i, size int) {
		sessions[i] = &Session{proxy: p}
		sessions[i].openTap().put(Message{Data: make([]byte, size)})
	}
	put(0, 63<<20)
	put(1, 2<<20)
	put(2, 1<<20)
	if got := p.Stats().Untapped; got != 1 {
		t.Errorf("%d messages were passed over, want the one that makes it more than 64 MiB", got)
	}
	close(goOn)
	for _, s := range sessions[:3] {
		s.closeTap()
	}
	put(3, 65<<20)
	sessions[3].closeTap()
	if got, left := p.Stats().Untapped, p.tapped.bytes.Load(); got != 1 || left != 0 {
		t.Errorf("%d messages were passed over, and %d bytes still count; want 1 and 0", got, left)
	}
}

// Only the length of a listing grows with the number of sessions: the cost of
// Stats does not, nor that of a handshake, not even during a listing.
func BenchmarkCrowd(b *testing.B) {
	for _, n := range []int{10, 100_000} {
		p, _ := crowd(b, n, func(int) bool { return true })
		r := httptest.NewRequest("GET", "/room", nil)
		b.Run(fmt.Sprintf("Stats/%d", n), func(b *testing.B) {
			for b.Loop() {
				p.Stats()
			}
		})
		b.Run(fmt.Sprintf("Sessions/%d", n), func(b *testing.B) {
			listed := 0
			for b.Loop() {
				for range p.Sessions() {
					listed++
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(listed), "ns/session")
		})
		handshake := func(b *testing.B) {
			for b.Loop() {
				s := admitted(b, p, r)
				p.list(s, "http://upstream.test", "")
				p.leave(s)
			}
		}
		b.Run(fmt.Sprintf("Handshake/%d", n), handshake)
		b.Run(fmt.Sprintf("HandshakeBesideListing/%d", n), func(b *testing.B) {
			var over atomic.Bool
			var listing sync.WaitGroup
			listing.Go(func() {
				for !over.Load() {
					for range p.Sessions() {
					}
				}
			})
			handshake(b)
			over.Store(true)
			listing.Wait()
		})
	}
}

// deadConn is a closed connection.
type deadConn struct{ net.Conn }

func (deadConn) Read([]byte) (int, error)         { return 0, net.ErrClosed }
func (deadConn) Write([]byte) (int, error)        { return 0, net.ErrClosed }
func (deadConn) Close() error                     { return nil }
func (deadConn) SetWriteDeadline(time.Time) error { return nil }

// BenchmarkContention does what sessions share, in as many goroutines as there are
// processors: run it with -cpu 1,2,4,8, and -mutexprofile to see who waits for what.
// What sessions do in the loop is in internal/relay.
func BenchmarkContention(b *testing.B) {
	p, _ := crowd(b, 10_000, func(int) bool { return true })
	if err := p.SetUpstreams(Member{Target: "http://a.test"}, Member{Target: "http://b.test"}, Member{Target: "http://c.test"}); err != nil {
		b.Fatal(err)
	}
	r := httptest.NewRequest("GET", "/room", nil)
	parallel := func(name string, f func()) {
		b.Run(name, func(b *testing.B) {
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					f()
				}
			})
		})
	}
	parallel("Handshake", func() { // all that a handshake shares with others
		s := admitted(b, p, r)
		p.pool.Place(&s.seat, new(search), nil)
		p.list(s, "http://a.test", "")
		p.stats.open()
		p.leave(s)
	})
	parallel("Registry", func() {
		s := new(Session)
		p.registry.add(s, "")
		p.registry.remove(s, "", false, false)
		p.registry.left()
	})
	parallel("Place", func() {
		var s Session
		p.pool.Place(&s.seat, new(search), nil)
		p.pool.Release(&s.seat)
	})
	parallel("Opened", func() { p.stats.open() })
	parallel("RoundTrip", func() { p.stats.roundTrips[Client].observe(time.Millisecond) })
	parallel("Stats", func() { p.Stats() })
}
