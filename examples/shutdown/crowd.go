package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"sync"
	"time"

	"github.com/coder/websocket"
)

// pause is how long a client is silent after an answer, on average.
const pause = 2 * time.Second

// A crowd is the clients and what has happened to them.
type crowd struct {
	lb       *balancer
	settings settings
	cancel   context.CancelFunc
	running  sync.WaitGroup
	greeted  sync.WaitGroup // whoever has an answer in the first session

	mu       sync.Mutex
	left     time.Time                    // guarded by mu; when A was told to go
	ends     map[websocket.StatusCode]int // guarded by mu; of sessions from then on, -1: cut
	last     time.Duration                // guarded by mu; the last end, since left
	returns  []time.Duration              // guarded by mu; new sessions, since left
	retries  int                          // guarded by mu; handshakes that came to nothing
	answered int                          // guarded by mu; messages
	again    int                          // guarded by mu; messages that were sent again in a new session
	wrong    int                          // guarded by mu; answers that were not to what was asked
	waiting  map[*client]bool             // guarded by mu; who has no session, or no answer in it yet
}

func newCrowd(lb *balancer, s settings) *crowd {
	return &crowd{lb: lb, settings: s, cancel: func() {},
		ends: make(map[websocket.StatusCode]int), waiting: make(map[*client]bool)}
}

// start starts the clients, and returns when each has had an answer.
func (cr *crowd) start(ctx context.Context) error {
	ctx, cr.cancel = context.WithCancel(ctx)
	slots := make(chan struct{}, 50) // handshakes at once: the demonstration is about the end
	for i := range cr.settings.sessions {
		cr.greeted.Add(1)
		c := &client{crowd: cr, name: fmt.Sprint("client ", i), greeted: sync.OnceFunc(cr.greeted.Done), slots: slots}
		cr.note(func(time.Duration) { cr.waiting[c] = true })
		cr.running.Go(func() { c.run(ctx) })
	}
	greeted := make(chan struct{})
	go func() {
		cr.greeted.Wait()
		close(greeted)
	}()
	select {
	case <-greeted:
		return nil
	case <-time.After(2 * patience):
		return errors.New("the clients cannot connect")
	case <-ctx.Done():
		return errors.New("interrupted")
	}
}

// leave records that A is being shut down.
func (cr *crowd) leave(now time.Time) {
	cr.mu.Lock()
	defer cr.mu.Unlock()
	cr.left = now
}

// settle waits until each client has a new session and an answer in it.
func (cr *crowd) settle(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		cr.mu.Lock()
		n := len(cr.waiting)
		cr.mu.Unlock()
		if n == 0 {
			return nil
		}
		select {
		case <-time.After(10 * time.Millisecond):
		case <-ctx.Done():
			return fmt.Errorf("%d clients have not reconnected", n)
		}
	}
}

// stop ends the clients.
func (cr *crowd) stop() {
	cr.cancel()
	cr.running.Wait()
}

// note updates the counts.
func (cr *crowd) note(f func(since time.Duration)) {
	cr.mu.Lock()
	defer cr.mu.Unlock()
	since := time.Duration(0)
	if !cr.left.IsZero() {
		since = time.Since(cr.left)
	}
	f(since)
}

// lost returns the number of sessions that were cut, and of messages without an
// answer or with a wrong one.
func (cr *crowd) lost() int {
	cr.mu.Lock()
	defer cr.mu.Unlock()
	n := cr.wrong + len(cr.waiting)
	for code, m := range cr.ends {
		if code != websocket.StatusGoingAway {
			n += m
		}
	}
	return n
}

// report prints what happened to the clients.
func (cr *crowd) report(w io.Writer) {
	cr.mu.Lock()
	defer cr.mu.Unlock()
	line := func(format string, args ...any) { fmt.Fprintf(w, format+"\n", args...) }
	bucket := cr.settings.window / 20
	counts := histogram(cr.returns, bucket)
	busiest := 0
	for _, n := range counts {
		busiest = max(busiest, n)
	}
	line("\nreconnects per %v, since the SIGTERM", bucket)
	for i, n := range counts {
		bar := strings.Repeat("█", (n*50+busiest-1)/busiest)
		line("%s", strings.TrimRight(fmt.Sprintf("%7.2f s %5d %s", (time.Duration(i)*bucket).Seconds(), n, bar), " "))
	}
	even := float64(len(cr.returns)) / 20
	line("")
	line("busiest          %d per %v, %.1f times the even spread over %v", busiest, bucket, float64(busiest)/even, cr.settings.window)
	line("told to leave    the last one %.2f s after the SIGTERM", cr.last.Seconds())
	line("Close 1001       %d", cr.ends[websocket.StatusGoingAway])
	for code, n := range cr.ends {
		if code != websocket.StatusGoingAway && code != -1 {
			line("Close %d       %d", code, n)
		}
	}
	line("cut              %d", cr.ends[-1])
	line("reconnected      %d, after %d failed attempts", len(cr.returns), cr.retries)
	line("messages         %d answered, %d of them sent again in the new session", cr.answered, cr.again)
	line("messages lost    %d", cr.wrong+len(cr.waiting))
}

// histogram counts times in buckets.
func histogram(times []time.Duration, bucket time.Duration) []int {
	var counts []int
	for _, t := range times {
		i := int(t / bucket)
		for len(counts) <= i {
			counts = append(counts, 0)
		}
		counts[i]++
	}
	return counts
}

// A client always has a session and sends a message in it now and then. It
// behaves as clients should: it reconnects after any end, after a random delay,
// and repeats messages that were not answered.
type client struct {
	crowd   *crowd
	name    string
	greeted func() // at the first answer
	slots   chan struct{}

	n     int  // of the message that is, or is to be, asked
	asked bool // message n was sent, in this session or the one before
}

func (c *client) run(ctx context.Context) {
	cr := c.crowd
	for first := true; ; first = false {
		conn, err := c.dial(ctx)
		if err != nil {
			return
		}
		if !first {
			cr.note(func(since time.Duration) { cr.returns = append(cr.returns, since) })
		}
		err = c.talk(ctx, conn)
		conn.CloseNow()
		if ctx.Err() != nil {
			return
		}
		cr.note(func(since time.Duration) {
			cr.waiting[c] = true
			cr.ends[websocket.CloseStatus(err)]++
			cr.last = since
		})
		c.greeted() // one that has no session any more is in nobody's way
		if !sleep(ctx, rand.N(cr.settings.delay+1)) {
			return
		}
	}
}

// dial tries until it has a session or ctx ends.
func (c *client) dial(ctx context.Context) (*websocket.Conn, error) {
	wait := c.crowd.settings.delay + 50*time.Millisecond
	for {
		if p := c.crowd.lb.choose(); p != nil {
			conn, err := c.dialOnce(ctx, "ws://"+p.address+"/websocket")
			if err == nil {
				return conn, nil
			}
		}
		c.crowd.note(func(time.Duration) { c.crowd.retries++ })
		if !sleep(ctx, wait/2+rand.N(wait)) {
			return nil, ctx.Err()
		}
		wait = min(2*wait, 5*time.Second)
	}
}

func (c *client) dialOnce(ctx context.Context, url string) (*websocket.Conn, error) {
	if c.n == 0 { // the first session
		c.slots <- struct{}{}
		defer func() { <-c.slots }()
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	conn, _, err := websocket.Dial(ctx, url, nil)
	return conn, err
}

// talk sends messages and reads the answers until the session ends.
func (c *client) talk(ctx context.Context, conn *websocket.Conn) error {
	cr := c.crowd
	answers := make(chan string)
	ended := make(chan error, 1)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	cr.running.Go(func() { // it must read all the time, or it wouldn't see the Close
		for {
			_, message, err := conn.Read(ctx)
			if err != nil {
				ended <- err
				return
			}
			select {
			case answers <- string(message):
			case <-ctx.Done():
				return
			}
		}
	})
	for {
		if c.asked {
			cr.note(func(time.Duration) { cr.again++ })
		}
		c.asked = true
		question := fmt.Sprintf("%s, message %d", c.name, c.n)
		conn.Write(ctx, websocket.MessageText, []byte(question)) // the reader sees what is wrong, if anything is
		select {
		case answer := <-answers:
			if answer != question {
				cr.note(func(time.Duration) { cr.wrong++ })
			}
		case err := <-ended:
			return err
		}
		c.n++
		c.asked = false
		cr.note(func(time.Duration) {
			cr.answered++
			delete(cr.waiting, c)
		})
		c.greeted()
		select {
		case <-time.After(pause/2 + rand.N(pause)):
		case <-answers:
			cr.note(func(time.Duration) { cr.wrong++ }) // nothing was asked
		case err := <-ended:
			return err
		}
	}
}

// sleep reports whether the time is over before ctx ends.
func sleep(ctx context.Context, d time.Duration) bool {
	select {
	case <-time.After(d):
		return true
	case <-ctx.Done():
		return false
	}
}
