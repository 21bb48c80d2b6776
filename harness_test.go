package wsproxy_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha1"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/seed-ffb73231/wsproxy"
)

// What the tests are made of: a rig puts a proxy between a client and an
// upstream that both are raw byte streams in the test's hands, over memory,
// TCP or TLS.

// A kind is what the connections of a rig are.
type kind string

const (
	memory kind = "memory" // works in a synctest bubble
	tcp    kind = "tcp"
	unix   kind = "unix"
	tlsTCP kind = "tls" // both legs
)

// eachKind runs a test over real sockets and in memory.
func eachKind(t *testing.T, f func(t *testing.T, k kind)) {
	for _, k := range []kind{memory, tcp, unix, tlsTCP} {
		t.Run(string(k), func(t *testing.T) { f(t, k) })
	}
}

type rig struct {
	t     testing.TB
	kind  kind
	proxy *wsproxy.Proxy
	logs  *logs
	front net.Listener
	back  net.Listener
	// returned is sent to when ServeHTTP has returned.
	returned chan struct{}
	// connContext is the front server's, if it isn't nil.
	connContext func(context.Context, net.Conn) context.Context
}

// newRig starts a server with the proxy at every path. Its upstream is the
// test, by way of rig.upstream.
func newRig(t testing.TB, k kind, options ...wsproxy.Option) *rig {
	t.Helper()
	target := "http://upstream.test"
	if k == tlsTCP {
		target = "https://upstream.test"
	}
	return newRigTo(t, k, target, append([]wsproxy.Option{wsproxy.WithInsecureAnyOrigin()}, options...)...)
}

// newRigTo is newRig with another target, and without the default that every
// origin may come in.
func newRigTo(t testing.TB, k kind, target string, options ...wsproxy.Option) *rig {
	t.Helper()
	r := &rig{t: t, kind: k, logs: new(logs), returned: make(chan struct{}, 10_000)}
	r.front, r.back = listen(t, k), listen(t, k)
	options = append([]wsproxy.Option{
		wsproxy.WithLogger(slog.New(r.logs)),
		wsproxy.WithDialContext(func(ctx context.Context, _, _ string) (net.Conn, error) {
			return dialListener(ctx, r.back)
		}),
		wsproxy.WithTLSConfig(&tls.Config{RootCAs: testCA().pool}),
	}, options...)
	p, err := wsproxy.New(target, options...)
	if err != nil {
		t.Fatal(err)
	}
	r.proxy = p
	r.serve(p)
	return r
}

// serve starts the front server with the handler.
func (r *rig) serve(h http.Handler) {
	front := r.front
	if r.kind == tlsTCP {
		front = tls.NewListener(front, &tls.Config{Certificates: []tls.Certificate{testCA().cert}})
	}
	s := &http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			defer func() { r.returned <- struct{}{} }()
			h.ServeHTTP(w, req)
		}),
		ErrorLog:    log.New(overhearing{}, "", 0),
		ConnContext: r.connContext,
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.Serve(front)
	}()
	r.t.Cleanup(func() {
		cut := make(chan struct{})
		go func() {
			defer close(cut)
			r.proxy.Close()
		}()
		receive(r.t, cut)
		s.Close()
		r.back.Close()
		receive(r.t, done)
	})
}

// wantReturned waits until a ServeHTTP has returned.
func (r *rig) wantReturned() {
	r.t.Helper()
	receive(r.t, r.returned)
}

// client connects to the front; TLS is done, HTTP isn't begun.
func (r *rig) client() *wire {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(r.t.Context(), wireTimeout)
	defer cancel()
	c, err := dialListener(ctx, r.front)
	if err != nil {
		r.t.Fatal(err)
	}
	if r.kind == tlsTCP {
		c = tls.Client(c, &tls.Config{RootCAs: testCA().pool, ServerName: "front.test"})
	}
	return newWire(r.t, c, true)
}

// upstream waits for the proxy to connect; TLS is done, HTTP isn't begun.
func (r *rig) upstream() *wire {
	r.t.Helper()
	timeout := time.AfterFunc(wireTimeout, func() { r.back.Close() })
	defer timeout.Stop()
	c, err := r.back.Accept()
	if err != nil {
		r.t.Fatalf("nobody connects to the upstream: %v", err)
	}
	if r.kind == tlsTCP {
		c = tls.Server(c, &tls.Config{Certificates: []tls.Certificate{testCA().cert}})
	}
	return newWire(r.t, c, false)
}

// open takes both sides through their handshakes. The extra header lines go
// into the client's request and the upstream's answer.
func (r *rig) open(requestLines, answerLines string) (client, upstream *wire) {
	r.t.Helper()
	client = r.client()
	client.send(handshakeRequest("/?token="+planted, requestLines+
		"Cookie: id="+planted+"\r\nAuthorization: Bearer "+planted+"\r\nX-"+planted+": "+planted+"\r\n"))
	upstream = r.upstream()
	upstream.answer(answerLines + "Set-Cookie: id=" + planted + "\r\n")
	if resp := client.readResponse(); resp.StatusCode != 101 {
		r.t.Fatalf("client was answered %d, want 101", resp.StatusCode)
	}
	return client, upstream
}

// planted is a secret in whatever the rigs' peers send in their handshakes. It
// must not come up in anything that is logged, in all of the tests.
const planted = "s3cr3t-that-is-planted"

var everyLog struct {
	sync.Mutex
	records int
	leaks   []string
}

// overhear looks for the secret in a record, or another piece of text.
func overhear(text string) {
	everyLog.Lock()
	defer everyLog.Unlock()
	everyLog.records++
	if strings.Contains(strings.ToLower(text), planted) {
		everyLog.leaks = append(everyLog.leaks, text)
	}
}

type overhearing struct{}

func (overhearing) Write(b []byte) (int, error) { overhear(string(b)); return len(b), nil }

func TestMain(m *testing.M) {
	slog.SetDefault(slog.New(slog.NewTextHandler(overhearing{}, nil))) // and with it package log's
	code := m.Run()
	for _, text := range everyLog.leaks {
		fmt.Printf("a secret was logged: %s\n", text)
		code = 1
	}
	os.Exit(code)
}

const testKey = "dGhlIHNhbXBsZSBub25jZQ==" // RFC 6455, 1.3
const testAccept = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="

// handshakeRequest is a correct handshake with further header lines, each
// ending in CRLF.
func handshakeRequest(path, lines string) string {
	return "GET " + path + " HTTP/1.1\r\nHost: front.test\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n" +
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: " + testKey + "\r\n" + lines + "\r\n"
}

// goodAnswer is a correct 101 to the request, with further header lines.
func goodAnswer(req *http.Request, lines string) string {
	return "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n" +
		"Sec-WebSocket-Accept: " + acceptFor(req.Header.Get("Sec-WebSocket-Key")) + "\r\n" + lines + "\r\n"
}

func acceptFor(key string) string {
	sum := sha1.Sum([]byte(key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	return base64.StdEncoding.EncodeToString(sum[:])
}

// A wire is one end of a connection, in raw bytes and frames. What goes
// wrong on it fails the test.
type wire struct {
	net.Conn
	t    testing.TB
	br   *bufio.Reader
	mask bool // it sends masked frames and wants unmasked ones: a client
}

const wireTimeout = 20 * time.Second // of a test that hangs; simulated in bubbles

// bubbleTimeout is the same for waits in bubbles, where hours may pass for what
// is waited for. A session's Pings alone can keep a bubble's clock going, so
// that synctest doesn't find that all else waits for ever.
const bubbleTimeout = 1000 * time.Hour

// patience is how long a test waits for one thing.
func patience() time.Duration {
	if inBubble() {
		return bubbleTimeout
	}
	return wireTimeout
}

// inBubble says whether time is simulated: the clock of a synctest bubble
// starts with the year 2000.
func inBubble() bool { return time.Now().Year() < 2010 }

// receive receives from c. A test in which nothing comes fails, with the stacks
// of all goroutines.
func receive[T any](t testing.TB, c <-chan T) (v T) {
	t.Helper()
	timeout := time.NewTimer(patience())
	defer timeout.Stop()
	select {
	case v = <-c:
	case <-timeout.C:
		stacks := make([]byte, 1<<20)
		t.Fatalf("waited for ever for %T:\n%s", c, stacks[:runtime.Stack(stacks, true)])
	}
	return v
}

func newWire(t testing.TB, c net.Conn, client bool) *wire {
	w := &wire{Conn: c, t: t, br: bufio.NewReader(c), mask: client}
	c.SetDeadline(time.Now().Add(patience()))
	t.Cleanup(func() { c.Close() })
	return w
}

// send writes raw bytes.
func (w *wire) send(s string) {
	w.t.Helper()
	if _, err := io.WriteString(w, s); err != nil {
		w.t.Fatalf("%s: write: %v", w.who(), err)
	}
}

func (w *wire) who() string {
	if w.mask {
		return "client"
	}
	return "upstream"
}

// frame is a whole frame as this end sends it. first is its first byte.
func (w *wire) frame(first byte, payload string) string {
	return rawFrame(first, w.mask, payload)
}

// rawFrame is a whole frame, masked with a fixed key or not at all.
func rawFrame(first byte, masked bool, payload string) string {
	b := []byte{first, 0}
	switch n := len(payload); {
	case n < 126:
		b[1] = byte(n)
	case n <= 0xFFFF:
		b[1] = 126
		b = binary.BigEndian.AppendUint16(b, uint16(n))
	default:
		b[1] = 127
		b = binary.BigEndian.AppendUint64(b, uint64(n))
	}
	if !masked {
		return string(b) + payload
	}
	b[1] |= 0x80
	key := [4]byte{0x37, 0xfa, 0x21, 0x3d}
	b = append(b, key[:]...)
	at := len(b)
	b = append(b, payload...)
	for i := range b[at:] {
		b[at+i] ^= key[i&3]
	}
	return string(b)
}

// First bytes of frames that are whole messages.
const (
	text    = 0x81
	data    = 0x82
	closing = 0x88
	ping    = 0x89
	pong    = 0x8A
)

func (w *wire) sendText(s string) { w.t.Helper(); w.send(w.frame(text, s)) }
func (w *wire) sendClose(code int, reason string) {
	w.t.Helper()
	w.send(w.frame(closing, closeBody(code, reason)))
}

// closeBody is a Close frame's payload: empty for code 0.
func closeBody(code int, reason string) string {
	if code == 0 {
		return ""
	}
	return string(binary.BigEndian.AppendUint16(nil, uint16(code))) + reason
}

type frame struct {
	first   byte
	payload string // unmasked
}

// readFrame reads one frame, and wants it masked as the sender must.
func (w *wire) readFrame() (frame, error) {
	var h [2]byte
	if _, err := io.ReadFull(w.br, h[:]); err != nil {
		return frame{}, err
	}
	if masked := h[1]&0x80 != 0; masked == w.mask {
		w.t.Errorf("%s: got a frame with masked=%v", w.who(), masked)
	}
	n := uint64(h[1] & 0x7F)
	switch n {
	case 126:
		var b [2]byte
		io.ReadFull(w.br, b[:])
		n = uint64(binary.BigEndian.Uint16(b[:]))
	case 127:
		var b [8]byte
		io.ReadFull(w.br, b[:])
		n = binary.BigEndian.Uint64(b[:])
	}
	var key [4]byte
	if h[1]&0x80 != 0 {
		io.ReadFull(w.br, key[:])
	}
	b := make([]byte, n)
	if _, err := io.ReadFull(w.br, b); err != nil {
		return frame{}, err
	}
	for i := range b {
		b[i] ^= key[i&3]
	}
	return frame{h[0], string(b)}, nil
}

// want reads one frame and compares it.
func (w *wire) want(first byte, payload string) {
	w.t.Helper()
	f, err := w.readFrame()
	if err != nil {
		w.t.Fatalf("%s: got %v, want frame %#x %.40q", w.who(), err, first, payload)
	}
	if f.first != first || f.payload != payload {
		w.t.Fatalf("%s: got frame %#x %.40q, want %#x %.40q", w.who(), f.first, f.payload, first, payload)
	}
}

// wantClose reads one frame and wants a Close with that code; 0: no code.
func (w *wire) wantClose(code int) {
	w.t.Helper()
	f, err := w.readFrame()
	if err != nil {
		w.t.Fatalf("%s: got %v, want Close %d", w.who(), err, code)
	}
	got := 0
	if len(f.payload) >= 2 {
		got = int(f.payload[0])<<8 | int(f.payload[1])
	}
	if f.first != closing || got != code {
		w.t.Fatalf("%s: got frame %#x %.40q (code %d), want Close %d", w.who(), f.first, f.payload, got, code)
	}
}

// wantEnd wants the stream to end here, by a FIN or a reset, with no further
// byte before it.
func (w *wire) wantEnd() {
	w.t.Helper()
	b, err := io.ReadAll(w.br)
	if len(b) > 0 {
		w.t.Fatalf("%s: got %d more bytes (%.40q), want the end", w.who(), len(b), b)
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		w.t.Fatalf("%s: connection still open, want it closed", w.who())
	}
}

// answer reads the handshake's request and answers it with a correct 101
// and the lines.
func (w *wire) answer(lines string) *http.Request {
	w.t.Helper()
	req := w.readRequest()
	w.send(goodAnswer(req, lines))
	return req
}

func (w *wire) readRequest() *http.Request {
	w.t.Helper()
	req, err := http.ReadRequest(w.br)
	if err != nil {
		w.t.Fatalf("%s: reading request: %v", w.who(), err)
	}
	return req
}

// readHead reads an HTTP header as it is on the wire, blank line included.
func (w *wire) readHead() string {
	w.t.Helper()
	var b strings.Builder
	for {
		line, err := w.br.ReadString('\n')
		b.WriteString(line)
		if err != nil {
			w.t.Fatalf("%s: got %v after %q, want a header", w.who(), err, b.String())
		}
		if line == "\r\n" {
			return b.String()
		}
	}
}

func (w *wire) readResponse() *http.Response {
	w.t.Helper()
	resp, err := http.ReadResponse(w.br, nil)
	if err != nil {
		w.t.Fatalf("%s: reading response: %v", w.who(), err)
	}
	return resp
}

// closeWrite sends a FIN.
func (w *wire) closeWrite() {
	w.t.Helper()
	c, ok := w.Conn.(interface{ CloseWrite() error })
	if !ok {
		w.t.Fatalf("%T has no CloseWrite", w.Conn)
	}
	if err := c.CloseWrite(); err != nil {
		w.t.Fatal(err)
	}
}

// below is the connection below TLS, if there is one.
func (w *wire) below() net.Conn {
	if c, ok := w.Conn.(*tls.Conn); ok {
		return c.NetConn()
	}
	return w.Conn
}

// fin sends a FIN, over TLS with no close_notify before it.
func (w *wire) fin() {
	w.t.Helper()
	if err := w.below().(interface{ CloseWrite() error }).CloseWrite(); err != nil {
		w.t.Fatal(err)
	}
}

// reset closes a TCP connection by RST, any other one just so.
func (w *wire) reset() {
	if c, ok := w.Conn.(*net.TCPConn); ok {
		c.SetLinger(0)
	}
	if c, ok := w.Conn.(*tls.Conn); ok {
		c.NetConn().Close()
	}
	w.Close()
}

// logs keeps log records. Groups become "group.key".
type logs struct {
	least   slog.Level
	mu      sync.Mutex
	records []map[string]any
	text    bytes.Buffer
	added   chan struct{} // made on demand
}

func (l *logs) Enabled(_ context.Context, level slog.Level) bool { return level >= l.least }
func (l *logs) WithAttrs([]slog.Attr) slog.Handler               { panic("not used") }
func (l *logs) WithGroup(string) slog.Handler                    { panic("not used") }

func (l *logs) Handle(_ context.Context, r slog.Record) error {
	m := map[string]any{"msg": r.Message, "level": r.Level}
	r.Attrs(func(a slog.Attr) bool {
		if a.Value.Kind() == slog.KindGroup {
			for _, b := range a.Value.Group() {
				m[a.Key+"."+b.Key] = b.Value.Any()
			}
		} else {
			m[a.Key] = a.Value.Any()
		}
		return true
	})
	l.mu.Lock()
	defer l.mu.Unlock()
	l.records = append(l.records, m)
	fmt.Fprintln(&l.text, m)
	overhear(fmt.Sprint(m))
	if l.added != nil {
		close(l.added)
		l.added = nil
	}
	return nil
}

// String returns all records as text.
func (l *logs) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// wait returns the n-th record (from 0), once it is there.
func (l *logs) wait(t testing.TB, n int) map[string]any {
	t.Helper()
	timeout := time.After(wireTimeout)
	for {
		l.mu.Lock()
		if len(l.records) > n {
			defer l.mu.Unlock()
			return l.records[n]
		}
		if l.added == nil {
			l.added = make(chan struct{})
		}
		added := l.added
		l.mu.Unlock()
		select {
		case <-added:
		case <-timeout:
			t.Fatalf("got %d log records, want %d", n, n+1)
		}
	}
}

// wantEnded waits for the first session's end record and compares who ended
// it and why.
func (r *rig) wantEnded(by, reason string) map[string]any {
	r.t.Helper()
	m := r.logs.wait(r.t, 0)
	if m["msg"] != "wsproxy: session ended" || m["by"] != by || m["reason"] != reason {
		r.t.Fatalf("logged %v, want a session ended by %q for %q", m, by, reason)
	}
	return m
}

// listen returns a listener of the kind; TLS is added elsewhere.
func listen(t testing.TB, k kind) net.Listener {
	t.Helper()
	var ln net.Listener
	var err error
	switch k {
	case memory:
		ln = &memListener{conns: make(chan net.Conn), closed: make(chan struct{})}
	case unix:
		ln, err = net.Listen("unix", t.TempDir()+"/s")
	default:
		ln, err = net.Listen("tcp", "127.0.0.1:0")
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	return ln
}

func dialListener(ctx context.Context, ln net.Listener) (net.Conn, error) {
	if m, ok := ln.(*memListener); ok {
		return m.dial(ctx)
	}
	var d net.Dialer
	return d.DialContext(ctx, ln.Addr().Network(), ln.Addr().String())
}

// memListener is a listener whose connections are memConns.
type memListener struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func (l *memListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *memListener) Close() error   { l.once.Do(func() { close(l.closed) }); return nil }
func (l *memListener) Addr() net.Addr { return memAddr{} }

func (l *memListener) dial(ctx context.Context) (net.Conn, error) {
	a, b := newMemPair(memBuffer)
	select {
	case l.conns <- a:
		return b, nil
	case <-l.closed:
		return nil, net.ErrClosed
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

type memAddr struct{}

func (memAddr) Network() string { return "memory" }
func (memAddr) String() string  { return "127.0.0.1:1" }

// memBuffer is what a memConn takes without being read, like a socket's
// send and receive buffers.
const memBuffer = 64 << 10

// A memConn is one end of a connection in memory that buffers, half-closes
// and keeps deadlines as TCP does. All its waiting is on a sync.Cond, so that
// time in a synctest bubble goes on.
type memConn struct {
	in, out *memStream
}

func newMemPair(size int) (a, b *memConn) {
	x, y := newMemStream(size), newMemStream(size)
	return &memConn{x, y}, &memConn{y, x}
}

type memStream struct {
	mu              sync.Mutex
	cond            *sync.Cond
	buf             []byte
	size            int
	eof, gone       bool // the writer, the reader has closed
	readBy, writeBy time.Time
}

func newMemStream(size int) *memStream {
	s := &memStream{size: size}
	s.cond = sync.NewCond(&s.mu)
	return s
}

func past(t time.Time) bool { return !t.IsZero() && !time.Now().Before(t) }

func (c *memConn) Read(b []byte) (int, error) {
	s := c.in
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		switch {
		case s.gone:
			return 0, net.ErrClosed
		case past(s.readBy):
			return 0, os.ErrDeadlineExceeded
		case len(s.buf) > 0:
			n := copy(b, s.buf)
			s.buf = slices.Delete(s.buf, 0, n)
			s.cond.Broadcast()
			return n, nil
		case s.eof:
			return 0, io.EOF
		}
		s.cond.Wait()
	}
}

func (c *memConn) Write(b []byte) (n int, err error) {
	s := c.out
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		switch {
		case s.eof:
			return n, net.ErrClosed
		case s.gone:
			return n, errors.New("memory: connection reset by peer")
		case past(s.writeBy):
			return n, os.ErrDeadlineExceeded
		}
		if m := min(len(b), s.size-len(s.buf)); m > 0 {
			s.buf = append(s.buf, b[:m]...)
			b, n = b[m:], n+m
			s.cond.Broadcast()
		}
		if len(b) == 0 {
			return n, nil
		}
		s.cond.Wait()
	}
}

func (s *memStream) update(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f()
	s.cond.Broadcast()
}

func (c *memConn) CloseWrite() error {
	c.out.update(func() { c.out.eof = true })
	return nil
}

func (c *memConn) Close() error {
	c.out.update(func() { c.out.eof = true })
	c.in.update(func() { c.in.gone = true })
	return nil
}

func (c *memConn) SetReadDeadline(t time.Time) error {
	c.in.update(func() { c.in.readBy = t })
	c.in.wakeAt(t)
	return nil
}

func (c *memConn) SetWriteDeadline(t time.Time) error {
	c.out.update(func() { c.out.writeBy = t })
	c.out.wakeAt(t)
	return nil
}

func (s *memStream) wakeAt(t time.Time) {
	if !t.IsZero() {
		time.AfterFunc(time.Until(t), func() { s.update(func() {}) })
	}
}

func (c *memConn) SetDeadline(t time.Time) error {
	c.SetReadDeadline(t)
	return c.SetWriteDeadline(t)
}

func (c *memConn) LocalAddr() net.Addr  { return memAddr{} }
func (c *memConn) RemoteAddr() net.Addr { return memAddr{} }

type ca struct {
	cert tls.Certificate // for front.test and upstream.test
	pool *x509.CertPool
}

// testCA makes a throw-away authority and a certificate of its.
var testCA = sync.OnceValue(func() ca {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"},
		NotBefore: time.Unix(0, 0), NotAfter: time.Unix(1<<33, 0),
		DNSNames: []string{"front.test", "upstream.test"},
		IsCA:     true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		panic(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		panic(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(leaf)
	return ca{tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, pool}
})

// sendLater writes raw bytes in the background: more than buffers hold.
func (w *wire) sendLater(s string) {
	go func() {
		if _, err := io.WriteString(w, s); err != nil {
			w.t.Errorf("%s: write: %v", w.who(), err)
		}
	}()
}

// elapse lets simulated time pass. Elsewhere this would be a real sleep, and
// fails.
func elapse(d time.Duration) {
	if !inBubble() {
		panic("elapse: not in a synctest bubble")
	}
	time.Sleep(d)
}

// await waits until something holds.
func await(t testing.TB, done func() bool, otherwise func() string) {
	t.Helper()
	for deadline := time.Now().Add(wireTimeout); !done(); runtime.Gosched() {
		if time.Now().After(deadline) {
			t.Fatal(otherwise())
		}
	}
}
