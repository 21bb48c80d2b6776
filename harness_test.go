package wsproxy_test

import (
	"context"
	"flag"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"testing"

	"github.com/seed-ffb73231/wsproxy"
	"github.com/seed-ffb73231/wsproxy/internal/remains"
	"github.com/seed-ffb73231/wsproxy/internal/wstest"
)

func TestMain(m *testing.M) {
	// Tests that run in parallel spend most of their time waiting for sockets
	// and timers, so there may be more of them than processors.
	flag.Parse()
	given := false
	flag.Visit(func(f *flag.Flag) { given = given || f.Name == "test.parallel" })
	if !given {
		each := 12
		if wstest.Race { // which has them compute more
			each = 2
		}
		flag.Set("test.parallel", strconv.Itoa(each*runtime.GOMAXPROCS(0)))
	}
	remains.Exit(wstest.Run(m))
}

// A rig puts a proxy between a client and an upstream. Both are raw byte
// streams that the test controls, over memory, TCP or TLS.
type rig struct {
	t     testing.TB
	legs  legs
	proxy *wsproxy.Proxy
	logs  *wstest.Logs
	front net.Listener
	back  net.Listener
	// returned gets a value when ServeHTTP has returned, and over when a
	// session is over.
	returned, over chan struct{}
	// connContext is the front server's ConnContext, unless it is nil.
	connContext func(context.Context, net.Conn) context.Context
}

// newRig starts a server with the proxy at every path. The test plays the
// upstream with rig.upstream.
func newRig(t testing.TB, k wstest.Kind, options ...wsproxy.Option) *rig {
	t.Helper()
	return carrier{drivers[0], bothLegs(k)}.rig(t, options...)
}

// newRigTo is newRig with another target, and without the option that allows
// every origin.
func newRigTo(t testing.TB, k wstest.Kind, target string, options ...wsproxy.Option) *rig {
	t.Helper()
	return newCarrierRig(t, carrier{drivers[0], bothLegs(k)}, target, options...)
}

func newCarrierRig(t testing.TB, c carrier, target string, options ...wsproxy.Option) *rig {
	t.Helper()
	r := &rig{t: t, legs: c.legs, logs: new(wstest.Logs), returned: make(chan struct{}, 10_000)}
	r.over = r.returned
	if c.detach {
		r.over = make(chan struct{}, 10_000)
		options = append(options, wsproxy.WithOnOpen(func(s *wsproxy.Session, _ *http.Request) error {
			go func() {
				<-s.Done()
				r.over <- struct{}{}
			}()
			return nil
		}))
	}
	options = append(slices.Clone(c.driver.options), options...)
	r.front, r.back = wstest.Listen(t, c.client), wstest.Listen(t, c.upstream)
	options = append([]wsproxy.Option{
		wsproxy.WithLogger(slog.New(r.logs)),
		wsproxy.WithDialContext(func(ctx context.Context, _, _ string) (net.Conn, error) {
			return wstest.Dial(ctx, r.back)
		}),
		wsproxy.WithTLSConfig(wstest.ClientConfig("")),
	}, options...)
	p, err := wsproxy.New(target, options...)
	if err != nil {
		t.Fatal(err)
	}
	r.proxy = p
	r.serve(p)
	return r
}

// serve starts the front server with the handler.
func (r *rig) serve(h http.Handler) {
	front := r.front
	if r.legs.below {
		front = wsproxy.NewListener(front)
	}
	front = r.legs.client.Secure(front)
	s := &http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			defer func() { r.returned <- struct{}{} }()
			h.ServeHTTP(w, req)
		}),
		ErrorLog:    wstest.ErrorLog(),
		ConnContext: r.connContext,
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.Serve(front)
	}()
	r.t.Cleanup(func() {
		cut := make(chan struct{})
		go func() {
			defer close(cut)
			r.proxy.Close()
		}()
		wstest.Receive(r.t, cut)
		s.Close()
		r.back.Close()
		wstest.Receive(r.t, done)
	})
}

// wantReturned waits until a ServeHTTP has returned.
func (r *rig) wantReturned() {
	r.t.Helper()
	wstest.Receive(r.t, r.returned)
}

// wantOver waits until a session is over: both its connections are closed.
func (r *rig) wantOver() {
	r.t.Helper()
	wstest.Receive(r.t, r.over)
}

// client connects to the front server; TLS and HTTP have not started.
func (r *rig) client() *wstest.Wire {
	r.t.Helper()
	return r.legs.client.Connect(r.t, r.front)
}

// upstream waits for the proxy to connect; TLS and HTTP have not started.
func (r *rig) upstream() *wstest.Wire {
	r.t.Helper()
	return r.legs.upstream.Accept(r.t, r.back)
}

// open performs both handshakes. The extra header lines are added to the
// client's request and the upstream's answer.
func (r *rig) open(requestLines, answerLines string) (client, upstream *wstest.Wire) {
	r.t.Helper()
	client = r.client()
	client.Send(wstest.Request("/?token="+wstest.Secret, requestLines+
		"Cookie: id="+wstest.Secret+"\r\nAuthorization: Bearer "+wstest.Secret+"\r\nX-"+wstest.Secret+": "+wstest.Secret+"\r\n"))
	upstream = r.upstream()
	upstream.Answer(answerLines + "Set-Cookie: id=" + wstest.Secret + "\r\n")
	if resp := client.ReadResponse(); resp.StatusCode != 101 {
		r.t.Fatalf("client was answered %d, want 101", resp.StatusCode)
	}
	return client, upstream
}

// wantEnded waits for the first record of a session's end and checks who ended
// it and why.
func (r *rig) wantEnded(by, reason string) wstest.Record {
	r.t.Helper()
	m := r.logs.Wait(r.t, 0)
	if m["msg"] != "wsproxy: session ended" || m["by"] != by || m["reason"] != reason {
		r.t.Fatalf("logged %v, want a session ended by %q for %q", m, by, reason)
	}
	return m
}

// alone reports whether this process runs only the given test. If not, it runs
// the test in a process of its own, because the test counts or limits what
// belongs to the whole process: goroutines, descriptors, heap, and stacks (new
// goroutines get stacks of the average size that others have needed).
func alone(t *testing.T) bool {
	t.Helper()
	const env = "WSPROXY_TEST_ALONE"
	if os.Getenv(env) == t.Name() {
		return true
	}
	t.Parallel()
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^"+t.Name()+"$", "-test.timeout=2m")
	cmd.Env = append(os.Environ(), env+"="+t.Name())
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	return false
}
