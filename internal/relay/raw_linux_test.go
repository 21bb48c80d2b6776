//go:build linux && (amd64 || arm64)

package relay

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/seed-ffb73231/wsproxy/internal/frame"
	"github.com/seed-ffb73231/wsproxy/internal/protocol"
)

// A write of which it is said that it won't wait doesn't, over TCP, TLS and unix
// sockets, and one that would is told apart. Of other connections nothing is
// known.
func TestTakesAtOnce(t *testing.T) {
	c, peer := tcpPair(t)
	for _, conn := range []net.Conn{c, tls.Client(c, new(tls.Config))} {
		if !takesAtOnce(conn) {
			t.Errorf("%T: an empty socket takes nothing at once", conn)
		}
	}
	overfill(t, c, peer)
	raw, err := c.(*net.TCPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	piece := make([]byte, overfilled)
	for _, conn := range []net.Conn{c, tls.Client(c, new(tls.Config))} {
		await(t, fmt.Sprintf("%T: a full socket takes nothing at once", conn), func() bool {
			raw.Write(func(fd uintptr) bool { // what it takes now; the peer's kernel may still make room
				for err := error(nil); err == nil; {
					_, err = syscall.Write(int(fd), piece)
				}
				return true
			})
			return !takesAtOnce(conn)
		})
	}
	c.Close()
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	for _, conn := range []net.Conn{c, a} {
		if takesAtOnce(conn) {
			t.Errorf("%T is known to take more", conn)
		}
	}
}

// F34: what a peer's kernel takes shows while our socket takes nothing more.
func TestPeerAcks(t *testing.T) {
	t.Attr("case", "F34")
	c, peer := tcpPair(t)
	overfill(t, c, peer)
	before := peerAcks(c)
	if !before.Known || before.Queued == 0 || before.Acked == 0 {
		t.Fatalf("got %+v, with the peer's buffer full", before)
	}
	if again := peerAcks(c); again.Acked != before.Acked {
		t.Errorf("acknowledged %d, then %d, with nobody reading", before.Acked, again.Acked)
	}
	if _, err := io.CopyN(io.Discard, peer, overfilled/2); err != nil {
		t.Fatal(err)
	}
	await(t, "the peer has read half of it", func() bool { return peerAcks(c).Acked > before.Acked })
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	if peerAcks(a).Known {
		t.Error("known for a pipe")
	}
}

// F34: a Ping behind bytes that a slow peer's kernel is still taking has time;
// one that the kernel has taken has none, whatever follows it.
func TestPingBehindBytes(t *testing.T) {
	t.Attr("case", "F34")
	near, far := tcpPair(t)
	upstream, _ := net.Pipe()
	s := newSession([2]net.Conn{near, upstream}, impatient, time.Second)
	s.course.Answered(frame.Client, false)
	l := &s.legs[frame.Client]
	taking := func() bool { // since the last call
		trial := s.course
		order := look(s, &trial).Legs[frame.Client]
		if !order.Abort {
			s.course = trial
		}
		return order.Need == protocol.NeedMoreTime
	}
	overfill(t, near, far)
	l.inject(pingPending)
	a := peerAcks(near)
	pingEnd := a.Acked + a.Queued
	taking()
	await(t, "the Ping is behind bytes that move", func() bool {
		io.CopyN(io.Discard, far, 4<<10)
		return taking()
	})

	go io.Copy(io.Discard, far)
	await(t, "the Ping was taken", func() bool { return peerAcks(near).Acked >= pingEnd })
	more := make([]byte, 1<<20)
	for range 100 {
		near.Write(more)
		if taking() {
			t.Fatal("the Ping was taken, and is still excused")
		}
	}
}

// Of a peer that answers no Ping it can be told that its machine is there: by
// what its kernel acknowledges, also while it takes nothing in.
func TestPresent(t *testing.T) {
	for _, full := range []bool{false, true} {
		near, far := tcpPair(t)
		upstream, other := net.Pipe()
		defer upstream.Close()
		defer other.Close()
		s := newSession([2]net.Conn{near, upstream}, impatient, time.Second)
		present := func(side frame.Side) bool { // otherwise it is given up, or excused because it takes bytes
			trial := s.course
			order := look(s, &trial).Legs[side]
			return !order.Abort && order.Need != protocol.NeedMoreTime
		}
		l := &s.legs[frame.Client]
		if full {
			overfill(t, near, far)
		}
		l.inject(pingPending)
		a := peerAcks(near)
		pingEnd := a.Acked + a.Queued
		await(t, "the peer's kernel acknowledges", func() bool { return present(frame.Client) })
		if a := peerAcks(near); full == (a.Acked >= pingEnd) {
			t.Errorf("full=%v: %d bytes acknowledged, the Ping ends at %d", full, a.Acked, pingEnd)
		}
		// Where nothing can be told, a peer counts as present.
		l = &s.legs[frame.Upstream]
		l.pinged.Store(1)
		if !present(frame.Upstream) {
			t.Error("a pipe's peer counts as gone")
		}
	}
}

// impatient is the policy of a session that gives up a silent peer at once.
var impatient = protocol.Policy{Write: time.Hour, Pings: [2]protocol.Pinging{{Interval: time.Hour, Timeout: 1}, {Interval: time.Hour, Timeout: 1}}}

// look returns what the course orders for what is to be seen of the session now.
func look(s *Session, c *protocol.Course) protocol.Orders {
	s.mu.Lock()
	defer s.mu.Unlock()
	seen := s.lookLocked()
	c.Expire(seen.Now) // the timer is in time
	return c.Look(&seen)
}

// A timer that fires late ends nothing, neither what is silent nor what takes
// nothing nor what is idle; one that fires in time does, and so does one that is
// always late.
func TestLate(t *testing.T) {
	rules := []struct {
		name   string
		pol    protocol.Policy
		begin  func(s *Session, now time.Duration)
		again  func(s *Session) // makes it due again
		reason string
	}{
		{"silent", protocol.Policy{Write: time.Hour, Pings: [2]protocol.Pinging{{Interval: time.Hour, Timeout: time.Second}, {}}}, func(s *Session, now time.Duration) {
			l := &s.legs[frame.Client]
			s.course.Answered(frame.Client, false)
			l.pinged.Store(int64(now - time.Minute))
			l.heard.Store(int64(now - 2*time.Minute))
		}, nil, "lost"},
		{"stuck", protocol.Policy{Write: time.Second}, func(s *Session, now time.Duration) {
			s.legs[frame.Client].writing.Store(int64(now - time.Minute))
		}, nil, "lost"},
		{"idle", protocol.Policy{Write: time.Hour, Idle: time.Second}, func(*Session, time.Duration) {}, nil, "idle"},
	}
	for _, rule := range rules {
		near, far := tcpPair(t)
		upstream, other := tcpPair(t)
		_, _ = far, other
		s := newSession([2]net.Conn{near, upstream}, rule.pol, time.Second)
		s.began = time.Now().Add(-time.Hour)
		s.rareLocked().timer = time.AfterFunc(time.Hour, func() {})
		defer s.rare.timer.Stop()
		var cause *protocol.Cause
		look := func(late time.Duration) (ended bool) {
			now := s.now()
			rule.begin(s, now)
			s.course.Expire(now - late)
			s.tick()
			cause, _, _ = s.Result()
			return cause != nil
		}
		for i := range protocol.MostGraces {
			if look(time.Minute) {
				t.Fatalf("%s: ended by look %d, which was late", rule.name, i)
			}
		}
		if !look(time.Minute) || cause.Reason != rule.reason {
			t.Errorf("%s: not ended though every look is late: %+v", rule.name, cause)
		}

		s = newSession([2]net.Conn{near, upstream}, rule.pol, time.Second)
		s.began = time.Now().Add(-time.Hour)
		s.rareLocked().timer = time.AfterFunc(time.Hour, func() {})
		defer s.rare.timer.Stop()
		if !look(protocol.Lateness / 2) {
			t.Errorf("%s: not ended in time", rule.name)
		}
	}
}

// What waits in the sockets counts before silence does, in TLS as well; it is
// no excuse without end for a session that is idle.
func TestInputWaits(t *testing.T) {
	near, far := tcpPair(t)
	upstream, _ := tcpPair(t)
	if inputWaits(near) || inputWaits(tls.Server(near, nil)) {
		t.Error("input waits on a new connection")
	}
	far.Write([]byte("x"))
	await(t, "it has arrived", func() bool { return inputWaits(near) })
	if !inputWaits(tls.Server(near, nil)) {
		t.Error("none waits below TLS")
	}
	pipe, _ := net.Pipe()
	if inputWaits(pipe) {
		t.Error("input waits in a pipe")
	}
	s := newSession([2]net.Conn{near, upstream}, protocol.Policy{
		Write: time.Hour,
		Idle:  time.Second,
		Pings: [2]protocol.Pinging{{Interval: time.Hour, Timeout: time.Second}, {}},
	}, time.Second)
	s.began = time.Now().Add(-time.Hour)
	s.rareLocked().timer = time.AfterFunc(time.Hour, func() {})
	defer s.rare.timer.Stop()
	l := &s.legs[frame.Client]
	s.course.Answered(frame.Client, false)
	l.pinged.Store(int64(s.now() - time.Minute))
	for i := range protocol.MostGraces {
		s.course.Expire(s.now()) // the timer is in time
		s.tick()
		if cause, _, _ := s.Result(); cause != nil {
			t.Fatalf("look %d: ended as %s with input in the socket", i, cause.Reason)
		}
	}
	s.course.Expire(s.now())
	s.tick()
	if cause, _, _ := s.Result(); cause != protocol.CauseIdle {
		t.Errorf("ended by %+v, want it idle", cause)
	}
}

// The hint that saves a read is used only where it tells of a FIN as well.
func TestInqTellsFIN(t *testing.T) {
	for release, want := range map[string]bool{
		"6.18.5": true, "5.10.0-28-amd64": true, "5.1.0": true, "5.0.21": false, "4.18.0": false, "4.4.0": false, "4.19.0-gvisor": false, "": false, "x": false,
	} {
		if got := kernelInqTellsFIN(release + "\x00\x00"); got != want {
			t.Errorf("%q: got %v, want %v", release, got, want)
		}
	}
	for _, fin := range []bool{false, true} {
		near, far := tcpPair(t)
		raw := rawConn(near)
		raw.Control(func(fd uintptr) { syscall.SetsockoptInt(int(fd), syscall.IPPROTO_TCP, tcpInq, 1) })
		far.Write([]byte("hello"))
		if fin {
			far.(*net.TCPConn).CloseWrite()
			await(t, "the FIN is there", func() (there bool) {
				const closeWait = 8 // of linux/tcp_states.h
				raw.Control(func(fd uintptr) { there = tcpState(fd) == closeWait })
				return there
			})
		}
		var c chunk
		raw.Read(func(fd uintptr) bool {
			n, more, errno := c.raw.recv(fd, c.b[:], true, false)
			if errno == syscall.EAGAIN {
				return false
			}
			if n != 5 || errno != 0 || more != fin {
				t.Errorf("FIN=%v: got %d bytes, more=%v, %v", fin, n, more, errno)
			}
			return true
		})
	}
}

// F22: a reset that came along with the last bytes, which TCP_INQ doesn't tell
// of, ends the session all the same, and those bytes are passed on before.
func TestResetBehindBytes(t *testing.T) {
	t.Attr("case", "F22")
	t.Parallel()
	for _, frame := range []string{"\x82\x03end", "\x88\x00"} {
		near, far := tcpPair(t) // the upstream's
		client, peer := tcpPair(t)
		far.Write([]byte(frame))
		far.(*net.TCPConn).SetLinger(0)
		far.Close()
		l := leg{s: new(Session), threadLeg: &threadLeg{conn: near}}
		l.initRaw(false)
		if !l.inq {
			t.Fatal("no TCP_INQ")
		}
		await(t, "the reset is there", l.reset)
		// Take the edge that the poller has for it, or that it had.
		asked := false
		near.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
		l.raw.conn.Read(func(uintptr) bool { was := asked; asked = true; return was })
		near.SetReadDeadline(time.Time{})

		s := newSession([2]net.Conn{client, near}, protocol.Policy{Write: 2 * time.Second}, time.Minute)
		over := make(chan struct{})
		s.host = silentHost{over}
		s.Detach()
		peer.SetReadDeadline(time.Now().Add(20 * time.Second))
		got, err := io.ReadAll(io.LimitReader(peer, int64(len(frame))))
		if string(got) != frame {
			t.Fatalf("client got %q, %v, want %q", got, err, frame)
		}
		if frame[0] == 0x88 {
			peer.Write([]byte("\x88\x80\x00\x00\x00\x00"))
		} else if got, err := io.ReadAll(io.LimitReader(peer, 17)); string(got) != "\x88\x0f\x03\xf3upstream lost" {
			t.Errorf("client got %q, %v, want Close 1011", got, err)
		}
		peer.Close()
		select {
		case <-over:
		case <-time.After(20 * time.Second):
			t.Fatalf("%q, then a reset: the session goes on", frame)
		}
	}
}

// The same while the session ends already, and with nothing more to be written
// to who has reset: no need to wait for the close timeout.
func TestResetBehindBytesAtTheEnd(t *testing.T) {
	t.Attr("case", "F22")
	t.Parallel()
	near, far := tcpPair(t) // the upstream's
	client, peer := tcpPair(t)
	s := newSession([2]net.Conn{client, near}, protocol.Policy{Write: time.Minute}, time.Minute)
	l := &s.legs[frame.Client]
	gone := make(chan struct{})
	l.raw.conn = edgeless{l.raw.conn, gone, new(atomic.Bool)}
	over := make(chan struct{})
	s.host = silentHost{over}
	s.Detach()

	far.Write([]byte("\x88\x02\x03\xe8"))
	peer.SetReadDeadline(time.Now().Add(20 * time.Second))
	if got, err := io.ReadAll(io.LimitReader(peer, 4)); string(got) != "\x88\x02\x03\xe8" {
		t.Fatalf("client got %q, %v", got, err)
	}
	peer.Write([]byte("\x82\x83\x00\x00\x00\x00end"))
	peer.(*net.TCPConn).SetLinger(0)
	peer.Close()
	await(t, "the reset is there", l.reset)
	close(gone)
	far.Close()
	select {
	case <-over:
	case <-time.After(20 * time.Second):
		t.Fatal("the session goes on")
	}
}

// An edgeless connection's reader reads when its peer is gone, and isn't told
// of it by the poller.
type edgeless struct {
	syscall.RawConn
	gone <-chan struct{}
	told *atomic.Bool
}

func (c edgeless) Read(f func(uintptr) bool) error {
	if <-c.gone; c.told.CompareAndSwap(false, true) {
		asked := false
		c.RawConn.Read(func(uintptr) bool { was := asked; asked = true; return was })
	}
	return c.RawConn.Read(f)
}

// A unix socket's peer can't leave descriptors with us.
func TestNoDescriptorsTaken(t *testing.T) {
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer syscall.Close(fds[0])
	defer syscall.Close(fds[1])
	if err := syscall.Sendmsg(fds[0], []byte("x"), syscall.UnixRights(0, 1), nil, 0); err != nil {
		t.Fatal(err)
	}
	count := func() int {
		open, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		return len(open)
	}
	before := count()
	var c chunk
	if n, more, errno := c.raw.recv(uintptr(fds[1]), c.b[:], false, false); n != 1 || !more || errno != 0 {
		t.Errorf("got %d bytes, more=%v, %v", n, more, errno)
	}
	if after := count(); after != before {
		t.Errorf("%d descriptors more than before", after-before)
	}
}

func tcpPair(t *testing.T) (a, b net.Conn) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	if a, err = net.Dial("tcp", ln.Addr().String()); err != nil {
		t.Fatal(err)
	}
	if b, err = ln.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.Close(); b.Close() })
	return a, b
}

const overfilled = 256 << 10

// overfill writes so much to c that the peer's kernel doesn't take it all, and
// ours has room for more.
func overfill(t *testing.T, c, peer net.Conn) {
	t.Helper()
	peer.(*net.TCPConn).SetReadBuffer(16 << 10)
	c.(*net.TCPConn).SetWriteBuffer(8 * overfilled)
	c.SetWriteDeadline(time.Now().Add(10 * time.Second))
	if _, err := c.Write(make([]byte, overfilled)); err != nil {
		t.Fatal(err)
	}
	c.SetWriteDeadline(time.Time{})
}

// await polls, for what a kernel does in its own time.
func await(t *testing.T, what string, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !done(); runtime.Gosched() {
		if time.Now().After(deadline) {
			t.Fatalf("waited for too long: %s", what)
		}
	}
}

// silentHost takes note of the end only.
type silentHost struct{ over chan struct{} }

func (silentHost) RoundTrip(frame.Side, time.Duration) {}
func (silentHost) Panicked(v any) error                { return fmt.Errorf("panic: %v", v) }
func (h silentHost) Over()                             { close(h.over) }

// newSession joins two connections without a handshake.
func newSession(conns [2]net.Conn, pol protocol.Policy, closeTimeout time.Duration) *Session {
	s := new(Session)
	s.Begin(time.Now())
	pol.Close = closeTimeout
	s.Join(&Settings{Policy: pol, Totals: NewTotals(), NoEvents: true}, silentHost{make(chan struct{})}, 0, conns, [2][]byte{}, [2]byte{}, [2]byte{}, nil)
	return s
}

// sessionOf starts a session in the event driver, or in goroutines, and returns the
// far ends of its connections, by their sides. The near ones are prepared first.
func sessionOf(t *testing.T, events bool, prepare func(near *net.TCPConn)) (s *Session, fars [2]net.Conn, over chan struct{}) {
	t.Helper()
	var conns [2]net.Conn
	for side := range conns {
		conns[side], fars[side] = tcpPair(t)
		fars[side].SetDeadline(time.Now().Add(20 * time.Second))
		prepare(conns[side].(*net.TCPConn))
	}
	s, over = new(Session), make(chan struct{})
	s.Begin(time.Now())
	pol := protocol.Policy{Write: 10 * time.Second, Close: 10 * time.Second}
	s.Join(&Settings{Policy: pol, Totals: NewTotals(), NoEvents: !events}, silentHost{over}, 0, conns, [2][]byte{}, [2]byte{}, [2]byte{}, nil)
	s.Detach()
	return s, fars, over
}

// A program that has called File and Fd for a connection has made its socket block.
// A long frame that stops in the middle then holds up its own session only.
func TestBlockingSockets(t *testing.T) {
	for _, events := range []bool{true, false} {
		if events && !HasEvents {
			continue
		}
		s, fars, over := sessionOf(t, events, func(conn *net.TCPConn) {
			f, err := conn.File()
			if err != nil {
				t.Fatal(err)
			}
			f.Fd()
			f.Close()
		})
		part := make([]byte, 200_000)
		copy(part, []byte{0x82, 127, 0, 0, 0, 0, 4, 0, 0, 0})
		go fars[frame.Upstream].Write(part)
		if n, err := io.ReadFull(fars[frame.Client], make([]byte, len(part))); err != nil {
			t.Fatalf("events=%v: got %d bytes of %d: %v", events, n, len(part), err)
		}
		io.WriteString(fars[frame.Client], "\x82\x82\x00\x00\x00\x00ok")
		if got, err := io.ReadAll(io.LimitReader(fars[frame.Upstream], 8)); len(got) != 8 {
			t.Errorf("events=%v: got %q, %v, in the other direction", events, got, err)
		}
		s.Cut(protocol.CausePanic, nil)
		select {
		case <-over:
		case <-time.After(20 * time.Second):
			t.Fatal("the session goes on")
		}
	}
}

// Urgent data in a long frame does not hold up what is behind it: a splice never
// passes it.
func TestUrgentDataInLongFrame(t *testing.T) {
	for _, events := range []bool{true, false} {
		if events && !HasEvents {
			continue
		}
		s, fars, over := sessionOf(t, events, func(*net.TCPConn) {})
		client, upstream := fars[frame.Client], fars[frame.Upstream]
		want := frame.AppendMessage(nil, frame.OpBinary, false, []byte(strings.Repeat("long", 25_000)))
		const before = 20_000
		upstream.Write(want[:before])
		got := make([]byte, len(want))
		if n, err := io.ReadFull(client, got[:before]); err != nil {
			t.Fatalf("events=%v: got %d bytes: %v", events, n, err)
		}
		raw, err := upstream.(*net.TCPConn).SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		raw.Write(func(fd uintptr) bool {
			err = syscall.Sendto(int(fd), []byte("!"), syscall.MSG_OOB, nil)
			return true
		})
		if err != nil {
			t.Fatal(err)
		}
		upstream.Write(want[before:])
		if n, err := io.ReadFull(client, got[before:]); err != nil {
			t.Errorf("events=%v: got %d bytes more: %v", events, n, err)
		} else if !bytes.Equal(got, want) {
			t.Errorf("events=%v: got other bytes than were sent", events)
		}
		s.Cut(protocol.CausePanic, nil)
		select {
		case <-over:
		case <-time.After(20 * time.Second):
			t.Fatal("the session goes on")
		}
	}
}
