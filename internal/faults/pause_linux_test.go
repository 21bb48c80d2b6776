package faults

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/seed-ffb73231/wsproxy"
	"github.com/seed-ffb73231/wsproxy/internal/faults/peer"
	"github.com/seed-ffb73231/wsproxy/internal/wstest"
)

// A proxy that is stopped while it waits for its members, or while it drains.

// served serves a proxy with the options on its own port, and prints the
// address.
func served(options ...wsproxy.Option) *wsproxy.Proxy {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	var p *wsproxy.Proxy
	if err == nil {
		p, err = wsproxy.New("", append(options, wsproxy.WithLogger(slog.New(slog.NewTextHandler(os.Stdout, nil))))...)
	}
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Println(ln.Addr())
	go http.Serve(ln, p)
	return p
}

func membersAt(targets []string) wsproxy.Option {
	var members []wsproxy.Member
	for _, target := range targets {
		members = append(members, wsproxy.Member{Target: target})
	}
	return wsproxy.WithUpstreams(members...)
}

func init() {
	roles["members"], roles["draining"] = memberProxy, drainingProxy
}

const memberTimeout = 500 * time.Millisecond

var memberSettings = map[string][]wsproxy.Option{
	"checks": {wsproxy.WithHealthCheck(wsproxy.HealthCheck{
		Path: "/", Interval: memberTimeout / 5, Timeout: memberTimeout, Fall: 1,
	})},
	"handshakes": {wsproxy.WithHandshakeTimeout(memberTimeout), wsproxy.WithRetry(0)},
	"clients":    {wsproxy.WithRetry(0)},
}

func memberProxy(args []string) {
	served(append(memberSettings[args[0]], wsproxy.WithInsecureSkipVerify(), membersAt(args[1:]))...)
	untilStdinEnds()
}

// lines sends the lines that the process writes, until its output ends.
func (p *process) lines() <-chan string {
	lines := make(chan string, 1<<16)
	go func() {
		defer close(lines)
		for p.out.Scan() {
			lines <- p.out.Text()
		}
	}()
	return lines
}

// TestMembersOfStopped: timeouts and departing clients while the proxy itself
// is stopped do not count against its members: "checks", "handshakes" whose
// time is over, and those whose "clients" have left.
func TestMembersOfStopped(t *testing.T) {
	t.Attr("case", "F2 F3")
	for settings := range memberSettings {
		t.Run(settings, func(t *testing.T) { stopWithMembers(t, settings) })
	}
}

func stopWithMembers(t *testing.T, settings string) {
	ctx, cancel := context.WithCancel(t.Context())
	var clients sync.WaitGroup
	defer clients.Wait()
	defer cancel()
	// Each request of a member takes half of the available time.
	var targets []string
	var asked atomic.Int64
	for range 4 {
		member := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if c, err := websocket.Accept(w, r, nil); err == nil {
				c.CloseNow()
			}
		}))
		slow := func(ctx context.Context) {
			asked.Add(1)
			pause(ctx, memberTimeout/2)
		}
		if settings == "checks" {
			member.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { slow(r.Context()) })
			member.Start()
		} else {
			member.TLS = &tls.Config{GetConfigForClient: func(h *tls.ClientHelloInfo) (*tls.Config, error) {
				slow(h.Context())
				return nil, nil
			}}
			member.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, 0)
			member.StartTLS()
		}
		t.Cleanup(member.Close)
		t.Cleanup(member.CloseClientConnections)
		targets = append(targets, member.URL)
	}
	proxy := start(t, "members", append([]string{settings}, targets...)...)
	address := proxy.line(t)
	lines := proxy.lines()

	if settings != "checks" {
		for i := range 16 {
			patience := wstest.Timeout
			if settings == "clients" {
				patience = 2 * memberTimeout // but longer than a member takes
			}
			d := &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, byte(2+i))}}
			clients.Go(func() {
				for ctx.Err() == nil {
					attempt(ctx, d, address, patience)
				}
			})
		}
	}
	for range 3 {
		goal := asked.Load() + 4
		if !wstest.Until(func() bool { return asked.Load() >= goal }) {
			t.Fatal("nobody asks the members anything")
		}
		proxy.signal(t, syscall.SIGSTOP)
		pause(ctx, stopFor)
		proxy.signal(t, syscall.SIGCONT)
		// What was under way is over long before the next stop.
		goal = asked.Load() + 8
		if !wstest.Until(func() bool { return asked.Load() >= goal }) {
			t.Error("the members aren't asked anything any more")
		}
	}
	for {
		select {
		case line := <-lines:
			if strings.Contains(line, "member down") || strings.Contains(line, "backed off") {
				t.Error(line)
			}
			continue
		default:
		}
		break
	}
}

// attempt opens a WebSocket, and leaves after that or when its patience ends.
func attempt(ctx context.Context, d *net.Dialer, address string, patience time.Duration) {
	conn, err := d.DialContext(ctx, "tcp", address)
	if err != nil {
		return
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	conn.SetDeadline(time.Now().Add(patience))
	io.WriteString(conn, peer.Request("/", ""))
	if resp, err := http.ReadResponse(bufio.NewReader(conn), nil); err == nil {
		resp.Body.Close()
	}
}

// drainingProxy drains when it has the given number of sessions. It prints when
// it starts to, and the result.
func drainingProxy(args []string) {
	setting := drainSettings[args[0]]
	options := []wsproxy.Option{membersAt(args[1:])}
	if setting.window > 0 {
		options = append(options, wsproxy.WithDrain(setting.window, websocket.StatusGoingAway))
	}
	p := served(options...)
	for p.Stats().Open < drained {
		time.Sleep(time.Millisecond)
	}
	go func() {
		for p.Stats().Drain.Told == 0 {
			time.Sleep(time.Millisecond)
		}
		fmt.Println("draining")
	}()
	ctx, cancel := context.WithTimeout(context.Background(), setting.deadline)
	defer cancel()
	fmt.Println("result:", p.Shutdown(ctx))
	untilStdinEnds()
}

const drained = 40 // sessions

var drainSettings = map[string]struct{ window, deadline time.Duration }{
	"deadline": {0, stopFor / 2},            // passes while the proxy is stopped
	"window":   {2 * stopFor, 10 * stopFor}, // half of it does
}

// TestDrainStopped stops a proxy that drains. If its deadline passes meanwhile,
// the sessions still end properly. Sessions whose turn came meanwhile are not
// all ended at once.
func TestDrainStopped(t *testing.T) {
	t.Attr("case", "F38")
	for settings := range drainSettings {
		t.Run(settings, func(t *testing.T) { stopDraining(t, settings) })
	}
}

func stopDraining(t *testing.T, settings string) {
	ctx, cancel := context.WithTimeout(t.Context(), 2*wstest.Timeout)
	var clients sync.WaitGroup
	defer clients.Wait()
	defer cancel()
	upstream := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, err := websocket.Accept(w, r, nil)
		if err != nil {
			return
		}
		defer c.CloseNow()
		c.Read(ctx) // and answers a Close
	}))
	t.Cleanup(upstream.Close)
	t.Cleanup(upstream.CloseClientConnections)
	proxy := start(t, "draining", settings, upstream.URL)
	address := proxy.line(t)
	lines := proxy.lines()

	type end struct {
		at   time.Time
		code websocket.StatusCode
		err  error
	}
	ends := make(chan end, drained)
	for range drained {
		c, _, err := websocket.Dial(ctx, "ws://"+address, nil)
		if err != nil {
			t.Fatal(err)
		}
		clients.Go(func() {
			defer c.CloseNow()
			_, _, err := c.Read(ctx)
			ends <- end{time.Now(), websocket.CloseStatus(err), err}
		})
	}
	await := func(prefix string) string {
		for {
			select {
			case line, ok := <-lines:
				if !ok {
					t.Fatalf("the proxy ends without saying %q", prefix)
				}
				if strings.HasPrefix(line, prefix) {
					return line
				}
			case <-ctx.Done():
				t.Fatalf("the proxy doesn't say %q: %v", prefix, ctx.Err())
			}
		}
	}
	await("draining")
	proxy.signal(t, syscall.SIGSTOP)
	before := len(ends)
	pause(ctx, stopFor)
	goesOn := time.Now()
	proxy.signal(t, syscall.SIGCONT)
	if got := await("result:"); got != "result: <nil>" {
		t.Errorf("Shutdown says %q, want that nothing was cut", got)
	}
	clients.Wait()
	close(ends)
	var all []end
	for e := range ends {
		all = append(all, e)
		if e.code != websocket.StatusGoingAway {
			t.Errorf("a session ends by %v, want Close 1001", e.err)
		}
	}
	if settings == "window" {
		rest := all[before:]
		d := rest[len(rest)/2].at.Sub(goesOn)
		t.Logf("%d were told before the stop, half of the others within %v after it", before, d)
		if d < stopFor/4 {
			t.Errorf("half of those whose turn came later are told within %v, want them spread", d)
		}
	}
}
