//go:build linux && (amd64 || arm64) && !noloop

package relay

import (
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"reflect"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"github.com/seed-ffb73231/wsproxy/internal/frame"
	"github.com/seed-ffb73231/wsproxy/internal/protocol"
	"github.com/seed-ffb73231/wsproxy/internal/wstest"
)

// A heldConn is a connection that can keep what is written to it.
type heldConn struct {
	net.Conn
	hold bool
	out  bytes.Buffer
}

func (c *heldConn) Write(b []byte) (int, error) {
	if c.hold {
		return c.out.Write(b)
	}
	return c.Conn.Write(b)
}

// taken returns a TLS connection's two ends, of which the server's was taken over.
func taken(t *testing.T, version uint16) (l *leg, client *tls.Conn, below *heldConn) {
	t.Helper()
	ln := wstest.Listen(t, wstest.TCP)
	accepted := make(chan net.Conn, 1)
	go func() {
		conn, err := ln.Accept()
		if err != nil {
			close(accepted)
			return
		}
		secure := tls.Server(NewConn(conn), wstest.ServerConfig())
		secure.Handshake() // an error shows at the other end
		accepted <- secure
	}()
	conn, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	below = &heldConn{Conn: conn}
	config := wstest.ClientConfig("upstream.test")
	config.MaxVersion = version
	client = tls.Client(below, config)
	if err := client.Handshake(); err != nil {
		t.Fatal(err)
	}
	server := wstest.Receive(t, accepted)
	l = &leg{s: new(Session)}
	if !l.take(server) {
		t.Fatal("the connection can't be taken over")
	}
	l.switchOver(server)
	t.Cleanup(func() { syscall.Close(int(l.fd)) })
	return l, client, below
}

// A tls.Conn continues after each read that found nothing: records may arrive byte
// by byte. Its end is known by the close_notify.
func TestTLSRecordsByteByByte(t *testing.T) {
	for name, version := range map[string]uint16{"1.2": tls.VersionTLS12, "1.3": tls.VersionTLS13} {
		t.Run(name, func(t *testing.T) {
			leg, client, below := taken(t, version)
			b := make([]byte, 100)
			if n, err := leg.receive(b); n != 0 || err != errAgain {
				t.Fatalf("got %d, %v, want nothing yet", n, err)
			}
			below.hold = true
			io.WriteString(client, "first")
			io.WriteString(client, "second")
			client.CloseWrite()
			below.Conn.SetWriteDeadline(time.Time{}) // CloseWrite has set one
			var got []string
			var end error
			for i, c := range below.out.Bytes() {
				if end != nil {
					t.Fatalf("ended by %v before byte %d of %d", end, i, below.out.Len())
				}
				if _, err := below.Conn.Write([]byte{c}); err != nil {
					t.Fatal(err)
				}
				wstest.Await(t, func() (waits bool) {
					leg.control(func(fd uintptr) { waits = socketInputWaits(fd) })
					return waits
				}, func() string { return "the byte didn't arrive" })
				leg.arrived()
				n, err := leg.receive(b)
				switch {
				case err == nil:
					got = append(got, string(b[:n]))
				case err != errAgain:
					end = err
				}
			}
			if strings.Join(got, " ") != "first second" || end != io.EOF {
				t.Errorf("got %q and %v, want both records and EOF", got, end)
			}
		})
	}
}

// What the socket does not take is queued, to a bound, and a FIN follows it.
func TestTLSQueue(t *testing.T) {
	leg, client, _ := taken(t, tls.VersionTLS13)
	chunk := []byte(strings.Repeat("x", chunkSize))
	sent, errno := 0, syscall.Errno(0)
	for errno == 0 {
		var n int
		n, errno = leg.sendLocked(chunk)
		sent += n
	}
	if errno != syscall.EAGAIN || sent%len(chunk) != 0 {
		t.Fatalf("sent %d bytes, then %v, want whole chunks and EAGAIN", sent, errno)
	}
	if n, errno := leg.sendLocked(chunk); n != 0 || errno != syscall.EAGAIN {
		t.Errorf("sent %d more bytes to a full socket, %v", n, errno)
	}
	// What TLS writes by itself does not pass by what is queued.
	if n, err := leg.tls.write(make([]byte, mostQueued)); !errors.Is(err, errQueueFull) {
		t.Errorf("queued %d bytes more, %v", n, err)
	}
	leg.shutdown()
	got := make(chan int64)
	go func() {
		n, _ := io.Copy(io.Discard, client) // to the close_notify
		rest, _ := io.Copy(io.Discard, client.NetConn())
		got <- n + rest
	}()
	wstest.Await(t, func() bool { return leg.tls.flush() == 0 }, func() string { return "the queue didn't empty" })
	if n := wstest.Receive(t, got); n != int64(sent) {
		t.Errorf("the peer got %d bytes, want %d and a FIN", n, sent)
	}
}

// A message of the program's own may be far longer than the queue.
func TestTLSSendsLongMessages(t *testing.T) {
	a, b := tcpPair(t)
	near, client := tls.Server(NewConn(a), wstest.ServerConfig()), tls.Client(b, wstest.ClientConfig("upstream.test"))
	go near.Handshake() // an error shows at the other end
	client.SetDeadline(time.Now().Add(20 * time.Second))
	if err := client.Handshake(); err != nil {
		t.Fatal(err)
	}
	wstest.Await(t, func() bool { return near.ConnectionState().HandshakeComplete }, func() string { return "no handshake" })
	up, _ := tcpPair(t)
	over := make(chan struct{})
	s := joinEvents(t, protocol.Policy{Write: 20 * time.Second}, silentHost{over}, [2]net.Conn{near, up})
	s.Detach()
	data := bytes.Repeat([]byte("long"), 4<<20) // more than sockets hold
	sent := make(chan error, 1)
	go func() { sent <- s.Send(t.Context(), frame.Client, frame.OpBinary, data) }()
	wstest.Await(t, func() bool { return s.legs[frame.Client].is(legKeeps) }, func() string { return "the socket is not full" })
	got := make([]byte, 10+len(data))
	if n, err := io.ReadFull(client, got); err != nil {
		t.Fatalf("got %d bytes of %d: %v", n, len(got), err)
	}
	if !bytes.Equal(got[10:], data) {
		t.Error("got other bytes than were sent")
	}
	if err := wstest.Receive(t, sent); err != nil {
		t.Errorf("send: %v", err)
	}
	s.Cut(protocol.CausePanic, nil)
	wantOver(t, over)
}

// held returns the capacity of the buffers that free can free.
func (t *tlsSocket) held() (n int) {
	for _, offset := range tlsBuffers {
		n += (*bytes.Buffer)(unsafe.Add(unsafe.Pointer(t.conn), offset)).Cap()
	}
	return n
}

// This release of Go has the buffers where they are looked for. If a release has
// not, nothing is freed, and nothing else changes.
func TestTLSBuffersAreKnown(t *testing.T) {
	if len(tlsBuffers) != 2 {
		t.Errorf("found %d of the 2 buffers of a tls.Conn", len(tlsBuffers))
	}
	type embedded struct{ rawInput, hand bytes.Buffer }
	for _, of := range []any{
		struct{ rawInput bytes.Buffer }{},
		struct{ rawInput, hand *bytes.Buffer }{},
		struct{ rawInput, hand []byte }{},
		struct{ embedded }{embedded{rawInput: bytes.Buffer{}, hand: bytes.Buffer{}}},
	} {
		if offsets := bufferOffsets(reflect.TypeOf(of), "rawInput", "hand"); len(offsets) > 0 {
			t.Errorf("%T: found buffers at %v", of, offsets)
		}
	}
}

// A tls.Conn whose buffers are freed loses nothing: neither what it has received of a
// record, nor what it has decrypted.
func TestTLSBuffersAreFreedEmpty(t *testing.T) {
	for name, version := range map[string]uint16{"1.2": tls.VersionTLS12, "1.3": tls.VersionTLS13} {
		t.Run(name, func(t *testing.T) {
			leg, client, below := taken(t, version)
			below.hold = true
			want := strings.Repeat("a long record ", 1000)
			io.WriteString(client, want)
			client.CloseWrite()
			below.Conn.SetWriteDeadline(time.Time{}) // CloseWrite has set one
			var got []byte
			b := make([]byte, 1000) // less than a record
			largest := 0
			for sent := below.out.Bytes(); ; {
				part := sent[:min(len(sent), 5000)]
				sent = sent[len(part):]
				below.Conn.Write(part) // an error shows at the other end
				if len(part) > 0 {
					wstest.Await(t, func() (waits bool) {
						leg.control(func(fd uintptr) { waits = socketInputWaits(fd) })
						return waits
					}, func() string { return "the bytes didn't arrive" })
				}
				leg.arrived()
				n, err := leg.receive(b)
				for ; n > 0; n, err = leg.receive(b) {
					got = append(got, b[:n]...)
					leg.tls.free()
				}
				largest = max(largest, leg.tls.held())
				leg.tls.free()
				if err != errAgain {
					if string(got) != want || err != io.EOF {
						t.Errorf("got %d bytes and %v, want %d and EOF", len(got), err, len(want))
					}
					break
				}
			}
			if held := leg.tls.held(); largest < 2*leastFreed || held >= 2*leastFreed {
				t.Errorf("buffers held %d bytes at most and %d in the end", largest, held)
			}
		})
	}
}

// The loop frees the buffers when the session begins, and when its timer fires.
func TestTLSBuffersOfSession(t *testing.T) {
	for name, long := range map[string]bool{"after the handshake": false, "after a long message": true} {
		t.Run(name, func(t *testing.T) {
			a, b := tcpPair(t)
			config := wstest.ClientConfig("upstream.test")
			config.NextProtos = []string{strings.Repeat("p", 200), strings.Repeat("q", 200), strings.Repeat("r", 200), strings.Repeat("s", 200)} // a browser's ClientHello is long
			near, client := tls.Server(NewConn(a), wstest.ServerConfig()), tls.Client(b, config)
			go near.Handshake() // an error shows at the other end
			client.SetDeadline(time.Now().Add(20 * time.Second))
			if err := client.Handshake(); err != nil {
				t.Fatal(err)
			}
			wstest.Await(t, func() bool { return near.ConnectionState().HandshakeComplete }, func() string { return "no handshake" })
			nearUp, up := tcpPair(t)
			up.SetDeadline(time.Now().Add(20 * time.Second))
			var pol protocol.Policy
			if long {
				pol.Pings[frame.Client] = protocol.Pinging{Interval: 50 * time.Millisecond, Timeout: 20 * time.Second}
			}
			over := make(chan struct{})
			s := joinEvents(t, pol, silentHost{over}, [2]net.Conn{near, nearUp})
			conn := s.legs[frame.Client].ev().tls
			if before := conn.held(); before < 2*leastFreed {
				t.Fatalf("buffers hold %d bytes after the handshake: nothing to free", before)
			}
			s.Detach()
			size := 10
			if long {
				size = 16 << 10
			}
			message := wstest.AppendFrame(nil, wstest.Binary, &[4]byte{}, make([]byte, size))
			client.Write(message) // an error shows at the other end
			if _, err := io.ReadFull(up, make([]byte, len(message))); err != nil {
				t.Fatal(err)
			}
			if long { // the timer has fired
				if _, err := io.ReadFull(client, make([]byte, 2)); err != nil {
					t.Fatal(err)
				}
			}
			s.Cut(protocol.CausePanic, nil)
			wantOver(t, over)
			if held := conn.held(); held >= 2*leastFreed {
				t.Errorf("buffers still hold %d bytes", held)
			}
		})
	}
}
