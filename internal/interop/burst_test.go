//go:build linux

package interop

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/seed-ffb73231/wsproxy"
)

// A slowConn is read at a limited rate, until reading stops.
type slowConn struct {
	net.Conn
	next time.Time
	stop chan struct{} // closed: read no more
	done <-chan struct{}
}

const slowRate = 512 << 10 // bytes a second

func (c *slowConn) Read(p []byte) (int, error) {
	select {
	case <-c.stop:
		<-c.done
		return 0, net.ErrClosed
	default:
	}
	n, err := c.Conn.Read(p[:min(len(p), 8<<10)])
	if now := time.Now(); c.next.Before(now.Add(-200 * time.Millisecond)) {
		c.next = now
	}
	c.next = c.next.Add(time.Duration(n) * time.Second / slowRate)
	select {
	case <-time.After(time.Until(c.next)):
	case <-c.stop:
	case <-c.done:
	}
	return n, err
}

// TestBehindBurst: a TLS end accepts a burst at once, which its client takes
// seconds to read. The Ping after it is answered late, and the session must
// survive. A client that stops reading in the middle of a burst must still be
// detected.
func TestBehindBurst(t *testing.T) {
	const (
		interval = 300 * time.Millisecond
		timeout  = 500 * time.Millisecond
		burst    = 3 * slowRate // three seconds
		bound    = 12*timeout + 2*interval
	)
	for _, e := range tlsEnds {
		t.Run(e.name, func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithTimeout(t.Context(), limit)
			defer cancel()
			upstream := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				c, err := websocket.Accept(w, r, &websocket.AcceptOptions{InsecureSkipVerify: true})
				if err != nil {
					return
				}
				defer c.CloseNow()
				for { // a burst for each message
					if _, _, err := c.Read(ctx); err != nil {
						return
					}
					if err := c.Write(ctx, websocket.MessageBinary, make([]byte, burst)); err != nil {
						return
					}
				}
			}))
			defer upstream.Close()
			defer upstream.CloseClientConnections()
			f, _ := e.newFront(t, upstream.URL, limit, wsproxy.WithTrustedProxies(loopback), wsproxy.WithPing(interval, timeout))

			slow := &slowConn{stop: make(chan struct{}), done: ctx.Done()}
			dial := func(ctx context.Context, network, address string) (net.Conn, error) {
				c, err := new(net.Dialer).DialContext(ctx, network, address)
				if err == nil {
					err = c.(*net.TCPConn).SetReadBuffer(64 << 10)
				}
				slow.Conn = c
				return slow, err
			}
			var pings atomic.Int64
			pinged := make(chan struct{}, 1)
			c, _, err := websocket.Dial(ctx, f.url+"/burst", &websocket.DialOptions{
				HTTPClient: &http.Client{Transport: &http.Transport{DialContext: dial, TLSClientConfig: offer{root: f.root}.tlsConfig()}},
				OnPingReceived: func(context.Context, []byte) bool {
					pings.Add(1)
					select {
					case pinged <- struct{}{}:
					default:
					}
					return true
				},
			})
			if err != nil {
				t.Fatal(err)
			}
			defer c.CloseNow()
			c.SetReadLimit(-1)
			messages := make(chan error, 8)
			go func() {
				for {
					_, _, err := c.Read(ctx)
					messages <- err
					if err != nil {
						return
					}
				}
			}()
			awaitPing := func() {
				t.Helper()
				select {
				case <-pinged:
				case <-ctx.Done():
					t.Fatal("no Ping comes")
				}
			}
			awaitPing() // only who has answered one is judged by its silence
			for range 2 {
				began := time.Now()
				if err := c.Write(ctx, websocket.MessageText, []byte("more")); err != nil {
					t.Fatal(err)
				}
				select {
				case err = <-messages:
				case <-ctx.Done():
					err = ctx.Err()
				}
				d := time.Since(began)
				t.Logf("a burst takes %v", d)
				if err != nil {
					t.Fatalf("a client that takes its time is lost after %v: %v", d, err)
				}
				if d < 2*(interval+timeout) {
					t.Fatalf("a burst took %v: not long enough to prove anything", d)
				}
			}
			awaitPing()

			if err := c.Write(ctx, websocket.MessageText, []byte("more")); err != nil {
				t.Fatal(err)
			}
			before := pings.Load()
			for written := uint64(0); written < 3*burst; { // the proxy has written it all
				for s := range f.proxy.Sessions() {
					written = s.Counts(wsproxy.Upstream).Bytes
				}
				select {
				case <-time.After(5 * time.Millisecond):
				case <-ctx.Done():
					t.Fatal("the third burst isn't taken at once")
				}
			}
			began := time.Now()
			close(slow.stop)
			r := f.record(t, "/burst")
			d := time.Since(began)
			t.Logf("who stops reading is lost after %v, %d Pings after the burst's begin", d, pings.Load()-before)
			if r.by != "client" || r.reason != "lost" {
				t.Errorf("the proxy says %q by the %s, want \"lost\" by the client", r.reason, r.by)
			}
			if d > bound+limit/10 { // and what a busy machine takes
				t.Errorf("found after %v, want it within %v", d, bound)
			}
			cancel()
			for err := error(nil); err == nil; {
				err = <-messages
			}
			if err := ctx.Err(); !errors.Is(err, context.Canceled) {
				t.Error(err)
			}
		})
	}
}
