package interop

import (
	"bytes"
	"compress/flate"
	"context"
	"fmt"
	"net"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/coder/websocket"

	"github.com/seed-ffb73231/wsproxy"
	"github.com/seed-ffb73231/wsproxy/internal/wstest"
)

// modes are the ways to compress a leg, by name.
var modes = map[string]websocket.CompressionMode{
	"off":              websocket.CompressionDisabled,
	"no takeover":      websocket.CompressionNoContextTakeover,
	"context takeover": websocket.CompressionContextTakeover,
}

// messageLimit is the limit of the messages of these sessions.
const messageLimit = 300_000

// messageOptions are the options of proxies whose sessions consist of messages.
func messageOptions(m [2]websocket.CompressionMode) []wsproxy.Option {
	return []wsproxy.Option{
		wsproxy.WithOnMessage(onMessage),
		wsproxy.WithCompression(wsproxy.Client, m[0], 0),
		wsproxy.WithCompression(wsproxy.Upstream, m[1], 0),
		wsproxy.WithMaxMessageSize(wsproxy.Client, messageLimit),
		wsproxy.WithMaxMessageSize(wsproxy.Upstream, messageLimit),
	}
}

// onMessage is the hook of these sessions.
func onMessage(ctx context.Context, s *wsproxy.Session, m *wsproxy.Message) error {
	if m.Type == websocket.MessageText && !utf8.Valid(m.Data) {
		return &wsproxy.CloseError{Code: 4999, Reason: "the hook got text that is not UTF-8"}
	}
	switch string(m.Data) {
	case "hook: drop":
		return wsproxy.ErrDrop
	case "hook: change":
		m.Data = append(m.Data[:0], strings.Repeat("changed: ü ", 1000)...)
	case "hook: binary":
		m.Type, m.Data = websocket.MessageBinary, []byte{0xC3}
	case "hook: empty":
		m.Data = nil
	case "hook: add":
		for _, side := range []wsproxy.Side{wsproxy.Client, wsproxy.Upstream} {
			if err := s.Send(ctx, side, websocket.MessageText, []byte("added for the "+side.String())); err != nil {
				return err
			}
		}
		return wsproxy.ErrDrop
	case "hook: close":
		return &wsproxy.CloseError{Code: 4123, Reason: "the hook says bye: ü"}
	}
	return nil
}

// TestMessages has every peer talk to others through message sessions, with each
// combination of the compression of both legs.
func TestMessages(t *testing.T) {
	upstreams := startUpstreams(t)
	turn := 0
	for clientName, clientMode := range modes {
		for upstreamName, upstreamMode := range modes {
			m := [2]websocket.CompressionMode{clientMode, upstreamMode}
			t.Run(clientName+"→"+upstreamName, func(t *testing.T) {
				for i, client := range upstreams {
					up := upstreams[(i+turn)%len(upstreams)]
					t.Run(client.name()+"→"+up.name(), func(t *testing.T) {
						t.Parallel()
						require(t, client.peer, up.peer)
						p := &pair{client: client.peer, upstream: up, modes: &m}
						p.front = newFront(t, up.url, false, messageOptions(m)...)
						p.test(t)
						t.Run("hook", p.testHook)
					})
				}
			})
			turn++
		}
	}
}

// deflates reports whether an end sees permessage-deflate: what the client has
// negotiated, or what the upstream is offered.
func (p *pair) deflates(e *end, offered bool) bool {
	switch {
	case p.modes == nil:
		return offered
	case e.side == 0 && !offered:
		return false
	}
	return p.modes[e.side] != websocket.CompressionDisabled
}

// testHook checks what a hook does to messages, in both directions.
func (p *pair) testHook(t *testing.T) {
	s := p.open(t, true)
	for _, e := range s.ends() {
		if p.modes[e.side] == websocket.CompressionNoContextTakeover && strings.Contains(e.extensions, ";") { // ws does not tell the parameters
			for _, parameter := range []string{"server_no_context_takeover", "client_no_context_takeover"} {
				if !strings.Contains(e.extensions, parameter) {
					t.Errorf("the %s sees the extensions %q, want %s", e.role, e.extensions, parameter)
				}
			}
		}
		say := func(text string) {
			if err := e.send(message{data: []byte(text)}); err != nil {
				t.Fatal(err)
			}
		}
		say("hook: drop")
		say("hook: change")
		s.want(s.other(e), message{data: []byte(strings.Repeat("changed: ü ", 1000))})
		say("hook: add")
		for _, e := range s.ends() {
			s.want(e, message{data: []byte("added for the " + e.role)})
		}
		say("hook: binary")
		s.want(s.other(e), message{binary: true, data: []byte{0xC3}})
		say("hook: empty")
		s.want(s.other(e), message{})
	}
	s.exchange(text(1000)) // the compression is still in step
	if err := s.client.send(message{data: []byte("hook: close")}); err != nil {
		t.Fatal(err)
	}
	s.wantEnds(closing{4123, "the hook says bye: ü"}, 1001)
}

// want waits for a message.
func (s *session) want(e *end, want message) {
	s.t.Helper()
	got, err := e.receive(s.ctx)
	if err != nil {
		s.t.Fatalf("the %s: %.50q has not come: %v", e.role, want.data, err)
	}
	if got.binary != want.binary || !bytes.Equal(got.data, want.data) {
		s.t.Fatalf("the %s got %.50q (binary: %v), want %.50q (binary: %v)", e.role, got.data, got.binary, want.data, want.binary)
	}
}

// wantEnds waits for the Close frames that the two ends get from the proxy.
func (s *session) wantEnds(client closing, upstream int) {
	s.t.Helper()
	got, err := s.client.awaitEnd(s.ctx)
	if err != nil || got != client {
		s.t.Errorf("the client got %d %q, %v, want %d %q", got.code, got.reason, err, client.code, client.reason)
	}
	if got, err = s.upstream.awaitEnd(s.ctx); err != nil || got.code != upstream {
		s.t.Errorf("the upstream got %d %q, %v, want %d", got.code, got.reason, err, upstream)
	}
}

// TestMessageLimit has every peer send a message over the limit, compressed to a
// small part of it or not.
func TestMessageLimit(t *testing.T) {
	const most = 100_000
	upstreams := startUpstreams(t)
	for i, client := range upstreams {
		up := upstreams[(i+1)%len(upstreams)]
		t.Run(client.name()+"→"+up.name(), func(t *testing.T) {
			t.Parallel()
			require(t, client.peer, up.peer)
			for mode, m := range modes {
				p := &pair{client: client.peer, upstream: up, modes: &[2]websocket.CompressionMode{m, m}}
				p.front = newFront(t, up.url, false, append(messageOptions(*p.modes),
					wsproxy.WithMaxMessageSize(wsproxy.Client, most), wsproxy.WithMaxMessageSize(wsproxy.Upstream, most))...)
				for side, want := range [][2]int{{1009, 1001}, {1001, 1009}} {
					t.Run(mode+" "+[]string{"client", "upstream"}[side], func(t *testing.T) {
						s := p.open(t, true)
						s.exchange(message{binary: true, data: text(most).data})
						from := s.ends()[side]
						// What the peer is told of it depends on when the proxy
						// closes the connection.
						_ = from.send(message{binary: true, data: make([]byte, most+1)})
						s.wantEnds(closing{want[0], "message too big"}, want[1])
					})
				}
			}
		})
	}
}

// A raw end sends what no implementation would.
type rawEnd struct {
	name      string
	send      func(w *wstest.Wire) string // frames
	arrives   []message                   // before the end
	code      int                         // to the raw end
	toClient  int                         // if that is the other end
	toServers int                         // the same
}

// rawEnds are for sessions with compression on both legs, where deflate says so.
func rawEnds(deflate bool) []rawEnd {
	whole := func(s string) string { return s }
	pack := func(s string) string {
		var b bytes.Buffer
		w, _ := flate.NewWriter(&b, flate.BestCompression)
		w.Write([]byte(s))
		w.Flush()
		return strings.TrimSuffix(b.String(), "\x00\x00\xff\xff")
	}
	rsv := byte(0)
	if deflate {
		whole, rsv = pack, wstest.RSV1
	}
	message := func(binary bool, data string) message { return message{binary, []byte(data)} }
	// cut sends a payload in frames of n bytes, with control frames in between: not
	// too many, because some peers take them for a flood.
	cut := func(w *wstest.Wire, op byte, payload string, n int) string {
		var b strings.Builder
		for first := op | rsv; ; first = 0 {
			if len(payload) <= n {
				b.WriteString(w.Frame(first|0x80, payload))
				return b.String()
			}
			b.WriteString(w.Frame(first, payload[:n]))
			b.WriteString(w.Frame(wstest.Ping, strconv.Itoa(len(payload))))
			b.WriteString(w.Frame(wstest.Pong, "nobody asked"))
			payload = payload[n:]
		}
	}
	long := strings.Repeat("fragments: ü→𝄞 ", 500)
	ends := []rawEnd{
		{"fragments", func(w *wstest.Wire) string {
			return cut(w, 1, whole(long), 1+len(whole(long))/10) + cut(w, 2, whole("\xff\x00"), 1) + w.Frame(0x01|rsv, "") + w.Frame(0x00, "") + w.Frame(0x80, whole("")) +
				w.Frame(wstest.Close, wstest.CloseBody(4000, "done: ü"))
		}, []message2{message(false, long), message(true, "\xff\x00"), message(false, "")}, 4000, 4000, 4000},
		{"text cut in a character", func(w *wstest.Wire) string {
			return cut(w, 1, whole("ü"), 1) + cut(w, 1, whole("ok\xC3"), 2)
		}, []message2{message(false, "ü")}, 1007, 1011, 1001},
		{"text with a surrogate", func(w *wstest.Wire) string { return w.Frame(wstest.Text|rsv, whole("\xED\xA0\x80")) }, nil, 1007, 1011, 1001},
		{"text with an overlong character", func(w *wstest.Wire) string { return w.Frame(wstest.Text|rsv, whole("\xC0\xAF")) }, nil, 1007, 1011, 1001},
		{"text above U+10FFFF", func(w *wstest.Wire) string { return w.Frame(wstest.Text|rsv, whole("\xF4\x90\x80\x80")) }, nil, 1007, 1011, 1001},
		{"binary that is not UTF-8", func(w *wstest.Wire) string {
			return w.Frame(wstest.Binary|rsv, whole("\xC0\xAF")) + w.Frame(wstest.Close, "")
		}, []message2{message(true, "\xC0\xAF")}, noCode, noCode, noCode},
		{"many small fragments over the limit", func(w *wstest.Wire) string {
			return w.Frame(0x02, "") + strings.Repeat(w.Frame(0x00, strings.Repeat("x", 1000)), messageLimit/1000+1)
		}, nil, 1009, 1001, 1001},
		{"length over the limit", func(w *wstest.Wire) string {
			return w.Frame(wstest.Text|rsv, whole("before")) + w.Frame(wstest.Binary, strings.Repeat("x", messageLimit+1))[:20]
		}, []message2{message(false, "before")}, 1009, 1001, 1001},
		{"RSV1 on a later frame", func(w *wstest.Wire) string { return w.Frame(0x01, "x") + w.Frame(0xC0, "y") }, nil, 1002, 1011, 1001},
		{"RSV2", func(w *wstest.Wire) string { return w.Frame(0xA1, "x") }, nil, 1002, 1011, 1001},
		{"message within a message", func(w *wstest.Wire) string { return w.Frame(0x01, "x") + w.Frame(0x81, "y") }, nil, 1002, 1011, 1001},
		{"Close within a message", func(w *wstest.Wire) string {
			return w.Frame(wstest.Text|rsv, whole("whole")) + w.Frame(0x01, "x") + w.Frame(wstest.Close, wstest.CloseBody(1000, "changed my mind"))
		}, []message2{message(false, "whole")}, 1000, 1000, 1000},
		{"Close with 3999", func(w *wstest.Wire) string {
			return w.Frame(wstest.Close, wstest.CloseBody(3999, strings.Repeat("r", 123)))
		}, nil, 3999, 3999, 3999},
	}
	if deflate {
		ends = append(ends,
			rawEnd{"uncompressed message", func(w *wstest.Wire) string {
				return w.Frame(wstest.Text, long) + w.Frame(wstest.Text|rsv, pack(long)) + w.Frame(wstest.Close, wstest.CloseBody(1000, ""))
			}, []message2{message(false, long), message(false, long)}, 1000, 1000, 1000},
			rawEnd{"final block", func(w *wstest.Wire) string { // RFC 7692, 7.2.3.4
				return w.Frame(wstest.Text|rsv, "\xf3\x48\xcd\xc9\xc9\x07\x00\x00") + w.Frame(wstest.Text|rsv, pack("after")) + w.Frame(wstest.Close, wstest.CloseBody(1000, ""))
			}, []message2{message(false, "Hello"), message(false, "after")}, 1000, 1000, 1000},
			rawEnd{"stored block", func(w *wstest.Wire) string { // RFC 7692, 7.2.3.3
				return w.Frame(wstest.Text|rsv, "\x00\x05\x00\xfa\xff\x48\x65\x6c\x6c\x6f\x00") + w.Frame(wstest.Close, wstest.CloseBody(1000, ""))
			}, []message2{message(false, "Hello")}, 1000, 1000, 1000},
			rawEnd{"two blocks", func(w *wstest.Wire) string { // RFC 7692, 7.2.3.5
				return w.Frame(wstest.Text|rsv, "\xf2\x48\x05\x00\x00\x00\xff\xff\xca\xc9\xc9\x07\x00") + w.Frame(wstest.Close, wstest.CloseBody(1000, ""))
			}, []message2{message(false, "Hello")}, 1000, 1000, 1000},
			rawEnd{"corrupt", func(w *wstest.Wire) string { return w.Frame(wstest.Binary|rsv, "\xff\xff\xff\xff") }, nil, 1007, 1011, 1001},
			rawEnd{"cut short", func(w *wstest.Wire) string { return w.Frame(wstest.Binary|rsv, pack(long)[:20]) }, nil, 1007, 1011, 1001},
			rawEnd{"refers to nothing", func(w *wstest.Wire) string { // a distance of 1 at the start
				return w.Frame(wstest.Binary|rsv, "\x02\x02\x00")
			}, nil, 1007, 1011, 1001},
			rawEnd{"bomb", func(w *wstest.Wire) string {
				return w.Frame(wstest.Binary|rsv, pack(strings.Repeat("\x00", messageLimit+1)))
			}, nil, 1009, 1001, 1001},
		)
	} else {
		ends = append(ends, rawEnd{"RSV1", func(w *wstest.Wire) string { return w.Frame(0xC1, "x") }, nil, 1002, 1011, 1001})
	}
	return ends
}

// message2 is message, whose name rawEnds uses for a function.
type message2 = message

// noCode is how most implementations report a Close without a code.
const noCode = 1005

// TestRawMessages has a raw end send messages in every form, valid or not, to
// every peer in both roles.
func TestRawMessages(t *testing.T) {
	upstreams := startUpstreams(t)
	for _, peer := range upstreams {
		for _, deflate := range []bool{false, true} {
			m := [2]websocket.CompressionMode{}
			if deflate {
				m = [2]websocket.CompressionMode{websocket.CompressionNoContextTakeover, websocket.CompressionNoContextTakeover}
			}
			t.Run(fmt.Sprint(peer.name(), " deflate=", deflate), func(t *testing.T) {
				t.Parallel()
				require(t, peer.peer)
				back, err := net.Listen("tcp", "127.0.0.1:0")
				if err != nil {
					t.Fatal(err)
				}
				defer back.Close()
				toPeer := newFront(t, peer.url, false, messageOptions(m)...)
				toRaw := newFront(t, "http://"+back.Addr().String(), false, messageOptions(m)...)
				for _, raw := range rawEnds(deflate) {
					t.Run(raw.name+"→", func(t *testing.T) { raw.asClient(t, toPeer, peer, deflate) })
					t.Run("→"+raw.name, func(t *testing.T) { raw.asUpstream(t, toRaw, back, peer.peer, deflate) })
				}
			})
		}
	}
}

const deflateLine = "Sec-WebSocket-Extensions: permessage-deflate; server_no_context_takeover; client_no_context_takeover\r\n"

// asClient has the raw end be the client, and a peer the upstream.
func (raw *rawEnd) asClient(t *testing.T, f *front, up *upstream, deflate bool) {
	c, err := net.Dial("tcp", strings.TrimPrefix(f.url, "ws://"))
	if err != nil {
		t.Fatal(err)
	}
	w := wstest.NewWire(t, c, true)
	path := "/raw" + strconv.FormatInt(paths.Add(1), 10)
	lines := "Origin: " + f.origin + "\r\nSec-WebSocket-Protocol: " + subprotocol + "\r\n"
	if deflate {
		lines += deflateLine
	}
	request := strings.Replace(wstest.Request(path, lines), "Host: front.test", "Host: "+strings.TrimPrefix(f.url, "ws://"), 1)
	w.Send(request)
	resp := w.ReadResponse()
	if got := resp.Header.Get("Sec-WebSocket-Extensions") != ""; resp.StatusCode != 101 || got != deflate {
		t.Fatalf("got %d, extensions %v", resp.StatusCode, resp.Header["Sec-Websocket-Extensions"])
	}
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	var u *conn
	select {
	case u = <-up.arrival(path):
	case <-ctx.Done():
		t.Fatal("the upstream has not got the handshake")
	}
	raw.check(t, ctx, w, u, raw.toServers)
}

// asUpstream has the raw end be the upstream, and a peer the client.
func (raw *rawEnd) asUpstream(t *testing.T, f *front, back net.Listener, client peer, deflate bool) {
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	var dialled atomic.Pointer[conn]
	failed := make(chan error, 1)
	go func() {
		c, err := client.dial(ctx, offer{f.url + "/raw" + strconv.FormatInt(paths.Add(1), 10), f.origin, deflate, nil})
		dialled.Store(c)
		failed <- err
	}()
	w := wstest.NewWire(t, wstest.Accept(t, back), false)
	lines := "Sec-WebSocket-Protocol: " + subprotocol + "\r\n"
	if deflate {
		lines += deflateLine
	}
	w.Answer(lines)
	if err := <-failed; err != nil {
		t.Fatal(err)
	}
	raw.check(t, ctx, w, dialled.Load(), raw.toClient)
}

// check sends the raw end's frames, and checks what both ends get.
func (raw *rawEnd) check(t *testing.T, ctx context.Context, w *wstest.Wire, peer *conn, code int) {
	w.SetDeadline(time.Now().Add(limit))
	go w.Write([]byte(raw.send(w))) // the proxy may close before the end
	f, err := w.ReadFrame()
	for err == nil && f.First != wstest.Close { // Pongs, and what the peers send by themselves
		f, err = w.ReadFrame()
	}
	if got := f.Code(); err != nil || got != raw.code && (got != 0 || raw.code != noCode) {
		t.Errorf("the raw end got %v, code %d, want %d", err, got, raw.code)
	}
	w.SendClose(raw.code%noCode, "")
	w.Close()
	for _, want := range raw.arrives {
		got, err := peer.receive(ctx)
		if err != nil {
			t.Fatalf("%.50q has not come: %v", want.data, err)
		}
		if got.binary != want.binary || !bytes.Equal(got.data, want.data) {
			t.Errorf("got %.50q (binary: %v), want %.50q (binary: %v)", got.data, got.binary, want.data, want.binary)
		}
	}
	end, err := peer.awaitEnd(ctx)
	if end.code == 0 {
		end.code = noCode // of gws
	}
	if err != nil || end.code != code {
		t.Errorf("the peer got %d %q, %v, want %d", end.code, end.reason, err, code)
	}
	peer.mu.Lock()
	defer peer.mu.Unlock()
	if n := len(peer.messages); n > 0 {
		t.Errorf("got %d messages more, the first: %.50q", n, peer.messages[0].data)
	}
}
