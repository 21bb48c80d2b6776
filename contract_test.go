package wsproxy_test

import (
	"bytes"
	"context"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/seed-ffb73231/wsproxy"
	"github.com/seed-ffb73231/wsproxy/internal/wstest"
)

// The contract: a session behaves the same whatever moves its bytes, and
// whatever its legs are made of. Tests of that run over each carrier. To add a
// driver or a kind of leg, add a row here, not tests.

// A driver is what moves a session's bytes.
type driver struct {
	name    string
	options []wsproxy.Option
	detach  bool // ServeHTTP does not wait for the session's end
	whole   bool // messages go on whole, and in frames of their own
}

// Sessions over TCP and unix sockets are those of the event driver, on the systems
// that have it; with the build tag noloop, they have goroutines.
var drivers = []driver{
	{name: "blocking"},
	{name: "detached", options: []wsproxy.Option{wsproxy.WithDetach()}, detach: true},
	{name: "messages", whole: true, options: []wsproxy.Option{
		wsproxy.WithOnMessage(func(context.Context, *wsproxy.Session, *wsproxy.Message) error { return nil }),
		wsproxy.WithMaxMessageSize(wsproxy.Client, 8<<20), wsproxy.WithMaxMessageSize(wsproxy.Upstream, 8<<20),
	}},
}

// legs describes what a session's two connections are made of.
type legs struct {
	name             string
	client, upstream wstest.Kind
	below            bool // the front listens with NewListener
}

var kindsOfLegs = []legs{
	{"memory", wstest.Memory, wstest.Memory, false},
	{"tcp", wstest.TCP, wstest.TCP, false},
	{"unix", wstest.Unix, wstest.Unix, false},
	{"tls", wstest.TLS, wstest.TLS, false},
	{"tls to tcp", wstest.TLS, wstest.TCP, false},
	{"tls over NewListener", wstest.TLS, wstest.TLS, true},
	{"tls over NewListener to tcp", wstest.TLS, wstest.TCP, true},
}

// bothLegs returns legs of one kind.
func bothLegs(k wstest.Kind) legs { return legs{string(k), k, k, false} }

// A carrier is a driver with legs.
type carrier struct {
	driver
	legs
}

// sameAsOthers are carriers that would prove nothing that others do not: TLS is
// driven in the same way detached or not, and with messages, which goroutines relay,
// also with NewListener; what is special about messages lies above the legs.
var sameAsOthers = []string{
	"blocking/tls over NewListener to tcp",
	"detached/tls to tcp",
	"messages/unix", "messages/tls to tcp", "messages/tls over NewListener", "messages/tls over NewListener to tcp",
}

// carriers returns the carriers that satisfy which, apart from those.
func carriers(which ...func(carrier) bool) (all []carrier) {
	for _, d := range drivers {
		for _, l := range kindsOfLegs {
			c := carrier{d, l}
			not := func(is func(carrier) bool) bool { return !is(c) }
			if !slices.Contains(sameAsOthers, c.String()) && !slices.ContainsFunc(which, not) {
				all = append(all, c)
			}
		}
	}
	return all
}

func (c carrier) String() string { return c.driver.name + "/" + c.legs.name }

// simulated reports whether the carrier works in a synctest bubble.
func (c carrier) simulated() bool { return c.client == wstest.Memory && c.upstream == wstest.Memory }

// has reports whether a leg is of that kind.
func (c carrier) has(k wstest.Kind) bool { return c.client == k || c.upstream == k }

// rig returns a rig whose sessions use the carrier.
func (c carrier) rig(t testing.TB, options ...wsproxy.Option) *rig {
	t.Helper()
	target := "http://upstream.test"
	if c.upstream == wstest.TLS {
		target = "https://upstream.test"
	}
	return newCarrierRig(t, c, target, append([]wsproxy.Option{wsproxy.WithInsecureAnyOrigin()}, options...)...)
}

// relaysFrames reports whether the carrier has fragments and unfinished frames:
// messages that go on whole have tests of their own.
func (c carrier) relaysFrames() bool { return !c.whole }

// want reads from w and checks that it is the stream, which consists of whole
// messages and control frames: to the byte if the carrier relays frames.
func (c carrier) want(w *wstest.Wire, stream string) {
	w.T.Helper()
	if !c.whole {
		w.WantBytes(stream)
		return
	}
	messages, controls := parts(stream)
	var got strings.Builder
	for range len(messages) + len(controls) {
		f, err := w.ReadFrame()
		if err != nil {
			w.T.Fatalf("%s: %v", w.Who(), err)
		}
		got.WriteString(wstest.RawFrame(f.First, false, f.Payload))
	}
	gotMessages, gotControls := parts(got.String())
	if !slices.Equal(gotMessages, messages) || !slices.Equal(gotControls, controls) {
		w.T.Fatalf("%s: got other messages and control frames than the %d and %d that were sent", w.Who(), len(messages), len(controls))
	}
}

// parts returns the messages of a stream, each as its opcode and its payload, and its
// control frames. It leaves out a message that is not complete.
func parts(stream string) (messages, controls []string) {
	message := ""
	for b := []byte(stream); len(b) > 0; {
		h, ok := wstest.ParseHeader(b)
		if !ok || h.Length > uint64(len(b)-h.Size) {
			return messages, controls
		}
		payload := bytes.Clone(b[h.Size : h.Size+int(h.Length)])
		if h.Masked {
			wstest.Mask(payload, h.Key)
		}
		b = b[h.Size+int(h.Length):]
		switch op := h.First & 0x0F; {
		case op >= 8:
			controls = append(controls, string(h.First)+string(payload))
			continue
		case op != 0:
			message = string(op)
		}
		message += string(payload)
		if h.First&0x80 != 0 {
			messages = append(messages, message)
		}
	}
	return messages, controls
}

// run runs a test of the carrier, in a bubble if possible: the test must not
// call t.Run.
func (c carrier) run(t *testing.T, f func(t *testing.T)) {
	if c.simulated() {
		synctest.Test(t, f)
	} else {
		f(t)
	}
}

// eachSession runs a test over all carriers, in parallel.
func eachSession(t *testing.T, f func(t *testing.T, c carrier)) {
	for _, c := range carriers() {
		t.Run(c.String(), func(t *testing.T) {
			t.Parallel()
			c.run(t, func(t *testing.T) { f(t, c) })
		})
	}
}

// eachWay is eachSession, once with each side as the one that misbehaves, over the
// carriers that satisfy which.
func eachWay(t *testing.T, f func(t *testing.T, c carrier, w way), which ...func(carrier) bool) {
	for _, c := range carriers(which...) {
		t.Run(c.String(), func(t *testing.T) {
			t.Parallel()
			bothWays(t, c, f)
		})
	}
}

// eachWayAlone is eachWay for tests that measure the resources of the process:
// they run one at a time.
func eachWayAlone(t *testing.T, f func(t *testing.T, c carrier, w way), which ...func(carrier) bool) {
	for _, c := range carriers(which...) {
		t.Run(c.String(), func(t *testing.T) { bothWays(t, c, f) })
	}
}

func bothWays(t *testing.T, c carrier, f func(t *testing.T, c carrier, w way)) {
	for _, w := range ways {
		t.Run(w.name, func(t *testing.T) {
			c.run(t, func(t *testing.T) { f(t, c, w) })
		})
	}
}

// eachSessionInTime is eachSession with the carriers that work in a bubble:
// tests that depend on time run on simulated time. There, hours cost nothing,
// and events can be checked to the instant.
func eachSessionInTime(t *testing.T, f func(t *testing.T, c carrier)) {
	for _, c := range carriers() {
		if c.simulated() {
			t.Run(c.driver.name, func(t *testing.T) {
				c.run(t, func(t *testing.T) { f(t, c) })
			})
		}
	}
}

// eachWayInTime is eachSessionInTime, once with each side as the one that
// misbehaves.
func eachWayInTime(t *testing.T, f func(t *testing.T, c carrier, w way), which ...func(carrier) bool) {
	for _, c := range carriers(which...) {
		if c.simulated() {
			for _, w := range ways {
				t.Run(c.driver.name+"/"+w.name, func(t *testing.T) {
					c.run(t, func(t *testing.T) { f(t, c, w) })
				})
			}
		}
	}
}

// inCase is t.Run for a test that may run in a bubble. After the first case
// that fails, no other case runs.
func inCase(t *testing.T, name string, f func()) {
	defer func() {
		if t.Failed() {
			t.Logf("in case %q", name)
			t.FailNow()
		}
	}()
	f()
}
