package attacks

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/seed-ffb73231/wsproxy"
	"github.com/seed-ffb73231/wsproxy/internal/wstest"
)

// A19: middleware that serves a request again after its session opens no second
// one. The handshake with which this is detected ends at once.
func TestServedAgain(t *testing.T) {
	t.Attr("case", "A19")
	eachLeg(t, func(t *testing.T, secure bool) {
		r := newRig(t, secure)
		again := make(chan any, 1)
		r.reserve(&http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			r.proxy.ServeHTTP(w, req)
			defer func() { again <- recover() }()
			r.proxy.ServeHTTP(w, req)
		})})
		c, u := r.open("", "")
		closed(sides[0], c, u)
		select {
		case c := <-r.dials: // of the second time
			u := wstest.NewWire(t, c, false)
			if secure {
				u = wstest.NewWire(t, tls.Server(c, wstest.ServerConfig()), false)
			}
			u.Send(answer(u.ReadHead(), ""))
			wantRest(u, "")
			if v := <-again; v != nil {
				t.Errorf("panic: %v", v)
			}
		case v := <-again: // it has noticed even earlier
			if v != nil {
				t.Errorf("panic: %v", v)
			}
		}
		if s := r.proxy.Stats(); s.Opened != 1 || s.Open != 0 {
			t.Errorf("got %d sessions, %d open: want the one", s.Opened, s.Open)
		}
	})
}

// A29: a proxy that is its own upstream refuses the request when it returns. A
// proxy without a name keeps dialling itself until the handshake times out, and
// then everything is over. A limit on handshakes ends it earlier.
func TestLoop(t *testing.T) {
	t.Attr("case", "A29")
	eachLeg(t, func(t *testing.T, secure bool) {
		for name, row := range map[string]struct {
			options []wsproxy.Option
			want    int
		}{
			"named":   {nil, 508},
			"timeout": {[]wsproxy.Option{wsproxy.WithVia(""), wsproxy.WithDialContext(slowly), wsproxy.WithHandshakeTimeout(500 * time.Millisecond)}, 504},
			"limit":   {[]wsproxy.Option{wsproxy.WithVia(""), wsproxy.WithMaxHandshakes(20)}, 503},
		} {
			t.Run(name, func(t *testing.T) {
				r := newRig(t, secure)
				front := r.front.Addr().String()
				scheme := "http://"
				if secure {
					scheme = "https://"
				}
				loop, err := wsproxy.New(scheme+front, append(row.options, wsproxy.WithLogger(slog.New(slog.DiscardHandler)),
					wsproxy.WithTLSConfig(&tls.Config{RootCAs: wstest.CA().Pool()}))...)
				if err != nil {
					t.Fatal(err)
				}
				defer loop.Close()
				r.front.Close()
				if r.front, err = net.Listen("tcp", front); err != nil {
					t.Fatal(err)
				}
				r.serve(&http.Server{Handler: loop})
				c := r.client()
				c.Send(handshake(""))
				if got := c.Rest(); !strings.HasPrefix(got, statusLine(row.want)) {
					t.Errorf("client: got %.100q, want %d", got, row.want)
				}
				await(t, "the loop to come to its end", func() bool { return loop.Stats().Handshakes == 0 })
			})
		}
	})
}

// slowly dials after a delay.
func slowly(ctx context.Context, network, address string) (net.Conn, error) {
	select {
	case <-time.After(10 * time.Millisecond):
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	return new(net.Dialer).DialContext(ctx, network, address)
}

// A32: if a hook takes the target from the request, a dialer that checks the
// resolved address protects internal addresses: however the name is written,
// and whatever it resolved to before.
func TestInwards(t *testing.T) {
	t.Attr("case", "A32")
	inwards := errors.New("address of our own")
	dialer := &net.Dialer{Control: func(_, address string, _ syscall.RawConn) error {
		ap, err := netip.ParseAddrPort(address)
		if a := ap.Addr().Unmap(); err != nil || a.IsLoopback() || a.IsPrivate() || a.IsLinkLocalUnicast() || a.IsUnspecified() {
			return inwards
		}
		return nil
	}}
	eachLeg(t, func(t *testing.T, secure bool) {
		r := newRig(t, secure, wsproxy.WithDialContext(dialer.DialContext), wsproxy.WithRewrite(func(pr *httputil.ProxyRequest) {
			pr.Out.URL.Host = pr.In.URL.Query().Get("to")
		}))
		_, port, _ := net.SplitHostPort(r.back.Addr().String())
		for _, to := range []string{"127.0.0.1", "localhost", "[::ffff:127.0.0.1]", "0.0.0.0", "[::ffff:7f00:1]", "127.1.2.3"} {
			c := r.client()
			c.Send(edited("GET / ", "GET /?to="+to+":"+port+" ") + second)
			if got := undated(c.Rest()); got != bad {
				t.Errorf("%s: got\n%q, want\n%q", to, got, bad)
			}
		}
		if n := len(r.dials); n > 0 {
			t.Errorf("%d connections came in", n)
		}
	})
}

// A44: no value that clients send becomes a label of a counter.
func TestNothingIsCountedByName(t *testing.T) {
	t.Attr("case", "A44")
	eachLeg(t, func(t *testing.T, secure bool) {
		r := newRig(t, secure)
		before := r.proxy.Stats()
		for i := range 20 {
			c := r.client()
			c.Send(edited("GET / ", fmt.Sprintf("GET /%d ", i), "Version: 13", fmt.Sprint("Version: ", i+20)))
			c.Rest()
			c, u := r.open(fmt.Sprintf("Origin: http://o%d.test\r\nSec-WebSocket-Protocol: p%d\r\n", i, i), fmt.Sprintf("Sec-WebSocket-Protocol: p%d\r\n", i))
			c.Send(closeFrame("client", 4000+i, fmt.Sprint("reason ", i)))
			u.WantBytes(closeFrame("client", 4000+i, fmt.Sprint("reason ", i)))
			u.Send(closeFrame("upstream", 4000+i, ""))
			u.Close()
			c.WantBytes(closeFrame("upstream", 4000+i, ""))
			r.ended(i)
		}
		after := r.proxy.Stats()
		if len(after.Failed) != len(before.Failed) || len(after.Ended) != len(before.Ended) {
			t.Errorf("got %d and %d kinds of ends, want %d and %d as before", len(after.Failed), len(after.Ended), len(before.Failed), len(before.Ended))
		}
	})
}

// A61: a client that never completes its request is the server's to drop, with
// ReadHeaderTimeout; the proxy is not involved.
func TestSlowHandshake(t *testing.T) {
	t.Attr("case", "A61")
	eachLeg(t, func(t *testing.T, secure bool) {
		r := newRig(t, secure)
		r.reserve(&http.Server{Handler: r.proxy, ReadHeaderTimeout: 300 * time.Millisecond})
		c := r.client()
		for _, b := range []byte(handshake(strings.Repeat("X-A: a\r\n", 500))) {
			if _, err := c.Write([]byte{b}); err != nil {
				break
			}
			<-time.After(3 * time.Millisecond)
		}
		c.Rest()
		r.reserve(&http.Server{Handler: r.proxy})
		r.wantNoDial()
	})
}
