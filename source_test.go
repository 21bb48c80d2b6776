package wsproxy_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/coder/websocket"
	"golang.org/x/net/dns/dnsmessage"

	"github.com/seed-ffb73231/wsproxy"
	"github.com/seed-ffb73231/wsproxy/internal/wstest"
)

// A nameServer answers queries for one zone over UDP as it is told to.
type nameServer struct {
	mu    sync.Mutex
	addrs []netip.Addr
	srv   []dnsmessage.SRVResource
	asked int
}

func (s *nameServer) set(addrs []netip.Addr, srv ...dnsmessage.SRVResource) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.addrs, s.srv = addrs, srv
}

func (s *nameServer) resolver(t *testing.T) *net.Resolver {
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	go func() {
		b := make([]byte, 1500)
		for {
			n, from, err := conn.ReadFrom(b)
			if err != nil {
				return
			}
			if answer, err := s.answer(b[:n]); err == nil {
				conn.WriteTo(answer, from)
			}
		}
	}()
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "udp", conn.LocalAddr().String())
	}}
}

func (s *nameServer) answer(query []byte) ([]byte, error) {
	var p dnsmessage.Parser
	h, err := p.Start(query)
	if err != nil {
		return nil, err
	}
	q, err := p.Question()
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asked++
	h.Response, h.Authoritative = true, true
	if len(s.addrs) == 0 && len(s.srv) == 0 {
		h.RCode = dnsmessage.RCodeNameError
	}
	b := dnsmessage.NewBuilder(nil, h)
	b.StartQuestions()
	b.Question(q)
	b.StartAnswers()
	head := dnsmessage.ResourceHeader{Name: q.Name, Class: q.Class, TTL: 1}
	for _, a := range s.addrs {
		switch {
		case q.Type == dnsmessage.TypeA && a.Is4():
			b.AResource(head, dnsmessage.AResource{A: a.As4()})
		case q.Type == dnsmessage.TypeAAAA && a.Is6():
			b.AAAAResource(head, dnsmessage.AAAAResource{AAAA: a.As16()})
		}
	}
	for _, r := range s.srv {
		if q.Type == dnsmessage.TypeSRV {
			b.SRVResource(head, r)
		}
	}
	return b.Finish()
}

// inMemory returns a resolver that works in a synctest bubble if it has been
// used before, because the net package creates some of its state on first use.
func (s *nameServer) inMemory() *net.Resolver {
	return &net.Resolver{PreferGo: true, Dial: func(context.Context, string, string) (net.Conn, error) {
		near, far := net.Pipe()
		go func() { // RFC 1035, 4.2.2
			defer far.Close()
			for {
				b := make([]byte, 2)
				if _, err := io.ReadFull(far, b); err != nil {
					return
				}
				query := make([]byte, binary.BigEndian.Uint16(b))
				if _, err := io.ReadFull(far, query); err != nil {
					return
				}
				answer, err := s.answer(query)
				if err != nil {
					return
				}
				far.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(answer))), answer...))
			}
		}()
		return near, nil
	}}
}

func names(p *wsproxy.Proxy) string {
	var all []string
	for _, m := range p.Stats().Members {
		all = append(all, strings.TrimPrefix(m.Name, "http://"))
	}
	return strings.Join(all, " ")
}

// F18: every address of a name is a member. The name is looked up repeatedly,
// and while lookups fail, the last good answer stays in use.
func TestEachAddress(t *testing.T) {
	t.Attr("case", "F18")
	t.Parallel()
	dns := new(nameServer)
	dns.set([]netip.Addr{netip.MustParseAddr("127.0.0.3"), netip.MustParseAddr("127.0.0.2"), netip.MustParseAddr("::1")})
	logs := new(wstest.Logs)
	p, err := wsproxy.New("", wsproxy.WithLogger(slog.New(logs)),
		wsproxy.WithSource(time.Millisecond, wsproxy.LookupHost(wsproxy.Member{Target: "http://chat.test/x", MaxSessions: 7, Weight: 2}, dns.resolver(t))))
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	want := func(members string) {
		t.Helper()
		wstest.Await(t, func() bool { return names(p) == members }, func() string { return fmt.Sprintf("got %s, want %s", names(p), members) })
	}
	want("chat.test/x#127.0.0.2:80 chat.test/x#127.0.0.3:80 chat.test/x#[::1]:80")
	if m := p.Stats().Members[0]; m.MaxSessions != 7 || m.Weight != 2 {
		t.Errorf("got %+v", m)
	}
	dns.set([]netip.Addr{netip.MustParseAddr("127.0.0.9")})
	want("chat.test/x#127.0.0.9:80") // after a few answers
	dns.set(nil)
	wstest.Await(t, func() bool { return strings.Contains(logs.String(), "members not updated") }, func() string { return "no record of the failure" })
	want("chat.test/x#127.0.0.9:80")
	dns.set([]netip.Addr{netip.MustParseAddr("127.0.0.1")})
	want("chat.test/x#127.0.0.1:80")
	p.Close()
}

// A record that is missing from an answer is not removed at once, but after
// five answers in a row without it. The memory for what a name server has
// answered is bounded.
func TestEachAddressMissing(t *testing.T) {
	t.Parallel()
	addrs := func(last ...byte) (all []netip.Addr) {
		for _, b := range last {
			all = append(all, netip.AddrFrom4([4]byte{10, 0, 0, b}))
		}
		return all
	}
	many := []byte{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12}
	for _, row := range []struct {
		name    string
		answers [][]byte
		want    []byte // at the end
	}{
		{"missing from four", [][]byte{{1, 2}, {1}, {1}, {1}, {1}}, []byte{1, 2}},
		{"missing from five", [][]byte{{1, 2}, {1}, {1}, {1}, {1}, {1}}, []byte{1}},
		{"back in between", [][]byte{{1, 2}, {1}, {1}, {1}, {1}, {1, 2}, {1}, {1}, {1}, {1}}, []byte{1, 2}},
		{"failures and empty answers between", [][]byte{{1, 2}, {1}, nil, nil, nil, nil, nil, nil, {1}}, []byte{1, 2}},
		{"a changing subset", [][]byte{many[:4], many[4:8], many[8:], many[:4], many[4:8], many[8:], many[:4]}, many},
		{"ever new ones", [][]byte{{1}, {2}, {3}, {4}, {5}, {6}, {7}, {8}, {9}}, []byte{5, 6, 7, 8, 9}},
	} {
		t.Run(row.name, func(t *testing.T) {
			dns := new(nameServer)
			resolver := dns.inMemory()
			resolver.LookupNetIP(t.Context(), "ip4", "first.test") // see inMemory
			synctest.Test(t, func(t *testing.T) {
				dns.set(addrs(row.answers[0]...))
				source := wsproxy.LookupHost(wsproxy.Member{Target: "http://chat.test"}, resolver)
				p, err := wsproxy.New("", wsproxy.WithLogger(discard), wsproxy.WithSource(time.Minute, source))
				if err != nil {
					t.Fatal(err)
				}
				for _, answer := range row.answers[1:] {
					dns.set(addrs(answer...))
					if len(answer) > 0 { // another caller gets what there is, and that makes no difference
						if members, err := source(t.Context()); err != nil || len(members) != len(answer) {
							t.Errorf("the source has %v, %v, want %v", members, err, answer)
						}
					}
					wstest.Elapse(time.Minute)
					synctest.Wait()
				}
				var want []string
				for _, a := range addrs(row.want...) {
					want = append(want, "chat.test#"+a.String()+":80")
				}
				slices.Sort(want)
				if got := names(p); got != strings.Join(want, " ") {
					t.Errorf("got %s, want %s", got, want)
				}
				p.Close()
				synctest.Wait()
			})
		})
	}
}

// The same holds for SRV records, except that a record with a less preferred
// priority is removed at once.
func TestEachServerMissing(t *testing.T) {
	t.Parallel()
	dns := new(nameServer)
	resolver := dns.inMemory()
	resolver.LookupSRV(t.Context(), "", "", "first.test")
	record := func(priority, weight uint16, name string) dnsmessage.SRVResource {
		return dnsmessage.SRVResource{Priority: priority, Weight: weight, Port: 9000, Target: dnsmessage.MustNewName(name + ".test.")}
	}
	synctest.Test(t, func(t *testing.T) {
		dns.set(nil, record(1, 1, "a"), record(1, 1, "b"), record(1, 1, "c"))
		p, err := wsproxy.New("", wsproxy.WithLogger(discard), wsproxy.WithSource(time.Minute, wsproxy.LookupSRV(wsproxy.Member{Target: "http://chat.test"}, resolver)))
		if err != nil {
			t.Fatal(err)
		}
		want := func(members string) {
			t.Helper()
			wstest.Elapse(time.Minute)
			synctest.Wait()
			if got := names(p); got != members {
				t.Errorf("got %s, want %s", got, members)
			}
		}
		want("a.test:9000 b.test:9000 c.test:9000")
		dns.set(nil, record(1, 7, "A"), record(2, 1, "b"))
		for range 4 {
			want("a.test:9000 c.test:9000")
		}
		want("a.test:9000")
		if m := p.Stats().Members[0]; m.Weight != 7 {
			t.Errorf("got weight %d, want the record's 7", m.Weight)
		}
		p.Close()
		synctest.Wait()
	})
}

// A source that asks over HTTP may have a token in its URL, and net/http's
// errors contain the URL.
func TestSourceErrors(t *testing.T) {
	t.Parallel()
	logs := new(wstest.Logs)
	p, err := wsproxy.New("", wsproxy.WithLogger(slog.New(logs)), wsproxy.WithSource(time.Hour, func(context.Context) ([]wsproxy.Member, error) {
		return nil, fmt.Errorf("consul: %w", &url.Error{Op: "Get", URL: "https://consul.test/?token=" + wstest.Secret,
			Err: fmt.Errorf("oauth2: %w", &url.Error{Op: "Post", URL: "https://idp.test/?secret=" + wstest.Secret, Err: errors.New("refused")})})
	}))
	if err != nil {
		t.Fatal(err)
	}
	p.Close()
	if text := logs.String(); !strings.Contains(text, "Get: Post: refused") || strings.Contains(text, wstest.Secret) {
		t.Errorf("logged %s", text)
	}
}

// SRV records name hosts, ports and weights; only those of the most preferred
// priority count.
func TestEachServer(t *testing.T) {
	t.Parallel()
	dns := new(nameServer)
	dns.set(nil,
		dnsmessage.SRVResource{Priority: 1, Weight: 1, Port: 0, Target: dnsmessage.MustNewName(".")},
		dnsmessage.SRVResource{Priority: 2, Weight: 5, Port: 9009, Target: dnsmessage.MustNewName("spare.test.")},
		dnsmessage.SRVResource{Priority: 1, Weight: 3, Port: 9001, Target: dnsmessage.MustNewName("b.test.")},
		dnsmessage.SRVResource{Priority: 1, Weight: 0, Port: 9000, Target: dnsmessage.MustNewName("a.test.")})
	p, err := wsproxy.New("", wsproxy.WithLogger(discard),
		wsproxy.WithSource(time.Hour, wsproxy.LookupSRV(wsproxy.Member{Target: "https://_ws._tcp.chat.test/v2?a", MaxSessions: 4}, dns.resolver(t))))
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	want := []wsproxy.MemberState{{Name: "https://a.test:9000/v2", Weight: 1, MaxSessions: 4}, {Name: "https://b.test:9001/v2", Weight: 3, MaxSessions: 4}}
	if got := p.Stats().Members; !slices.Equal(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

// Failures of a source: invalid members are New's error; a failure is not, and
// keeps the current members; a panic counts as a failure.
func TestSourceFails(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var calls atomic.Int32
		var answer atomic.Pointer[func() ([]wsproxy.Member, error)]
		say := func(members []wsproxy.Member, err error) {
			f := func() ([]wsproxy.Member, error) { return members, err }
			answer.Store(&f)
		}
		source := func(context.Context) ([]wsproxy.Member, error) {
			calls.Add(1)
			return (*answer.Load())()
		}
		build := func(options ...wsproxy.Option) (*wsproxy.Proxy, error) {
			return wsproxy.New("", append(options, wsproxy.WithLogger(discard), wsproxy.WithSource(time.Second, source),
				wsproxy.WithDialContext(func(context.Context, string, string) (net.Conn, error) { return nil, errors.New("no") }))...)
		}
		later := func() {
			wstest.Elapse(time.Second)
			synctest.Wait()
		}
		say([]wsproxy.Member{{Target: "ftp://x"}}, nil)
		if _, err := build(); len(optionErrors(t, err)) != 1 {
			t.Errorf("got %v", err)
		}
		say(nil, nil)
		p, err := build()
		if err != nil {
			t.Fatal(err)
		}
		defer p.Close()
		s := &scene{t: t, proxy: p}
		s.want("", 503)
		if n := p.Stats().Failed["no upstream"]; n != 1 {
			t.Errorf("%d refused for want of an upstream, want 1", n)
		}
		say([]wsproxy.Member{{Target: "http://a.test"}}, nil)
		later()
		s.want("", 502)
		wantStill := func(after string) {
			t.Helper()
			later()
			if got := names(p); got != "a.test" {
				t.Errorf("after %s: got %q", after, got)
			}
		}
		say(nil, errors.New("x"))
		wantStill("an error")
		panics := func() ([]wsproxy.Member, error) { panic("x") }
		answer.Store(&panics)
		wantStill("a panic")
		say([]wsproxy.Member{{Target: "ftp://x"}}, nil)
		wantStill("a mistake")
		p.Close()
		synctest.Wait()
		before := calls.Load()
		wstest.Elapse(time.Minute)
		if calls.Load() != before {
			t.Error("the source is asked after Close")
		}
		// The members of WithUpstreams stay until the source has an answer.
		say(nil, errors.New("x"))
		p, err = build(wsproxy.WithUpstreams(wsproxy.Member{Target: "http://b.test"}))
		if err != nil {
			t.Fatal(err)
		}
		if got := names(p); got != "b.test" {
			t.Errorf("got %q", got)
		}
		p.Close()
	})
}

// F18: a name is looked up again for each handshake.
func TestNameThatMoves(t *testing.T) {
	t.Attr("case", "F18")
	t.Parallel()
	dns := new(nameServer)
	var seen atomic.Value
	serve := func(address string) netip.AddrPort {
		ln, err := net.Listen("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			seen.Store(r.Context().Value(http.LocalAddrContextKey).(net.Addr).String())
			w.WriteHeader(403)
		}))
		s.Listener = ln
		s.Start()
		t.Cleanup(s.Close)
		return netip.MustParseAddrPort(ln.Addr().String())
	}
	first := serve("127.0.0.1:0")
	second := serve(netip.AddrPortFrom(netip.MustParseAddr("127.0.0.2"), first.Port()).String())
	d := &net.Dialer{Resolver: dns.resolver(t)}
	p, err := wsproxy.New(fmt.Sprint("http://chat.test:", first.Port()), wsproxy.WithDialContext(d.DialContext), wsproxy.WithLogger(discard))
	if err != nil {
		t.Fatal(err)
	}
	front := httptest.NewServer(p)
	defer front.Close()
	for _, at := range []netip.AddrPort{first, second, first} {
		dns.set([]netip.Addr{at.Addr()})
		websocket.Dial(t.Context(), front.URL, nil)
		if seen.Load() != at.String() {
			t.Errorf("went to %v, want %v", seen.Load(), at)
		}
	}
}
