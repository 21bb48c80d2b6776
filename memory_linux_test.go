//go:build linux && (amd64 || arm64) && !noloop && !wsproxy_simulated && !race

package wsproxy

import (
	"bytes"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"runtime"
	"syscall"
	"testing"
)

// A session at rest in the event driver takes less than 800 bytes of the heap, strings
// and tables included. Most of it is the Session, in the allocator's class of 704
// bytes. (The loop's table has a place for each descriptor, and here half of these are
// the far ends.)
//
// The far ends are bare descriptors, of which the heap knows nothing.
func TestSessionMemory(t *testing.T) {
	upstream := newBareUpstream(t)
	p, err := New(upstream.url, WithDetach(), WithLogger(slog.New(slog.DiscardHandler)))
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: p}
	go server.Serve(ln)
	defer server.Close()
	defer p.Close()
	at := ln.Addr().(*net.TCPAddr)

	const many = 400
	fds := make([]int, 0, 4*many)
	defer func() {
		for _, fd := range fds {
			syscall.Close(fd)
		}
	}()
	open := func() {
		for range many {
			fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
			if err != nil {
				t.Fatal(err)
			}
			fds = append(fds, fd)
			if err := syscall.Connect(fd, &syscall.SockaddrInet4{Port: at.Port, Addr: [4]byte{127, 0, 0, 1}}); err != nil {
				t.Fatal(err)
			}
			syscall.Write(fd, []byte("GET /echo HTTP/1.1\r\nHost: example.test\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"+
				"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"))
			readUntil(fd, "\r\n\r\n")
			syscall.Write(fd, []byte("\x82\x85\x00\x00\x00\x00hello"))
			readUntil(fd, "hello")
		}
	}
	live := func() uint64 {
		var m runtime.MemStats
		for range 3 { // pools are empty after two
			runtime.GC()
		}
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	open()
	least := ^uint64(0)
	for range 3 { // other tests may have left something behind that ends only now
		before := live()
		open()
		least = min(least, (live()-before)/many)
	}
	if got := p.Stats().Open; got != 4*many {
		t.Fatalf("%d sessions are open, want %d", got, 4*many)
	}
	t.Logf("%d bytes a session", least)
	if least > 800 {
		t.Errorf("a session takes %d bytes", least)
	}
}

// A bareUpstream echoes the first frame of each session. It has descriptors only.
type bareUpstream struct{ url string }

func newBareUpstream(t *testing.T) *bareUpstream {
	ln, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Bind(ln, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Listen(ln, 100); err != nil {
		t.Fatal(err)
	}
	name, err := syscall.Getsockname(ln)
	if err != nil {
		t.Fatal(err)
	}
	fds := make([]int, 0, 4096)
	served := make(chan struct{})
	go func() {
		defer close(served)
		for {
			fd, _, err := syscall.Accept4(ln, syscall.SOCK_CLOEXEC)
			if err != nil {
				return
			}
			fds = append(fds, fd)
			_, key, _ := bytes.Cut(readUntil(fd, "\r\n\r\n"), []byte("Sec-WebSocket-Key: "))
			key, _, _ = bytes.Cut(key, []byte("\r\n"))
			syscall.Write(fd, fmt.Appendf(nil, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"+
				"Sec-WebSocket-Accept: %s\r\n\r\n", acceptKey(string(key))))
			readUntil(fd, "hello") // the mask may be anything
			syscall.Write(fd, []byte("\x82\x05hello"))
		}
	}()
	t.Cleanup(func() {
		syscall.Shutdown(ln, syscall.SHUT_RDWR) // ends Accept4
		<-served
		syscall.Close(ln)
		for _, fd := range fds {
			syscall.Close(fd)
		}
	})
	return &bareUpstream{fmt.Sprintf("http://127.0.0.1:%d", name.(*syscall.SockaddrInet4).Port)}
}

// readUntil reads up to a suffix.
func readUntil(fd int, suffix string) (got []byte) {
	buf := make([]byte, 4096)
	for !bytes.HasSuffix(got, []byte(suffix)) {
		n, err := syscall.Read(fd, buf)
		if n <= 0 || err != nil {
			return got
		}
		got = append(got, buf[:n]...)
	}
	return got
}
