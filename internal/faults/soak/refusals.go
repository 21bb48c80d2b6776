//go:build linux

package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/seed-ffb73231/wsproxy"
	"github.com/seed-ffb73231/wsproxy/internal/faults/wire"
	"github.com/seed-ffb73231/wsproxy/internal/wstest"
)

// refusals are the fates that end before the 101.
var refusals = []*fate{
	{"upstream refuses", 4, "calm", func(s *session) error {
		return s.refusedBy("HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno", 403)
	}},
	{"upstream answers nonsense", 3, "calm", func(s *session) error { return s.refusedBy("SSH-2.0-x\r\n", 502) }},
	{"upstream has the wrong accept", 2, "calm", func(s *session) error {
		return s.refusedBy("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: AAAA\r\n\r\n", 502)
	}},
	{"upstream hangs up", 3, "calm", func(s *session) error { return s.refusedBy("", 502) }},
	{"upstream resets", 3, "calm", upstreamResets},
	{"hook refuses", 3, "calm", hookRefuses},
	{"kicked before the 101", 3, "calm", kickedEarly},
	{"forbidden origin", 3, "calm", func(s *session) error {
		return s.refused("Origin: https://evil.example\r\n", 403, "forbidden origin")
	}},
	{"bad handshake", 3, "calm", func(s *session) error {
		return s.refused("Sec-WebSocket-Key: AAAA\r\n", 400, "bad handshake")
	}},
	{"client gives up", 6, "calm", clientGivesUp},
	{"client gives up on the 101", 3, "calm", clientGivesUpOn101},
	{"client stops in its handshake", 3, "calm", clientStops},
	{"too many of one client", 2, "few", tooMany},
}

func (s *session) refusedWith(want int) error {
	status, err := s.handshake()
	if status != want {
		return fmt.Errorf("answered %d, %v; want %d", status, err, want)
	}
	if s.client != nil {
		s.client.Conn.Close()
	}
	return nil
}

// refusedBy has the upstream send this answer and disconnect.
func (s *session) refusedBy(answer string, want int) error {
	s.answer = func(_ *session, c net.Conn, _ *bufio.Reader, _ *http.Request) {
		defer c.Close()
		io.WriteString(c, answer)
	}
	if err := s.refusedWith(want); err != nil {
		return err
	}
	return s.sessionOver()
}

// refused is for refusals that no hook sees.
func (s *session) refused(lines string, want int, kind string) error {
	s.lines = lines
	if err := s.refusedWith(want); err != nil {
		return err
	}
	s.p.refuse(kind)
	if s.ws.Load() != nil {
		return errors.New("a hook has seen it")
	}
	return nil
}

func upstreamResets(s *session) error {
	s.answer = func(_ *session, c net.Conn, _ *bufio.Reader, _ *http.Request) { wstest.Reset(c) }
	return errors.Join(s.refusedWith(502), s.sessionOver())
}

func hookRefuses(s *session) error {
	s.hook = func(*wsproxy.Session, *http.Request) error { return &wsproxy.Refusal{Status: http.StatusUnauthorized} }
	return errors.Join(s.refusedWith(401), s.sessionOver())
}

// hold has the upstream send nothing until the proxy leaves.
func (s *session) hold() {
	s.answer = func(s *session, c net.Conn, br *bufio.Reader, _ *http.Request) {
		defer close(s.left)
		defer c.Close()
		br.ReadByte()
	}
}

// released waits until the proxy has left a held upstream, if it ever
// connected.
func (s *session) released() error {
	if s.ws.Load() == nil {
		return nil
	}
	if err := s.sessionOver(); err != nil {
		return err
	}
	end, ok := errors.AsType[*wsproxy.Error](s.ws.Load().Err())
	if !ok {
		return fmt.Errorf("ended as a session: %v", s.ws.Load().Err())
	}
	if end.Kind() != wsproxy.KindClientLeft && end.Kind() != wsproxy.KindClosedByProxy {
		return fmt.Errorf("ended with %v", end)
	}
	return nil
}

func kickedEarly(s *session) error {
	s.hold()
	go func() {
		for s.ws.Load() == nil {
			time.Sleep(time.Millisecond)
		}
		s.pause(20 * time.Millisecond)
		s.ws.Load().Close(1008, "")
	}()
	return errors.Join(s.refusedWith(403), s.released())
}

// clientGivesUp leaves while the upstream does not answer.
func clientGivesUp(s *session) error {
	s.hold()
	c, err := s.w.dial(s, "")
	if err != nil {
		return err
	}
	defer c.Close()
	io.WriteString(c, wstest.Request(s.path(), ""))
	s.pause(60 * time.Millisecond)
	if s.rng.IntN(2) == 0 {
		wstest.Reset(c)
	}
	c.Close()
	return s.quiet()
}

// quiet waits until nothing is left of a client that has gone. The proxy may
// never have seen it.
func (s *session) quiet() error {
	for range 20 {
		if s.ws.Load() != nil {
			return s.released()
		}
		time.Sleep(10 * time.Millisecond)
	}
	return nil
}

// clientGivesUpOn101: it may or may not become a session, and is over soon.
func clientGivesUpOn101(s *session) error {
	c, err := s.w.dial(s, "")
	if err != nil {
		return err
	}
	io.WriteString(c, wstest.Request(s.path(), ""))
	select {
	case s.upstream = <-s.accepted:
		s.upstream.Start()
	case <-time.After(wire.Timeout):
		c.Close()
		return errors.New("no upstream")
	}
	wstest.Reset(c)
	if err := s.upstream.Wait(); err != nil {
		return err
	}
	if err := s.sessionOver(); err != nil {
		return err
	}
	if c := s.upstream.Code; c != 1001 && c != none {
		return fmt.Errorf("upstream got Close %d", c)
	}
	return nil
}

// clientStops: half a request, or half a TLS handshake.
func clientStops(s *session) error {
	c, err := net.Dial("tcp", s.v.front)
	if err != nil {
		return err
	}
	request := wstest.Request(s.path(), "")
	if s.v.tls {
		request = "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + strings.Repeat("x", 100)
	}
	io.WriteString(c, request[:1+s.rng.IntN(len(request)-1)])
	s.pause(100 * time.Millisecond)
	if s.rng.IntN(2) == 0 {
		wstest.Reset(c)
	}
	c.Close()
	return nil
}

// tooMany: a client at its limit of sessions is refused another one, and gets
// one when a session has ended.
func tooMany(s *session) error {
	others := make([]*session, 0, perClient)
	lines := fmt.Sprintf("X-Client: %d\r\n", s.id)
	defer func() {
		for _, o := range others {
			o.leave()
		}
	}()
	one := func() (*session, error) {
		o := s.w.newSession(s.fate, s.v)
		o.lines = lines
		others = append(others, o)
		return o, o.open()
	}
	for range perClient {
		if _, err := one(); err != nil {
			return err
		}
	}
	if err := s.refused(lines, http.StatusTooManyRequests, "limit"); err != nil {
		return err
	}
	end := func(o *session) error {
		o.client.Close(1000, "")
		return o.want(1000, 1000, wsproxy.Client, wsproxy.ReasonClosed)
	}
	if err := end(others[0]); err != nil {
		return err
	}
	o, err := one()
	if err != nil {
		return fmt.Errorf("one more after another has ended: %w", err)
	}
	return errors.Join(end(o), end(others[1]))
}

func isReset(err error) bool {
	return errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
