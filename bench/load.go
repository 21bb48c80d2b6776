//go:build linux

package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/seed-ffb73231/wsproxy/internal/wstest"
)

// runLoad is the load generator's process. It exits with its connections open:
// how proxies handle that is no longer measured.
func runLoad(arg string) error {
	var l load
	if err := json.Unmarshal([]byte(arg), &l); err != nil {
		return err
	}
	m := &meter{load: l}
	if l.Pid != 0 {
		_, m.Base = memory(tree(l.Pid))
	}
	run, ok := map[string]func(*meter) error{
		"echo": echo, "pipe": echo, "paced": echo, "growth": echo,
		"down": down, "up": up,
		"idle": idle, "handshake": handshake,
	}[l.Kind]
	if !ok {
		return errors.New("no such load: " + l.Kind)
	}
	if err := run(m); err != nil {
		return err
	}
	slices.Sort(m.latencies)
	if n := len(m.latencies); n > 0 {
		m.P50, m.P99 = m.latencies[n/2], m.latencies[n*99/100]
	}
	return json.NewEncoder(os.Stdout).Encode(m.sample)
}

// echo sends messages and waits for them to return. With a rate, they leave
// at that rate, spread over the connections; without, each answer is followed
// by the next message at once. Growth reads the sessions' memory before.
func echo(m *meter) error {
	frame, want := message(m.Size)
	conns, err := m.openAll("/echo", frame, want)
	if err != nil {
		return err
	}
	if m.Settle > 0 {
		m.settle()
	}
	if m.TLS {
		return m.echoTLS(conns, frame, want)
	}
	p, clients, err := poll(conns, syscall.EPOLLIN)
	if err != nil {
		return err
	}
	frames := bytes.Repeat(frame, m.Window)
	buf := make([]byte, 64<<10)
	m.start()
	if m.Rate == 0 {
		for i := range clients {
			clients[i].at = time.Now()
			if err := writeAll(clients[i].fd, frames); err != nil {
				return err
			}
		}
	}
	begin, next, sent, timeout := time.Now(), 0, 0, 100
	if m.Rate > 0 {
		timeout = 1 // ms; what falls due within it leaves in one go
	}
	for m.tick(time.Now()) {
		for _, ev := range p.wait(timeout) {
			c := &clients[ev.Fd]
			n, errno := read(c.fd, buf)
			if errno == syscall.EAGAIN {
				continue
			}
			if errno != 0 || n == 0 {
				return fmt.Errorf("read: %d, %w", n, errno)
			}
			c.got += n
			k := c.got / len(want) // lengths suffice: openAll has compared the bytes
			if k == 0 {
				continue
			}
			c.got %= len(want)
			now := time.Now()
			m.done(k, now.Sub(c.at))
			c.at, c.busy = now, false
			if m.Rate == 0 {
				if err := writeAll(c.fd, frames[:k*len(frame)]); err != nil {
					return err
				}
			}
		}
		if m.Rate == 0 {
			continue
		}
		for due := int(time.Since(begin).Seconds() * float64(m.Rate)); sent < due; sent++ {
			c := &clients[next]
			next = (next + 1) % len(clients)
			if c.busy {
				continue // it lags: the rate isn't reached
			}
			c.at, c.busy = time.Now(), true
			if err := writeAll(c.fd, frame); err != nil {
				return err
			}
		}
	}
	m.Bytes = m.Ops * int64(m.Size)
	return nil
}

// echoTLS is echo with a goroutine for each connection: TLS can't be left to
// epoll.
func (m *meter) echoTLS(conns []io.ReadWriteCloser, frame, want []byte) error {
	var mu sync.Mutex
	m.start()
	return parallel(len(conns), func(i int) error {
		buf := make([]byte, len(want))
		for {
			now := time.Now()
			if _, err := conns[i].Write(frame); err != nil {
				return err
			}
			if _, err := io.ReadFull(conns[i], buf); err != nil {
				return err
			}
			mu.Lock()
			m.done(1, time.Since(now))
			more := m.tick(time.Now())
			mu.Unlock()
			if !more {
				return nil
			}
		}
	})
}

// down requests large messages and drops them, without copying them out of the
// kernel.
func down(m *meter) error {
	ask := wstest.AppendFrame(nil, wstest.Binary, &mask, []byte{'g'})
	want := wstest.AppendFrame(nil, wstest.Binary, nil, pattern(bulkSize))
	conns, err := m.openAll("/source", ask, want)
	if err != nil {
		return err
	}
	p, clients, err := poll(conns, syscall.EPOLLIN)
	if err != nil {
		return err
	}
	m.start()
	for _, c := range clients { // some at a time: the upstream never waits for the next one
		for range m.Window {
			if err := writeAll(c.fd, ask); err != nil {
				return err
			}
		}
	}
	for m.tick(time.Now()) {
		for _, ev := range p.wait(100) {
			c := &clients[ev.Fd]
			n, errno := discard(c.fd, bulkSize)
			if errno == syscall.EAGAIN {
				continue
			}
			if errno != 0 || n == 0 {
				return fmt.Errorf("read: %d, %w", n, errno)
			}
			c.got += n
			for c.got >= len(want) {
				c.got -= len(want)
				m.done(1, 0)
				if err := writeAll(c.fd, ask); err != nil {
					return err
				}
			}
		}
	}
	m.Bytes = m.Ops * bulkSize
	return nil
}

// up sends large messages as fast as the connection accepts them, and counts
// those that the upstream has acknowledged: others may still be in buffers on
// the way.
func up(m *meter) error {
	c, err := m.open("/echo") // first see that payload arrives whole
	if err != nil {
		return err
	}
	big, bigWant := message(100_000)
	if err := exchange(c, big, bigWant); err != nil {
		return err
	}
	c.Close()
	frame := wstest.AppendFrame(nil, wstest.Binary, &mask, pattern(bulkSize))
	ack := wstest.AppendFrame(nil, wstest.Binary, nil, []byte{'k'})
	conns, err := m.openAll("/sink", frame, ack)
	if err != nil {
		return err
	}
	p, clients, err := poll(conns, syscall.EPOLLIN|syscall.EPOLLOUT)
	if err != nil {
		return err
	}
	buf := make([]byte, 4096)
	m.start()
	for m.tick(time.Now()) {
		for _, ev := range p.wait(100) {
			c := &clients[ev.Fd]
			if ev.Events&syscall.EPOLLIN != 0 {
				n, errno := read(c.fd, buf)
				if errno != 0 || n == 0 {
					return fmt.Errorf("read: %d, %w", n, errno)
				}
				c.got += n
				m.done(c.got/len(ack), 0)
				c.got %= len(ack)
			}
			if ev.Events&syscall.EPOLLOUT != 0 {
				n, errno := write(c.fd, frame[c.sent:])
				if errno != 0 && errno != syscall.EAGAIN {
					return fmt.Errorf("write: %w", errno)
				}
				if errno == 0 {
					c.sent = (c.sent + n) % len(frame)
				}
			}
		}
	}
	m.Bytes = m.Ops * bulkSize
	return nil
}

// idle opens sessions, uses each once, and leaves them idle. The window is the
// time of opening.
func idle(m *meter) error {
	frame, want := message(m.Size)
	m.start()
	m.from, m.Duration = time.Now(), 0
	m.tick(m.from)
	conns, err := m.openAll("/echo", frame, want)
	if err != nil {
		return err
	}
	m.ops = int64(len(conns))
	m.tick(time.Now())
	m.settle()
	for i := 0; i < len(conns); i += 50 { // they must have lived until here
		if err := exchange(conns[i], frame, want); err != nil {
			return fmt.Errorf("session %d after idling: %w", i, err)
		}
	}
	return nil
}

// handshake opens sessions and closes them with a close handshake. The
// latency is that of the opening.
func handshake(m *meter) error {
	runtime.GOMAXPROCS(openers)
	var mu sync.Mutex
	m.start()
	return parallel(openers, func(int) error {
		for {
			now := time.Now()
			c, err := m.open("/echo")
			if err != nil {
				return err
			}
			took := time.Since(now)
			err = exchange(c, closing, closed)
			c.Close()
			if err != nil {
				return err
			}
			mu.Lock()
			m.done(1, took)
			more := m.tick(time.Now())
			mu.Unlock()
			if !more {
				return nil
			}
		}
	})
}
