//go:build linux

package main

import (
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"runtime"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/seed-ffb73231/wsproxy/internal/wstest"
)

// One mask for all frames: they are made once, before measuring. Proxies cannot
// tell.
var (
	mask    = [4]byte{0x37, 0xfa, 0x21, 0x3d}
	closing = wstest.AppendFrame(nil, wstest.Close, &mask, []byte{0x03, 0xe8})
	closed  = wstest.AppendFrame(nil, wstest.Close, nil, []byte{0x03, 0xe8})
)

// socket is a blocking socket, without the runtime's poller: a session's
// life begins with blocking calls and goes on with epoll of the tool's own.
type socket int

func (s socket) Read(p []byte) (int, error) {
	for {
		n, err := syscall.Read(int(s), p)
		if err == syscall.EINTR { // the runtime's own signals
			continue
		}
		if n == 0 && err == nil {
			err = io.EOF
		}
		return max(n, 0), err
	}
}

func (s socket) Write(p []byte) (int, error) {
	for {
		n, err := syscall.Write(int(s), p)
		if err != syscall.EINTR {
			return max(n, 0), err
		}
	}
}

func (s socket) Close() error { return syscall.Close(int(s)) }

// open connects and does the handshake.
func (l *load) open(path string) (io.ReadWriteCloser, error) {
	var c io.ReadWriteCloser
	if l.TLS {
		raw, err := net.Dial("tcp", l.Addr)
		if err != nil {
			return nil, err
		}
		raw.SetDeadline(time.Now().Add(10 * time.Second))
		t := tls.Client(raw, &tls.Config{InsecureSkipVerify: true})
		if err := t.Handshake(); err != nil {
			raw.Close()
			return nil, err
		}
		raw.SetDeadline(time.Time{})
		c = t
	} else {
		fd, err := connect(l.Addr)
		if err != nil {
			return nil, fmt.Errorf("connect: %w", err)
		}
		c = socket(fd)
	}
	if err := l.upgrade(c, path); err != nil {
		c.Close()
		return nil, fmt.Errorf("handshake: %w", err)
	}
	return c, nil
}

// upgrade performs the handshake as a browser would, from a page of the same
// origin.
func (l *load) upgrade(c io.ReadWriter, path string) error {
	const key = "dGhlIHNhbXBsZSBub25jZQ=="
	scheme := "http"
	if l.TLS {
		scheme = "https"
	}
	req := fmt.Appendf(nil, "GET %s HTTP/1.1\r\nHost: %s\r\nUser-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0\r\nOrigin: %s://%[2]s\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: %[4]s\r\n\r\n", path, l.Addr, scheme, key)
	if _, err := c.Write(req); err != nil {
		return err
	}
	var buf [2048]byte
	at := 0
	for {
		n, err := c.Read(buf[at:])
		if err != nil {
			return err
		}
		at += n
		end := bytes.Index(buf[:at], []byte("\r\n\r\n"))
		if end < 0 {
			continue
		}
		if !bytes.HasPrefix(buf[:at], []byte("HTTP/1.1 101 ")) || !bytes.Contains(buf[:at], []byte(wstest.AcceptKey(key))) || end+4 != at {
			return fmt.Errorf("unexpected answer %.60q", buf[:at])
		}
		return nil
	}
}

// exchange writes a frame and reads the expected answer, byte by byte: a proxy
// that relays anything else is not measured.
func exchange(c io.ReadWriter, frame, want []byte) error {
	for at := 0; at < len(frame); {
		n, err := c.Write(frame[at:])
		if err != nil {
			return err
		}
		at += n
	}
	got := make([]byte, len(want))
	if _, err := io.ReadFull(c, got); err != nil {
		return fmt.Errorf("exchange: %w", err)
	}
	if !bytes.Equal(got, want) {
		return errors.New("exchange: the answer differs")
	}
	return nil
}

// message returns a message's frame as a client sends it, and as it comes back.
func message(size int) (frame, want []byte) {
	payload := pattern(size)
	return wstest.AppendFrame(nil, wstest.Binary, &mask, payload), wstest.AppendFrame(nil, wstest.Binary, nil, payload)
}

// client is a connection driven by epoll.
type client struct {
	fd   int
	got  int // bytes of the answer that has begun
	sent int // bytes written of the frame that has begun (up)
	busy bool
	at   time.Time // when its last message left
}

const openers = 16 // concurrent handshakes

// openAll opens the connections, and uses each for one message.
func (m *meter) openAll(path string, frame, want []byte) ([]io.ReadWriteCloser, error) {
	// The openers block in system calls; with a processor each, none waits
	// for the runtime to notice.
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(openers))
	conns := make([]io.ReadWriteCloser, m.Conns)
	var next atomic.Int64
	return conns, parallel(openers, func(int) error {
		for {
			i := int(next.Add(1)) - 1
			if i >= len(conns) {
				return nil
			}
			c, err := m.open(path)
			if err == nil {
				err = exchange(c, frame, want)
			}
			if err != nil {
				return fmt.Errorf("session %d: %w", i, err)
			}
			conns[i] = c
		}
	})
}

// poll hands the connections to epoll, and all to one thread: the load
// shares the cores with the proxy and should take little of them.
func poll(conns []io.ReadWriteCloser, events uint32) (*poller, []client, error) {
	runtime.GOMAXPROCS(1)
	p := newPoller()
	clients := make([]client, len(conns))
	for i, c := range conns {
		fd := int(c.(socket))
		clients[i].fd = fd
		if err := syscall.SetNonblock(fd, true); err != nil {
			return nil, nil, err
		}
		ev := syscall.EpollEvent{Events: events, Fd: int32(i)}
		if err := syscall.EpollCtl(p.fd, syscall.EPOLL_CTL_ADD, fd, &ev); err != nil {
			return nil, nil, err
		}
	}
	return p, clients, nil
}

var errShort = errors.New("the connection takes no more")

// writeAll writes what the socket's buffer is sure to hold.
func writeAll(fd int, p []byte) error {
	n, errno := write(fd, p)
	if errno != 0 {
		return errno
	}
	if n != len(p) {
		return errShort
	}
	return nil
}

// parallel runs f n times at once and returns the first error.
func parallel(n int, f func(i int) error) error {
	errs := make(chan error, n)
	for i := range n {
		go func() { errs <- f(i) }()
	}
	var first error
	for range n {
		if err := <-errs; err != nil && first == nil {
			first = err
		}
	}
	return first
}
