package wsproxy_test

import (
	"io"
	"net"
	"net/http"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/seed-ffb73231/wsproxy"
	"github.com/seed-ffb73231/wsproxy/internal/wstest"
)

// A58: a message or frame that exceeds its limit ends the session as soon as a
// header shows it. Everything up to the limit is relayed, and control frames
// always are.
func TestMaxMessageSize(t *testing.T) {
	t.Attr("case", "A58")
	t.Parallel()
	eachWay(t, func(t *testing.T, c carrier, w way) {
		side := wsproxy.Upstream
		if w.masked() {
			side = wsproxy.Client
		}
		for _, row := range []struct {
			name   string
			option wsproxy.Option
			fine   []wstest.Frame
			bad    wstest.Frame
		}{
			{"message", wsproxy.WithMaxMessageSize(side, 1000), []wstest.Frame{{First: wstest.Text, Payload: strings.Repeat("a", 1000)}, {First: wstest.Text, Payload: ""}}, wstest.Frame{First: wstest.Text, Payload: strings.Repeat("a", 1001)}},
			{"fragments", wsproxy.WithMaxMessageSize(side, 1000), []wstest.Frame{
				{First: 0x01, Payload: strings.Repeat("a", 600)}, {First: wstest.Ping, Payload: strings.Repeat("p", 125)}, {First: 0x00, Payload: ""}, {First: 0x80, Payload: strings.Repeat("a", 400)},
				{First: 0x02, Payload: strings.Repeat("a", 999)}, {First: 0x00, Payload: "a"}, {First: wstest.Ping, Payload: "p"},
			}, wstest.Frame{First: 0x80, Payload: "b"}},
			{"frame", wsproxy.WithMaxFrameSize(side, 100), []wstest.Frame{
				{First: 0x01, Payload: strings.Repeat("a", 100)}, {First: 0x00, Payload: strings.Repeat("a", 100)}, {First: wstest.Ping, Payload: strings.Repeat("p", 125)}, {First: 0x80, Payload: strings.Repeat("a", 100)},
			}, wstest.Frame{First: wstest.Binary, Payload: strings.Repeat("a", 101)}},
			{"tiny", wsproxy.WithMaxMessageSize(side, 1), []wstest.Frame{{First: wstest.Text, Payload: "a"}, {First: wstest.Text, Payload: ""}}, wstest.Frame{First: wstest.Text, Payload: "aa"}},
		} {
			inCase(t, row.name, func() {
				r := c.rig(t, row.option)
				from, to := w.open(r, "", "")
				var fine strings.Builder
				for _, f := range row.fine {
					fine.WriteString(from.Frame(f.First, f.Payload))
				}
				from.Send(fine.String())
				c.want(to, fine.String())
				// The other direction has no limit.
				long := strings.Repeat("l", 5000)
				to.SendText(long)
				from.Want(wstest.Text, long)

				raw := from.Frame(row.bad.First, row.bad.Payload)
				if row.name == "message" { // only the header
					raw = raw[:10]
				}
				from.Send(raw)
				to.Want(wstest.Close, wstest.CloseBody(1001, "message too big"))
				to.SendClose(1001, "")
				from.Want(wstest.Close, wstest.CloseBody(1009, "message too big"))
				from.Close()
				to.Close()
				m := r.wantEnded(side.String(), "limit")
				if m["code"] != int64(1009) {
					t.Errorf("logged %v, want code 1009", m)
				}
			})
		}
	})
}

// A46, A58: a frame of 2^63-1 bytes, and a message without end, are streamed up
// to the limit, not buffered.
func TestMaxMessageHuge(t *testing.T) {
	t.Attr("case", "A46 A58")
	t.Parallel()
	eachWay(t, func(t *testing.T, c carrier, w way) {
		r := c.rig(t, wsproxy.WithMaxMessageSize(wsproxy.Client, 1<<20), wsproxy.WithMaxMessageSize(wsproxy.Upstream, 1<<20))
		from, to := w.open(r, "", "")
		mask := ""
		length := "\x7f"
		if w.masked() {
			mask, length = "\x01\x02\x03\x04", "\xff"
		}
		from.Send("\x82" + length + "\x7f\xff\xff\xff\xff\xff\xff\xff" + mask + "some of it")
		to.WantClose(1001)
		to.SendClose(1001, "")
		from.WantClose(1009)
	})
}

// Bytes above the rate are read later: the sender is slowed down, nothing is
// lost, and neither its Pings nor its silence count against it.
func TestRateSlowsDown(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name     string
		rate     wsproxy.RateLimit
		messages int
		size     int
		atLeast  time.Duration
		atMost   time.Duration
	}{
		{"messages", wsproxy.RateLimit{Messages: 10}, 110, 10, 9900 * time.Millisecond, 10*time.Second + time.Millisecond},
		{"messages, burst", wsproxy.RateLimit{Messages: 10, Burst: 10 * time.Second}, 100, 10, 0, 0},
		{"slower than one a second", wsproxy.RateLimit{Messages: 0.01}, 3, 10, 200 * time.Second, 201 * time.Second},
		{"bytes", wsproxy.RateLimit{Bytes: 10_000}, 110, 992, 9 * time.Second, 11 * time.Second},
		{"both", wsproxy.RateLimit{Messages: 100, Bytes: 10_000}, 110, 992, 9 * time.Second, 11 * time.Second},
		{"a message over the burst", wsproxy.RateLimit{Bytes: 10_000}, 2, 100_000, 9 * time.Second, 20 * time.Second},
	} {
		t.Run(row.name, func(t *testing.T) {
			eachWayInTime(t, func(t *testing.T, c carrier, w way) {
				r := c.rig(t, wsproxy.WithPing(0, 0), wsproxy.WithRateLimit(w.side(), row.rate))
				from, to := w.open(r, "", "")
				began := time.Now()
				from.SendLater(strings.Repeat(from.Frame(wstest.Text, strings.Repeat("m", row.size)), row.messages))
				for range row.messages {
					to.Want(wstest.Text, strings.Repeat("m", row.size))
				}
				if d := time.Since(began); d < row.atLeast || d > row.atMost {
					t.Errorf("took %v, want %v to %v", d, row.atLeast, row.atMost)
				}
				// A session ends when it is told to, however long the wait
				// would be.
				began = time.Now()
				to.SendClose(1000, "")
				from.WantClose(1000)
				from.SendClose(1000, "")
				to.Close()
				from.WantEnd()
				r.wantOver()
				if d := time.Since(began); d > 5*time.Second {
					t.Errorf("the end took %v", d)
				}
			})
		})
	}
}

// A client that has sent more than the limit allows and then leaves does not
// keep its session, nor its place, until the limit would have let everything
// through.
func TestLeavesWhileSlowed(t *testing.T) {
	t.Attr("case", "A83")
	t.Parallel()
	for name, leave := range map[string]func(c *wstest.Wire){
		"Close and FIN": func(c *wstest.Wire) { c.SendClose(1000, "bye"); c.FIN() },
		"FIN":           func(c *wstest.Wire) { c.FIN() },
		"reset":         func(c *wstest.Wire) { c.Reset() },
		// Its FIN is behind the bytes that fill its buffer and ours. Its
		// machine resets the connection when it is pinged.
		"killed": func(c *wstest.Wire) {
			c.SetWriteDeadline(time.Now().Add(500 * time.Millisecond))
			for b := []byte(strings.Repeat(c.Frame(wstest.Text, strings.Repeat("m", 1000)), 100)); ; {
				if _, err := c.Write(b); err != nil {
					break
				}
			}
			c.Below().Close()
		},
	} {
		for _, k := range []wstest.Kind{wstest.TCP, wstest.Unix, wstest.TLS} {
			if k == wstest.Unix && name == "reset" { // a unix socket knows no reset
				continue
			}
			t.Run(name+"/"+string(k), func(t *testing.T) {
				t.Parallel()
				r := newRig(t, k, wsproxy.WithPing(200*time.Millisecond, 10*time.Second), wsproxy.WithCloseTimeout(time.Second),
					wsproxy.WithMaxSessionsPerClient(1, func(*http.Request) string { return "one" }),
					wsproxy.WithRateLimit(wsproxy.Client, wsproxy.RateLimit{Messages: 1}))
				client, upstream := r.open("", "")
				client.Send(strings.Repeat(client.Frame(wstest.Text, "m"), 200))
				upstream.Want(wstest.Text, "m")
				watched(upstream)
				leave(client)
				began := time.Now()
				r.wantReturned()
				if d := time.Since(began); d > 8*time.Second {
					t.Errorf("its session ended %v after that", d)
				}
				if m := r.wantEnded("client", "lost"); m["from_client.messages"].(uint64) > 10 {
					t.Errorf("logged %v: the limit fell", m)
				}
				r.open("", "") // the place is free again
			})
		}
	}
}

// The limit is also enforced where the proxy learns less about a client that
// leaves: over Multipath TCP, which a client may choose, over connections that
// a listener has wrapped, and where only writes to the client fail.
func TestLeavesUnseen(t *testing.T) {
	t.Attr("case", "A83")
	t.Parallel()
	plain := func(ln net.Listener) net.Listener { return ln }
	wrap := func(ln net.Listener) net.Listener { return wrapping{ln} }
	multipath := new(net.Dialer)
	multipath.SetMultipathTCP(true)
	for _, row := range []struct {
		name  string
		kind  wstest.Kind
		front func(net.Listener) net.Listener
		dial  *net.Dialer
		leave func(c *wstest.Wire)
		linux bool
	}{
		{"Multipath TCP, FIN", wstest.TCP, plain, multipath, (*wstest.Wire).FIN, true},
		{"Multipath TCP, closed", wstest.TCP, plain, multipath, func(c *wstest.Wire) { c.Close() }, true},
		{"Multipath TCP, reset", wstest.TCP, plain, multipath, (*wstest.Wire).Reset, true},
		{"wrapped, closed", wstest.TCP, wrap, new(net.Dialer), func(c *wstest.Wire) { c.Close() }, false},
		{"wrapped, reset", wstest.TCP, wrap, new(net.Dialer), (*wstest.Wire).Reset, false},
		{"takes nothing any more", wstest.Unix, plain, new(net.Dialer), func(c *wstest.Wire) { c.Conn.(*net.UnixConn).CloseRead() }, true},
	} {
		t.Run(row.name, func(t *testing.T) {
			if row.linux && runtime.GOOS != "linux" {
				t.Skip("Linux only")
			}
			t.Parallel()
			r := newRig(t, row.kind, wsproxy.WithPing(200*time.Millisecond, 10*time.Second), wsproxy.WithCloseTimeout(time.Second),
				wsproxy.WithRateLimit(wsproxy.Client, wsproxy.RateLimit{Messages: 1}))
			front := wstest.Listen(t, row.kind)
			r.front = row.front(front)
			r.serve(r.proxy)
			c, err := row.dial.Dial(front.Addr().Network(), front.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			client := wstest.NewWire(t, c, true)
			client.Send(wstest.Request("/", ""))
			upstream := r.upstream()
			upstream.Answer("")
			if resp := client.ReadResponse(); resp.StatusCode != 101 {
				t.Fatalf("answered %d, want 101", resp.StatusCode)
			}
			client.Send(strings.Repeat(client.Frame(wstest.Text, "m"), 200))
			upstream.Want(wstest.Text, "m")
			watched(upstream)
			row.leave(client)
			began := time.Now()
			r.wantReturned()
			if d := time.Since(began); d > 8*time.Second {
				t.Errorf("its session ended %v after that", d)
			}
			if m := r.wantEnded("client", "lost"); m["from_client.messages"].(uint64) > 10 {
				t.Errorf("logged %v: the limit fell", m)
			}
		})
	}
}

// A listener whose connections are not of the net package.
type wrapping struct{ net.Listener }

func (l wrapping) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return struct{ net.Conn }{c}, nil
}

// A rate of messages also limits the frames between them: Pings, Pongs,
// fragments, and repeated Pongs to the proxy's own Pings.
func TestRateOfFrames(t *testing.T) {
	t.Attr("case", "A82")
	t.Parallel()
	for _, row := range []struct {
		name          string
		first         byte
		payload       string
		rate          wsproxy.RateLimit
		frames        int
		atLeast, most time.Duration
	}{
		{"Pings", wstest.Ping, "p", wsproxy.RateLimit{Messages: 10}, 1000, 9 * time.Second, 10 * time.Second},
		{"Pongs", wstest.Pong, "p", wsproxy.RateLimit{Messages: 10}, 1000, 9 * time.Second, 10 * time.Second},
		{"fragments", 0x00, "f", wsproxy.RateLimit{Messages: 10}, 1000, 9 * time.Second, 10 * time.Second},
		{"frames of their own", 0x00, "", wsproxy.RateLimit{Messages: 10, Frames: 20}, 60, 2 * time.Second, 3 * time.Second},
		{"frames alone", wstest.Ping, "", wsproxy.RateLimit{Frames: 20}, 60, 2 * time.Second, 3 * time.Second},
		{"no limit of messages", wstest.Ping, "", wsproxy.RateLimit{Bytes: 1e6}, 1000, 0, time.Second},
	} {
		t.Run(row.name, func(t *testing.T) {
			eachWayInTime(t, func(t *testing.T, c carrier, w way) {
				r := c.rig(t, wsproxy.WithPing(0, 0), wsproxy.WithRateLimit(w.side(), row.rate))
				from, to := w.open(r, "", "")
				began := time.Now()
				stream := from.Frame(0x01, "begins") + strings.Repeat(from.Frame(row.first, row.payload), row.frames) + from.Frame(0x80, "ends")
				from.SendLater(stream)
				c.want(to, stream)
				if d := time.Since(began); d < row.atLeast || d > row.most {
					t.Errorf("took %v, want %v to %v", d, row.atLeast, row.most)
				}
				r.proxy.Close()
				r.wantOver()
			})
		})
	}
}

// The answer to a Ping of the proxy does not count towards the limit; if it is
// repeated, it does.
func TestRateOfPongs(t *testing.T) {
	t.Attr("case", "A82")
	t.Parallel()
	eachWayInTime(t, func(t *testing.T, c carrier, w way) {
		r := c.rig(t, wsproxy.WithPing(time.Second, 2*time.Second),
			wsproxy.WithRateLimit(w.side(), wsproxy.RateLimit{Messages: 1.0 / 60, Close: true}))
		from, to := w.open(r, "", "")
		watched(to)
		var last wstest.Frame
		for range 50 {
			if last, _ = from.ReadFrame(); last.First != wstest.Ping {
				t.Fatalf("got %v, want a Ping", last)
			}
			from.Send(from.Frame(wstest.Pong, last.Payload))
		}
		from.Send(strings.Repeat(from.Frame(wstest.Pong, last.Payload), 20))
		from.WantClose(1008)
		r.proxy.Close()
		r.wantOver()
	})
}

// A limit on the bytes of messages also limits empty fragments, but a message
// may end with one.
func TestMaxMessageSizeCountsEmptyFragments(t *testing.T) {
	t.Attr("case", "A82")
	t.Parallel()
	eachWayInTime(t, func(t *testing.T, c carrier, w way) {
		r := c.rig(t, wsproxy.WithMaxMessageSize(w.side(), 10))
		from, to := w.open(r, "", "")
		for range 3 {
			stream := from.Frame(0x01, "") + from.Frame(0x00, "1234567890") + from.Frame(0x80, "")
			from.Send(stream)
			c.want(to, stream)
		}
		from.Send(from.Frame(0x01, "x") + strings.Repeat(from.Frame(0x00, ""), 11))
		if !c.whole {
			to.WantBytes(from.Frame(0x01, "x") + strings.Repeat(from.Frame(0x00, ""), 10))
		}
		from.WantClose(1009)
		r.proxy.Close()
		r.wantOver()
	})
}

// A53: with Close set, the session ends with Close 1008.
func TestRateCloses(t *testing.T) {
	t.Parallel()
	eachWayInTime(t, func(t *testing.T, c carrier, w way) {
		side := w.side()
		r := c.rig(t, wsproxy.WithRateLimit(side, wsproxy.RateLimit{Messages: 5, Close: true}))
		from, to := w.open(r, "", "")
		for range 20 { // at the allowed rate
			from.SendText("m")
			to.Want(wstest.Text, "m")
			wstest.Elapse(200 * time.Millisecond)
		}
		wstest.Elapse(2 * time.Second)
		for range 5 { // one second's worth at once
			from.SendText("m")
			to.Want(wstest.Text, "m")
		}
		from.SendText("one too many")
		to.Want(wstest.Close, wstest.CloseBody(1001, "too many messages"))
		to.SendClose(1001, "")
		from.Want(wstest.Close, wstest.CloseBody(1008, "too many messages"))
		from.Close()
		to.Close()
		if m := r.wantEnded(side.String(), "limit"); m["code"] != int64(1008) {
			t.Errorf("logged %v, want code 1008", m)
		}
	})
}

// A throttled peer does not count as lost, and the limit does not delay
// Session.Close.
func TestRateAndKeepalive(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, wstest.Memory, wsproxy.WithRateLimit(wsproxy.Client, wsproxy.RateLimit{Messages: 1.0 / 600}))
		client, upstream := r.open("", "")
		watched(upstream)
		client.SendText("1")
		synctest.Wait()
		client.SendText("2")
		synctest.Wait()
		wstest.Elapse(5 * time.Minute) // nothing is read from the client, not even its Pongs
		s := r.the()
		if err := s.Err(); err != nil {
			t.Fatalf("the session has ended: %v", err)
		}
		began := time.Now()
		s.Close(1008, "")
		go func() {
			for {
				f, err := client.ReadFrame()
				if err != nil {
					return
				}
				if f.First == wstest.Close {
					client.SendClose(1008, "")
				}
			}
		}()
		wstest.Receive(t, s.Done())
		if d := time.Since(began); d > 5*time.Second {
			t.Errorf("the end took %v", d)
		}
	})
}

// If the session ends while a side is throttled, no frame is lost.
func TestRateEndsMidway(t *testing.T) {
	t.Parallel()
	for _, k := range []wstest.Kind{wstest.Memory, wstest.TCP} {
		r := newRig(t, k, wsproxy.WithRateLimit(wsproxy.Client, wsproxy.RateLimit{Messages: 1}))
		client, upstream := r.open("", "")
		client.SendText("1")
		upstream.Want(wstest.Text, "1")
		client.SendText("2") // the next one would have to wait
		upstream.Want(wstest.Text, "2")
		upstream.SendClose(1000, "")
		client.WantClose(1000)
		payload := upstream.Frame(wstest.Binary, "not a frame") // in the middle of a message
		client.Send(client.Frame(wstest.Text, "3") + client.Frame(wstest.Binary, payload+payload) + client.Frame(wstest.Close, wstest.CloseBody(1000, "")))
		upstream.Want(wstest.Text, "3")
		upstream.Want(wstest.Binary, payload+payload)
		upstream.WantClose(1000)
		upstream.Close()
		r.wantReturned()
	}
}

// What the limit holds back does not count as silence of the application.
func TestRateAndIdle(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, wstest.Memory, wsproxy.WithPing(0, 0), wsproxy.WithIdleTimeout(time.Minute),
			wsproxy.WithRateLimit(wsproxy.Client, wsproxy.RateLimit{Messages: 1.0 / 90}))
		client, upstream := r.open("", "")
		client.SendLater(strings.Repeat(client.Frame(wstest.Text, "m"), 5))
		for range 5 {
			upstream.Want(wstest.Text, "m")
		}
		began := time.Now()
		upstream.WantClose(1001) // now the session is idle
		if d := time.Since(began); d < time.Minute || d > 3*time.Minute {
			t.Errorf("idle after %v, want it a minute after the last wait", d)
		}
	})
}

// The session of a client whose connection is reset while it is slowed down
// does not last until everything that it had sent is relayed.
func TestRateAndReset(t *testing.T) {
	t.Parallel()
	if runtime.GOOS != "linux" {
		t.Skip("only Linux tells of a reset behind bytes")
	}
	r := newRig(t, wstest.TCP, wsproxy.WithWriteTimeout(2*time.Second), wsproxy.WithCloseTimeout(time.Second),
		wsproxy.WithRateLimit(wsproxy.Client, wsproxy.RateLimit{Messages: 1}))
	client, upstream := r.open("", "")
	client.Send(strings.Repeat(client.Frame(wstest.Text, "m"), 1000)) // for a quarter of an hour
	upstream.Want(wstest.Text, "m")
	client.Reset()
	r.wantEnded("client", "lost")
	upstream.Close()
}

// Pongs that the proxy does not relay count as bytes, too, and only one of them
// answers a Ping.
func TestRateAndPongs(t *testing.T) {
	t.Parallel()
	eachSessionInTime(t, func(t *testing.T, c carrier) {
		r := c.rig(t, wsproxy.WithPing(50*time.Millisecond, wstest.Timeout), wsproxy.WithCloseTimeout(time.Second),
			wsproxy.WithRateLimit(wsproxy.Client, wsproxy.RateLimit{Bytes: 1000, Close: true}))
		client, upstream := r.open("", "")
		f, err := client.ReadFrame()
		if err != nil || f.First != wstest.Ping {
			t.Fatalf("got frame %#x, %v, want a Ping", f.First, err)
		}
		answer := client.Frame(wstest.Pong, f.Payload)
		for range 10 {
			client.Send(answer)
		}
		client.SendText("x")
		for {
			if f, err := upstream.ReadFrame(); err != nil || f.First == wstest.Text {
				break
			}
		}
		var n uint64
		for _, c := range r.proxy.Stats().RoundTrips[wsproxy.Client].Counts {
			n += c
		}
		if n != 1 {
			t.Errorf("%d round trips of one Ping", n)
		}
		go io.WriteString(client, strings.Repeat(answer, 1000))
		r.wantEnded("client", "limit")
	})
}

// Long frames between two TCP sockets cannot bypass a limit.
func TestRateLongFrame(t *testing.T) {
	t.Parallel()
	r := newRig(t, wstest.TCP, wsproxy.WithRateLimit(wsproxy.Upstream, wsproxy.RateLimit{Bytes: 4 << 20, Burst: 100 * time.Millisecond}))
	client, upstream := r.open("", "")
	began := time.Now()
	long := strings.Repeat("x", 4<<20)
	upstream.SendLater(upstream.Frame(wstest.Binary, long))
	client.Want(wstest.Binary, long)
	if d := time.Since(began); d < 500*time.Millisecond {
		t.Errorf("4 MiB at 4 MiB/s took %v", d)
	}
}
