package wsproxy_test

import (
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"sync"
	"testing"

	"github.com/coder/websocket"

	"github.com/seed-ffb73231/wsproxy"
)

// R5: connections use the addresses in turn; unix sockets ignore them.
func TestSourceAddresses(t *testing.T) {
	t.Attr("case", "F17")
	t.Parallel()
	var mu sync.Mutex
	from := make(map[string]int)
	upstream := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		host, _, _ := net.SplitHostPort(r.RemoteAddr)
		mu.Lock()
		from[host]++
		mu.Unlock()
		w.WriteHeader(403)
	}))
	defer upstream.Close()
	try := func(want int, addresses ...string) {
		t.Helper()
		clear(from)
		var list []netip.Addr
		for _, a := range addresses {
			list = append(list, netip.MustParseAddr(a))
		}
		p, err := wsproxy.New(upstream.URL, wsproxy.WithSourceAddresses(list...), wsproxy.WithLogger(discard))
		if err != nil {
			t.Fatal(err)
		}
		front := httptest.NewServer(p)
		defer front.Close()
		for range 6 {
			_, resp, err := websocket.Dial(t.Context(), front.URL, nil)
			if resp == nil || resp.StatusCode != want {
				t.Fatalf("%v: got %v, %v", addresses, resp, err)
			}
		}
	}
	try(403, "127.0.0.2", "127.0.0.3", "127.0.0.4")
	if from["127.0.0.2"] != 2 || from["127.0.0.3"] != 2 || from["127.0.0.4"] != 2 {
		t.Errorf("came from %v", from)
	}
	// Addresses that this machine does not have, or of the other family, are
	// skipped.
	try(403, "198.51.100.1", "127.0.0.2", "2001:db8::1")
	if from["127.0.0.2"] != 6 {
		t.Errorf("came from %v", from)
	}
	try(503, "198.51.100.1", "198.51.100.2")

	// The error of one address does not hide what the upstream said over
	// another one.
	open := upstream.URL
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed.Close()
	upstream.URL = "http://" + closed.Addr().String()
	try(502, "198.51.100.1", "127.0.0.2")
	upstream.URL = open

	ln, err := net.Listen("unix", t.TempDir()+"/s")
	if err != nil {
		t.Fatal(err)
	}
	go http.Serve(ln, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(403) }))
	defer ln.Close()
	upstream.URL = "unix:" + ln.Addr().String()
	try(403, "127.0.0.2")
}
