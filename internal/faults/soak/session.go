//go:build linux

package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"slices"
	"sync/atomic"
	"time"

	"github.com/seed-ffb73231/wsproxy"
	"github.com/seed-ffb73231/wsproxy/internal/faults/wire"
	"github.com/seed-ffb73231/wsproxy/internal/wstest"
)

// A session is one run of a fate, which controls both ends.
type session struct {
	w    *world
	v    *variant
	p    *counted
	fate *fate
	id   uint64
	rng  *rand.Rand // of the goroutine that runs the fate

	// How the handshake goes. Set before it.
	toxic     string // before the front
	behind    string // before the upstream
	lines     string // more of the request's header
	target    string // instead of the usual one
	small     bool   // the client has a small receive buffer
	multipath bool   // the client speaks Multipath TCP
	answer    func(s *session, c net.Conn, br *bufio.Reader, r *http.Request)
	hook      func(ws *wsproxy.Session, r *http.Request) error

	ws       atomic.Pointer[wsproxy.Session]
	cancel   atomic.Pointer[context.CancelFunc]
	accepted chan *wire.End // the upstream's end
	left     chan struct{}  // closed when a connection that answer was busy with has ended

	client, upstream *wire.End
	marathon         bool
}

// newSession adds a session to the world.
func (w *world) newSession(f *fate, v *variant) *session {
	id := w.lastID.Add(1)
	s := &session{w: w, v: v, p: v.proxies[f.route], fate: f, id: id,
		rng:      rand.New(rand.NewPCG(id, 7)),
		answer:   acceptAnswer,
		accepted: make(chan *wire.End, 1),
		left:     make(chan struct{}),
	}
	w.sessions.Store(id, s)
	return s
}

func acceptAnswer(s *session, c net.Conn, br *bufio.Reader, r *http.Request) {
	e, err := wire.Accept(c, br, r)
	if err != nil {
		c.Close()
		return
	}
	s.accepted <- e
}

func (s *session) onOpen(ws *wsproxy.Session, r *http.Request) error {
	s.ws.Store(ws)
	if s.hook != nil {
		return s.hook(ws, r)
	}
	return nil
}

func (s *session) path() string {
	if s.target != "" {
		return s.target
	}
	return fmt.Sprintf("/%v/%s/%d", s.v.detach, s.fate.route, s.id)
}

// handshake performs the client's part and returns the status.
func (s *session) handshake() (status int, err error) {
	c, err := s.w.dial(s, s.toxic)
	if err != nil {
		return 0, err
	}
	lines := s.lines
	if s.behind != "" {
		lines += "X-Toxic: " + s.behind + "\r\n"
	}
	s.client, status, err = wire.Open(c, s.path(), lines)
	if s.client == nil {
		c.Close()
	}
	return status, err
}

// open returns a session that works.
func (s *session) open() error {
	status, err := s.handshake()
	if err != nil || status != 101 {
		return fmt.Errorf("handshake: %d, %v", status, err)
	}
	s.upstream = <-s.accepted
	if s.marathon {
		s.client.Sent.Keep, s.upstream.Sent.Keep = false, false
	}
	s.client.Start()
	s.upstream.Start()
	return nil
}

// pause waits for a random time of up to d.
func (s *session) pause(d time.Duration) { time.Sleep(time.Duration(s.rng.Int64N(int64(d)))) }

// talk has both ends send n messages of up to max bytes.
func (s *session) talk(n, max int, pause time.Duration) error {
	for range n {
		e := s.client
		if s.rng.IntN(2) == 0 {
			e = s.upstream
		}
		if err := s.say(e, max); err != nil {
			return err
		}
		s.pause(pause)
	}
	return nil
}

// say has an end send a message.
func (s *session) say(e *wire.End, max int) error {
	if s.rng.IntN(8) == 0 {
		return e.AppPing()
	}
	size := s.rng.IntN(200)
	switch s.rng.IntN(10) {
	case 0:
		size = s.rng.IntN(max)
	case 1, 2:
		size = s.rng.IntN(min(max, 4<<10))
	}
	frames := 1
	if s.rng.IntN(4) == 0 {
		frames += s.rng.IntN(5)
	}
	op := byte(wstest.OpText + s.rng.IntN(2))
	payload := make([]byte, size)
	for i := 0; i < size; i += 7 {
		payload[i] = byte('a' + s.rng.IntN(26))
	}
	return e.Message(op, payload, frames)
}

// over waits until both ends and the session are over.
func (s *session) over() error {
	if err := s.client.Wait(); err != nil {
		return err
	}
	if err := s.upstream.Wait(); err != nil {
		return err
	}
	return s.sessionOver()
}

func (s *session) sessionOver() error {
	ws := s.ws.Load()
	if ws == nil {
		return errors.New("no hook was called")
	}
	t := time.NewTimer(wire.Timeout)
	defer t.Stop()
	select {
	case <-ws.Done():
		return nil
	case <-t.C:
		return errors.New("the session isn't over")
	}
}

// none: no Close is to come.
const none = 0

// want checks how a session ended: the codes that the ends got, and the
// outcome.
func (s *session) want(client, upstream int, by wsproxy.Side, reason wsproxy.Reason) error {
	if err := s.over(); err != nil {
		return err
	}
	if err := s.legal(); err != nil {
		return err
	}
	var errs []error
	if s.client.Code != client {
		errs = append(errs, fmt.Errorf("client got Close %d, want %d (%v)", s.client.Code, client, s.client.Err))
	}
	if s.upstream.Code != upstream {
		errs = append(errs, fmt.Errorf("upstream got Close %d, want %d (%v)", s.upstream.Code, upstream, s.upstream.Err))
	}
	errs = append(errs, s.outcome(wsproxy.Outcome{By: by, Reason: reason}))
	return errors.Join(errs...)
}

func (s *session) outcome(allowed ...wsproxy.Outcome) error {
	err := s.ws.Load().Err()
	end, ok := errors.AsType[*wsproxy.SessionError](err)
	if !ok || !slices.Contains(allowed, wsproxy.Outcome{By: end.By, Reason: end.Reason}) {
		return fmt.Errorf("session ended by %v, want %v", err, allowed)
	}
	return nil
}

// legal checks that what each end got is valid, and a prefix of what the other
// one sent.
func (s *session) legal() error {
	for _, e := range []*wire.End{s.client, s.upstream} {
		if errors.Is(e.Err, wire.ErrIllegal) {
			return fmt.Errorf("client=%v: %w", e.Client, e.Err)
		}
	}
	if s.marathon {
		return nil
	}
	if !s.upstream.Got.Begins(&s.client.Sent) {
		return fmt.Errorf("upstream got %v, which is not how the %v begin that the client sent", &s.upstream.Got, &s.client.Sent)
	}
	if !s.client.Got.Begins(&s.upstream.Sent) {
		return fmt.Errorf("client got %v, which is not how the %v begin that the upstream sent", &s.client.Got, &s.upstream.Sent)
	}
	return nil
}

// complete checks that everything that was sent has arrived, and that the ends
// saw the end of the stream.
func (s *session) complete() error {
	if !s.upstream.Got.Same(&s.client.Sent) {
		return fmt.Errorf("upstream got %v of the client's %v", &s.upstream.Got, &s.client.Sent)
	}
	if !s.client.Got.Same(&s.upstream.Sent) {
		return fmt.Errorf("client got %v of the upstream's %v", &s.client.Got, &s.upstream.Sent)
	}
	for _, e := range []*wire.End{s.client, s.upstream} {
		if e.Err != io.EOF {
			return fmt.Errorf("client=%v: stream ended with %v", e.Client, e.Err)
		}
	}
	return nil
}

// leave removes a session from the world, whatever has happened to it.
func (s *session) leave() {
	s.w.sessions.Delete(s.id)
	for _, e := range []*wire.End{s.client, s.upstream} {
		if e != nil {
			e.Conn.Close()
		}
	}
	select {
	case e := <-s.accepted:
		e.Conn.Close()
	default:
	}
}
