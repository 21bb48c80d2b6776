package hosts

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/coder/websocket"
)

const (
	crowdPause = 4 * time.Second // between two messages of a client, on average
	backoff    = 250 * time.Millisecond
)

// A mover behaves as clients should: it always has a session, and reconnects
// shortly after a Close that announces a shutdown.
type mover struct {
	d       *deployment
	room    string
	changed *atomic.Int64 // counts new sessions, of all movers

	mu       sync.Mutex
	sessions []*session // guarded by mu
	opened   time.Time  // guarded by mu; the last one
	refused  []error    // guarded by mu; handshakes that came to nothing
	err      error      // guarded by mu; why it has given up
}

// run keeps a session open until ctx ends.
func (m *mover) run(ctx context.Context, slots chan struct{}) {
	fail := func(format string, args ...any) {
		m.mu.Lock()
		defer m.mu.Unlock()
		m.err = fmt.Errorf(format, args...)
	}
	for ctx.Err() == nil {
		slots <- struct{}{}
		s, err := m.d.dial(m.d.balancer.address(80), "/crowd/", m.room)
		<-slots
		m.mu.Lock()
		if err == nil {
			m.sessions, m.opened = append(m.sessions, s), time.Now()
		} else {
			m.refused = append(m.refused, err)
		}
		tries := len(m.refused)
		m.mu.Unlock()
		switch {
		case err != nil && tries > 10:
			fail("has been refused too often: %w", err)
			return
		case err == nil:
			m.changed.Add(1)
			if err := m.talk(ctx, s); err != nil {
				fail("%w", err)
				return
			}
		}
		select {
		case <-time.After(backoff + rand.N(backoff)):
		case <-ctx.Done():
		}
	}
}

// talk sends a message now and then, until the session's proxy shuts down or
// ctx ends.
func (m *mover) talk(ctx context.Context, s *session) error {
	defer s.close()
	for n := 0; ; n++ {
		if err := s.echo(fmt.Sprint("message ", n)); err != nil && !s.over() {
			return err
		}
		select {
		case <-time.After(crowdPause/2 + rand.N(crowdPause)):
			continue
		case <-s.done:
		case <-ctx.Done():
			return nil
		}
		if s.code == websocket.StatusGoingAway || s.code == websocket.StatusServiceRestart {
			return nil
		}
		return fmt.Errorf("the session by %s has ended by %w, want Close 1001 or 1012", s.Proxy, s.err)
	}
}

// drain drains a proxy that has a crowd of clients, and watches them move to
// the other one.
func (d *deployment) drain(from, to *machine) {
	t := d.t
	t.Helper()
	// Only the crowd's proxy takes new sessions; the operator has taken out the
	// other one, which keeps its sessions.
	d.balancer.set(to, "maint")
	d.balancer.await(to, "MAINT")
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	defer running.Wait()
	defer cancel()
	var changed atomic.Int64
	slots := make(chan struct{}, 64)
	began := time.Now()
	crowd := make([]*mover, crowdSize)
	for i := range crowd {
		crowd[i] = &mover{d: d, room: fmt.Sprint("crowd-", i%500), changed: &changed}
		running.Go(func() { crowd[i].run(ctx, slots) })
	}
	settled := func(sessions int64) func() error {
		return func() error {
			if n := changed.Load(); n < sessions {
				return fmt.Errorf("%d of %d sessions", n, sessions)
			}
			return nil
		}
	}
	waitFor(t, "the crowd to come", 3*patience, settled(crowdSize))
	d.say("%d clients in 500 rooms are at %s, by way of the balancer, after %v", crowdSize, from, round(time.Since(began)))
	d.balancer.set(to, "ready")
	d.balancer.await(to, "UP")

	told := time.Now()
	d.say("%s gets SIGTERM", from)
	must(t, from.cmd.Process.Signal(syscall.SIGTERM))
	d.balancer.await(from, "DOWN")
	d.say("the balancer has taken %s out, %v after that", from, round(time.Since(told)))
	from.await(t, drainWindow+25*time.Second)
	d.say("%s has ended after %v: %v", from, round(time.Since(told)), from.cmd.ProcessState)
	waitFor(t, "the crowd to come back", 3*patience, settled(2*crowdSize))

	var ends, returns []time.Duration
	var away time.Duration // the longest that a client was without a session
	codes := make(map[string]int)
	var refused []error
	upstreams := make(map[string]int)
	for _, m := range crowd {
		m.mu.Lock()
		sessions, opened, err := slices.Clone(m.sessions), m.opened, m.err
		refused = append(refused, m.refused...)
		m.mu.Unlock()
		if err != nil {
			t.Errorf("a client of %s: %v", m.room, err)
			continue
		}
		if len(sessions) != 2 {
			t.Errorf("a client of %s has had %d sessions, want 2", m.room, len(sessions))
			continue
		}
		first, second := sessions[0], sessions[1]
		if first.Proxy != from.ip.String() || second.Proxy != to.ip.String() {
			t.Errorf("a client of %s has come from %s to %s, want %s and %s", m.room, first.Proxy, second.Proxy, from.ip, to.ip)
		}
		if first.Upstream != second.Upstream {
			t.Errorf("%s was at %s, and is at %s", m.room, first.Upstream, second.Upstream)
		}
		if !first.over() || second.over() {
			t.Errorf("a client of %s: the first session is over: %v, the second: %v", m.room, first.over(), second.over())
			continue
		}
		upstreams[second.Upstream]++
		codes[fmt.Sprint("Close ", int(first.code))]++
		ends = append(ends, first.ended.Sub(told))
		returns = append(returns, opened.Sub(told))
		away = max(away, opened.Sub(first.ended))
	}
	d.say("%d clients have come to %s, in the same rooms at the same upstreams (%s), each by 1 reconnect (%s); the longest was away for %v",
		len(returns), to, tally(upstreams), tally(codes), round(away))
	if len(refused) > 0 {
		t.Errorf("%d handshakes have come to nothing on the way; the first: %v", len(refused), refused[0])
	}
	for what, times := range map[string][]time.Duration{"told to go": ends, "back": returns} {
		d.say("%s: from %v to %v after SIGTERM; at most %d in any 100ms, %d in any second; %d and %d if evenly spread over %v",
			what, round(slices.Min(times)), round(slices.Max(times)), most(times, 100*time.Millisecond), most(times, time.Second),
			crowdSize*100/int(drainWindow.Milliseconds()), crowdSize/int(drainWindow.Seconds()), drainWindow)
		// A busy machine delays some, and then more come at once; without a
		// drain all of them do.
		if got := most(times, time.Second); got > crowdSize/2 {
			t.Errorf("%d clients were %s within a second, want %d or so", got, what, crowdSize/int(drainWindow.Seconds()))
		}
		if got := slices.Max(times); got < drainDelay+drainWindow*9/10 {
			t.Errorf("all clients were %s %v after SIGTERM, want them to be spread over %v", what, got, drainWindow)
		}
	}
	cancel()
	running.Wait()
}

// most returns the largest number of times within any interval of the given
// length.
func most(times []time.Duration, within time.Duration) (n int) {
	times = slices.Sorted(slices.Values(times))
	first := 0
	for i, at := range times {
		for at-times[first] > within {
			first++
		}
		n = max(n, i-first+1)
	}
	return n
}

// back restarts a drained proxy; the balancer gives it half of the sessions.
func (d *deployment) back(p *machine) {
	d.t.Helper()
	p.begin()
	d.awaitServing(p)
	d.balancer.await(p, "UP")
	d.say("%s is started again", p)
	sessions := d.openAt(d.balancer.address(80), "/rooms/", rooms(40), 8)
	counts := make(map[string]int)
	for _, s := range sessions {
		counts[d.name(s.Proxy)]++
	}
	if got := counts[p.host.name]; got != len(sessions)/2 {
		d.t.Errorf("%s has %d of %d new sessions, want half", p, got, len(sessions))
	}
	closeAll(sessions)
	d.say("of %d new sessions it has its half: %s", len(sessions), tally(counts))
}
