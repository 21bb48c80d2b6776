package wsproxy_test

import (
	"bufio"
	"bytes"
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/seed-ffb73231/wsproxy"
	"github.com/seed-ffb73231/wsproxy/internal/wstest"
)

// The cost of a frame and of a handshake, in this process alone. bench/
// compares whole proxies, including system calls.

// BenchmarkRelay sends a message through a session and waits for it at the
// other end, one at a time. The time includes the work of both ends.
func BenchmarkRelay(b *testing.B) {
	benchmarkRelay(b)
}

// BenchmarkMessages is the same with a hook that sees whole messages.
func BenchmarkMessages(b *testing.B) {
	benchmarkRelay(b, wsproxy.WithMaxMessageSize(wsproxy.Client, 2<<20), onMessage(func(*wsproxy.Message) error { return nil }))
}

func benchmarkRelay(b *testing.B, options ...wsproxy.Option) {
	for _, k := range []wstest.Kind{wstest.Memory, wstest.TCP, wstest.TLS} {
		for _, size := range []struct {
			name string
			n    int
		}{{"128B", 128}, {"4KiB", 4 << 10}, {"64KiB", 64 << 10}, {"1MiB", 1 << 20}} {
			b.Run(string(k)+"/"+size.name, func(b *testing.B) {
				r := newRig(b, k, options...)
				client, upstream := r.open("", "")
				message := []byte(client.Frame(wstest.Binary, strings.Repeat("x", size.n)))
				done := make(chan error)
				got := make([]byte, len(message))
				go func() {
					for range done {
						_, err := io.ReadFull(upstream.In, got)
						done <- err
					}
				}()
				b.SetBytes(int64(size.n))
				b.ReportAllocs()
				for b.Loop() {
					done <- nil
					client.Write(message)
					if err := <-done; err != nil {
						b.Fatal(err)
					}
				}
				close(done)
			})
		}
	}
}

// BenchmarkHandshake measures the handshakes of both sides and the setup and
// teardown of a session, over connections that cost nothing. The log is
// formatted and discarded, or off.
func BenchmarkHandshake(b *testing.B) {
	for name, handler := range map[string]slog.Handler{"logged": slog.NewTextHandler(io.Discard, nil), "quiet": slog.DiscardHandler} {
		b.Run(name, func(b *testing.B) { benchmarkHandshake(b, slog.New(handler)) })
	}
}

func benchmarkHandshake(b *testing.B, logger *slog.Logger) {
	p, err := wsproxy.New("http://upstream.test/", wsproxy.WithLogger(logger),
		wsproxy.WithDialContext(func(context.Context, string, string) (net.Conn, error) { return new(stubUpstream), nil }))
	if err != nil {
		b.Fatal(err)
	}
	request, err := http.ReadRequest(bufio.NewReader(strings.NewReader(wstest.Request("/chat?room=5",
		"Origin: http://front.test\r\nUser-Agent: Mozilla/5.0\r\nAccept-Language: en\r\nAccept-Encoding: gzip\r\nCookie: session=0123456789\r\n"+
			"Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n"))))
	if err != nil {
		b.Fatal(err)
	}
	request.RemoteAddr = "192.0.2.1:1234"
	b.ReportAllocs()
	for b.Loop() {
		c := new(stubConn)
		brw := bufio.NewReadWriter(bufio.NewReaderSize(c, 16), bufio.NewWriterSize(c, 16))
		p.ServeHTTP(stubWriter{http.Header{}, c, brw}, request)
		if !c.answered {
			b.Fatal("no 101")
		}
	}
}

// A stubConn reads EOF.
type stubConn struct{ answered bool }

func (c *stubConn) Read([]byte) (int, error) { return 0, io.EOF }
func (c *stubConn) Write(p []byte) (int, error) {
	c.answered = c.answered || bytes.HasPrefix(p, []byte("HTTP/1.1 101 "))
	return len(p), nil
}
func (c *stubConn) Close() error                     { return nil }
func (c *stubConn) LocalAddr() net.Addr              { return wstest.MemAddr{} }
func (c *stubConn) RemoteAddr() net.Addr             { return wstest.MemAddr{} }
func (c *stubConn) SetDeadline(time.Time) error      { return nil }
func (c *stubConn) SetReadDeadline(time.Time) error  { return nil }
func (c *stubConn) SetWriteDeadline(time.Time) error { return nil }

// A stubUpstream answers a handshake and then reads EOF.
type stubUpstream struct {
	stubConn
	answer string
}

func (c *stubUpstream) Write(p []byte) (int, error) {
	if _, rest, ok := strings.Cut(string(p), "Sec-WebSocket-Key: "); ok {
		key, _, _ := strings.Cut(rest, "\r\n")
		c.answer = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: " + wstest.AcceptKey(key) + "\r\n\r\n"
	}
	return len(p), nil
}

func (c *stubUpstream) Read(p []byte) (n int, err error) {
	if c.answer == "" {
		return 0, io.EOF
	}
	n = copy(p, c.answer)
	c.answer = c.answer[n:]
	return n, nil
}

type stubWriter struct {
	header http.Header
	conn   net.Conn
	brw    *bufio.ReadWriter
}

func (w stubWriter) Header() http.Header                          { return w.header }
func (w stubWriter) Write(p []byte) (int, error)                  { return len(p), nil }
func (w stubWriter) WriteHeader(int)                              {}
func (w stubWriter) Hijack() (net.Conn, *bufio.ReadWriter, error) { return w.conn, w.brw, nil }
