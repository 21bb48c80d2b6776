package wsproxy_test

import (
	"strings"
	"testing"

	"github.com/seed-ffb73231/wsproxy"
)

// Members are identified by their target and address in normal form (RFC 3986,
// 6.2.2 and 6.2.3).
func TestNormalForm(t *testing.T) {
	t.Parallel()
	type member = wsproxy.Member
	for _, row := range []struct {
		name   string // that they all have
		same   []member
		others []member
	}{
		{"http://h",
			[]member{{Target: "http://h"}, {Target: "http://h/"}, {Target: "HTTP://H:80"}, {Target: "ws://h:080/?x"}, {Target: "http://h:"}},
			[]member{{Target: "https://h"}, {Target: "http://h:443"}, {Target: "http://h."}, {Target: "http://h//"}, {Target: "http://h", Address: "h:80"}}},
		{"https://xn--bcher-kva.example:8443/~a%2Fb/../c",
			[]member{{Target: "wss://b\u00fccher.example:8443/%7Ea%2fb/../c"}, {Target: "https://B\u00dcCHER.example:08443/~%61%2Fb/../c"}},
			[]member{{Target: "https://b\u00fccher.example:8443/~a/b/../c"}, {Target: "https://b\u00fccher.example:8443/c"}, {Target: "https://b\u00fccher.example:8443/~a%2Fb/../c/"}}},
		{"http://h#[2001:db8::1]:80",
			[]member{{Target: "http://h", Address: "[2001:db8::1]:80"}, {Target: "http://h", Address: "[2001:DB8:0::1]:http"}},
			[]member{{Target: "http://h", Address: "[2001:db8::1]:81"}, {Target: "http://h", Address: "[2001:db8::1%eth0]:80"}}},
		{"unix:///run/A.sock", // the socket's path is taken literally
			[]member{{Target: "unix:/run/A.sock"}, {Target: "unix:///run/A.sock"}},
			[]member{{Target: "unix:/run/a.sock"}, {Target: "unix:/run/%41.sock"}}},
	} {
		for _, m := range row.same {
			p, err := wsproxy.New("", wsproxy.WithUpstreams(m), wsproxy.WithLogger(discard))
			if err != nil {
				t.Errorf("%+v: %v", m, err)
				continue
			}
			if got := p.Stats().Members; len(got) != 1 || got[0].Name != row.name {
				t.Errorf("%+v: got %+v, want the name %s", m, got, row.name)
			}
			if err := p.SetUpstreams(append([]member{row.same[0]}, row.others...)...); err != nil {
				t.Errorf("%+v: %v", m, err)
			}
			if err := p.SetUpstreams(m, row.same[0]); err == nil || !strings.Contains(err.Error(), "duplicate") {
				t.Errorf("%+v beside %+v: got %v, want them to be one member", m, row.same[0], err)
			}
			p.Close()
		}
	}
	for _, m := range []member{
		{Target: "http://h", Address: "h"}, {Target: "http://h", Address: ":80"}, {Target: "http://h", Address: "h:"}, {Target: "http://h", Address: "h:0"},
		{Target: "http://h", Address: "h:65536"}, {Target: "http://h", Address: "h:no-such-service"}, {Target: "http://h", Address: "a b:80"},
		{Target: "http://h", Address: "[::1]x:80"}, {Target: "http://h", Address: "::1:80"}, {Target: "unix:/s", Address: "h:80"}, {Target: "http://h:99999"},
	} {
		if _, err := wsproxy.New("", wsproxy.WithUpstreams(m)); err == nil {
			t.Errorf("%+v: no mistake", m)
		}
	}
}
