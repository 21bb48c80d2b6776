package wsproxy_test

import (
	"bytes"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"crypto/tls"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/coder/websocket"

	"github.com/seed-ffb73231/wsproxy"
	"github.com/seed-ffb73231/wsproxy/internal/relay"
	"github.com/seed-ffb73231/wsproxy/internal/wstest"
)

// eventDriven are legs with TLS that the event driver carries.
var eventDriven = carrier{drivers[1], legs{"tls over NewListener to tcp", wstest.TLS, wstest.TCP, true}}

// No goroutines relay a session over TCP, nor one with TLS over NewListener, also if
// ServeHTTP waits for its end.
func TestListenerWithoutGoroutines(t *testing.T) {
	if !relay.HasEvents || !alone(t) {
		return
	}
	pumps := func() int {
		b := make([]byte, 1<<20)
		return strings.Count(string(b[:runtime.Stack(b, true)]), "relay.(*pump).run(")
	}
	both := legs{"both", wstest.TLS, wstest.TLS, true}
	for _, c := range []carrier{eventDriven, {drivers[1], both}, {drivers[0], both}, {drivers[0], bothLegs(wstest.TCP)}} {
		r := c.rig(t)
		for range 3 {
			client, upstream := r.open("", "")
			client.SendText("up")
			upstream.Want(wstest.Text, "up")
			upstream.SendText("down")
			client.Want(wstest.Text, "down")
		}
		if n := pumps(); n != 0 {
			t.Errorf("%v: %d goroutines relay", c, n)
		}
	}
	// Without NewListener there are some: the count is not always 0.
	carrier{drivers[1], bothLegs(wstest.TLS)}.rig(t).open("", "")
	wstest.Await(t, func() bool { return pumps() == 2 }, func() string { return fmt.Sprintf("%d goroutines relay, want 2", pumps()) })
}

// A peer may change its keys at any time, and ask the other side to change its own
// (RFC 8446, 4.6.3): also while nothing else is read, and in pieces.
func TestKeyUpdate(t *testing.T) {
	t.Parallel()
	for _, c := range []carrier{eventDriven, {drivers[1], legs{"goroutines", wstest.TLS, wstest.TCP, false}}} {
		t.Run(c.String(), func(t *testing.T) {
			t.Parallel()
			r := c.rig(t)
			conn, err := wstest.Dial(t.Context(), r.front)
			if err != nil {
				t.Fatal(err)
			}
			client := newRecords(t, conn)
			client.send(appData, wstest.Request("/", ""))
			upstream := r.upstream()
			upstream.Answer("")
			if got := client.next(); !strings.HasPrefix(got, "HTTP/1.1 101 ") {
				t.Fatalf("got %q", got)
			}
			for i := range 3 {
				client.sendByteByByte(handshakeMessage, "\x18\x00\x00\x01\x01") // update_requested
				client.out.update()
				text := fmt.Sprint("up ", i)
				client.send(appData, wstest.RawFrame(wstest.Text, true, text))
				upstream.Want(wstest.Text, text)
				client.send(handshakeMessage, "\x18\x00\x00\x01\x00") // update_not_requested
				client.out.update()
				upstream.SendText("down")
				if got, want := client.next(), wstest.RawFrame(wstest.Text, false, "down"); got != want {
					t.Fatalf("got %q, want %q", got, want)
				}
			}
			if client.updates != 3 {
				t.Errorf("the proxy changed its keys %d times, want 3", client.updates)
			}
			client.send(appData, wstest.RawFrame(wstest.Close, true, wstest.CloseBody(1000, "")))
			upstream.WantClose(1000)
			upstream.SendClose(1000, "")
			if got, want := client.next(), wstest.RawFrame(wstest.Close, false, wstest.CloseBody(1000, "")); got != want {
				t.Errorf("got %q, want %q", got, want)
			}
			if got := client.next(); got != "\x01\x00" {
				t.Errorf("got %q, want close_notify", got)
			}
			r.wantOver()
		})
	}
}

// records writes and reads the records of TLS 1.3 with
// TLS_AES_128_GCM_SHA256, as a client after its handshake: crypto/tls cannot be
// made to send a KeyUpdate.
type records struct {
	t       *testing.T
	conn    net.Conn
	in, out keys
	updates int // of the server's keys
}

// Types of records (RFC 8446, 5.1).
const (
	handshakeMessage = 22
	appData          = 23
)

// keys is the state of one direction.
type keys struct {
	secret []byte
	aead   cipher.AEAD
	iv     []byte
	number uint64 // of the next record
}

func newRecords(t *testing.T, conn net.Conn) *records {
	t.Helper()
	wstest.NewWire(t, conn, true) // for its deadline
	var log bytes.Buffer
	config := wstest.ClientConfig("front.test")
	config.MinVersion, config.KeyLogWriter = tls.VersionTLS13, &log
	client := tls.Client(conn, config)
	if err := client.Handshake(); err != nil {
		t.Fatal(err)
	}
	if suite := client.ConnectionState().CipherSuite; suite != tls.TLS_AES_128_GCM_SHA256 {
		if os.Getenv("CI") == "true" {
			t.Fatal("the test of KeyUpdate needs AES in hardware, not ", tls.CipherSuiteName(suite))
		}
		t.Skip("another cipher suite: ", tls.CipherSuiteName(suite))
	}
	r := &records{t: t, conn: conn}
	for line := range strings.Lines(log.String()) {
		var label, random, secret string
		fmt.Sscan(line, &label, &random, &secret)
		b, _ := hex.DecodeString(secret)
		switch label {
		case "CLIENT_TRAFFIC_SECRET_0":
			r.out.use(b)
		case "SERVER_TRAFFIC_SECRET_0":
			r.in.use(b)
		}
	}
	return r
}

// expand is HKDF-Expand-Label without a context (RFC 8446, 7.1).
func expand(secret []byte, label string, size int) []byte {
	info := binary.BigEndian.AppendUint16(nil, uint16(size))
	info = append(append(info, byte(len("tls13 "+label))), "tls13 "+label+"\x00"...)
	b, err := hkdf.Expand(sha256.New, secret, string(info), size)
	if err != nil {
		panic(err)
	}
	return b
}

func (k *keys) use(secret []byte) {
	block, err := aes.NewCipher(expand(secret, "key", 16))
	if err != nil {
		panic(err)
	}
	k.secret, k.iv, k.number = secret, expand(secret, "iv", 12), 0
	if k.aead, err = cipher.NewGCM(block); err != nil {
		panic(err)
	}
}

func (k *keys) update() { k.use(expand(k.secret, "traffic upd", 32)) }

func (k *keys) nonce() []byte {
	nonce := bytes.Clone(k.iv)
	number := binary.BigEndian.AppendUint64(make([]byte, 4), k.number)
	for i, b := range number {
		nonce[i] ^= b
	}
	k.number++
	return nonce
}

func (r *records) sealed(kind byte, content string) []byte {
	header := binary.BigEndian.AppendUint16([]byte{appData, 3, 3}, uint16(len(content)+1+16))
	return append(header, r.out.aead.Seal(nil, r.out.nonce(), append([]byte(content), kind), header)...)
}

func (r *records) send(kind byte, content string) { r.conn.Write(r.sealed(kind, content)) }

func (r *records) sendByteByByte(kind byte, content string) {
	for _, b := range r.sealed(kind, content) {
		r.conn.Write([]byte{b})
	}
}

// next returns the content of the next record that is no post-handshake message.
func (r *records) next() string {
	r.t.Helper()
	for {
		header := make([]byte, 5)
		if _, err := io.ReadFull(r.conn, header); err != nil {
			r.t.Fatal(err)
		}
		b := make([]byte, binary.BigEndian.Uint16(header[3:]))
		if _, err := io.ReadFull(r.conn, b); err != nil {
			r.t.Fatal(err)
		}
		b, err := r.in.aead.Open(nil, r.in.nonce(), b, header)
		if err != nil {
			r.t.Fatalf("record not under the current keys: %v", err)
		}
		b = bytes.TrimRight(b, "\x00")
		kind, b := b[len(b)-1], b[:len(b)-1]
		switch {
		case kind != handshakeMessage:
			return string(b)
		case b[0] == 24: // KeyUpdate; others are session tickets
			r.in.update()
			r.updates++
		}
	}
}

// Sessions that TLS resumes, and clients with certificates, are served like others.
func TestListenerResumption(t *testing.T) {
	t.Parallel()
	ca := wstest.NewAuthority()
	config := wstest.ServerConfig()
	config.ClientAuth, config.ClientCAs = tls.RequireAndVerifyClientCert, ca.Pool()
	names := make(chan string, 2)
	r := eventDriven.rig(t, wsproxy.WithOnOpen(func(_ *wsproxy.Session, req *http.Request) error {
		names <- req.TLS.PeerCertificates[0].DNSNames[0]
		return nil
	}))
	front := wstest.Listen(t, wstest.TCP)
	s := &http.Server{Handler: r.proxy, ErrorLog: wstest.ErrorLog()}
	t.Cleanup(func() { s.Close() })
	go s.Serve(tls.NewListener(wsproxy.NewListener(front), config))
	mine := wstest.ClientConfig("front.test")
	mine.Certificates = []tls.Certificate{ca.Issue("alice.test")}
	mine.ClientSessionCache = tls.NewLRUClientSessionCache(1)
	for i := range 2 {
		conn, err := tls.Dial("tcp", front.Addr().String(), mine)
		if err != nil {
			t.Fatal(err)
		}
		client := wstest.NewWire(t, conn, true)
		client.Send(wstest.Request("/", ""))
		upstream := r.upstream()
		upstream.Answer("")
		client.ReadResponse()
		client.SendText("hello")
		upstream.Want(wstest.Text, "hello")
		if name := wstest.Receive(t, names); name != "alice.test" {
			t.Errorf("the certificate was for %q", name)
		}
		if got := conn.ConnectionState().DidResume; got != (i == 1) {
			t.Errorf("connection %d: resumed: %v", i, got)
		}
	}
}

// Who holds a connection of the listener can still close it.
func TestListenerConnClosed(t *testing.T) {
	t.Parallel()
	r := eventDriven.rig(t)
	conns := make(chan net.Conn, 1)
	front := wstest.Listen(t, wstest.TCP)
	s := &http.Server{Handler: r.proxy, ErrorLog: wstest.ErrorLog(), ConnContext: func(ctx context.Context, c net.Conn) context.Context {
		conns <- c
		return ctx
	}}
	t.Cleanup(func() { s.Close() })
	go s.Serve(wstest.TLS.Secure(wsproxy.NewListener(front)))
	client := wstest.TLS.Connect(t, front)
	client.Send(wstest.Request("/", ""))
	upstream := r.upstream()
	upstream.Answer("")
	client.ReadResponse()
	client.SendText("hello")
	upstream.Want(wstest.Text, "hello")
	wstest.Receive(t, conns).Close()
	upstream.WantClose(1001)
	client.WantEnd()
}

// Over TLS, in the wrong order, the listener has no effect: net/http must still see
// that there is TLS.
func TestListenerAboveTLS(t *testing.T) {
	t.Parallel()
	ln := wstest.Listen(t, wstest.TLS)
	seen := make(chan bool, 1)
	s := &http.Server{Handler: http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { seen <- r.TLS != nil }), ErrorLog: wstest.ErrorLog()}
	t.Cleanup(func() { s.Close() })
	go s.Serve(wsproxy.NewListener(wstest.TLS.Secure(ln)))
	wstest.TLS.Connect(t, ln).Send("GET / HTTP/1.1\r\nHost: front.test\r\n\r\n")
	if !wstest.Receive(t, seen) {
		t.Error("the request has no TLS state")
	}
}

// A page of other handlers on the same listener works, with and without TLS.
func TestListenerServesFiles(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "file")
	content := strings.Repeat("content", 100_000)
	if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, k := range []wstest.Kind{wstest.TCP, wstest.TLS, wstest.Memory} {
		ln := wstest.Listen(t, k)
		s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { http.ServeFile(w, r, file) }), ErrorLog: wstest.ErrorLog()}
		t.Cleanup(func() { s.Close() })
		go s.Serve(k.Secure(wsproxy.NewListener(ln)))
		client := k.Connect(t, ln)
		client.Send("GET / HTTP/1.1\r\nHost: front.test\r\nConnection: close\r\n\r\n")
		resp := client.ReadResponse()
		if got, err := io.ReadAll(resp.Body); err != nil || string(got) != content {
			t.Errorf("%v: got %d bytes, %v", k, len(got), err)
		}
	}
}

// In a synctest bubble, sessions over real connections end with their own goroutines:
// an event loop would go on, and the bubble with it.
func TestBubble(t *testing.T) {
	for _, options := range [][]wsproxy.Option{nil, {wsproxy.WithDetach()}} {
		synctest.Test(t, func(t *testing.T) {
			upstream := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				c, err := websocket.Accept(w, r, nil)
				if err != nil {
					t.Error(err)
					return
				}
				c.Write(r.Context(), websocket.MessageText, []byte("hello"))
				<-c.CloseRead(r.Context()).Done()
			}))
			defer upstream.Close()
			p, err := wsproxy.New(upstream.URL, options...)
			if err != nil {
				t.Fatal(err)
			}
			front := httptest.NewServer(p)
			defer front.Close()
			client, _, err := websocket.Dial(t.Context(), front.URL, nil)
			if err != nil {
				t.Fatal(err)
			}
			if _, b, err := client.Read(t.Context()); string(b) != "hello" {
				t.Errorf("client got %q, %v", b, err)
			}
			if err := client.Close(websocket.StatusNormalClosure, ""); err != nil {
				t.Error(err)
			}
		})
	}
}
