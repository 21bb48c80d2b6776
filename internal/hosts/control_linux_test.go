package hosts

import (
	"errors"
	"fmt"
	"sync"
	"time"
)

// A control is a set of sessions that no outage should affect.
type control struct {
	d        *deployment
	name     string
	sessions []*session
	stopping chan struct{}
	running  sync.WaitGroup

	mu      sync.Mutex
	echoes  int           // guarded by mu
	slowest time.Duration // guarded by mu
	errs    []error       // guarded by mu
}

const (
	controlPause = 100 * time.Millisecond
	// hiccup is how long an echo may take on a busy machine. All ends of all
	// sessions are checked as well.
	hiccup = 5 * time.Second
)

// watch starts to echo in each of the sessions.
func (d *deployment) watch(name string, sessions []*session) *control {
	c := &control{d: d, name: name, sessions: sessions, stopping: make(chan struct{})}
	for i, s := range sessions {
		c.running.Go(func() { c.talk(i, s) })
	}
	return c
}

func (c *control) talk(i int, s *session) {
	ticker := time.NewTicker(controlPause)
	defer ticker.Stop()
	for n := 0; ; n++ {
		select {
		case <-ticker.C:
		case <-c.stopping:
			return
		}
		began := time.Now()
		err := s.echo(fmt.Sprintf("control %d, message %d", i, n))
		took := time.Since(began)
		if err == nil && took > hiccup {
			err = fmt.Errorf("an echo took %v", took)
		}
		c.mu.Lock()
		c.echoes++
		c.slowest = max(c.slowest, took)
		if err != nil {
			c.errs = append(c.errs, fmt.Errorf("%s at %s by %s: %w", s.Room, s.Upstream, s.Proxy, err))
		}
		c.mu.Unlock()
		if s.over() {
			return
		}
	}
}

// well reports what has happened since the last call.
func (c *control) well(after string) {
	c.d.t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := errors.Join(c.errs...); err != nil {
		c.d.t.Errorf("%s, after %s: %v", c.name, after, err)
	}
	if c.echoes == 0 {
		c.d.t.Errorf("%s, after %s: has said nothing", c.name, after)
	}
	if len(c.errs) == 0 {
		c.d.say("%s: %d sessions, %d echoes, none lost, the slowest %v", c.name, len(c.sessions), c.echoes, c.slowest.Round(time.Millisecond))
	}
	c.echoes, c.slowest, c.errs = 0, 0, nil
}

// end ends the sessions, all of which must still be open.
func (c *control) end() {
	c.d.t.Helper()
	close(c.stopping)
	c.running.Wait()
	for _, s := range c.sessions {
		if s.over() {
			c.d.t.Errorf("%s: a session at %s by %s has ended: %v", c.name, s.Upstream, s.Proxy, s.err)
		}
	}
	closeAll(c.sessions)
}
