package wsotel_test

import (
	"context"
	"maps"
	"net"
	"net/http"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"go.opentelemetry.io/otel/codes"

	"github.com/seed-ffb73231/wsproxy"
	wsotel "github.com/seed-ffb73231/wsproxy/metrics/otel"
)

func (s *site) setUpstreams(t *testing.T, members ...wsproxy.Member) {
	t.Helper()
	if err := s.proxy.SetUpstreams(members...); err != nil {
		t.Fatal(err)
	}
}

// nobody returns a member where nothing listens.
func nobody(t *testing.T, name string) wsproxy.Member {
	return wsproxy.Member{Target: "unix://" + filepath.Join(t.TempDir(), name)}
}

// ofMembers collects the metrics about members.
func (s *site) ofMembers(t *testing.T) map[string]int64 {
	t.Helper()
	got := s.read(t)
	maps.DeleteFunc(got, func(name string, _ int64) bool { return !strings.HasPrefix(name, "wsproxy.member.") })
	return got
}

// Only members of the current set have metrics: one that was removed has none,
// even if it still has sessions.
func TestMembersComeAndGo(t *testing.T) {
	s := newSite(t, wsotel.Config{Name: "chat"}, nil,
		wsproxy.WithKeepRemovedMembers(),
		wsproxy.WithHealthCheck(wsproxy.HealthCheck{Path: "/health", Interval: 10 * time.Millisecond, Timeout: limit, Fall: 1}))
	well, broken := wsproxy.Member{Target: s.upstream}, nobody(t, "nobody\xff.sock")
	s.setUpstreams(t, well, broken)
	for deadline := time.Now().Add(limit); !s.proxy.Stats().Members[1].Down; runtime.Gosched() {
		if time.Now().After(deadline) {
			t.Fatal("the member that nobody listens for is up")
		}
	}
	s.open(t, "/", nil)
	about := func(what string, m wsproxy.Member) string {
		return "wsproxy.member." + what + "{wsproxy.member=" + strings.ToValidUTF8(m.Target, "\uFFFD") + ",wsproxy.name=chat}"
	}
	both := map[string]int64{
		about("session.count", well): 1, about("session.count", broken): 0,
		about("up", well): 1, about("up", broken): 0,
	}
	if got := s.ofMembers(t); !maps.Equal(got, both) {
		t.Errorf("got\n%v, want\n%v", got, both)
	}
	s.setUpstreams(t, broken)
	if got, want := s.ofMembers(t), map[string]int64{about("session.count", broken): 0, about("up", broken): 0}; !maps.Equal(got, want) {
		t.Errorf("one has left: got\n%v, want\n%v", got, want)
	}
	if got := s.read(t); got["wsproxy.session.count{wsproxy.name=chat}"] != 1 {
		t.Errorf("got %v, want the session still there", got)
	}
	s.setUpstreams(t, well, broken)
	if got := s.ofMembers(t); !maps.Equal(got, both) {
		t.Errorf("it is back: got\n%v, want\n%v", got, both)
	}
}

// A handshake that a second member accepts is a retry and no error. It has one
// span, whose context that member gets.
func TestRetries(t *testing.T) {
	last := func(_ *http.Request, members []wsproxy.MemberState) int { return len(members) - 1 }
	s := newSite(t, wsotel.Config{}, nil, wsproxy.WithBalance(wsproxy.BalanceFunc(last)))
	s.setUpstreams(t, wsproxy.Member{Target: s.upstream}, nobody(t, "nobody.sock"))
	conn, session := s.open(t, "/", nil)
	if got := s.read(t); got["wsproxy.handshake.retries{}"] != 1 {
		t.Errorf("got metrics %v, want one retry", got)
	}
	conn.CloseNow()
	handshake, _ := s.ended(t, session)
	if handshake.Status.Code != codes.Unset || attrs(handshake)["server.address"] != "127.0.0.1" {
		t.Errorf("got status %v and %v, want those of the member that took it", handshake.Status, attrs(handshake))
	}
	if got, want := (<-s.got).Get("Traceparent"), traceparent(handshake); got != want {
		t.Errorf("upstream got traceparent %q, want %q", got, want)
	}
}

// A handshake's server is the name of its member, and the peer is the member's
// configured address, if it is one.
func TestMembersAddress(t *testing.T) {
	for address, peer := range map[string]string{
		"192.0.2.1:80":      "192.0.2.1",
		"[fe80::1%eth0]:80": "fe80::1%eth0",
		"other.test:80":     "",
	} {
		t.Run(address, func(t *testing.T) {
			var s *site
			s = newSite(t, wsotel.Config{}, nil, wsproxy.WithDialContext(func(ctx context.Context, network, to string) (net.Conn, error) {
				if to != address {
					t.Errorf("%s is dialled, want %s", to, address)
				}
				return new(net.Dialer).DialContext(ctx, network, strings.TrimPrefix(s.upstream, "http://"))
			}))
			s.setUpstreams(t, wsproxy.Member{Target: "http://chat.test", Address: address})
			conn, session := s.open(t, "/", nil)
			conn.CloseNow()
			handshake, _ := s.ended(t, session)
			if got := attrs(handshake); got["server.address"] != "chat.test" || got["network.peer.address"] != peer {
				t.Errorf("got %v, want server chat.test and peer %q", got, peer)
			}
		})
	}
}
