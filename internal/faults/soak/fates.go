//go:build linux

package main

import (
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/seed-ffb73231/wsproxy"
	"github.com/seed-ffb73231/wsproxy/internal/faults/wire"
	"github.com/seed-ffb73231/wsproxy/internal/wstest"
)

// A fate is a way for a session to live and to end. It returns what went wrong.
type fate struct {
	name   string
	weight int
	route  string
	run    func(s *session) error
}

// fates are those of sessions that are opened; see refusals.go and
// attackers.go for the others.
var fates = []*fate{
	{"client closes", 20, "calm", func(s *session) error { return s.close(func() *wire.End { return s.client }) }},
	{"upstream closes", 20, "calm", func(s *session) error { return s.close(func() *wire.End { return s.upstream }) }},
	{"client closes, pinged", 6, "pinged", func(s *session) error { return s.close(func() *wire.End { return s.client }) }},
	{"upstream closes, pinged", 6, "pinged", func(s *session) error { return s.close(func() *wire.End { return s.upstream }) }},
	{"client closes, slowed down", 2, "slow", func(s *session) error { return s.close(func() *wire.End { return s.client }) }},
	{"both close", 4, "calm", bothClose},
	{"mild toxics", 8, "calm", mild},
	{"deadly toxics", 6, "calm", deadly},
	{"client reset", 6, "calm", clientReset},
	{"upstream reset", 6, "calm", upstreamReset},
	{"client FIN", 6, "calm", clientFIN},
	{"upstream FIN", 6, "calm", upstreamFIN},
	{"client cut off in a frame", 4, "calm", clientCutOff},
	{"upstream cut off in a frame", 4, "calm", upstreamCutOff},
	{"client breaks the protocol", 5, "calm", clientBreaks},
	{"upstream breaks the protocol", 5, "calm", upstreamBreaks},
	{"client too big", 3, "calm", clientTooBig},
	{"upstream too big", 3, "calm", upstreamTooBig},
	{"client too fast", 3, "strict", clientTooFast},
	{"kicked", 5, "calm", kicked},
	{"expired", 3, "calm", expired},
	{"idle", 4, "idle", idle},
	{"too old", 3, "aging", tooOld},
	{"client silent", 2, "silent", clientSilent},
	{"upstream silent", 2, "silent", upstreamSilent},
	{"client stuck", 1, "stuck", clientStuck},
	{"context cancelled", 3, "calm", cancelled},
}

// close is the clean end: one side closes, and the other one answers.
func (s *session) close(who func() *wire.End) error {
	if err := s.open(); err != nil {
		return err
	}
	if err := s.talk(3+s.rng.IntN(20), 100<<10, s.w.pause); err != nil {
		return err
	}
	code := 1000
	if s.rng.IntN(3) == 0 {
		code = 3000 + s.rng.IntN(2000)
	}
	by := wsproxy.Upstream
	e := who()
	if e.Client {
		by = wsproxy.Client
	}
	if err := e.Close(code, "bye"); err != nil {
		return err
	}
	return errors.Join(s.want(code, code, by, wsproxy.ReasonClosed), s.complete())
}

// bothClose: the Closes cross.
func bothClose(s *session) error {
	if err := s.open(); err != nil {
		return err
	}
	if err := s.talk(5, 20<<10, 50*time.Millisecond); err != nil {
		return err
	}
	go s.upstream.Close(4002, "upstream's")
	s.client.Close(4001, "client's")
	if err := s.over(); err != nil {
		return err
	}
	err := errors.Join(s.legal(), s.complete(),
		s.outcome(wsproxy.Outcome{By: wsproxy.Client, Reason: wsproxy.ReasonClosed}, wsproxy.Outcome{By: wsproxy.Upstream, Reason: wsproxy.ReasonClosed}))
	for _, e := range []*wire.End{s.client, s.upstream} {
		if e.Code != 4001 && e.Code != 4002 {
			err = errors.Join(err, fmt.Errorf("client=%v got Close %d", e.Client, e.Code))
		}
	}
	return err
}

// pickToxic puts a toxic in front of the front server or of the upstream.
func (s *session) pickToxic(set map[string]string) {
	skip := s.rng.IntN(len(set))
	name := ""
	for _, name = range sortedKeys(set) {
		if skip--; skip < 0 {
			break
		}
	}
	if s.rng.IntN(2) == 0 {
		s.toxic = name
	} else {
		s.behind = name
	}
}

func mild(s *session) error {
	s.pickToxic(mildToxics)
	return s.close(func() *wire.End {
		if s.rng.IntN(2) == 0 {
			return s.client
		}
		return s.upstream
	})
}

// deadly: whatever happens, it is legal and ends.
func deadly(s *session) error {
	s.pickToxic(deadlyToxics)
	status, err := s.handshake()
	if status != 101 {
		if status == 502 || status == 504 || err != nil {
			if s.ws.Load() != nil {
				return s.sessionOver()
			}
			return nil
		}
		return fmt.Errorf("answered %d", status)
	}
	s.client.Start()
	select {
	case s.upstream = <-s.accepted:
	case <-time.After(wire.Timeout):
		return errors.New("101, and no upstream")
	}
	s.upstream.Start()
	for range 40 {
		if s.say(s.client, 2<<10) != nil || s.say(s.upstream, 2<<10) != nil {
			break
		}
	}
	s.client.Close(1000, "")
	time.AfterFunc(time.Second, s.client.Reset)
	if err := s.over(); err != nil {
		return err
	}
	return s.legal()
}

func clientReset(s *session) error {
	if err := s.open(); err != nil {
		return err
	}
	if err := s.talk(s.rng.IntN(10), 20<<10, 50*time.Millisecond); err != nil {
		return err
	}
	s.client.Reset()
	return s.want(none, 1001, wsproxy.Client, wsproxy.ReasonLost)
}

func upstreamReset(s *session) error {
	if err := s.open(); err != nil {
		return err
	}
	if err := s.talk(s.rng.IntN(10), 20<<10, 50*time.Millisecond); err != nil {
		return err
	}
	s.upstream.Reset()
	return s.want(1011, none, wsproxy.Upstream, wsproxy.ReasonLost)
}

// clientFIN: what was sent before arrives.
func clientFIN(s *session) error {
	if err := s.open(); err != nil {
		return err
	}
	if err := s.talk(s.rng.IntN(10), 20<<10, 50*time.Millisecond); err != nil {
		return err
	}
	s.client.CloseWrite()
	return errors.Join(s.want(none, 1001, wsproxy.Client, wsproxy.ReasonLost), s.complete())
}

func upstreamFIN(s *session) error {
	if err := s.open(); err != nil {
		return err
	}
	if err := s.talk(s.rng.IntN(10), 20<<10, 50*time.Millisecond); err != nil {
		return err
	}
	s.upstream.CloseWrite()
	return errors.Join(s.want(1011, none, wsproxy.Upstream, wsproxy.ReasonLost), s.complete())
}

// cutOff has an end leave in the middle of a frame.
func (s *session) cutOff(e *wire.End) error {
	frame := wstest.AppendFrame(nil, wstest.Binary, maskOf(e), make([]byte, 1+s.rng.IntN(40<<10)))
	if err := e.CutOff(frame[:1+s.rng.IntN(len(frame)-1)]); err != nil {
		return err
	}
	if s.rng.IntN(2) == 0 {
		return e.CloseWrite()
	}
	s.pause(20 * time.Millisecond)
	e.Reset()
	return nil
}

func maskOf(e *wire.End) *[4]byte {
	if e.Client {
		return &[4]byte{1, 2, 3, 4}
	}
	return nil
}

// A Close is possible only if no part of the frame was relayed.
func clientCutOff(s *session) error {
	if err := s.open(); err != nil {
		return err
	}
	if err := s.talk(s.rng.IntN(5), 20<<10, 20*time.Millisecond); err != nil {
		return err
	}
	if err := s.cutOff(s.client); err != nil {
		return err
	}
	if err := s.over(); err != nil {
		return err
	}
	if up := s.upstream; (up.Code != 1001) != (up.Partial > 0) && !isReset(up.Err) {
		return fmt.Errorf("upstream got Close %d behind %d bytes of a frame, %v", up.Code, up.Partial, up.Err)
	}
	return errors.Join(s.legal(), s.outcome(wsproxy.Outcome{By: wsproxy.Client, Reason: wsproxy.ReasonLost}))
}

func upstreamCutOff(s *session) error {
	if err := s.open(); err != nil {
		return err
	}
	if err := s.talk(s.rng.IntN(5), 20<<10, 20*time.Millisecond); err != nil {
		return err
	}
	if err := s.cutOff(s.upstream); err != nil {
		return err
	}
	if err := s.over(); err != nil {
		return err
	}
	if c := s.client; (c.Code != 1011) != (c.Partial > 0) && !isReset(c.Err) {
		return fmt.Errorf("client got Close %d behind %d bytes of a frame, %v", c.Code, c.Partial, c.Err)
	}
	return errors.Join(s.legal(), s.outcome(wsproxy.Outcome{By: wsproxy.Upstream, Reason: wsproxy.ReasonLost}))
}

// broken returns a frame that violates the protocol, as an end sends it.
func (s *session) broken(e *wire.End) []byte {
	key := maskOf(e)
	wrong := key
	if wrong = nil; key == nil {
		wrong = &[4]byte{1, 2, 3, 4}
	}
	long := wstest.AppendHeader(nil, wstest.Binary, key, 1<<16)
	long[2] = 0x80
	bad := [][]byte{
		wstest.AppendFrame(nil, wstest.Text, wrong, []byte("x")),
		wstest.AppendFrame(nil, wstest.Fin|wstest.RSV1|wstest.OpText, key, []byte("x")),
		wstest.AppendFrame(nil, wstest.Fin|0x3, key, []byte("x")),
		wstest.AppendFrame(nil, wstest.Fin|0xB, key, []byte("x")),
		wstest.AppendFrame(nil, wstest.Fin|wstest.OpContinuation, key, []byte("x")),
		wstest.AppendFrame(nil, wstest.OpPing, key, []byte("x")),
		wstest.AppendFrame(nil, wstest.Ping, key, make([]byte, 126)),
		wstest.AppendFrame(nil, wstest.Close, key, []byte{3}),
		wstest.AppendFrame(nil, wstest.Close, key, wstest.CloseBody(1006, "")),
		wstest.AppendFrame(nil, wstest.Close, key, wstest.CloseBody(1000, "\xff")),
		long,
	}
	return bad[s.rng.IntN(len(bad))]
}

func clientBreaks(s *session) error {
	if err := s.open(); err != nil {
		return err
	}
	if err := s.talk(s.rng.IntN(5), 20<<10, 20*time.Millisecond); err != nil {
		return err
	}
	if err := s.client.Raw(s.broken(s.client)); err != nil {
		return err
	}
	return s.want(1002, 1001, wsproxy.Client, wsproxy.ReasonProtocolError)
}

func upstreamBreaks(s *session) error {
	if err := s.open(); err != nil {
		return err
	}
	if err := s.talk(s.rng.IntN(5), 20<<10, 20*time.Millisecond); err != nil {
		return err
	}
	if err := s.upstream.Raw(s.broken(s.upstream)); err != nil {
		return err
	}
	return s.want(1011, 1002, wsproxy.Upstream, wsproxy.ReasonProtocolError)
}

func clientTooBig(s *session) error {
	if err := s.open(); err != nil {
		return err
	}
	s.client.Raw(wstest.AppendHeader(nil, wstest.Binary, maskOf(s.client), maxMessage+1))
	return s.want(1009, 1001, wsproxy.Client, wsproxy.ReasonLimit)
}

func upstreamTooBig(s *session) error {
	if err := s.open(); err != nil {
		return err
	}
	s.upstream.Raw(wstest.AppendFrame(nil, wstest.OpBinary, nil, make([]byte, maxMessage/2)))
	s.upstream.Raw(wstest.AppendHeader(nil, wstest.OpContinuation, nil, maxMessage/2+1))
	return s.want(1001, 1009, wsproxy.Upstream, wsproxy.ReasonLimit)
}

// clientTooFast: ten messages are the burst.
func clientTooFast(s *session) error {
	if err := s.open(); err != nil {
		return err
	}
	for range 200 {
		if s.client.Message(wstest.OpText, []byte("quick"), 1) != nil {
			break // it has been told
		}
	}
	return s.want(1008, 1001, wsproxy.Client, wsproxy.ReasonLimit)
}

func kicked(s *session) error {
	if err := s.open(); err != nil {
		return err
	}
	if err := s.talk(s.rng.IntN(10), 20<<10, 50*time.Millisecond); err != nil {
		return err
	}
	if err := s.ws.Load().Close(4100, "kicked"); err != nil {
		return err
	}
	return s.want(4100, 1001, wsproxy.Self, wsproxy.ReasonClosedByProxy)
}

func expired(s *session) error {
	s.hook = func(ws *wsproxy.Session, _ *http.Request) error {
		return ws.SetExpiry(time.Now().Add(time.Second), 4101, "expired")
	}
	if err := s.open(); err != nil {
		return err
	}
	return s.want(4101, 1001, wsproxy.Self, wsproxy.ReasonExpired)
}

func idle(s *session) error {
	if err := s.open(); err != nil {
		return err
	}
	s.talk(s.rng.IntN(4), 20<<10, 50*time.Millisecond) // on a busy machine it may be idle in between
	return s.want(1001, 1001, wsproxy.Self, wsproxy.ReasonIdle)
}

func tooOld(s *session) error {
	if err := s.open(); err != nil {
		return err
	}
	for s.talk(1, 2<<10, 50*time.Millisecond) == nil && s.ws.Load().Err() == nil {
	}
	return s.want(1001, 1001, wsproxy.Self, wsproxy.ReasonAge)
}

func clientSilent(s *session) error {
	if err := s.open(); err != nil {
		return err
	}
	s.client.Mute()
	return s.want(none, 1001, wsproxy.Client, wsproxy.ReasonLost)
}

func upstreamSilent(s *session) error {
	if err := s.open(); err != nil {
		return err
	}
	s.upstream.Mute()
	return s.want(1011, none, wsproxy.Upstream, wsproxy.ReasonLost)
}

// clientStuck: the client reads nothing while the upstream pushes.
func clientStuck(s *session) error {
	s.small = true
	status, err := s.handshake()
	if status != 101 {
		return fmt.Errorf("handshake: %d, %v", status, err)
	}
	s.upstream = <-s.accepted
	s.upstream.Start()
	for range 128 << 20 / maxMessage * 4 {
		if s.upstream.Message(wstest.OpBinary, make([]byte, maxMessage/4), 1) != nil {
			break
		}
	}
	if err := s.sessionOver(); err != nil {
		return err
	}
	s.client.Start()
	if err := s.over(); err != nil {
		return err
	}
	return errors.Join(s.legal(), s.outcome(wsproxy.Outcome{By: wsproxy.Client, Reason: wsproxy.ReasonLost}))
}

// cancelled: the request's context ends. A detached session is not affected.
func cancelled(s *session) error {
	if err := s.open(); err != nil {
		return err
	}
	(*s.cancel.Load())()
	if s.v.detach {
		if err := s.talk(3, 2<<10, 20*time.Millisecond); err != nil {
			return err
		}
		s.client.Close(1000, "")
		return errors.Join(s.want(1000, 1000, wsproxy.Client, wsproxy.ReasonClosed), s.complete())
	}
	return s.want(1001, 1001, wsproxy.Self, wsproxy.ReasonCancelled)
}
