package browser

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
	"github.com/coder/websocket"

	"github.com/seed-ffb73231/wsproxy"
)

// A speaker is an upstream that says what a page asks it for, and echoes all
// else. It accepts compression.
type speaker struct {
	address string
	closed  chan websocket.CloseError // of pages that close
}

func startSpeaker(t *testing.T) *speaker {
	t.Helper()
	s := &speaker{closed: make(chan websocket.CloseError, 10)}
	server := httptest.NewServer(http.HandlerFunc(s.serve))
	t.Cleanup(server.Close)
	s.address = server.Listener.Addr().String()
	return s
}

func (s *speaker) serve(w http.ResponseWriter, r *http.Request) {
	conn, err := websocket.Accept(w, r, &websocket.AcceptOptions{
		InsecureSkipVerify: true, CompressionMode: websocket.CompressionContextTakeover, CompressionThreshold: 1,
	})
	if err != nil {
		return
	}
	defer conn.CloseNow()
	conn.SetReadLimit(-1)
	for {
		kind, message, err := conn.Read(r.Context())
		if err != nil {
			if e, ok := errors.AsType[websocket.CloseError](err); ok {
				s.closed <- e
			}
			return
		}
		switch string(message) {
		case "say fragments":
			err = s.fragments(r.Context(), conn)
		case "say what is not UTF-8":
			err = conn.Write(r.Context(), websocket.MessageText, []byte("\xC3\x28"))
		case "say too much":
			err = conn.Write(r.Context(), websocket.MessageBinary, make([]byte, messageLimit+1))
		case "say bye":
			err = conn.Close(4321, "auf Wiederhören: ü")
		default:
			err = conn.Write(r.Context(), kind, message)
		}
		if err != nil {
			return
		}
	}
}

func (s *speaker) fragments(ctx context.Context, conn *websocket.Conn) error {
	w, err := conn.Writer(ctx, websocket.MessageText)
	if err != nil {
		return err
	}
	for _, part := range []string{"one, ", "", "two: \xC3", "\xBC, three"} {
		if _, err := w.Write([]byte(part)); err != nil {
			return err
		}
	}
	return w.Close()
}

const messageLimit = 400_000

// sizes is a script that sends messages of all sizes, in both types, and counts
// the echoes that are not as they should be.
const sizes = `
window.wrong = null;
(async () => {
	const s = got.socket;
	s.binaryType = "arraybuffer";
	let wrong = 0;
	for (const size of [0, 1, 125, 126, 127, 511, 512, 1000, 65535, 65536, 100000]) {
		const bytes = new Uint8Array(size);
		for (let i = 0; i < size; i += 65536) crypto.getRandomValues(bytes.subarray(i, i + 65536));
		for (const message of ["text: ü→𝄞 ".repeat(size / 16), "x".repeat(size), bytes, new Uint8Array(size)]) {
			const echo = new Promise(done => s.addEventListener("message", e => done(e.data), {once: true}));
			s.send(message);
			const back = await echo;
			if (typeof message === "string") {
				wrong += back !== message;
			} else {
				const b = new Uint8Array(back);
				wrong += b.length !== size || !b.every((v, i) => v === message[i]);
			}
		}
	}
	window.wrong = wrong;
})()`

// TestMessages has a page talk through message sessions, with each combination
// of the compression of both legs.
func TestMessages(t *testing.T) {
	require(t)
	t.Parallel()
	modes := map[string]websocket.CompressionMode{
		"off":              websocket.CompressionDisabled,
		"no takeover":      websocket.CompressionNoContextTakeover,
		"context takeover": websocket.CompressionContextTakeover,
	}
	for clientName, clientMode := range modes {
		for upstreamName, upstreamMode := range modes {
			t.Run(clientName+"→"+upstreamName, func(t *testing.T) {
				t.Parallel()
				testMessages(t, clientMode, upstreamMode)
			})
		}
	}
}

func testMessages(t *testing.T, clientMode, upstreamMode websocket.CompressionMode) {
	upstream := startSpeaker(t)
	s := newSite(t, nil,
		wsproxy.WithDialContext(func(ctx context.Context, network, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, upstream.address)
		}),
		wsproxy.WithOnMessage(func(_ context.Context, _ *wsproxy.Session, m *wsproxy.Message) error {
			switch string(m.Data) {
			case "hook: change":
				m.Data = []byte(strings.Repeat("changed: ü ", 100))
			case "hook: drop":
				return wsproxy.ErrDrop
			case "hook: close":
				return &wsproxy.CloseError{Code: 4111, Reason: "not that: ü"}
			}
			return nil
		}),
		wsproxy.WithCompression(wsproxy.Client, clientMode, 0), wsproxy.WithCompression(wsproxy.Upstream, upstreamMode, 0),
		wsproxy.WithMaxMessageSize(wsproxy.Client, messageLimit), wsproxy.WithMaxMessageSize(wsproxy.Upstream, messageLimit))
	b := newTab(t)
	b.visit(s.at("http", "127.0.0.1", "/"))
	url := s.at("ws", "127.0.0.1", "/websocket")

	b.dial(url).open(t, "a message session")
	extensions := eval[string](b, "got.socket.extensions")
	want := map[websocket.CompressionMode]string{
		websocket.CompressionDisabled:          "",
		websocket.CompressionNoContextTakeover: "permessage-deflate; server_no_context_takeover; client_no_context_takeover",
		websocket.CompressionContextTakeover:   "permessage-deflate",
	}[clientMode]
	if extensions != want {
		t.Errorf("the page has the extensions %q, want %q", extensions, want)
	}
	eval[chromedp.Void](b, sizes)
	b.await("window.wrong !== null")
	if n := eval[int](b, "window.wrong"); n > 0 {
		t.Errorf("%d echoes are not what was sent", n)
	}
	send := func(text string) {
		eval[chromedp.Void](b, fmt.Sprintf("got.messages.length = 0; got.socket.send(%q)", text))
	}
	send("hook: change")
	b.await(`got.messages[0] === "changed: ü ".repeat(100)`)
	send("say fragments")
	b.await(`got.messages[0] === "one, two: ü, three"`)
	send("hook: drop")
	b.echo("after it")
	if n := eval[int](b, "got.messages.length"); n != 1 {
		t.Errorf("the page got %d messages after one that was dropped, want the next one", n)
	}
	eval[chromedp.Void](b, `got.socket.close(4123, "bye: ü")`)
	b.awaitClose().closed(t, "a Close of the page", 4123, "bye: ü")
	select {
	case got := <-upstream.closed:
		if want := (websocket.CloseError{Code: 4123, Reason: "bye: ü"}); got != want {
			t.Errorf("the upstream got %v, want %v", got, want)
		}
	case <-time.After(limit):
		t.Error("the page's Close has not come")
	}

	for _, row := range []struct {
		says, expression string
		code             int
		reason           string
	}{
		{"what the upstream closes with", `"say bye"`, 4321, "auf Wiederhören: ü"},
		{"what the hook closes with", `"hook: close"`, 4111, "not that: ü"},
		{"text of the upstream that is not UTF-8", `"say what is not UTF-8"`, 1011, "invalid data by the upstream"},
		{"too much by the page", fmt.Sprintf("new Uint8Array(%d)", messageLimit+1), 1009, "message too big"},
		{"too much by the upstream", `"say too much"`, 1001, "message too big"},
	} {
		b.dial(url).open(t, row.says)
		eval[chromedp.Void](b, "got.socket.send("+row.expression+")")
		b.awaitClose().closed(t, row.says, row.code, row.reason)
	}
}

// closed checks the Close frame that ended a WebSocket.
func (t talk) closed(tb testing.TB, what string, code int, reason string) {
	tb.Helper()
	if t.Code != code || t.Reason != reason || !t.Clean {
		tb.Errorf("%s: got %s, want code %d, reason %q, clean", what, t, code, reason)
	}
}
