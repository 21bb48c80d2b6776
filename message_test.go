package wsproxy_test

import (
	"bytes"
	"compress/flate"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/coder/websocket"

	"github.com/seed-ffb73231/wsproxy"
	"github.com/seed-ffb73231/wsproxy/internal/wstest"
)

// onMessage is a hook without a context and a session.
func onMessage(f func(m *wsproxy.Message) error) wsproxy.Option {
	return wsproxy.WithOnMessage(func(_ context.Context, _ *wsproxy.Session, m *wsproxy.Message) error { return f(m) })
}

// A hook sees whole messages, and changes and drops them; several run in order.
func TestMessageHooks(t *testing.T) {
	t.Parallel()
	for _, l := range kindsOfLegs {
		t.Run(l.name, func(t *testing.T) {
			t.Parallel()
			c := carrier{drivers[0], l}
			bothWays(t, c, func(t *testing.T, c carrier, w way) {
				seen := make(chan string, 10)
				r := c.rig(t,
					onMessage(func(m *wsproxy.Message) error {
						seen <- fmt.Sprint(m.From, " ", m.Type, " ", string(m.Data))
						if string(m.Data) == "drop" {
							return fmt.Errorf("not this one: %w", wsproxy.ErrDrop)
						}
						m.Data = append(m.Data, " one"...)
						return nil
					}),
					onMessage(func(m *wsproxy.Message) error {
						if strings.HasPrefix(string(m.Data), "to binary") {
							m.Type, m.Data = websocket.MessageBinary, append([]byte("new "), m.Data...)
						}
						m.Data = append(m.Data, " two"...)
						return nil
					}))
				near, far := w.open(r, "", "")
				// A message in three frames, with a Ping and one of our kind of Pongs in between.
				near.Send(near.Frame(0x01, "one ") + near.Frame(wstest.Ping, "now") + near.Frame(0x00, "") + near.Frame(0x80, "message"))
				far.Want(wstest.Ping, "now")
				far.Want(wstest.Text, "one message one two")
				near.SendText("drop")
				near.Send(near.Frame(wstest.Binary, "") + near.Frame(wstest.Text, "to binary"))
				far.Want(wstest.Binary, " one two")
				far.Want(wstest.Binary, "new to binary one two")
				far.SendText("back")
				near.Want(wstest.Text, "back one two")
				from, back := w.side(), wsproxy.Client
				if from == wsproxy.Client {
					back = wsproxy.Upstream
				}
				for _, want := range []string{
					fmt.Sprint(from, " MessageText one message"), fmt.Sprint(from, " MessageText drop"), fmt.Sprint(from, " MessageBinary "),
					fmt.Sprint(from, " MessageText to binary"), fmt.Sprint(back, " MessageText back"),
				} {
					if got := wstest.Receive(t, seen); got != want {
						t.Errorf("the hook saw %q, want %q", got, want)
					}
				}
				counts := func() wsproxy.Counts { return r.the().Counts(from) }
				wstest.Await(t, func() bool { c := counts(); return c.Frames == 4 && c.Messages == 3 && c.Pings == 1 },
					func() string {
						return fmt.Sprintf("got %+v, want 4 frames that have gone on, 3 messages and a Ping", counts())
					})
				near.SendClose(4123, "as is")
				far.Want(wstest.Close, wstest.CloseBody(4123, "as is"))
				far.SendClose(4123, "as is")
				near.Want(wstest.Close, wstest.CloseBody(4123, "as is"))
				near.Conn.Close()
				far.Conn.Close()
				r.wantOver()
			})
		})
	}
}

// The error of a hook says how the session ends.
func TestMessageErrors(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name             string
		err              error
		client, upstream int // close codes, if the client is the sender
		back             int // the client's close code, if the upstream is
		text, reason     string
	}{
		{"CloseError", &wsproxy.CloseError{Code: 4001, Reason: "enough"}, 4001, 1001, 4001, "enough", "closed by proxy"},
		{"wrapped", fmt.Errorf("it: %w", &wsproxy.CloseError{Code: 1013, Reason: ""}), 1013, 1001, 1013, "", "closed by proxy"},
		{"code that may not be sent", &wsproxy.CloseError{Code: 1006}, 1008, 1001, 1001, "message refused", "hook"},
		{"another", errors.New("secretless"), 1008, 1001, 1001, "message refused", "hook"},
		{"panic", nil, 1011, 1001, 1011, "internal error", "panic"},
	} {
		for _, w := range ways {
			t.Run(test.name+"/"+w.name, func(t *testing.T) {
				t.Parallel()
				r := newRig(t, wstest.Memory, onMessage(func(m *wsproxy.Message) error {
					switch {
					case string(m.Data) != "bad":
						return nil
					case test.err == nil:
						panic("oops")
					}
					return test.err
				}))
				client, upstream := r.open("", "")
				near, far := client, upstream
				if w.side() == wsproxy.Upstream {
					near, far = upstream, client
				}
				from := w.side()
				near.SendText("good")
				far.Want(wstest.Text, "good")
				near.Send(near.Frame(wstest.Text, "bad") + near.Frame(wstest.Text, "never"))
				toClient, toUpstream := test.client, test.upstream
				if from == wsproxy.Upstream {
					toClient = test.back
					if test.reason == "hook" {
						toUpstream = 1008
					}
				}
				client.Want(wstest.Close, wstest.CloseBody(toClient, test.text))
				upstream.Want(wstest.Close, wstest.CloseBody(toUpstream, test.text))
				client.SendClose(toClient, "")
				upstream.SendClose(toUpstream, "")
				upstream.Conn.Close()
				r.wantReturned()
				m := r.wantEnded("proxy", test.reason)
				if e, _ := m["error"].(string); test.err != nil && e != test.err.Error() || test.err == nil && e != "panic: oops" {
					t.Errorf("the record has the error %q", e)
				}
			})
		}
	}
}

// What a message may be: as large as the limit says, unpacked, and text only if it is
// UTF-8, both as it comes and as the hooks leave it.
func TestMessageLimits(t *testing.T) {
	t.Parallel()
	const most = 1 << 20
	pass := onMessage(func(m *wsproxy.Message) error {
		if string(m.Data) == "break it" {
			m.Data = []byte{0xFF}
		}
		return nil
	})
	for _, w := range ways {
		from := w.side()
		for _, test := range []struct {
			name       string
			options    []wsproxy.Option
			good       []string // payloads that pass
			bad        []string // fragments
			near, far  int      // close codes
			by, reason string
		}{
			{"default", nil, []string{strings.Repeat("x", most)}, []string{strings.Repeat("x", most+1)}, 1009, 1001, from.String(), "limit"},
			{"fragments", nil, nil, []string{strings.Repeat("x", most-10), strings.Repeat("x", 11)}, 1009, 1001, from.String(), "limit"},
			{"option", []wsproxy.Option{wsproxy.WithMaxMessageSize(from, 10)}, []string{"1234567890"}, []string{"12345678901"}, 1009, 1001, from.String(), "limit"},
			{"UTF-8", nil, []string{"κόσμε", "\U0010FFFF"}, []string{"κόσμε\xed\xa0\x80"}, 1007, 1001, from.String(), "protocol error"},
			{"UTF-8 in parts", nil, nil, []string{"κόσμε\xce", "", "x"}, 1007, 1001, from.String(), "protocol error"},
			{"the hook's", nil, nil, []string{"break it"}, 1008, 1001, "proxy", "hook"},
		} {
			t.Run(w.name+"/"+test.name, func(t *testing.T) {
				t.Parallel()
				r := newRig(t, wstest.TCP, append(test.options, pass)...)
				client, upstream := r.open("", "")
				near, far := client, upstream
				if w.side() == wsproxy.Upstream {
					near, far = upstream, client
				}
				for _, payload := range test.good {
					near.SendLater(near.Frame(wstest.Text, payload))
					far.Want(wstest.Text, payload)
				}
				var frames strings.Builder
				for i, payload := range test.bad {
					first := byte(0)
					if i == 0 {
						first = 1
					}
					if i == len(test.bad)-1 {
						first |= 0x80
					}
					frames.WriteString(near.Frame(first, payload))
				}
				near.SendLater(frames.String())
				toFar := test.far
				if from == wsproxy.Upstream && test.near == 1007 {
					toFar = 1011 // as for any violation by the upstream
				}
				far.WantClose(toFar)
				far.SendClose(toFar, "")
				near.WantClose(test.near)
				near.SendClose(test.near, "")
				client.Conn.Close()
				upstream.Conn.Close()
				r.wantReturned()
				r.wantEnded(test.by, test.reason)
			})
		}
	}
}

// The context of a hook ends with the session: when its client has left for good and
// when it is ended. Meanwhile the other direction goes on, and so do Pings.
func TestMessageContext(t *testing.T) {
	t.Parallel()
	for _, detach := range []bool{false, true} {
		t.Run(fmt.Sprint(detach), func(t *testing.T) {
			t.Parallel()
			d := drivers[0]
			if detach {
				d = drivers[1]
			}
			carrier{d, bothLegs(wstest.Memory)}.run(t, func(t *testing.T) {
				in, ended := make(chan *wsproxy.Session, 1), make(chan error, 1)
				options := []wsproxy.Option{
					wsproxy.WithPing(time.Second, 10*time.Second),
					wsproxy.WithOnMessage(func(ctx context.Context, s *wsproxy.Session, m *wsproxy.Message) error {
						if string(m.Data) == "wait" {
							in <- s
							<-ctx.Done()
							ended <- ctx.Err()
						}
						return ctx.Err()
					}),
				}
				r := carrier{d, bothLegs(wstest.Memory)}.rig(t, append(options, wsproxy.WithCloseTimeout(time.Second))...)
				client, upstream := r.open("", "")
				client.SendText("wait")
				s := wstest.Receive(t, in)
				upstream.SendText("goes on")
				client.Want(wstest.Text, "goes on")
				for range 2 {
					if f, err := client.ReadFrame(); err != nil || f.First != wstest.Ping {
						t.Fatalf("got %v, %v, want a Ping of the proxy's", f, err)
					}
				}
				select {
				case <-ended:
					t.Fatal("the hook's context has ended before the session")
				default:
				}
				s.Close(4000, "over")
				client.WantCloseAfterPings(4000)
				if err := wstest.Receive(t, ended); !errors.Is(err, context.Canceled) {
					t.Errorf("the context ended with %v", err)
				}
				r.wantOver()
			})
		})
	}
}

// A hook that ends its goroutine ends its session, which is reported as any other.
func TestMessageHookExits(t *testing.T) {
	t.Parallel()
	for _, w := range ways {
		t.Run(w.name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, wstest.Memory, wsproxy.WithCloseTimeout(50*time.Millisecond), onMessage(func(m *wsproxy.Message) error {
				runtime.Goexit()
				return nil
			}))
			client, upstream := r.open("", "")
			near := client
			if w.side() == wsproxy.Upstream {
				near = upstream
			}
			near.SendText("x")
			client.WantClose(1011)
			upstream.WantClose(1001)
			r.wantReturned()
			r.wantEnded("proxy", "panic")
		})
	}
}

// While a hook has a message, its sender is not read and cannot answer Pings. That does
// not count against it, also if a Ping of its own came within the message.
func TestMessageHookSlow(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, wstest.Memory, onMessage(func(m *wsproxy.Message) error {
			time.Sleep(10 * time.Minute)
			return nil
		}))
		client, upstream := r.open("", "")
		answerOnce(t, client)
		watched(client)
		heard := watched(upstream)
		client.Send(client.Frame(0x01, "a") + client.Frame(wstest.Ping, "") + client.Frame(0x80, "b"))
		wstest.Elapse(11 * time.Minute)
		synctest.Wait()
		if texts, _ := heard.only(wstest.Text); len(texts) != 1 || heard.end != 0 {
			t.Errorf("the upstream got %q, end %v; want the message, and no end", texts, heard.end)
		}
	})
}

// A limit that is as good as none is no way to have lengths overflow.
func TestMessageLengths(t *testing.T) {
	t.Parallel()
	r := newRig(t, wstest.Memory, wsproxy.WithMaxMessageSize(wsproxy.Client, math.MaxInt), onMessage(func(*wsproxy.Message) error { return nil }))
	client, upstream := r.open(offersAll, "")
	client.SendLater(client.Frame(0x01, "0123456789") + "\x80\xff\x7f\xff\xff\xff\xff\xff\xff\xff" + "key.")
	upstream.WantClose(1001)
	upstream.SendClose(1001, "")
	client.WantClose(1009)
}

// pack compresses as a peer does, in one stream: parts are the payloads of messages.
func pack(final bool, parts ...string) (packed []string) {
	var b bytes.Buffer
	w, _ := flate.NewWriter(&b, flate.BestCompression)
	for _, p := range parts {
		b.Reset()
		io.WriteString(w, p)
		if final {
			w.Close()
			packed = append(packed, b.String()+"\x00") // RFC 7692, 7.2.3.4
			w.Reset(&b)
			continue
		}
		w.Flush()
		packed = append(packed, strings.TrimSuffix(b.String(), "\x00\x00\xff\xff"))
	}
	return packed
}

// unpack is the reverse.
func unpack(t *testing.T, packed ...string) (parts []string) {
	t.Helper()
	var dict []byte
	for _, p := range packed {
		b, err := io.ReadAll(flate.NewReaderDict(strings.NewReader(p+"\x00\x00\xff\xff\x01\x00\x00\xff\xff"), dict))
		if err != nil {
			t.Fatalf("unpack: %v", err)
		}
		dict = append(dict, b...)
		parts = append(parts, string(b))
	}
	return parts
}

const (
	packedText = 0x81 | 0x40
	offersAll  = "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n"
)

// The proxy negotiates compression with each side on its own, and answers only what it
// can keep to.
func TestCompressionNegotiation(t *testing.T) {
	t.Parallel()
	const on, forgets = websocket.CompressionContextTakeover, websocket.CompressionNoContextTakeover
	both := "permessage-deflate; server_no_context_takeover; client_no_context_takeover"
	for _, test := range []struct {
		mode         websocket.CompressionMode
		offer, agree string
	}{
		{forgets, "", ""},
		{forgets, "permessage-deflate", both},
		{forgets, "permessage-deflate; client_max_window_bits", both},
		{on, "permessage-deflate; client_max_window_bits=\"10\"", "permessage-deflate"},
		{on, "permessage-deflate; server_no_context_takeover", "permessage-deflate; server_no_context_takeover"},
		{on, "permessage-deflate; client_no_context_takeover", "permessage-deflate; client_no_context_takeover"},
		{on, "permessage-deflate; server_max_window_bits=15", "permessage-deflate; server_max_window_bits=15"},
		{on, "permessage-deflate; server_max_window_bits=12; client_max_window_bits=12", "permessage-deflate; server_no_context_takeover; server_max_window_bits=12"},
		{forgets, "permessage-deflate; server_max_window_bits=16, permessage-deflate", both},
		{forgets, "permessage-deflate; server_max_window_bits, permessage-deflate; server_max_window_bits=09", ""},
		{forgets, "permessage-deflate; client_max_window_bits=7", ""},
		{forgets, "permessage-deflate; new_parameter, x-webkit-deflate-frame", ""},
		{forgets, "permessage-deflate; client_no_context_takeover; client_no_context_takeover", ""},
		{forgets, "permessage-deflate; client_no_context_takeover=1", ""},
		{websocket.CompressionDisabled, "permessage-deflate", ""},
	} {
		t.Run(fmt.Sprint(test.mode, " ", test.offer), func(t *testing.T) {
			t.Parallel()
			r := newRig(t, wstest.Memory, wsproxy.WithCompression(wsproxy.Client, test.mode, 0), onMessage(func(*wsproxy.Message) error { return nil }))
			client := r.client()
			client.Send(wstest.Request("/", "Sec-WebSocket-Extensions: "+test.offer+"\r\n"))
			upstream := r.upstream()
			if req := upstream.Answer(""); req.Header.Get("Sec-WebSocket-Extensions") != "" {
				t.Errorf("the upstream was offered %q", req.Header["Sec-Websocket-Extensions"])
			}
			if got := client.ReadResponse().Header.Get("Sec-WebSocket-Extensions"); got != test.agree {
				t.Errorf("the client was answered %q, want %q", got, test.agree)
			}
		})
	}
	for _, test := range []struct {
		mode                  websocket.CompressionMode
		offer, answer, client string
		status                int
	}{
		{forgets, both, "", "", 101},
		{forgets, both, both, "", 101},
		{forgets, both, "permessage-deflate", "", 101}, // tolerated: the proxy keeps a window
		{on, "permessage-deflate", "permessage-deflate; server_max_window_bits=9", "", 101},
		{on, "permessage-deflate", "permessage-deflate; client_max_window_bits=15", "", 502}, // not offered
		{on, "permessage-deflate", "permessage-deflate; x", "", 502},
		{websocket.CompressionDisabled, "", "permessage-deflate", "", 502},
	} {
		t.Run(fmt.Sprint("upstream ", test.mode, " ", test.answer), func(t *testing.T) {
			t.Parallel()
			r := newRig(t, wstest.Memory, wsproxy.WithCompression(wsproxy.Upstream, test.mode, 0), onMessage(func(*wsproxy.Message) error { return nil }))
			client := r.client()
			client.Send(wstest.Request("/", ""))
			upstream := r.upstream()
			lines := ""
			if test.answer != "" {
				lines = "Sec-WebSocket-Extensions: " + test.answer + "\r\n"
			}
			if got := upstream.Answer(lines).Header.Get("Sec-WebSocket-Extensions"); got != test.offer {
				t.Errorf("the upstream was offered %q, want %q", got, test.offer)
			}
			resp := client.ReadResponse()
			if got := resp.Header.Get("Sec-WebSocket-Extensions"); resp.StatusCode != test.status || got != test.client {
				t.Errorf("the client was answered %d, %q, want %d, %q", resp.StatusCode, got, test.status, test.client)
			}
		})
	}
}

// Without hooks, compression that is switched off is removed from the offer, and
// frames are relayed as they are.
func TestCompressionDeclined(t *testing.T) {
	t.Parallel()
	for _, side := range []wsproxy.Side{wsproxy.Client, wsproxy.Upstream} {
		r := newRig(t, wstest.Memory, wsproxy.WithCompression(side, websocket.CompressionDisabled, 0))
		client := r.client()
		client.Send(wstest.Request("/", "Sec-WebSocket-Extensions: permessage-deflate, x-other\r\n"))
		upstream := r.upstream()
		if got := upstream.Answer("").Header.Get("Sec-WebSocket-Extensions"); got != "x-other" {
			t.Errorf("the upstream was offered %q, want only x-other", got)
		}
		if client.ReadResponse().StatusCode != 101 {
			t.Error("no 101")
		}
		client.Send(client.Frame(0x01, "a") + client.Frame(0x80, "\xff"))
		upstream.Want(0x01, "a")
		upstream.Want(0x80, "\xff")
		client.Send(client.Frame(packedText, "x"))
		upstream.WantClose(1001)
	}
}

// Messages are unpacked and packed again, for each leg as was negotiated with it.
func TestCompressionTranscodes(t *testing.T) {
	t.Parallel()
	const on = websocket.CompressionContextTakeover
	long := strings.Repeat("compression pays ", 100)
	r := newRig(t, wstest.TCP, wsproxy.WithCompression(wsproxy.Client, on, 10))
	client, upstream := r.open(offersAll, "")
	// Two messages of one stream, and one that is not packed in between, and fragments.
	p := pack(false, long, long, "")
	client.Send(client.Frame(0x01|0x40, p[0][:5]) + client.Frame(wstest.Ping, "") + client.Frame(0x80, p[0][5:]) + client.Frame(wstest.Text, "plain") + client.Frame(packedText, p[1]) + client.Frame(packedText, p[2]))
	upstream.Want(wstest.Ping, "")
	for _, want := range []string{long, "plain", long, ""} {
		upstream.Want(wstest.Text, want)
	}
	// And back: the second message refers to the first one.
	upstream.SendText(long)
	upstream.SendText("short")
	upstream.SendText(long)
	var packed []string
	for _, first := range []byte{packedText, wstest.Text, packedText} {
		f, err := client.ReadFrame()
		if err != nil || f.First != first {
			t.Fatalf("got %v, %v, want a frame that begins with %#x", f, err, first)
		}
		if first == packedText {
			packed = append(packed, f.Payload)
		}
	}
	if got := unpack(t, packed...); got[0] != long || got[1] != long || len(packed[1]) >= len(packed[0]) {
		t.Errorf("got %q from %d and %d bytes", got, len(packed[0]), len(packed[1]))
	}
	sent := len(client.Frame(0x01|0x40, p[0][:5])) + len(client.Frame(0x80, p[0][5:])) + len(client.Frame(packedText, p[1])) + len(client.Frame(packedText, p[2])) +
		len(wstest.RawFrame(packedText, false, packed[0])) + len(wstest.RawFrame(packedText, false, packed[1]))
	want := wsproxy.Compressed{Messages: 5, Bytes: uint64(sent), Unpacked: uint64(4 * len(long))}
	if got := r.proxy.Stats().Compressed; got != [2]wsproxy.Compressed{wsproxy.Client: want} {
		t.Errorf("got %+v, want %+v for clients and nothing for upstreams", got, want)
	}
}

// A deflate stream that ends in a message, or that is broken, concerns only this
// message, and the size is limited as it unpacks.
func TestCompressionOfStrangers(t *testing.T) {
	t.Parallel()
	hook := onMessage(func(*wsproxy.Message) error { return nil })
	long := strings.Repeat("x", 100_000)
	t.Run("final blocks", func(t *testing.T) {
		for range 3 { // other sessions may use the same decoder
			r := newRig(t, wstest.Memory, hook)
			client, upstream := r.open(offersAll, "")
			for _, p := range pack(true, "one", "two") {
				client.Send(client.Frame(packedText, p) + client.Frame(packedText, p+"garbage") + client.Frame(wstest.Text, "plain"))
			}
			for _, want := range []string{"one", "one", "plain", "two", "two", "plain"} {
				upstream.Want(wstest.Text, want)
			}
		}
	})
	for _, test := range []struct {
		name, packed string
		code         int
	}{
		{"cut", pack(false, "a text that is cut")[0][:9], 1007},
		{"corrupt", "\xff\xff\xff", 1007},
		{"bomb", pack(false, long)[0], 1009},
		{"endless, without content", strings.Repeat("\x00\x00\x00\xff\xff", 1000), 1009},
		{"not UTF-8", pack(false, "\xff")[0], 1007},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, wstest.Memory, hook, wsproxy.WithMaxMessageSize(wsproxy.Client, 1000))
			client, upstream := r.open(offersAll, "")
			client.SendLater(client.Frame(packedText, test.packed))
			upstream.WantClose(1001)
			upstream.SendClose(1001, "")
			client.WantClose(test.code)
		})
	}
}

// Real ends: coder/websocket in all its modes, through a proxy in all its modes.
func TestCompressionModes(t *testing.T) {
	t.Parallel()
	modes := []websocket.CompressionMode{websocket.CompressionDisabled, websocket.CompressionContextTakeover, websocket.CompressionNoContextTakeover}
	end := func(mode websocket.CompressionMode) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			c, err := websocket.Accept(w, r, &websocket.AcceptOptions{CompressionMode: mode, CompressionThreshold: 1, InsecureSkipVerify: true})
			if err != nil {
				t.Error(err)
				return
			}
			defer c.CloseNow()
			c.SetReadLimit(1 << 20)
			for {
				typ, b, err := c.Read(r.Context())
				if err != nil {
					return
				}
				c.Write(r.Context(), typ, b)
			}
		})
	}
	// The legs know nothing of each other: each combination of modes on one leg
	// meets a third of those on the other one.
	for i, mode := range modes {
		upstream := httptest.NewServer(end(mode))
		t.Cleanup(upstream.Close)
		for j, toUpstream := range modes {
			for k, toClient := range modes {
				p, err := wsproxy.New(upstream.URL, wsproxy.WithCompression(wsproxy.Client, toClient, 1), wsproxy.WithCompression(wsproxy.Upstream, toUpstream, 1),
					onMessage(func(*wsproxy.Message) error { return nil }))
				if err != nil {
					t.Fatal(err)
				}
				front := httptest.NewServer(p)
				t.Cleanup(front.Close)
				t.Cleanup(func() { p.Close() })
				theirs := modes[(i+j+k)%len(modes)]
				c, _, err := websocket.Dial(t.Context(), front.URL, &websocket.DialOptions{CompressionMode: theirs, CompressionThreshold: 1})
				if err != nil {
					t.Fatal(err)
				}
				c.SetReadLimit(1 << 20)
				for n, size := range []int{0, 1, 100, 40_000, 40_000, 300_000, 5} {
					want := strings.Repeat(fmt.Sprint(n, " some text "), size/10+1)[:size]
					if err := c.Write(t.Context(), websocket.MessageText, []byte(want)); err != nil {
						t.Fatal(err)
					}
					_, got, err := c.Read(t.Context())
					if err != nil || string(got) != want {
						t.Fatalf("%v to %v, %v to %v: %d bytes: got %d, %v", theirs, toClient, toUpstream, mode, size, len(got), err)
					}
				}
				c.Close(websocket.StatusNormalClosure, "")
			}
		}
	}
}
