package interop

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/seed-ffb73231/wsproxy"
)

// TestInterop has every peer talk to every other one through a plain proxy.
func TestInterop(t *testing.T) {
	upstreams := startUpstreams(t)
	for _, client := range upstreams {
		for _, up := range upstreams {
			t.Run(client.name()+"→"+up.name(), func(t *testing.T) {
				t.Parallel()
				testPair(t, client.peer, up, false)
			})
		}
	}
}

// TestTLS has every peer talk to one other peer through a proxy that terminates
// TLS and detaches its sessions.
func TestTLS(t *testing.T) {
	upstreams := startUpstreams(t)
	for i, client := range upstreams {
		up := upstreams[(i+1)%len(upstreams)]
		t.Run(client.name()+"→"+up.name(), func(t *testing.T) {
			t.Parallel()
			testPair(t, client.peer, up, true, wsproxy.WithDetach())
		})
	}
}

// TestPing lets the proxy ping both ends of an idle session. A Ping is sent
// only after the previous one was answered, so the number of Pings that a peer
// gets proves that it answers.
func TestPing(t *testing.T) {
	const pings = 10
	upstreams := startUpstreams(t)
	sessions := make(map[*upstream]*session) // side by side: their time is spent waiting
	for _, up := range upstreams {
		if missing(up.peer) == "" {
			p := &pair{client: up.peer, upstream: up}
			p.front = newFront(t, up.url, false, wsproxy.WithPing(50*time.Millisecond, 2*time.Second))
			sessions[up] = p.open(t, true)
		}
	}
	for _, up := range upstreams {
		t.Run(up.name(), func(t *testing.T) {
			require(t, up.peer)
			s := sessions[up]
			s.t = t
			s.awaitPings(pings)
			s.exchange(text(100))
			s.close(s.client, 1000, "done")
			for _, e := range s.ends() {
				if len(e.pongs) != 0 {
					t.Errorf("the %s got pongs %q to pings of the proxy's, want none", e.role, e.pongs)
				}
			}
		})
	}
}

// TestPingInterval uses a pong timeout far above the ping interval: an
// immediate answer must not delay the next Ping by the timeout.
func TestPingInterval(t *testing.T) {
	up := &upstream{peer: coder{}}
	up.url = up.listen(t, up.arrived)
	p := &pair{client: up.peer, upstream: up}
	p.front = newFront(t, up.url, false, wsproxy.WithPing(50*time.Millisecond, limit/2))
	s := p.open(t, false)
	s.awaitPings(3)
	s.close(s.client, 1000, "done")
}

// awaitPings waits until both ends have got n of the proxy's pings.
func (s *session) awaitPings(n int) {
	s.t.Helper()
	for _, e := range s.ends() {
		got := 0
		err := e.await(s.ctx, func() bool {
			got = len(e.pings)
			return got >= n
		})
		if err != nil {
			s.t.Fatalf("the %s got %d pings of the proxy's, want %d: %v", e.role, got, n, err)
		}
	}
}

// startUpstreams starts every peer as a server. Missing peers are included;
// require reports them.
func startUpstreams(t *testing.T) []*upstream {
	peers := []peer{
		coder{}, gorilla{}, gwsPeer{}, gobwas{},
		startProcess(t, "npm-ws", "node", "testdata/npm/peer.js"),
		// Not the python3 of the PATH: that need not be Debian's.
		startProcess(t, "python-websockets", "/usr/bin/python3", "testdata/python/peer.py"),
	}
	upstreams := make([]*upstream, len(peers))
	for i, p := range peers {
		u := &upstream{peer: p}
		if missing(p) == "" {
			u.url = p.listen(t, u.arrived)
		}
		upstreams[i] = u
	}
	return upstreams
}

func missing(p peer) string {
	if p, ok := p.(*process); ok {
		return p.missing
	}
	return ""
}

// require skips a test if the peer is not installed. In CI it fails.
func require(t *testing.T, peers ...peer) {
	t.Helper()
	for _, p := range peers {
		if why := missing(p); why != "" {
			unavailable(t, why)
		}
	}
}

func unavailable(t *testing.T, why string) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatal(why)
	}
	t.Skip(why)
}

// An upstream is a peer that runs as a server.
type upstream struct {
	peer
	url   string
	conns sync.Map // a chan *conn by path
}

func (u *upstream) arrival(path string) chan *conn {
	c, _ := u.conns.LoadOrStore(path, make(chan *conn, 1))
	return c.(chan *conn)
}

func (u *upstream) arrived(path string, c *conn) { u.arrival(path) <- c }

// A pair is a client and an upstream, with the proxy between them.
type pair struct {
	client   peer
	upstream *upstream
	front    *front
	modes    *[2]websocket.CompressionMode // of both legs; nil: negotiated end to end
}

// A session is one WebSocket of a pair.
type session struct {
	t                *testing.T
	ctx              context.Context
	pair             *pair
	path             string
	client, upstream *end
	sent             [2]counts // what the client, the upstream has sent; frames: at least
}

// An end is one end of a session.
type end struct {
	*conn
	role string
	traits
	side int
}

func (s *session) ends() [2]*end { return [2]*end{s.client, s.upstream} }

func (s *session) other(e *end) *end { return s.ends()[1-e.side] }

var paths atomic.Int64

// open opens a session, and checks what was negotiated at both ends.
func (p *pair) open(t *testing.T, deflate bool) *session {
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	t.Cleanup(cancel)
	path := "/" + strconv.FormatInt(paths.Add(1), 10)
	c, err := p.client.dial(ctx, offer{p.front.url + path, p.front.origin, deflate, p.front.root})
	if err != nil {
		t.Fatal(err)
	}
	var u *conn
	select {
	case u = <-p.upstream.arrival(path):
	case <-ctx.Done():
		t.Fatal("the upstream has not got the handshake that the client has ended")
	}
	s := &session{t: t, ctx: ctx, pair: p, path: path}
	s.client = &end{c, "client", p.client.traits(), 0}
	s.upstream = &end{u, "upstream", p.upstream.traits(), 1}
	for _, e := range s.ends() {
		if e.subprotocol != subprotocol {
			t.Errorf("the %s has the subprotocol %q, want %q", e.role, e.subprotocol, subprotocol)
		}
		if got, want := strings.Contains(e.extensions, "permessage-deflate"), p.deflates(e, deflate); got != want {
			t.Errorf("the %s sees the extensions %q: permessage-deflate %v, want %v", e.role, e.extensions, got, want)
		}
	}
	return s
}

// testPair tests everything that a client and an upstream can do, with and
// without compression.
func testPair(t *testing.T, client peer, up *upstream, secure bool, options ...wsproxy.Option) {
	require(t, client, up.peer)
	p := &pair{client: client, upstream: up}
	p.front = newFront(t, up.url, secure, options...)
	p.test(t)
}

func (p *pair) test(t *testing.T) {
	for _, deflate := range []bool{false, true} {
		mode := "plain"
		if deflate {
			mode = "deflate"
		}
		t.Run(mode, func(t *testing.T) {
			t.Run("talk", func(t *testing.T) { p.testTalk(t, deflate) })
			for _, end := range []closing{{1000, "bye"}, {4001, "the client says bye: ü"}} {
				t.Run("client closes "+strconv.Itoa(end.code), func(t *testing.T) {
					s := p.open(t, deflate)
					s.close(s.client, end.code, end.reason)
				})
			}
			for _, end := range []closing{{1000, "bye"}, {1001, "going away"}, {3000, "three thousand"}, {4401, "token expired: ü"}} {
				t.Run("upstream closes "+strconv.Itoa(end.code), func(t *testing.T) {
					s := p.open(t, deflate)
					s.close(s.upstream, end.code, end.reason)
				})
			}
		})
	}
}

func (p *pair) testTalk(t *testing.T, deflate bool) {
	s := p.open(t, deflate)
	for _, size := range []int{0, 125, 126, 65535, 65536} {
		s.exchange(text(size))
		s.exchange(binary(size))
	}
	largest := 3 << 20
	if p.modes != nil { // there are many combinations
		largest = messageLimit
	}
	s.exchange(message{binary: true, data: text(largest).data})
	for _, e := range s.ends() {
		if e.fragments {
			s.fragmented(e)
		}
		// The proxy recognizes Pongs to its own Pings by their length, among
		// other things: that of the second payload.
		for _, payload := range []string{"", "twelve bytes", strings.Repeat("x", 125)} {
			s.ping(e, payload)
		}
	}
	r := s.close(s.client, 1000, "done")
	for _, e := range s.ends() {
		got, sent := r.from[e.side], s.sent[e.side]
		if got.messages != sent.messages {
			t.Errorf("the proxy has counted %d messages from the %s, want %d", got.messages, e.role, sent.messages)
		}
		if got.frames < sent.frames && p.modes == nil { // or the proxy has put messages together
			t.Errorf("the proxy has counted %d frames from the %s, want %d at least", got.frames, e.role, sent.frames)
		}
		// Of messages, the bytes are counted that went on.
		if compressed, want := got.bytes < sent.bytes*9/10, p.deflates(s.other(e), deflate); compressed != want {
			t.Errorf("the %s has sent %d bytes of payload in %d: compressed %v, want %v", e.role, sent.bytes, got.bytes, compressed, want)
		}
	}
}

// exchange sends a message from the client to the upstream and back.
func (s *session) exchange(m message) {
	s.t.Helper()
	for _, e := range s.ends() {
		s.send(e, m)
	}
}

// fragmented sends a message in several frames.
func (s *session) fragmented(e *end) {
	s.t.Helper()
	var m message
	parts := [][]byte{text(20_000).data, text(1).data, text(30_000).data}
	m.data = bytes.Join(parts, nil)
	s.send(e, m, parts...)
	s.sent[e.side].frames++ // more than one, however the library cuts it
}

func (s *session) send(e *end, m message, parts ...[]byte) {
	s.t.Helper()
	what := fmt.Sprintf("message of %d bytes from the %s", len(m.data), e.role)
	if err := e.send(m, parts...); err != nil {
		s.t.Fatalf("%s: %v", what, err)
	}
	got, err := s.other(e).receive(s.ctx)
	if err != nil {
		s.t.Fatalf("%s: has not come: %v", what, err)
	}
	if got.binary != m.binary || !bytes.Equal(got.data, m.data) {
		s.t.Fatalf("%s (binary: %v) came as %d others (binary: %v)", what, m.binary, len(got.data), got.binary)
	}
	c := &s.sent[e.side]
	c.frames++
	c.messages++
	c.bytes += uint64(len(m.data))
}

// ping has an end ping the other one and waits for the Pong.
func (s *session) ping(e *end, payload string) {
	s.t.Helper()
	asked := s.other(e)
	if err := e.ping([]byte(payload)); err != nil {
		s.t.Fatalf("ping from the %s: %v", e.role, err)
	}
	var ping, pong string
	if err := asked.await(s.ctx, func() bool { return take(&asked.pings, &ping) }); err != nil {
		s.t.Fatalf("the %s's ping has not come: %v", e.role, err)
	}
	if e.pingPayload && ping != payload {
		s.t.Errorf("the %s's ping came with %q, want %q", e.role, ping, payload)
	}
	if err := e.await(s.ctx, func() bool { return take(&e.pongs, &pong) }); err != nil {
		s.t.Fatalf("the pong to the %s's ping has not come: %v", e.role, err)
	}
	if pong != ping {
		s.t.Errorf("the pong to the %s's ping came with %q, want %q", e.role, pong, ping)
	}
	s.sent[e.side].frames++
	s.sent[asked.side].frames++
}

// take moves the first of a queue to v, if there is one.
func take(queue *[]string, v *string) bool {
	if len(*queue) == 0 {
		return false
	}
	*v = (*queue)[0]
	*queue = slices.Delete(*queue, 0, 1)
	return true
}

// close has an end close the session. The other end must get its code and
// reason, both must end, and the proxy must report who closed.
func (s *session) close(e *end, code int, reason string) record {
	s.t.Helper()
	if err := e.close(code, reason); err != nil {
		s.t.Errorf("close by the %s: %v", e.role, err)
	}
	want := closing{code, reason}
	got, err := s.other(e).awaitEnd(s.ctx)
	if err != nil {
		s.t.Fatalf("the %s's close has not come: %v", e.role, err)
	}
	if got != want {
		s.t.Errorf("the %s's close came as %d %q, want %d %q", e.role, got.code, got.reason, code, reason)
	}
	if _, err := e.awaitEnd(s.ctx); err != nil {
		s.t.Fatalf("the %s, which has closed, has not come to its end: %v", e.role, err)
	}
	r, err := s.pair.front.sessions.await(s.ctx, s.path)
	if err != nil {
		s.t.Fatalf("the proxy's session has not come to its end: %v", err)
	}
	if r.by != e.role || r.reason != "closed" || r.code != code {
		s.t.Errorf("the proxy says %q by the %s with %d, want \"closed\" by the %s with %d", r.reason, r.by, r.code, e.role, code)
	}
	return r
}

// text returns a text message of n bytes that compresses well.
func text(n int) message {
	words := []string{"session, ", "the client, ", "the upstream, ", "a frame, ", "a ping, ", "a close, "}
	data := make([]byte, 0, n+20)
	if n >= len("→") {
		data = append(data, "→"...)
	}
	for len(data) < n {
		data = append(data, words[rand.IntN(len(words))]...)
	}
	return message{data: data[:n]}
}

// binary returns a binary message of n bytes that does not compress.
func binary(n int) message {
	data := make([]byte, n)
	for i := range data {
		data[i] = byte(rand.Uint32())
	}
	return message{binary: true, data: data}
}
