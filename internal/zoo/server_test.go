//go:build linux

package zoo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
)

// A server is an animal that WebSockets are opened to.
type server struct {
	name   string
	source source
	start  func(t *testing.T) *process

	path         string                                // of the WebSocket
	at           func(t *testing.T, p *process) string // finds the path of a server that runs
	subprotocols []string                              // offered
	header       http.Header
	auto         func(m message) *message // answers what a library would, unasked
	fallback     bool                     // it needs plain HTTP as well
	lostCode     websocket.StatusCode     // for clients when it dies; 0: the default
	nginx        string                   // what nginx needs beside the four lines
	why          string                   // why so

	// greet goes from the 101 to where messages can be exchanged; nil: nothing
	// is needed.
	greet func(v *visit) error
	// say sends a message and gets it back, as the server's protocol has it;
	// nil: it echoes.
	say func(v *visit, m message) error
	// most is the largest message that it takes; 0: 1 MiB.
	most int
	// kinds is what it takes; "": text and binary.
	kinds kinds
	// noPong: it answers no Ping.
	noPong bool
	// leave has the server close; nil: no client can ask for that.
	leave func(v *visit) error
	// mute: no message that a client sends comes back. A Ping is sent instead.
	mute bool
	// loud: what its lives do is told to all clients, the silent ones included.
	loud bool
	// keeps: it sends Pings at times that the shortened silence doesn't shorten.
	// Whether nginx cuts it differs then from what nginx does with its 60 s: the
	// table doesn't say.
	keeps bool
	// private is a path that needs a login, or a header that it refuses.
	private *offer
	// lives are what its real users do, with a word each.
	lives []life
}

// A life is something that real users do. What it returns must be the same
// both ways.
type life struct {
	what string
	do   func(t *testing.T, f form) (string, error)
}

// script is a life in Node.js, which is told the URL of the server and prints
// what came of it.
func script(what, name string) life {
	return life{what, func(t *testing.T, f form) (string, error) {
		lines, err := run(t, "node", testdata("npm/"+name), f.http(""))
		return strings.Join(lines, "; "), err
	}}
}

type kinds int

const (
	both kinds = iota
	onlyText
	onlyBinary
)

// An outcome is what came of one thing that was tried.
type outcome struct{ what, came string }

// carryServer carries a server both ways and compares.
func carryServer(t *testing.T, s server) {
	version := s.source.version(t)
	began := time.Now()
	p := s.start(t)
	ready := time.Since(began)
	if s.at != nil {
		s.path = s.at(t, p)
	}
	ways := []*way{throughNginx(t, p.addr, s.nginx), throughProxy(t, p.addr, s.fallback, s.lostCode)}

	// Silence takes long. It goes on beside the rest.
	silences := make([]chan string, len(ways))
	for i, w := range ways {
		silences[i] = make(chan string, 1)
		go func() { silences[i] <- s.silence(t, w) }()
	}
	silent := make([]string, len(ways))
	await := func() {
		for i := range ways {
			silent[i] = <-silences[i]
		}
	}
	if s.loud {
		await()
	}
	outcomes := make([][]outcome, len(ways))
	for i, w := range ways {
		outcomes[i] = s.visit(t, w)
	}
	if !s.loud {
		await()
	}
	var doomed []*visit
	for i, w := range ways {
		outcomes[i] = append(outcomes[i], outcome{"silence", silent[i]})
		if w.drain != nil {
			outcomes[i] = append(outcomes[i], outcome{"drained", s.drain(t, w)})
		}
		v, err := s.open(t, w.plain)
		if err != nil {
			t.Fatalf("%s: %v", w.name, err)
		}
		doomed = append(doomed, v)
	}
	p.kill()
	for i, v := range doomed {
		outcomes[i] = append(outcomes[i], outcome{"killed", v.awaitEnd()})
	}
	t.Logf("%s %s: ready after %.1f s, all done after %.1f s", s.source.pkg, version, ready.Seconds(), time.Since(began).Seconds())
	enter(t, row{table: "servers", name: s.name, from: s.source, version: version, why: s.why, keeps: s.keeps}, outcomes[0], outcomes[1])
}

// open opens a WebSocket and comes to where messages can be exchanged.
func (s server) open(t *testing.T, f form) (*visit, error) {
	v, err := dial(t, f, offer{path: s.path, subprotocols: s.subprotocols, header: s.header, auto: s.auto})
	if err != nil || s.greet == nil {
		return v, err
	}
	if err := s.greet(v); err != nil {
		return nil, fmt.Errorf("greeting: %w", err)
	}
	return v, nil
}

// exchange sends a message and gets it back.
func (s server) exchange(v *visit, m message) error {
	if s.mute {
		return errors.Join(v.ping("anybody"), v.awaitPong("anybody"))
	}
	if s.say != nil {
		return s.say(v, m)
	}
	if err := v.send(m); err != nil {
		return err
	}
	back, err := v.receive()
	if err == nil && (back.binary != m.binary || !bytes.Equal(back.data, m.data)) {
		return fmt.Errorf("%v came back as %v", m, back)
	}
	return err
}

// messages are small and large, of both kinds.
func (s server) messages() (all []message) {
	most := s.most
	if most == 0 {
		most = 1 << 20
	}
	if s.mute {
		return []message{text("")}
	}
	for _, size := range []int{1, 125, 126, 70_000, most} {
		if size > most {
			continue
		}
		if s.kinds != onlyBinary {
			all = append(all, message{false, bytes.Repeat([]byte("Zoo 0123 äöü "), size/16+1)[:size-size%16+1]})
		}
		if s.kinds != onlyText {
			data := make([]byte, size)
			for i := range data {
				data[i] = byte(i * i >> 5)
			}
			all = append(all, message{true, data})
		}
	}
	return all
}

// visit does what is the same for all servers, one after another.
func (s server) visit(t *testing.T, w *way) (done []outcome) {
	t.Helper()
	tell := func(what, came string) { done = append(done, outcome{what, came}) }
	fail := func(what string, err error) { tell(what, "fails: "+err.Error()) }

	v, err := s.open(t, w.plain)
	if err != nil {
		fail("open", err)
		return done
	}
	tell("open", agreed(v))
	came := "all come back"
	messages := s.messages()
	if s.mute {
		came, messages = "no echo", nil
	}
	for _, m := range messages {
		if err := s.exchange(v, m); err != nil {
			came = fmt.Sprintf("fails at %d bytes: %v", len(m.data), err)
			break
		}
	}
	tell("messages", came)
	if !s.noPong {
		if err := errors.Join(v.ping("anybody"), v.awaitPong("anybody")); err != nil {
			fail("Ping", err)
		} else {
			tell("Ping", "Pong")
		}
	}
	if err := v.close(1000, "bye"); err != nil {
		fail("client closes", err)
	} else {
		tell("client closes", v.awaitEnd())
	}

	if s.leave != nil {
		if v, err = s.open(t, w.plain); err == nil {
			err = s.leave(v)
		}
		if err != nil {
			fail("server closes", err)
		} else {
			tell("server closes", v.awaitEnd())
		}
	}
	if s.private != nil {
		_, err := dial(t, w.plain, *s.private)
		var r *refusal
		switch {
		case errors.As(err, &r):
			tell("without login", strings.TrimSpace(fmt.Sprintf("%d %s", r.status, r.header.Get("WWW-Authenticate"))))
		case err == nil:
			tell("without login", "opens")
		default:
			fail("without login", err)
		}
	}
	for _, f := range []struct {
		what string
		form form
	}{{"wss", w.secure}, {"behind HAProxy", w.behind}} {
		v, err := s.open(t, f.form)
		if err == nil {
			err = s.exchange(v, s.messages()[0])
		}
		if err != nil {
			fail(f.what, err)
			continue
		}
		tell(f.what, agreed(v))
		_ = v.close(1000, "")
		v.awaitEnd()
	}
	for _, l := range s.lives {
		came, err := l.do(t, w.plain)
		if err != nil {
			fail(l.what, err)
			continue
		}
		tell(l.what, came)
	}
	return done
}

// agreed is what a handshake has agreed on.
func agreed(v *visit) string {
	var all []string
	if s := v.subprotocol(); s != "" {
		all = append(all, s)
	}
	if v.extensions() != "" {
		parts := strings.Split(v.extensions(), ";")
		for i := range parts {
			parts[i] = strings.TrimSpace(parts[i])
		}
		slices.Sort(parts[1:])
		all = append(all, strings.Join(parts, "; "))
	}
	if all == nil {
		return "nothing"
	}
	return strings.Join(all, ", ")
}

// silence is longer than nginx waits. Then comes a message.
func (s server) silence(t *testing.T, w *way) string {
	f, d := w.short, silence/scale
	if *awake {
		f, d = w.plain, silence
	}
	v, err := s.open(t, f)
	if err != nil {
		return "fails: " + err.Error()
	}
	if end := v.lasts(t.Context(), d); end != "" {
		return "cut: " + end
	}
	if err := s.exchange(v, s.messages()[0]); err != nil {
		return "lost: " + err.Error()
	}
	_ = v.close(1000, "")
	v.awaitEnd()
	return "outlived"
}

// drain ends the way with a session on it.
func (s server) drain(t *testing.T, w *way) string {
	v, err := s.open(t, w.behind)
	if err != nil {
		return "fails: " + err.Error()
	}
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- w.drain(ctx) }()
	end := v.awaitEnd()
	if err := <-done; err != nil {
		return end + ", " + err.Error()
	}
	return end
}
