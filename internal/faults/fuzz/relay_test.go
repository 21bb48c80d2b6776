// Package fuzz_test fuzzes the relay as a whole: two endpoints built on widely
// used libraries, a proxy between them, and strict readers of every byte at
// either end.
package fuzz_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/seed-ffb73231/wsproxy"
)

// current is the run that connections belong to; there is one at a time.
var current atomic.Pointer[run]

// A run is the execution of a script.
type run struct {
	*script
	taps     [2]atomic.Pointer[tap] // client, upstream
	session  atomic.Pointer[wsproxy.Session]
	accepted chan peer // the upstream
	peers    [2]peer
	got      [2][]message // read by each
	said     [2][]message // tried by each
	spoken   [2]sync.WaitGroup
	failed   [2]atomic.Pointer[error] // to say something
	killed   sync.Once
}

type message struct {
	text bool
	body []byte
}

// fronts starts the proxies, once.
var fronts = sync.OnceValue(func() (urls [4]string) {
	back, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	serve(tapped{back}, http.HandlerFunc(serveUpstream))
	slow := wsproxy.RateLimit{Messages: 20_000, Bytes: 20e6, Burst: time.Millisecond}
	for i := range urls {
		options := []wsproxy.Option{
			wsproxy.WithPing(time.Millisecond, timeout),
			wsproxy.WithCloseTimeout(timeout / 2),
			wsproxy.WithLogger(slog.New(slog.DiscardHandler)),
			wsproxy.WithOnOpen(func(s *wsproxy.Session, _ *http.Request) error {
				current.Load().session.Store(s)
				return nil
			}),
		}
		front, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			panic(err)
		}
		var listener net.Listener = front
		if i&1 == 1 {
			listener = chopped{front}
			options = append(options, wsproxy.WithDialContext(func(ctx context.Context, network, addr string) (net.Conn, error) {
				var d net.Dialer
				c, err := d.DialContext(ctx, network, addr)
				r := current.Load()
				return choppy{c, newCutter(r.seed, r.cut[3])}, err
			}))
		}
		if i&2 == 2 {
			options = append(options, wsproxy.WithRateLimit(wsproxy.Client, slow), wsproxy.WithRateLimit(wsproxy.Upstream, slow))
		}
		if i == 2 {
			options = append(options, wsproxy.WithDetach())
		}
		p, err := wsproxy.New("http://"+back.Addr().String(), options...)
		if err != nil {
			panic(err)
		}
		serve(listener, p)
		urls[i] = "ws://" + front.Addr().String() + "/"
	}
	return urls
})

func serve(l net.Listener, h http.Handler) {
	s := &http.Server{Handler: h, ErrorLog: log.New(io.Discard, "", 0),
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			if t, ok := c.(*tap); ok {
				current.Load().taps[1].Store(t)
			}
			return ctx
		}}
	go s.Serve(l)
}

type tapped struct{ net.Listener }

func (l tapped) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	r := current.Load()
	return newTap(c, false, r.deflate, newCutter(r.seed+1, r.cut[1])), nil
}

type chopped struct{ net.Listener }

func (l chopped) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	r := current.Load()
	return choppy{c, newCutter(r.seed+2, r.cut[2])}, err
}

func serveUpstream(w http.ResponseWriter, req *http.Request) {
	r := current.Load()
	p, err := acceptPeer(r, w, req)
	if err == nil {
		r.accepted <- p
	}
}

// play runs a script and returns what went wrong.
func play(s *script) error {
	r := &run{script: s, accepted: make(chan peer, 1)}
	current.Store(r)
	client, err := dialPeer(r, fronts()[s.proxy])
	if err != nil {
		return fmt.Errorf("handshake: %w", err)
	}
	r.peers[0] = client
	select {
	case r.peers[1] = <-r.accepted:
	case <-time.After(timeout):
		client.hangUp()
		return fmt.Errorf("no upstream")
	}
	r.spoken[0].Add(1)
	r.spoken[1].Add(1)
	var all sync.WaitGroup
	for side := range 2 {
		all.Go(func() { r.listen(side) })
		all.Go(func() { r.speak(side) })
	}
	over := make(chan struct{})
	go func() { all.Wait(); <-r.session.Load().Done(); close(over) }()
	select {
	case <-over:
	case <-time.After(timeout):
		err = fmt.Errorf("no end within %v; session: %v", timeout, r.session.Load().Err())
		client.hangUp()
		r.peers[1].hangUp()
		r.session.Load().Close(1000, "")
		<-over
		return err
	}
	return r.check()
}

// listen reads messages until the end, and closes.
func (r *run) listen(side int) {
	p := r.peers[side]
	defer p.hangUp()
	for {
		text, body, err := p.read()
		if err != nil {
			return
		}
		r.got[side] = append(r.got[side], message{text, body})
	}
}

// speak performs a side's part of the script.
func (r *run) speak(side int) {
	defer func() {
		if r.closer != side && r.closer != 2 {
			return
		}
		if r.barrier {
			r.spoken[side^1].Wait()
		}
		if r.kill != killNot {
			r.die()
		}
		r.peers[side].close(r.code, r.reason)
	}()
	defer r.spoken[side].Done()
	for i, a := range r.together {
		if i == r.killAt && r.kill != killNot {
			r.die()
		}
		if a.side != side {
			continue
		}
		if err := r.do(side, i, a); err != nil {
			r.failed[side].Store(&err)
			return
		}
	}
}

func (r *run) do(side, i int, a act) error {
	p, body := r.peers[side], r.payload(i, a)
	say := func(text bool, parts ...[]byte) error {
		r.said[side] = append(r.said[side], message{text, bytes.Join(parts, nil)})
		return p.message(text, parts...)
	}
	switch a.kind {
	case actText, actBinary:
		return say(a.kind == actText, body)
	case actFragments:
		n := len(body)
		return say(a.size%2 == 0, body[:n/3], body[n/3:n/2], body[n/2:])
	case actPing:
		return p.ping(body[:len(body)%126])
	case actPong:
		return p.pong(body[:len(body)%126])
	case actPause:
		time.Sleep(2*time.Millisecond + time.Duration(a.size)*10*time.Microsecond)
	case actBurst:
		for j := range 8 {
			if err := say(j%2 == 0, body[:len(body)*j/64]); err != nil {
				return err
			}
		}
	case actEmpty:
		return say(a.size%2 == 0, nil)
	}
	return nil
}

// die kills the session.
func (r *run) die() {
	r.killed.Do(func() {
		switch r.kill {
		case killClientReset:
			r.reset(0)
		case killUpstreamReset:
			r.reset(1)
		case killClientClose:
			r.taps[0].Load().Conn.Close()
		case killUpstreamClose:
			r.taps[1].Load().Conn.Close()
		case killSession:
			r.session.Load().Close(killCode, killReason)
		}
	})
}

const (
	killCode   = 4242
	killReason = "killed"
)

func (r *run) reset(side int) {
	c := r.taps[side].Load().Conn
	c.(*net.TCPConn).SetLinger(0)
	c.Close()
}

// FuzzRelay has two endpoints do what the input says, and checks every byte.
func FuzzRelay(f *testing.F) {
	for _, seed := range seeds() {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		t.Attr("case", "C18 C19 C20 F36")
		s := parseScript(in)
		if err := play(s); err != nil {
			t.Fatalf("%v\n%v", err, s)
		}
	})
}
