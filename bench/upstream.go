//go:build linux

package main

import (
	"bytes"
	"fmt"
	"net"
	"syscall"

	"github.com/seed-ffb73231/wsproxy/internal/wstest"
)

// bulkSize is the payload of one message of the bulk scenarios.
const bulkSize = 1 << 20

// upstream is the server behind the proxies: one thread around epoll, so that
// it takes little of the CPU it shares with the proxy. The request's path
// says what a connection does:
//
//	/echo    returns every message
//	/sink    answers every message with a one-byte message
//	/source  answers every message with one of bulkSize bytes
type upstream struct {
	*poller
	conns map[int]*upstreamConn
	buf   []byte
	bulk  []byte
}

type upstreamConn struct {
	fd      int
	path    string // empty before the handshake
	rest    []byte // an incomplete request or frame
	skip    int    // payload bytes still to drop (sink)
	fin     bool   // the frame being dropped ends a message (sink)
	out     []byte // not yet written
	bulks   int    // messages still to send (source)
	bulkAt  int    // bytes of the current one already sent
	polling bool   // for EPOLLOUT
	closing bool
}

func runUpstream(addr string) error {
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	defer ln.Close() // also keeps the collector from closing it
	raw, err := ln.(*net.TCPListener).SyscallConn()
	if err != nil {
		return err
	}
	var lfd int
	_ = raw.Control(func(fd uintptr) { lfd = int(fd) })
	u := &upstream{
		poller: newPoller(),
		conns:  map[int]*upstreamConn{},
		buf:    make([]byte, 256<<10),
		bulk:   wstest.AppendFrame(nil, wstest.Binary, nil, pattern(bulkSize)),
	}
	u.set(syscall.EPOLL_CTL_ADD, lfd, syscall.EPOLLIN)
	for {
		for _, ev := range u.wait(-1) {
			fd := int(ev.Fd)
			if fd == lfd {
				u.accept(lfd)
				continue
			}
			if c := u.conns[fd]; c != nil && !u.serve(c, ev.Events) {
				delete(u.conns, fd)
				syscall.Close(fd)
			}
		}
	}
}

func (u *upstream) accept(lfd int) {
	for {
		fd, _, err := syscall.Accept4(lfd, syscall.SOCK_NONBLOCK|syscall.SOCK_CLOEXEC)
		if err != nil {
			return
		}
		_ = syscall.SetsockoptInt(fd, syscall.IPPROTO_TCP, syscall.TCP_NODELAY, 1)
		u.conns[fd] = &upstreamConn{fd: fd}
		u.set(syscall.EPOLL_CTL_ADD, fd, syscall.EPOLLIN)
	}
}

// serve handles one event. It returns false when the connection is over.
func (u *upstream) serve(c *upstreamConn, events uint32) bool {
	if events&(syscall.EPOLLIN|syscall.EPOLLHUP|syscall.EPOLLERR) != 0 && !u.receive(c) {
		return false
	}
	return u.send(c)
}

func (u *upstream) receive(c *upstreamConn) bool {
	if c.skip > 0 {
		n, errno := discard(c.fd, c.skip)
		if errno == syscall.EAGAIN {
			return true
		}
		if errno != 0 || n <= 0 {
			return false
		}
		u.dropped(c, n)
		return true
	}
	held := copy(u.buf, c.rest)
	n, errno := read(c.fd, u.buf[held:])
	if errno == syscall.EAGAIN {
		return true
	}
	if errno != 0 || n <= 0 {
		return false
	}
	rest := u.consume(c, u.buf[:held+n])
	if len(rest) == len(u.buf) {
		return false // a frame too large to echo
	}
	c.rest = append(c.rest[:0], rest...)
	return true
}

// dropped counts n payload bytes as received and acknowledges the message at
// its end.
func (u *upstream) dropped(c *upstreamConn, n int) {
	if c.skip -= n; c.skip == 0 && c.fin {
		c.out = wstest.AppendFrame(c.out, wstest.Binary, nil, []byte{'k'})
	}
}

// consume handles what p holds and returns the incomplete rest.
func (u *upstream) consume(c *upstreamConn, p []byte) []byte {
	if c.path == "" {
		end := bytes.Index(p, []byte("\r\n\r\n"))
		if end < 0 {
			return p
		}
		path, key := parseRequest(p[:end+2])
		c.path = path
		c.out = fmt.Appendf(c.out, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: %s\r\n\r\n", wstest.AcceptKey(key))
		p = p[end+4:]
	}
	for {
		h, ok := wstest.ParseHeader(p)
		if !ok {
			return p
		}
		op, fin, length := h.First&0x0F, h.First&wstest.Fin != 0, int(h.Length)
		if c.path == "/sink" && op < wstest.OpClose {
			c.skip, c.fin = length, fin
			n := min(length, len(p)-h.Size)
			p = p[h.Size+n:]
			u.dropped(c, n)
			continue
		}
		if len(p) < h.Size+length {
			return p
		}
		body := p[h.Size : h.Size+length]
		p = p[h.Size+length:]
		if h.Masked {
			wstest.Mask(body, h.Key)
		}
		switch {
		case op == wstest.OpClose:
			c.out = wstest.AppendFrame(c.out, wstest.Close, nil, body)
			c.closing = true
		case op == wstest.OpPing:
			c.out = wstest.AppendFrame(c.out, wstest.Pong, nil, body)
		case op == wstest.OpPong:
		case c.path == "/source":
			c.bulks++
		default:
			c.out = wstest.AppendFrame(c.out, h.First, nil, body)
		}
	}
}

func (u *upstream) send(c *upstreamConn) bool {
	blocked := false
	for !blocked && (len(c.out) > 0 || c.bulks > 0) {
		p := c.out
		bulk := c.bulkAt > 0 || len(p) == 0
		if bulk {
			p = u.bulk[c.bulkAt:]
		}
		n, errno := write(c.fd, p)
		switch {
		case errno == syscall.EAGAIN:
			blocked = true
		case errno != 0:
			return false
		case !bulk:
			c.out = c.out[:copy(c.out, c.out[n:])]
		default:
			if c.bulkAt += n; c.bulkAt == len(u.bulk) {
				c.bulkAt = 0
				c.bulks--
			}
		}
	}
	if c.closing && !blocked {
		return false
	}
	if blocked != c.polling {
		c.polling = blocked
		events := uint32(syscall.EPOLLIN)
		if blocked {
			events |= syscall.EPOLLOUT
		}
		u.set(syscall.EPOLL_CTL_MOD, c.fd, events)
	}
	return true
}

// parseRequest returns the path and the WebSocket key of a request head.
func parseRequest(head []byte) (path, key string) {
	first, rest, _ := bytes.Cut(head, []byte("\r\n"))
	if f := bytes.Fields(first); len(f) == 3 {
		path = string(f[1])
	}
	for line := range bytes.SplitSeq(rest, []byte("\r\n")) {
		name, value, _ := bytes.Cut(line, []byte(":"))
		if bytes.EqualFold(name, []byte("Sec-WebSocket-Key")) {
			key = string(bytes.TrimSpace(value))
		}
	}
	return path, key
}

// pattern returns n bytes such that a reordered copy would not match.
func pattern(n int) []byte {
	p := make([]byte, n)
	for i := range p {
		p[i] = byte(i*7 + i>>8)
	}
	return p
}
