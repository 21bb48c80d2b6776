//go:build linux && (amd64 || arm64)

package wsproxy

import (
	"io"
	"net"
	"testing"
	"time"
)

// F34: what a peer's kernel takes shows while our socket takes nothing more.
func TestPeerAcked(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	c, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	peer, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer peer.Close()

	// Fill both kernels' buffers.
	c.SetWriteDeadline(time.Now().Add(200 * time.Millisecond))
	if n, err := c.Write(make([]byte, 64<<20)); err == nil {
		t.Fatalf("the buffers took %d bytes", n)
	}
	before, queued, ok := peerAcked(c)
	if !ok || queued == 0 || before == 0 {
		t.Fatalf("got %d acknowledged, %d queued, ok=%v, with full buffers", before, queued, ok)
	}
	if again, _, _ := peerAcked(c); again != before {
		t.Errorf("acknowledged %d, then %d, with nobody reading", before, again)
	}
	if _, err := io.CopyN(io.Discard, peer, 1<<20); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(10 * time.Second); ; {
		after, _, _ := peerAcked(c)
		if after > before {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("still %d acknowledged after the peer has read 1 MiB", after)
		}
	}
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	if _, _, ok := peerAcked(a); ok {
		t.Error("ok for a pipe")
	}
}
