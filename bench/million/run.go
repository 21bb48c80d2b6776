//go:build linux && (amd64 || arm64) && wsproxy_simulated

package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"runtime"
	"runtime/pprof"
	"strings"
	"time"

	"github.com/coder/websocket"

	"github.com/seed-ffb73231/wsproxy"
	"github.com/seed-ffb73231/wsproxy/internal/frame"
	"github.com/seed-ffb73231/wsproxy/internal/relay"
	"github.com/seed-ffb73231/wsproxy/internal/wstest"
)

// members is the number of upstreams.
const members = 10

// A result is what was measured with a number of sessions.
type result struct {
	Sessions int

	Join, Leave, Close, Drained, Stats, Listed cost // the CPU time of one
	Ping                                       cost // one frame and its Pong
	PingCalls                                  map[string]float64

	Filled time.Duration // the time to open the sessions, one after the other

	Heap, Resident uint64 // bytes of a session

	RestLoad, ChurnLoad float64 // processors
	ChurnRate           float64 // sessions that joined a second

	// In the time of churn.
	JoinP99, JoinMost              time.Duration
	StatsP99, StatsMost, OtherMost time.Duration // OtherMost: Stats of a proxy without sessions
	Delay                          time.Duration // events waited for the loop
	GC                             collection

	DrainTime, DrainStatsMost, DrainDelay time.Duration
	DrainGC                               collection

	LeftHeap float64 // what is left of the heap when all is over, of what it had grown

	Held map[string]string // with ./locks: the longest holds of locks in each phase
}

// takeHeld is set in the builds of ./locks.
var takeHeld func(sessions int, phase string) string

// held ends a phase in which it is measured how long locks are held.
func (r *result) held(phase string) {
	if takeHeld != nil {
		r.Held[phase] = takeHeld(r.Sessions, phase)
	}
}

// A cost is the CPU time of one operation.
type cost = time.Duration

// A figure is a row of the table.
type figure struct {
	name string
	cell func(r *result) string
}

var figures = []figure{
	{"join: handshakes of both sides, member, registry, loop", func(r *result) string { return short(r.Join) }},
	{"leave: a Close from the client to the end of both connections", func(r *result) string { return short(r.Leave) }},
	{"`Session.Close`", func(r *result) string { return short(r.Close) }},
	{"`Stats()`", func(r *result) string { return short(r.Stats) }},
	{"`Sessions()`, each session", func(r *result) string { return short(r.Listed) }},
	{"drain, each session", func(r *result) string { return short(r.Drained) }},
	{"a Ping and its Pong", func(r *result) string { return short(r.Ping) }},
	{"processors, at rest: Pings only", func(r *result) string { return fmt.Sprintf("%.3f", r.RestLoad) }},
	{"processors, joins and leaves beside", func(r *result) string { return fmt.Sprintf("%.3f", r.ChurnLoad) }},
	{"joins a second meanwhile", func(r *result) string { return fmt.Sprintf("%.0f", r.ChurnRate) }},
	{"a join meanwhile: 99th percentile / longest", func(r *result) string { return short(r.JoinP99) + " / " + short(r.JoinMost) }},
	{"`Stats()` meanwhile: 99th percentile / longest", func(r *result) string { return short(r.StatsP99) + " / " + short(r.StatsMost) }},
	{"`Stats()` of another proxy, which has no sessions: longest", func(r *result) string { return short(r.OtherMost) }},
	{"longest that events waited for the loop", func(r *result) string { return short(r.Delay) }},
	{"garbage collections / longest stop", func(r *result) string { return fmt.Sprint(r.GC.Cycles, " / ", short(r.GC.Longest)) }},
	{"drain: time", func(r *result) string { return short(r.DrainTime) }},
	{"`Stats()` meanwhile: longest", func(r *result) string { return short(r.DrainStatsMost) }},
	{"longest that events waited for the loop", func(r *result) string { return short(r.DrainDelay) }},
	{"garbage collections / longest stop", func(r *result) string { return fmt.Sprint(r.DrainGC.Cycles, " / ", short(r.DrainGC.Longest)) }},
	{"heap, bytes a session", func(r *result) string { return fmt.Sprint(r.Heap) }},
	{"resident, bytes a session", func(r *result) string { return fmt.Sprint(r.Resident) }},
}

// A scene is a proxy with simulated sessions.
type scene struct {
	*plan
	proxy   *wsproxy.Proxy
	request *http.Request
	opened  int
	peers   []relay.SimulatedPeer // clients
}

func measure(n int, p *plan) (*result, error) {
	if err := relay.Simulate(2*n + 20*p.rate + 4*p.burst + 4096); err != nil {
		return nil, err
	}
	s := &scene{plan: p, peers: make([]relay.SimulatedPeer, 0, n+p.burst)}
	var upstreams []wsproxy.Member
	for i := range members {
		upstreams = append(upstreams, wsproxy.Member{Target: fmt.Sprintf("http://10.0.0.%d:9000/", i+1)})
	}
	options := []wsproxy.Option{
		wsproxy.WithDetach(), wsproxy.WithPing(p.ping, p.ping*35/25), wsproxy.WithUpstreams(upstreams...),
		wsproxy.WithDrain(p.drain, websocket.StatusGoingAway), wsproxy.WithLogger(slog.New(slog.DiscardHandler)),
		wsproxy.WithDialContext(func(context.Context, string, string) (net.Conn, error) {
			c, err := relay.NewSimulated(frame.Upstream)
			if err != nil {
				return nil, err
			}
			return &upstream{Simulated: c}, nil
		}),
	}
	var err error
	if s.proxy, err = wsproxy.New("", options...); err != nil {
		return nil, err
	}
	other, err := wsproxy.New("", options...)
	if err != nil {
		return nil, err
	}
	s.request, err = http.ReadRequest(bufio.NewReader(strings.NewReader(wstest.Request("/chat?room=5",
		"Origin: http://front.test\r\nUser-Agent: Mozilla/5.0\r\nAccept-Language: en\r\nAccept-Encoding: gzip\r\nCookie: session=0123456789\r\n"+
			"Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n"))))
	if err != nil {
		return nil, err
	}
	if err := s.warm(); err != nil {
		return nil, err
	}
	r := &result{Sessions: n, Held: make(map[string]string)}
	goroutines := runtime.NumGoroutine()
	heap, resident := memory()

	began := time.Now()
	for range n {
		if err := s.join(); err != nil {
			return nil, err
		}
	}
	r.Filled = time.Since(began)
	r.held("opening")
	full, fullResident := memory()
	r.Heap, r.Resident = (full-heap)/uint64(n), (fullResident-resident)/uint64(n)-2*uint64(relay.SimulatedSize)

	stop, err := startCPUProfile(p.cpuProfile)
	if err != nil {
		return nil, err
	}
	err = errors.Join(s.rest(r), s.live(r, other), stop())
	if err == nil {
		err = s.operations(r)
		r.held("operations")
	}
	if err == nil {
		err = s.end(r)
	}
	if err != nil {
		return nil, err
	}
	r.held("drain")
	if left := relay.SimulatedOpen(); left > 0 {
		return nil, fmt.Errorf("%d descriptors are left", left)
	}
	if left := runtime.NumGoroutine(); left > goroutines {
		return nil, fmt.Errorf("%d goroutines, %d before", left, goroutines)
	}
	s.peers = nil
	empty, _ := memory()
	r.LeftHeap = (float64(empty) - float64(heap)) / float64(full-heap)
	return r, nil
}

// warm opens and ends a few sessions, so that pools are filled and the loop runs.
func (s *scene) warm() error {
	for range 100 {
		if err := s.join(); err != nil {
			return err
		}
	}
	for len(s.peers) > 0 {
		s.leave()
	}
	return s.await(0)
}

// join opens a session.
func (s *scene) join() error {
	c, err := relay.NewSimulated(frame.Client)
	if err != nil {
		return err
	}
	s.opened++
	r := *s.request
	r.RemoteAddr = fmt.Sprintf("10.%d.%d.%d:%d", 1+s.opened>>16&127, s.opened>>8&255, s.opened&255, 1024+s.opened%60000)
	w := &hijacker{conn: c, header: make(http.Header)}
	s.proxy.ServeHTTP(w, &r)
	if w.status != 0 {
		return fmt.Errorf("a handshake was answered with %d", w.status)
	}
	s.peers = append(s.peers, c.Peer)
	return nil
}

// take removes one of the clients, at random.
func (s *scene) take() relay.SimulatedPeer {
	i, last := rand.IntN(len(s.peers)), len(s.peers)-1
	p := s.peers[i]
	s.peers[i] = s.peers[last]
	s.peers = s.peers[:last]
	return p
}

// leave has a client leave.
func (s *scene) leave() error { return s.take().Leave() }

// patience is how long sessions may take to end.
const patience = time.Minute

// await waits until so many sessions are open.
func (s *scene) await(open int) error {
	for began := time.Now(); s.proxy.Stats().Open != open; time.Sleep(time.Millisecond) {
		if time.Since(began) > patience {
			st := s.proxy.Stats()
			return fmt.Errorf("%d sessions are open, want %d; ended: %v", st.Open, open, st.Ended)
		}
	}
	return nil
}

// rest measures sessions that do nothing. Their Pings come at their interval.
func (s *scene) rest(r *result) error {
	pings := func() (n uint64) {
		for _, h := range s.proxy.Stats().RoundTrips {
			for _, c := range h.Counts {
				n += c
			}
		}
		return n
	}
	defer r.held("at rest")
	answered, calls, used, began := pings(), relay.SimulatedCalls(), cpu(), time.Now()
	time.Sleep(s.plan.rest)
	spent, took, n := cpu()-used, time.Since(began), pings()-answered
	if n == 0 {
		return errors.New("no Ping was answered")
	}
	r.Ping, r.RestLoad = spent/time.Duration(n), spent.Seconds()/took.Seconds()
	r.PingCalls = make(map[string]float64)
	for name, c := range relay.SimulatedCalls() {
		r.PingCalls[name] = float64(c-calls[name]) / float64(n)
	}
	return nil
}

// live has sessions join and leave all the time.
func (s *scene) live(r *result, other *wsproxy.Proxy) error {
	const step = 5 * time.Millisecond
	perStep := max(s.rate*int(step)/int(time.Second), 1)
	if s.mutexes != "" {
		runtime.SetMutexProfileFraction(1)
		defer runtime.SetMutexProfileFraction(0)
	}
	stop := make(chan struct{})
	probed := make(chan struct{})
	var stats, others latencies
	go func() {
		defer close(probed)
		ticker := time.NewTicker(10 * time.Millisecond)
		defer ticker.Stop()
		for {
			select {
			case <-ticker.C:
				stats.time(func() { s.proxy.Stats() })
				others.time(func() { other.Stats() })
			case <-stop:
				return
			}
		}
	}()
	joins := make(latencies, 0, 1<<20)
	defer r.held("joins and leaves")
	relay.SimulatedDelay()
	gc, used, began := startGC(), cpu(), time.Now()
	var err error
	for due := began; err == nil && time.Since(began) < s.churn; due = due.Add(step) {
		time.Sleep(time.Until(due))
		if late := time.Since(due); late > 100*time.Millisecond { // do not make up for it at once
			due = due.Add(late)
		}
		for range perStep {
			joins.time(func() { err = errors.Join(err, s.join()) })
			err = errors.Join(err, s.leave())
		}
	}
	took := time.Since(began)
	r.ChurnLoad = (cpu() - used).Seconds() / took.Seconds()
	r.ChurnRate = float64(len(joins)) / took.Seconds()
	gc.stop()
	r.GC, r.Delay = *gc, relay.SimulatedDelay()
	close(stop)
	<-probed
	r.JoinP99, r.JoinMost = joins.at(0.99), joins.at(1)
	r.StatsP99, r.StatsMost, r.OtherMost = stats.at(0.99), stats.at(1), others.at(1)
	return errors.Join(err, writeProfile("mutex", s.mutexes), s.await(len(s.peers)))
}

// operations measures one kind of operation after the other. What Pings take meanwhile
// is subtracted.
func (s *scene) operations(r *result) error {
	each := func(n int, f func() error) (cost, error) {
		used, began := cpu(), time.Now()
		err := f()
		spent := (cpu() - used).Seconds() - r.RestLoad*time.Since(began).Seconds()
		return cost(max(spent, 0) / float64(n) * 1e9), err
	}
	n := min(s.burst, len(s.peers)/2)
	repeat := func(f func() error) func() error {
		return func() (err error) {
			for range n {
				err = errors.Join(err, f())
			}
			return errors.Join(err, s.await(len(s.peers)))
		}
	}
	var errs [5]error
	r.Join, errs[0] = each(n, repeat(s.join))
	r.Leave, errs[1] = each(n, repeat(s.leave))
	r.Stats, errs[2] = each(n, repeat(func() error { s.proxy.Stats(); return nil }))
	var some []*wsproxy.Session
	listed := 0
	r.Listed, errs[3] = each(len(s.peers), func() error {
		for one := range s.proxy.Sessions() {
			if listed++; len(some) < n {
				some = append(some, one)
			}
		}
		if listed != len(s.peers) {
			return fmt.Errorf("%d sessions are listed, want %d", listed, len(s.peers))
		}
		return nil
	})
	left := len(s.peers) - len(some)
	r.Close, errs[4] = each(len(some), func() (err error) {
		for _, one := range some {
			err = errors.Join(err, one.Close(websocket.StatusPolicyViolation, "signed out"))
		}
		return errors.Join(err, s.await(left))
	})
	return errors.Join(errs[:]...)
}

// end drains the proxy.
func (s *scene) end(r *result) error {
	n := s.proxy.Stats().Open
	ctx, cancel := context.WithTimeout(context.Background(), s.drain+30*time.Second)
	defer cancel()
	gc, used, began := startGC(), cpu(), time.Now()
	relay.SimulatedDelay()
	done := make(chan error)
	go func() { done <- s.proxy.Shutdown(ctx) }()
	var stats latencies
	ticker := time.NewTicker(100 * time.Millisecond)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
			stats.time(func() { s.proxy.Stats() })
			continue
		case err := <-done:
			if err != nil {
				return err
			}
		}
		break
	}
	r.DrainTime = time.Since(began)
	// The Pings become fewer with the sessions.
	r.Drained = cost(max((cpu()-used).Seconds()-r.RestLoad*r.DrainTime.Seconds()/2, 0) / float64(n) * 1e9)
	gc.stop()
	r.DrainGC, r.DrainStatsMost, r.DrainDelay = *gc, stats.at(1), relay.SimulatedDelay()
	drain := s.proxy.Stats().Drain
	if drain.Total != n || drain.Told != n || drain.Cut != 0 {
		return fmt.Errorf("drain: %+v, want %d sessions told and none cut", drain, n)
	}
	for began := time.Now(); relay.SimulatedOpen() > 0 && time.Since(began) < patience; time.Sleep(time.Millisecond) {
	}
	return nil
}

// startCPUProfile starts a profile, unless file is "".
func startCPUProfile(file string) (stop func() error, err error) {
	if file == "" {
		return func() error { return nil }, nil
	}
	f, err := os.Create(file)
	if err != nil {
		return nil, err
	}
	if err := pprof.StartCPUProfile(f); err != nil {
		return nil, err
	}
	return func() error { pprof.StopCPUProfile(); return f.Close() }, nil
}

// writeProfile writes a profile of the process, unless file is "".
func writeProfile(name, file string) error {
	if file == "" {
		return nil
	}
	f, err := os.Create(file)
	if err != nil {
		return err
	}
	return errors.Join(pprof.Lookup(name).WriteTo(f, 0), f.Close())
}

// An upstream answers a handshake.
type upstream struct {
	*relay.Simulated
	answer string
}

func (c *upstream) Write(b []byte) (int, error) {
	if _, rest, ok := strings.Cut(string(b), "Sec-WebSocket-Key: "); ok {
		key, _, _ := strings.Cut(rest, "\r\n")
		c.answer = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: " + wstest.AcceptKey(key) + "\r\n\r\n"
	}
	return len(b), nil
}

func (c *upstream) Read(b []byte) (n int, err error) {
	if c.answer == "" {
		return 0, io.EOF
	}
	n = copy(b, c.answer)
	c.answer = c.answer[n:]
	return n, nil
}

// A hijacker is a server's ResponseWriter.
type hijacker struct {
	header http.Header
	conn   *relay.Simulated
	status int
}

func (w *hijacker) Header() http.Header         { return w.header }
func (w *hijacker) Write(b []byte) (int, error) { return len(b), nil }
func (w *hijacker) WriteHeader(status int)      { w.status = status }
func (w *hijacker) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	return w.conn, bufio.NewReadWriter(bufio.NewReaderSize(w.conn, 16), bufio.NewWriterSize(w.conn, 16)), nil
}
