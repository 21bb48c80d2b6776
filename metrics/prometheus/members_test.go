package wsprometheus_test

import (
	"fmt"
	"net/http"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/seed-ffb73231/wsproxy"
	wsprometheus "github.com/seed-ffb73231/wsproxy/metrics/prometheus"
)

// nobody returns the target of a member where nothing listens.
func nobody(t *testing.T) string { return "unix://" + filepath.Join(t.TempDir(), "nobody.sock") }

func setUpstreams(t *testing.T, s *site, targets ...string) {
	t.Helper()
	var members []wsproxy.Member
	for _, target := range targets {
		members = append(members, wsproxy.Member{Target: target})
	}
	if err := s.proxy.SetUpstreams(members...); err != nil {
		t.Fatal(err)
	}
}

// A handshake that a second member accepts is a retry, and the session counts for
// that member.
func TestRetries(t *testing.T) {
	last := func(_ *http.Request, members []wsproxy.MemberState) int { return len(members) - 1 }
	s, broken := newSite(t, wsproxy.WithBalance(wsproxy.BalanceFunc(last))), nobody(t)
	setUpstreams(t, s, s.upstream, broken)
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(wsprometheus.New(s.proxy, nil))
	s.open(t)
	compare(t, registry, fmt.Sprintf(`
# HELP wsproxy_retries_total Handshakes retried with another member.
# TYPE wsproxy_retries_total counter
wsproxy_retries_total 1
# HELP wsproxy_member_sessions A member's sessions, including handshakes under way.
# TYPE wsproxy_member_sessions gauge
wsproxy_member_sessions{member=%q} 1
wsproxy_member_sessions{member=%q} 0
`, s.upstream, broken), "wsproxy_retries_total", "wsproxy_member_sessions", "wsproxy_handshakes_failed_total")
}

// Only members of the current set have series: one that was removed has none,
// even if it still has sessions.
func TestMembersComeAndGo(t *testing.T) {
	s, broken := newSite(t,
		wsproxy.WithKeepRemovedMembers(),
		wsproxy.WithHealthCheck(wsproxy.HealthCheck{Path: "/health", Interval: 10 * time.Millisecond, Timeout: limit, Fall: 1})), nobody(t)
	setUpstreams(t, s, s.upstream, broken)
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(wsprometheus.New(s.proxy, nil))
	wantDown := func(member int) {
		t.Helper()
		for deadline := time.Now().Add(limit); !s.proxy.Stats().Members[member].Down; runtime.Gosched() {
			if time.Now().After(deadline) {
				t.Fatal("the member that nobody listens for is up")
			}
		}
	}
	want := func(series string) {
		t.Helper()
		compare(t, registry, `
# HELP wsproxy_sessions Open sessions.
# TYPE wsproxy_sessions gauge
wsproxy_sessions 1
# HELP wsproxy_member_sessions A member's sessions, including handshakes under way.
# TYPE wsproxy_member_sessions gauge
# HELP wsproxy_member_up Whether a member may get new sessions: 1, or 0 while it is down or backed off.
# TYPE wsproxy_member_up gauge
`+series, "wsproxy_sessions", "wsproxy_member_sessions", "wsproxy_member_up")
	}
	wantDown(1)
	s.open(t)
	both := fmt.Sprintf(`
wsproxy_member_sessions{member=%[1]q} 1
wsproxy_member_sessions{member=%[2]q} 0
wsproxy_member_up{member=%[1]q} 1
wsproxy_member_up{member=%[2]q} 0
`, s.upstream, broken)
	want(both)
	setUpstreams(t, s, broken)
	want(fmt.Sprintf(`
wsproxy_member_sessions{member=%[1]q} 0
wsproxy_member_up{member=%[1]q} 0
`, broken))
	setUpstreams(t, s, s.upstream, broken)
	want(both)
}
