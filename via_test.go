package wsproxy_test

import (
	"bufio"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/seed-ffb73231/wsproxy"
	"github.com/seed-ffb73231/wsproxy/internal/wstest"
)

// How the proxy names itself to the upstream, and the answer to a request that
// has passed it before.

// via returns the Via lines of a header, separated by bars.
func via(head string) string {
	return strings.Join(regexp.MustCompile(`(?m)^Via: [^\r\n]*`).FindAllString(head, -1), "|")
}

func TestVia(t *testing.T) {
	t.Parallel()
	t.Run("random", func(t *testing.T) {
		names := make(map[string]bool)
		for range 2 {
			r := newRig(t, wstest.TCP)
			var before string
			for range 2 {
				r.client().Send(wstest.Request("/", ""))
				got := via(r.upstream().ReadHead())
				if !regexp.MustCompile(`^Via: 1\.1 wsproxy-[a-z2-7]{10}$`).MatchString(got) || before != "" && got != before {
					t.Errorf("got %q, before that %q, want the proxy's own name each time", got, before)
				}
				before = got
			}
			names[before] = true
		}
		if len(names) != 2 {
			t.Errorf("two proxies are both called %v", names)
		}
	})
	remove := wsproxy.WithRewrite(func(pr *httputil.ProxyRequest) { pr.Out.Header.Del("Via") })
	for _, row := range []struct {
		name, lines string
		options     []wsproxy.Option
		want        string
	}{
		{"named", "X-A: b", []wsproxy.Option{wsproxy.WithVia("edge")}, "Via: 1.1 edge"},
		{"left out", "X-A: b", []wsproxy.Option{wsproxy.WithVia("")}, ""},
		{"left out, others before", "Via: 1.1 a", []wsproxy.Option{wsproxy.WithVia("")}, "Via: 1.1 a"},
		{"others before", "Via: 1.0 fred (x, y), 2 p.example.net:8080\r\nVia: 1.1 c", []wsproxy.Option{wsproxy.WithVia("edge")},
			"Via: 1.0 fred (x, y), 2 p.example.net:8080, 1.1 c, 1.1 edge"},
		{"empty", "Via:", []wsproxy.Option{wsproxy.WithVia("edge")}, "Via: 1.1 edge"},
		{"nominated", "Via: 1.1 a\r\nConnection: via", []wsproxy.Option{wsproxy.WithVia("edge")}, "Via: 1.1 edge"},
		{"removed by the hook", "X-A: b", []wsproxy.Option{wsproxy.WithVia("edge"), remove}, ""},
	} {
		t.Run(row.name, func(t *testing.T) {
			_, head, _ := direct(t, "http://upstream.test", withLines(strings.Split(row.lines, "\r\n")...), nil, row.options...)
			wantCleanHead(t, head)
			if got := via(head); got != row.want {
				t.Errorf("got %q, want %q", got, row.want)
			}
		})
	}
}

// A request that carries the proxy's name is refused, and no other request is.
func TestLoopRefused(t *testing.T) {
	t.Attr("case", "A29")
	t.Parallel()
	for _, row := range []struct {
		lines string
		code  int
	}{
		{"Via: 1.1 edge", 508},
		{"Via: 1.1 EDGE", 508},
		{"Via: HTTP/1.1 \t edge (a comment)", 508},
		{"Via: 1.1 a, 2 edge, 1.1 b", 508},
		{"Via: 1.1 a,1.1\tedge,", 508},
		{"Via: 1.1 a\r\nVia: 1.1 edge", 508},
		{"Connection: via\r\nVia: 1.1 edge", 508},
		{"Via: 1.1 edge2", 403}, // from the upstream
		{"Via: 1.1 edge.example.com", 403},
		{"Via: edge", 403},
		{"Via: edge 1.1", 403},
		{"Via: 1.1 a (1.1 edge)", 403},
		{"Via: ,,,", 403},
		{"X-Via: 1.1 edge", 403},
	} {
		dialled, _, code := direct(t, "http://upstream.test", withLines(strings.Split(row.lines, "\r\n")...), nil, wsproxy.WithVia("edge"))
		if code != row.code || (dialled == "") != (code == 508) {
			t.Errorf("%q: answered %d and dialled %q, want %d", row.lines, code, dialled, row.code)
		}
		if _, _, code := direct(t, "http://upstream.test", withLines(strings.Split(row.lines, "\r\n")...), nil, wsproxy.WithVia("")); code != 403 {
			t.Errorf("%q, without a name: answered %d, want the upstream's 403", row.lines, code)
		}
	}
	for _, name := range []string{"a b", "a,b", "a(b)", "é", "a\r\nb", "a:80"} {
		if _, err := wsproxy.New("http://upstream.test", wsproxy.WithVia(name)); err == nil {
			t.Errorf("WithVia(%q) is no mistake", name)
		}
	}
}

// A loop of proxies that are each other's upstreams is detected on the first
// round: the client is answered 508 at once, and no connection is left open.
func TestLoop(t *testing.T) {
	t.Attr("case", "A29")
	t.Parallel()
	for _, n := range []int{1, 2, 5} {
		for _, detach := range []bool{false, true} {
			t.Run(fmt.Sprintf("%d, detached: %v", n, detach), func(t *testing.T) {
				var connections, open atomic.Int32
				count := func(_ net.Conn, s http.ConnState) {
					switch s {
					case http.StateNew:
						connections.Add(1)
						open.Add(1)
					case http.StateClosed, http.StateHijacked:
						open.Add(-1)
					}
				}
				servers := make([]*httptest.Server, n)
				for i := range servers {
					servers[i] = httptest.NewUnstartedServer(nil)
					servers[i].Config.ConnState = count
				}
				l := new(wstest.Logs)
				for i, s := range servers {
					options := []wsproxy.Option{wsproxy.WithLogger(slog.New(l))}
					if detach {
						options = append(options, wsproxy.WithDetach())
					}
					p, err := wsproxy.New("http://"+servers[(i+1)%n].Listener.Addr().String(), options...)
					if err != nil {
						t.Fatal(err)
					}
					s.Config.Handler = p
					s.Start()
					t.Cleanup(s.Close)
					t.Cleanup(func() { p.Close() })
				}
				c, err := net.Dial("tcp", servers[0].Listener.Addr().String())
				if err != nil {
					t.Fatal(err)
				}
				defer c.Close()
				c.SetDeadline(time.Now().Add(wstest.Timeout))
				io.WriteString(c, wstest.Request("/", ""))
				resp, err := http.ReadResponse(bufio.NewReader(c), nil)
				if err != nil || resp.StatusCode != 508 {
					t.Fatalf("got %v %v, want 508", resp, err)
				}
				wstest.Await(t, func() bool { return open.Load() == 0 }, func() string { return fmt.Sprintf("%d connections are left", open.Load()) })
				if got := connections.Load(); int(got) != n+1 {
					t.Errorf("%d connections were made, want %d", got, n+1)
				}
				if got := l.Wait(t, 0); fmt.Sprint(got["kind"]) != string(wsproxy.KindLoop) || !strings.HasPrefix(fmt.Sprint(got["error"]), wsproxy.ErrLoop.Error()) {
					t.Errorf("logged %v, want the loop first", got)
				}
			})
		}
	}
}
