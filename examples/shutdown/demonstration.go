package main

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/coder/websocket"
)

// patience is how long anything may take that should take no time.
const patience = 30 * time.Second

// demonstrate replaces a server by another one, as a rolling update does, under
// the eyes of its clients.
func demonstrate(ctx context.Context, s settings) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	upstream := &http.Server{Handler: http.HandlerFunc(echo), ReadHeaderTimeout: patience}
	defer upstream.Close()
	go upstream.Serve(inner)
	s.upstream = "http://" + inner.Addr().String()

	// A alone is there. All clients get to it.
	a, err := startServer(ctx, "A", s)
	if err != nil {
		return err
	}
	defer a.end()
	lb := new(balancer)
	lb.add(ctx, a)
	cr := newCrowd(lb, s)
	defer cr.stop()
	began := time.Now()
	if err := cr.start(ctx); err != nil {
		return err
	}
	say("clients", "%d sessions on A, opened in %v", s.sessions, time.Since(began).Round(10*time.Millisecond))

	b, err := startServer(ctx, "B", s)
	if err != nil {
		return err
	}
	defer b.end()
	lb.add(ctx, b)

	cr.leave(time.Now())
	say("SIGTERM", "to A")
	if err := a.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	select {
	case <-a.done:
	case <-time.After(s.timeout + patience):
		return errors.New("server A is still running")
	case <-ctx.Done():
		return errors.New("interrupted")
	}
	say("A", "exited: %v", a.cmd.ProcessState)
	settled := cr.settle(ctx)
	cr.report(os.Stdout)
	cancel() // the clients and the balancer stop, and then B may end
	cr.stop()
	switch n := cr.lost(); {
	case a.err != nil:
		return fmt.Errorf("server A: %w", a.err)
	case settled != nil:
		return settled
	case n > 0:
		return fmt.Errorf("%d sessions or messages lost", n)
	}
	return nil
}

// A process is one of the two servers: this very program, in a process of its
// own, so that the signal is a real one.
type process struct {
	name, address string
	cmd           *exec.Cmd
	stdin         io.Closer
	done          chan struct{}
	err           error // set when done is closed
	ready         atomic.Bool
}

func startServer(ctx context.Context, name string, s settings) (*process, error) {
	program, err := os.Executable()
	if err != nil {
		return nil, err
	}
	p := &process{name: name, done: make(chan struct{})}
	p.cmd = exec.Command(program, "-child", "-upstream="+s.upstream, "-grace="+s.grace.String(),
		"-window="+s.window.String(), "-timeout="+s.timeout.String(), fmt.Sprintf("-at-once=%v", s.atOnce))
	p.cmd.Stderr = os.Stderr
	if p.stdin, err = p.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	stdout, err := p.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	serving := make(chan string, 1)
	go func() {
		lines := bufio.NewScanner(stdout)
		for lines.Scan() {
			_, text, _ := strings.Cut(lines.Text(), " ")
			text = strings.TrimSpace(text)
			if address, ok := strings.CutPrefix(text, "listens on "); ok {
				serving <- address
			}
			say(name, "%s", text)
		}
		p.err = p.cmd.Wait()
		close(p.done)
	}()
	select {
	case p.address = <-serving:
		return p, nil
	case <-p.done:
		return nil, fmt.Errorf("server %s: %w", name, cmp.Or(p.err, errors.New("exited")))
	case <-ctx.Done():
		p.end()
		return nil, errors.New("interrupted")
	}
}

// end ends the process if it still runs: by taking its standard input away.
func (p *process) end() {
	p.stdin.Close()
	select {
	case <-p.done:
	case <-time.After(patience):
		p.cmd.Process.Kill()
		<-p.done
	}
}

// A balancer knows which servers are ready, by asking them, as balancers do.
type balancer struct {
	mu      sync.Mutex
	servers []*process // guarded by mu
}

// probing is how often a balancer asks.
const probing = 100 * time.Millisecond

// add adds a server, and asks it from now on until ctx ends.
func (lb *balancer) add(ctx context.Context, p *process) {
	client := &http.Client{Timeout: patience}
	ask := func() {
		resp, err := client.Get("http://" + p.address + "/readyz")
		if err == nil {
			resp.Body.Close()
		}
		ready := err == nil && resp.StatusCode == http.StatusOK
		if was := p.ready.Swap(ready); was != ready && ctx.Err() == nil {
			say("balancer", "%s is %s", p.name, map[bool]string{true: "ready", false: "not ready"}[ready])
		}
	}
	ask()
	lb.mu.Lock()
	lb.servers = append(lb.servers, p)
	lb.mu.Unlock()
	go func() {
		defer client.CloseIdleConnections()
		for ctx.Err() == nil {
			time.Sleep(probing)
			ask()
		}
	}()
}

// choose returns a server that is ready, if there is one.
func (lb *balancer) choose() *process {
	lb.mu.Lock()
	defer lb.mu.Unlock()
	var ready []*process
	for _, p := range lb.servers {
		if p.ready.Load() {
			ready = append(ready, p)
		}
	}
	if len(ready) == 0 {
		return nil
	}
	return ready[rand.N(len(ready))]
}

// echo is the upstream.
func echo(w http.ResponseWriter, r *http.Request) {
	conn, err := websocket.Accept(w, r, nil)
	if err != nil {
		return // Accept has answered
	}
	defer conn.CloseNow()
	for {
		kind, message, err := conn.Read(r.Context())
		if err != nil {
			return
		}
		if err := conn.Write(r.Context(), kind, message); err != nil {
			return
		}
	}
}
