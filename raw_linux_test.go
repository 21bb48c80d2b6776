//go:build linux && (amd64 || arm64)

package wsproxy

import (
	"io"
	"net"
	"runtime"
	"testing"
	"time"
)

// F34: what a peer's kernel takes shows while our socket takes nothing more.
func TestPeerAcked(t *testing.T) {
	c, peer := tcpPair(t)
	overfill(t, c, peer)
	before, queued, ok := peerAcked(c)
	if !ok || queued == 0 || before == 0 {
		t.Fatalf("got %d acknowledged, %d queued, ok=%v, with the peer's buffer full", before, queued, ok)
	}
	if again, _, _ := peerAcked(c); again != before {
		t.Errorf("acknowledged %d, then %d, with nobody reading", before, again)
	}
	if _, err := io.CopyN(io.Discard, peer, overfilled/2); err != nil {
		t.Fatal(err)
	}
	await(t, "the peer has read half of it", func() bool { after, _, _ := peerAcked(c); return after > before })
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	if _, _, ok := peerAcked(a); ok {
		t.Error("ok for a pipe")
	}
}

// F34: a Ping behind bytes that a slow peer's kernel is still taking has time;
// one that the kernel has taken has none, whatever follows it.
func TestPingBehindBytes(t *testing.T) {
	near, far := tcpPair(t)
	upstream, _ := net.Pipe()
	s := newSession([2]net.Conn{near, upstream}, [2][]byte{}, 0, 0, policy{}, time.Second)
	l := &s.legs[Client]
	taking := func() bool { // since the last call
		s.mu.Lock()
		defer s.mu.Unlock()
		return l.life(s.now(), false).taking
	}
	overfill(t, near, far)
	l.inject(pingPending)
	taking()
	await(t, "the Ping is behind bytes that move", func() bool {
		io.CopyN(io.Discard, far, 4<<10)
		return taking()
	})

	go io.Copy(io.Discard, far)
	await(t, "the Ping was taken", func() bool { acked, _, _ := peerAcked(near); return acked >= l.pingEnd })
	more := make([]byte, 1<<20)
	for range 100 {
		near.Write(more)
		if taking() {
			t.Fatal("the Ping was taken, and is still excused")
		}
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
