package faults

import (
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
	"github.com/seed-ffb73231/wsproxy/internal/faults/wire"
	"github.com/seed-ffb73231/wsproxy/internal/remains"
	"github.com/seed-ffb73231/wsproxy/internal/wstest"
)

// A proxy in its own process that is stopped under load: all of its timers fire
// late when it continues, and no peer that did its part is dropped because of
// that.

// stopFor is how long the proxy is stopped. All timeouts below are far shorter.
const stopFor = 2 * time.Second

func init() { roles["stopped"] = stoppedProxy }

// byRace returns d, or with the race detector a multiple: peers that compute more
// answer later.
func byRace(d time.Duration, times int) time.Duration {
	if wstest.Race {
		return d * time.Duration(times)
	}
	return d
}

var proxySettings = map[string][]wsproxy.Option{
	"defaults": nil,
	"pings":    {wsproxy.WithPing(byRace(300*time.Millisecond, 3), byRace(300*time.Millisecond, 3)), wsproxy.WithWriteTimeout(byRace(600*time.Millisecond, 3))},
	"closing":  {wsproxy.WithCloseTimeout(2 * time.Second)},
	"idle":     {wsproxy.WithPing(0, 0), wsproxy.WithIdleTimeout(byRace(600*time.Millisecond, 3)), wsproxy.WithWriteTimeout(byRace(600*time.Millisecond, 3))},
}

// stoppedProxy is a proxy to the target, on its own port, with the named
// settings. It prints its address, and then the sessions that have ended.
func stoppedProxy(args []string) {
	target, legs, settings := args[0], args[1], args[2]
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	options := append([]wsproxy.Option{
		wsproxy.WithLogger(slog.New(slog.NewTextHandler(os.Stdout, nil))),
		wsproxy.WithInsecureSkipVerify(),
	}, proxySettings[settings]...)
	if strings.HasSuffix(legs, "-detached") {
		options = append(options, wsproxy.WithDetach())
	}
	p, err := wsproxy.New(target, options...)
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Println(ln.Addr())
	if strings.HasPrefix(legs, string(wstest.TLS)) {
		ln = tls.NewListener(ln, &tls.Config{Certificates: []tls.Certificate{wstest.NewAuthority().Issue("upstream.test", "127.0.0.1", "10.221.2.2")}})
	}
	go http.Serve(ln, p)
	untilStdinEnds()
	p.Close()
	remains.Exit(0)
}

// pause waits for d in the life of a slow peer.
func pause(ctx context.Context, d time.Duration) {
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
}

// slowPong has a peer delay its answers to Pings, so that some Pings are
// unanswered at any time.
func slowPong(ctx context.Context, _ []byte) bool {
	pause(ctx, 100*time.Millisecond)
	return true
}

func TestProxyStopped(t *testing.T) {
	t.Attr("case", "F26 F27 F32 F37")
	for _, legs := range peer.Few {
		for _, settings := range []string{"pings", "idle", "defaults"} {
			t.Run(legs.Name()+"/"+settings, func(t *testing.T) { stopProxy(t, legs, settings) })
		}
	}
}

func stopProxy(t *testing.T, legs peer.Legs, settings string) {
	ctx, cancel := context.WithTimeout(t.Context(), 2*wstest.Timeout)
	var peers sync.WaitGroup
	defer peers.Wait()
	defer cancel()
	upstream := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, err := websocket.Accept(w, r, &websocket.AcceptOptions{OnPingReceived: slowPong})
		if err != nil {
			return
		}
		defer c.CloseNow()
		if r.URL.Path == "/flood" {
			go func() {
				for c.Write(ctx, websocket.MessageBinary, make([]byte, 16<<10)) == nil {
				}
			}()
		}
		for {
			kind, message, err := c.Read(ctx)
			if err != nil || c.Write(ctx, kind, message) != nil {
				return
			}
		}
	}))
	if legs.Upstream == wstest.TLS {
		upstream.StartTLS()
	} else {
		upstream.Start()
	}
	t.Cleanup(upstream.CloseClientConnections)
	proxy := start(t, "stopped", upstream.URL, legs.Name(), settings)
	address := proxy.line(t)

	// Each counts what it got; the counts must continue to rise after the stop.
	type client struct {
		path string
		got  atomic.Int64
		err  atomic.Pointer[error]
	}
	var clients []*client
	open := func(path string, live func(c *client, conn *websocket.Conn) error) {
		c := &client{path: path}
		clients = append(clients, c)
		scheme := "ws"
		if legs.Client == wstest.TLS {
			scheme = "wss"
		}
		transport := &http.Transport{
			TLSClientConfig: &tls.Config{InsecureSkipVerify: true},
			DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
				conn, err := new(net.Dialer).DialContext(ctx, network, address)
				if err == nil {
					conn.(*net.TCPConn).SetReadBuffer(16 << 10)
				}
				return conn, err
			},
		}
		conn, _, err := websocket.Dial(ctx, scheme+"://"+address+path, &websocket.DialOptions{
			HTTPClient: &http.Client{Transport: transport},
			OnPingReceived: func(ctx context.Context, body []byte) bool {
				if path == "/quiet" {
					c.got.Add(1)
				}
				return slowPong(ctx, body)
			},
		})
		if err != nil {
			t.Fatal(err)
		}
		conn.SetReadLimit(-1)
		peers.Go(func() {
			defer conn.CloseNow()
			if err := live(c, conn); err != nil && ctx.Err() == nil {
				c.err.Store(&err)
			}
		})
	}
	read := func(every time.Duration) func(c *client, conn *websocket.Conn) error {
		return func(c *client, conn *websocket.Conn) error {
			for {
				if _, _, err := conn.Read(ctx); err != nil {
					return err
				}
				c.got.Add(1)
				pause(ctx, every)
			}
		}
	}
	for range 20 {
		open("/talk", func(c *client, conn *websocket.Conn) error {
			peers.Go(func() {
				for conn.Write(ctx, websocket.MessageText, []byte("x")) == nil {
					pause(ctx, 150*time.Millisecond)
				}
			})
			return read(0)(c, conn)
		})
	}
	for range 5 { // slow readers: the proxy always has bytes that they don't take
		open("/flood", read(50*time.Millisecond))
	}
	for range 4 { // who keep the proxy busy: its timers come before its sockets then
		open("/flood", read(0))
	}
	if settings == "pings" {
		for range 60 { // get nothing but Pings, and say nothing but Pongs
			open("/quiet", read(0))
		}
	}
	goesOn := func(when string) {
		t.Helper()
		before := make([]int64, len(clients))
		for i, c := range clients {
			before[i] = c.got.Load()
		}
		if !wstest.Until(func() bool {
			for i, c := range clients {
				if c.err.Load() == nil && c.got.Load() == before[i] {
					return false
				}
			}
			return true
		}) {
			t.Errorf("%s: not everybody gets anything", when)
		}
		for _, c := range clients {
			if err := c.err.Load(); err != nil {
				t.Errorf("%s: a client of %s was lost: %v", when, c.path, *err)
			}
		}
	}
	goesOn("before")
	proxy.signal(t, syscall.SIGSTOP)
	pause(ctx, byRace(stopFor, 2))
	proxy.signal(t, syscall.SIGCONT)
	goesOn("after")
	goesOn("later")
}

// Sessions that are ending when the proxy is stopped: what the upstream has
// sent meanwhile, finally its Close, is in the proxy's sockets when the close
// timeout turns out to be over, and still arrives.
func TestProxyStoppedInClosing(t *testing.T) {
	t.Attr("case", "F23")
	const sessions = 60
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	var closing atomic.Int32 // how many upstreams have the client's Close
	stopped := make(chan struct{})
	last := wstest.AppendFrame(wstest.AppendFrame(nil, wstest.Text, nil, []byte("last")), wstest.Close, nil, wstest.CloseBody(1000, ""))
	serve := func(conn net.Conn) {
		defer conn.Close()
		r, br, err := wire.ReadRequest(conn)
		if err != nil {
			return
		}
		io.WriteString(conn, wstest.AnswerTo(r, ""))
		if _, err := io.ReadFull(br, make([]byte, 8)); err != nil { // a masked Close with a code
			return
		}
		closing.Add(1)
		select {
		case <-stopped:
			conn.Write(last)
		case <-t.Context().Done():
		}
	}
	go func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			go serve(conn)
		}
	}()
	proxy := start(t, "stopped", "http://"+ln.Addr().String(), "tcp", "closing")
	address := proxy.line(t)
	var clients []net.Conn
	for range sessions {
		conn, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if _, status, err := wire.Open(conn, "/", ""); status != 101 {
			t.Fatalf("status %d, %v", status, err)
		}
		conn.SetDeadline(time.Now().Add(wstest.Timeout))
		clients = append(clients, conn)
	}
	for _, conn := range clients {
		if _, err := conn.Write(wstest.AppendFrame(nil, wstest.Close, &[4]byte{1, 2, 3, 4}, wstest.CloseBody(1000, ""))); err != nil {
			t.Fatal(err)
		}
	}
	if !wstest.Until(func() bool { return closing.Load() == sessions }) {
		t.Fatalf("%d upstreams have the Close, want %d", closing.Load(), sessions)
	}
	proxy.signal(t, syscall.SIGSTOP)
	close(stopped)
	pause(t.Context(), 4*time.Second)
	proxy.signal(t, syscall.SIGCONT)
	for _, conn := range clients {
		if got, err := io.ReadAll(conn); string(got) != string(last) || err != nil {
			t.Errorf("client: got %q, %v, want %q", got, err, last)
		}
	}
}
