//go:build linux

package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/seed-ffb73231/wsproxy"
	"github.com/seed-ffb73231/wsproxy/internal/faults/wire"
	"github.com/seed-ffb73231/wsproxy/internal/wstest"
)

// attackers are the fates of clients that try to use more than their share. Each
// gets the documented answer, and the good sessions are not affected.
var attackers = []*fate{
	{"handshake of many items", 3, "calm", manyItems},
	{"upstream's answer of many items", 2, "calm", manyItemsAnswered},
	{"odd request target", 4, "calm", oddTarget},
	{"refusal that nominates a field", 3, "calm", nominatingRefusal},
	{"client gives up on a hook", 3, "calm", givesUpOnHook},
	{"application answers 500", 2, "several", answers500},
	{"flood under a limit that closes", 3, "strict", frameFlood},
	{"flood under a limit that slows", 2, "slow", slowedFlood},
	{"empty fragments", 3, "small", emptyFragments},
	{"client leaves a backlog", 2, "slowed", leavesBacklog},
	{"small frames", 2, "calm", smallFrames},
	{"stuck in long frames", 1, "stuck", stuckInLongFrames},
	{"Multipath TCP", 3, "calm", multipath},
}

// numbered returns n different elements, joined.
func numbered(n int, format, sep string) string {
	var b strings.Builder
	for i := range n {
		if i > 0 {
			b.WriteString(sep)
		}
		fmt.Fprintf(&b, format, i)
	}
	return b.String()
}

// itemLines returns header lines with too many elements. The number of fields
// is below net/http's own limit.
var itemLines = []string{
	numbered(400, "%x:", "\r\n") + "\r\n",
	numbered(400, "A: %x", "\r\n") + "\r\n",
	"Sec-WebSocket-Protocol: " + numbered(8000, "%x", ",") + "\r\n",
	"Sec-WebSocket-Extensions: " + numbered(8000, "%x", ",") + "\r\n",
	"Sec-WebSocket-Extensions: a; " + numbered(8000, "%x", ";") + "\r\n",
}

func manyItems(s *session) error {
	return s.refused(itemLines[s.rng.IntN(len(itemLines))], http.StatusRequestHeaderFieldsTooLarge, string(wsproxy.KindBadHandshake))
}

func manyItemsAnswered(s *session) error {
	s.answer = func(s *session, c net.Conn, _ *bufio.Reader, r *http.Request) {
		defer c.Close()
		io.WriteString(c, wstest.AnswerTo(r, itemLines[s.id%uint64(len(itemLines))])) // it isn't read to the end
	}
	return errors.Join(s.refusedWith(http.StatusBadGateway), s.sessionOver())
}

// oddTarget: the request's target arrives byte for byte.
func oddTarget(s *session) error {
	odd := []string{"x", "%2F", "%2f..%2F", "%5C", "%00", "|", "^", "\"", "<>", "\\", "`", "{}", "ü", "//", "/./", "/../x", ";", "%7E", "@", ":"}
	var b strings.Builder
	for range 1 + s.rng.IntN(6) {
		b.WriteString(odd[s.rng.IntN(len(odd))])
	}
	s.target = fmt.Sprintf("/%v/%s/%s/%d?%s", s.v.detach, s.fate.route, &b, s.id, strings.ReplaceAll(b.String(), "%00", "%"))
	arrived := make(chan string, 1)
	s.answer = func(s *session, c net.Conn, br *bufio.Reader, r *http.Request) {
		arrived <- r.RequestURI
		acceptAnswer(s, c, br, r)
	}
	if err := s.open(); err != nil {
		return fmt.Errorf("%q: %w", s.target, err)
	}
	if got := <-arrived; got != s.target {
		return fmt.Errorf("upstream was asked for %q, want %q", got, s.target)
	}
	s.client.Close(1000, "")
	return errors.Join(s.want(1000, 1000, wsproxy.Client, wsproxy.ReasonClosed), s.complete())
}

// nominatingRefusal: the hop-by-hop fields of a refusal do not reach the
// client, and nothing is added.
func nominatingRefusal(s *session) error {
	s.answer = func(_ *session, c net.Conn, _ *bufio.Reader, _ *http.Request) {
		defer c.Close()
		io.WriteString(c, "HTTP/1.1 403 Forbidden\r\nConnection: close, X-Internal\r\nX-Internal: token\r\n"+
			"Pragma: no-cache\r\nX-Kept: 1\r\nContent-Length: 2\r\n\r\nno")
	}
	c, err := s.w.dial(s, "")
	if err != nil {
		return err
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(wire.Timeout))
	io.WriteString(c, wstest.Request(s.path(), ""))
	head, err := io.ReadAll(c)
	if err != nil && !isReset(err) {
		return err
	}
	for text, want := range map[string]bool{"HTTP/1.1 403 ": true, "\r\nX-Kept: 1\r\n": true, "\r\nPragma: no-cache\r\n": true,
		"X-Internal": false, "token": false, "Cache-Control": false} {
		if bytes.Contains(head, []byte(text)) != want {
			return fmt.Errorf("refusal came as %q: %q in it, want %v", head, text, want)
		}
	}
	return s.sessionOver()
}

// givesUpOnHook: the context of a hook's request ends when the client leaves.
func givesUpOnHook(s *session) error {
	s.hook = func(_ *wsproxy.Session, r *http.Request) error {
		<-r.Context().Done()
		return r.Context().Err()
	}
	c, err := s.w.dial(s, "")
	if err != nil {
		return err
	}
	io.WriteString(c, wstest.Request(s.path(), ""))
	s.pause(60 * time.Millisecond)
	if s.rng.IntN(2) == 0 {
		wstest.Reset(c)
	}
	c.Close()
	return s.quiet()
}

// answers500: whatever answers one client causes, no member is backed off for
// it, and a room stays where it is.
func answers500(s *session) error {
	lines := fmt.Sprintf("X-Room: %d\r\n", s.id)
	handshake := func(answer string, status int) (home string, err error) {
		o := s.w.newSession(s.fate, s.v)
		defer o.leave()
		asked := make(chan string, 10)
		o.lines = lines
		o.answer = func(o *session, c net.Conn, br *bufio.Reader, r *http.Request) {
			asked <- r.URL.Path
			if status == http.StatusSwitchingProtocols {
				acceptAnswer(o, c, br, r)
				return
			}
			defer c.Close()
			io.WriteString(c, answer)
		}
		if status == http.StatusSwitchingProtocols {
			if err := o.open(); err != nil {
				return "", err
			}
			o.client.Close(1000, "")
			err = o.want(1000, 1000, wsproxy.Client, wsproxy.ReasonClosed)
		} else {
			err = errors.Join(o.refusedWith(status), o.sessionOver())
		}
		if err != nil {
			return "", err
		}
		home, _, _ = strings.Cut(strings.TrimPrefix(<-asked, "/"), "/")
		if len(asked) > 0 {
			err = errors.New("a second member was asked")
		}
		return home, err
	}
	bad := []struct {
		answer string
		status int
	}{
		{"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\n\r\n", 500},
		{"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n", 503},
		{"HTTP/1.1 101 Switching Protocols\r\n\r\n", 502},
		{"", 502},
	}
	first, err := handshake("", http.StatusSwitchingProtocols)
	if err != nil {
		return err
	}
	for range 5 {
		b := bad[s.rng.IntN(len(bad))]
		if home, err := handshake(b.answer, b.status); err != nil || home != first {
			return fmt.Errorf("asked %q, which answered %q; %q had the room before: %v", home, b.answer, first, err)
		}
	}
	last, err := handshake("", http.StatusSwitchingProtocols)
	if err != nil || last != first {
		return fmt.Errorf("the room was at %q, and is at %q, %v", first, last, err)
	}
	for _, m := range s.p.proxy.Stats().Members {
		if m.Down {
			return fmt.Errorf("%s is down", m.Name)
		}
	}
	return nil
}

// flood returns n frames of one kind, within a message or on their own.
func (s *session) flood(kind, n int) []byte {
	key := maskOf(s.client)
	var b []byte
	first := byte(wstest.Ping)
	switch kind {
	case 1:
		first = wstest.Pong
	case 2:
		first, b = wstest.OpContinuation, wstest.AppendFrame(nil, wstest.OpText, key, []byte("x"))
	}
	for range n {
		b = wstest.AppendFrame(b, first, key, []byte("x"))
	}
	return b
}

// frameFlood: all frames count, ten for each message.
func frameFlood(s *session) error {
	if err := s.open(); err != nil {
		return err
	}
	s.client.Raw(s.flood(s.rng.IntN(3), 300))
	return s.want(1008, 1001, wsproxy.Client, wsproxy.ReasonLimit)
}

// slowedFlood: frames pass at the configured rate.
func slowedFlood(s *session) error {
	if err := s.open(); err != nil {
		return err
	}
	began := time.Now()
	const n = 800
	if err := s.client.Raw(s.flood(s.rng.IntN(2), n)); err != nil {
		return err
	}
	s.client.Close(1000, "")
	if err := s.want(1000, 1000, wsproxy.Client, wsproxy.ReasonClosed); err != nil {
		return err
	}
	const rate = 10 * slowMessages
	if least := (n - rate) * time.Second / rate; time.Since(began) < least {
		return fmt.Errorf("%d frames passed in %v, want at least %v", n, time.Since(began), least)
	}
	if got := s.upstream.Pings + s.upstream.Foreign; got < n {
		return fmt.Errorf("%d frames arrived, want %d", got, n)
	}
	return nil
}

// emptyFragments count as one byte each.
func emptyFragments(s *session) error {
	if err := s.open(); err != nil {
		return err
	}
	key := maskOf(s.client)
	b := wstest.AppendFrame(nil, wstest.OpText, key, "")
	s.client.Raw(append(b, bytes.Repeat(wstest.AppendFrame(nil, wstest.OpContinuation, key, ""), smallMessage+1)...))
	return s.want(1009, 1001, wsproxy.Client, wsproxy.ReasonLimit)
}

// leavesBacklog: a client sends minutes of messages and leaves. Its session ends
// soon, however much has not been relayed.
func leavesBacklog(s *session) error {
	if err := s.open(); err != nil {
		return err
	}
	began := time.Now()
	message := wstest.AppendFrame(nil, wstest.Text, maskOf(s.client), []byte("x"))
	if err := s.client.Raw(bytes.Repeat(message, 120*slowMessages)); err != nil {
		return err
	}
	s.pause(500 * time.Millisecond)
	if s.rng.IntN(2) == 0 {
		s.client.Reset()
	} else {
		s.client.Close(1000, "")
		if err := s.client.CloseWrite(); err != nil {
			return err
		}
	}
	if err := s.over(); err != nil {
		return err
	}
	if took := time.Since(began); took > slowedClose+wire.Timeout/2 {
		return fmt.Errorf("over after %v", took)
	}
	for _, e := range []*wire.End{s.client, s.upstream} {
		if errors.Is(e.Err, wire.ErrIllegal) {
			return fmt.Errorf("client=%v: %w", e.Client, e.Err)
		}
	}
	return s.outcome(wsproxy.Outcome{By: wsproxy.Client, Reason: wsproxy.ReasonLost}, wsproxy.Outcome{By: wsproxy.Client, Reason: wsproxy.ReasonClosed})
}

// smallFrames: thousands of one-byte messages in both directions at once.
func smallFrames(s *session) error {
	if err := s.open(); err != nil {
		return err
	}
	var sending sync.WaitGroup
	for _, e := range []*wire.End{s.client, s.upstream} {
		sending.Go(func() {
			for range 20 {
				e.Messages(wstest.OpBinary, []byte("x"), 200)
			}
		})
	}
	sending.Wait()
	s.client.Close(1000, "")
	return errors.Join(s.want(1000, 1000, wsproxy.Client, wsproxy.ReasonClosed), s.complete())
}

// stuckInLongFrames: some clients do not read long frames, and leave.
func stuckInLongFrames(s *session) error {
	var others []*session
	var pushing sync.WaitGroup
	defer func() {
		for _, o := range others {
			o.leave()
		}
		pushing.Wait()
	}()
	for range 6 {
		o := s.w.newSession(s.fate, s.v)
		others = append(others, o)
		o.small = true
		if status, err := o.handshake(); status != http.StatusSwitchingProtocols {
			return fmt.Errorf("handshake: %d, %v", status, err)
		}
		o.upstream = <-o.accepted
		o.upstream.Start()
		pushing.Go(func() {
			o.upstream.Raw(wstest.AppendHeader(nil, wstest.Binary, nil, 1<<30))
			for range 1 << 30 / len(chunk) {
				if o.upstream.Raw(chunk) != nil {
					return
				}
			}
		})
	}
	s.pause(500 * time.Millisecond)
	var errs []error
	for _, o := range others {
		o.client.Reset()
		o.client.Start()
		errs = append(errs, o.over(), o.legal(), o.outcome(wsproxy.Outcome{By: wsproxy.Client, Reason: wsproxy.ReasonLost}))
	}
	return errors.Join(errs...)
}

var chunk = make([]byte, 64<<10)

// multipath: clients that use Multipath TCP are like any others.
func multipath(s *session) error {
	s.multipath = true
	end := []func(*session) error{clientReset, clientFIN, upstreamReset, func(s *session) error { return s.close(func() *wire.End { return s.client }) }}
	return end[s.rng.IntN(len(end))](s)
}
