package faults

import (
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/seed-ffb73231/wsproxy"
	"github.com/seed-ffb73231/wsproxy/internal/faults/peer"
	"github.com/seed-ffb73231/wsproxy/internal/wstest"
)

// Everything that can go wrong between the client's request and its 101. The
// client gets one answer, the log one record, and neither side keeps a
// connection.

// refused sends a handshake, followed by a request that must not be served, and
// expects the fixed phrase of the status.
func refused(r *peer.Rig, status int) {
	c := r.Connect()
	c.Send(peer.Request("/", "") + "GET /second HTTP/1.1\r\nHost: front.test\r\n\r\n")
	_, body := c.WantStatus(status)
	r.Phrase(status, body)
}

func TestRefusedConnection(t *testing.T) {
	t.Attr("case", "F1")
	peer.Each(t, func(t *testing.T, legs peer.Legs) {
		r := peer.New(t, peer.Config{Legs: legs})
		r.Back().Close()
		refused(r, 502)
		r.Failed(502, "refused")
	})
}

// soon is a handshake timeout for tests that wait for it.
const soon = 400 * time.Millisecond

// withinLimit runs f, which should take as long as the handshake timeout and
// not much longer, depending on how busy the machine is.
func withinLimit(t *testing.T, f func()) {
	t.Helper()
	began := time.Now()
	f()
	if d := time.Since(began); d < soon || d > soon+10*time.Second {
		t.Errorf("took %v, want the limit of %v", d, soon)
	}
}

// F3, F5: an upstream that accepts the connection and sends nothing, at each
// step.
func TestSilentUpstream(t *testing.T) {
	silences := []struct {
		name, cases string
		leg         wstest.Kind // "": either
		op          string
		upstream    func(w *wstest.Wire)
	}{
		{"doesn't read", "F3", wstest.TCP, "answer", func(*wstest.Wire) {}},
		{"reads the request", "F3", "", "answer", func(w *wstest.Wire) { w.ReadRequest() }},
		{"half a header", "F3", "", "answer", func(w *wstest.Wire) { w.ReadRequest(); w.Send("HTTP/1.1 101 Switching") }},
		{"no ServerHello", "F5", wstest.TLS, "tls", func(*wstest.Wire) {}},
		{"half a ServerHello", "F5", wstest.TLS, "tls", func(w *wstest.Wire) { io.WriteString(w.TCP(), "\x16\x03\x03\x00\x7a\x02\x00") }},
	}
	for _, s := range silences {
		t.Run(s.name, func(t *testing.T) {
			t.Attr("case", s.cases)
			peer.Each(t, func(t *testing.T, legs peer.Legs) {
				if s.leg != "" && s.leg != legs.Upstream {
					return
				}
				r := peer.New(t, peer.Config{Legs: legs, Options: []wsproxy.Option{wsproxy.WithHandshakeTimeout(soon)}})
				c := r.Connect()
				withinLimit(t, func() {
					c.Send(peer.Request("/", ""))
					u := r.Accept()
					s.upstream(u)
					_, body := c.WantStatus(504)
					r.Phrase(504, body)
					if s.op == "tls" {
						io.Copy(io.Discard, u.TCP())
					} else {
						u.WantGone()
					}
				})
				if m := r.Failed(504, "timeout"); m["op"] != s.op || m["side"] != "upstream" {
					t.Errorf("logged %v, want a timeout of the upstream's %s", m, s.op)
				}
				r.NoDial() // the request was sent: nobody may see it twice
			})
		})
	}
}

// F4: the connection is accepted and dropped before there is an answer.
func TestDroppedHandshake(t *testing.T) {
	t.Attr("case", "F4")
	drops := []struct {
		name string
		drop func(w *wstest.Wire)
		kind map[string]bool
	}{
		{"FIN at once", func(w *wstest.Wire) { w.TCP().Close() }, map[string]bool{"closed": true, "reset": true}},
		{"RST at once", (*wstest.Wire).Reset, map[string]bool{"reset": true, "closed": true}},
		{"FIN behind the request", func(w *wstest.Wire) { w.ReadRequest(); w.CloseWrite() }, map[string]bool{"closed": true}},
		{"RST behind the request", func(w *wstest.Wire) { w.ReadRequest(); w.Reset() }, map[string]bool{"reset": true}},
		{"FIN in the answer", func(w *wstest.Wire) { w.ReadRequest(); w.Send("HTTP/1.1 101 Sw"); w.CloseWrite() }, map[string]bool{"bad answer": true}},
		{"RST in the answer", func(w *wstest.Wire) { w.ReadRequest(); w.Send("HTTP/1.1 101 Sw"); w.Reset() }, map[string]bool{"reset": true}},
	}
	for _, d := range drops {
		t.Run(d.name, func(t *testing.T) {
			peer.Each(t, func(t *testing.T, legs peer.Legs) {
				r := peer.New(t, peer.Config{Legs: legs})
				c := r.Connect()
				c.Send(peer.Request("/", ""))
				u := r.Accept()
				d.drop(u)
				_, body := c.WantStatus(502)
				r.Phrase(502, body)
				if m := r.Failed(502, failedKind(r)); !d.kind[m["kind"].(string)] {
					t.Errorf("logged %v, want kind %v", m, d.kind)
				}
				r.NoDial()
			})
		})
	}
}

// failedKind returns the kind of the only handshake that has failed so far.
func failedKind(r *peer.Rig) (kind string) {
	wstest.Until(func() bool {
		for k, n := range r.Proxy.Stats().Failed {
			if n > 0 {
				kind = string(k)
			}
		}
		return kind != ""
	})
	return kind
}

// F6: an upstream whose certificate is not trusted gets no byte of the request,
// in TLS or plain, and is not retried.
func TestUntrustedCertificate(t *testing.T) {
	t.Attr("case", "F6 A73")
	for _, legs := range []peer.Legs{{Client: wstest.TCP, Upstream: wstest.TLS}, {Client: wstest.TLS, Upstream: wstest.TLS}} {
		t.Run(legs.Name(), func(t *testing.T) {
			cert := wstest.NewAuthority().Issue("upstream.test", "127.0.0.1", "10.221.2.2")
			r := peer.New(t, peer.Config{Legs: legs, Cert: &cert})
			c := r.Connect()
			c.Send(peer.Request("/", ""))
			u := r.Accept()
			if n, err := u.Read(make([]byte, 1)); n > 0 || err == nil || !strings.Contains(err.Error(), "bad certificate") {
				t.Errorf("the upstream got %d bytes and %v, want an alert", n, err)
			}
			_, body := c.WantStatus(502)
			r.Phrase(502, body)
			u.Close()
			if m := r.Failed(502, "unknown authority"); m["op"] != "tls" {
				t.Errorf("logged %v, want it to be about TLS", m)
			}
			r.NoDial()
		})
	}
}

// F7: an upstream's refusal is relayed without its hop-by-hop fields, and both
// connections are closed.
func TestRefusalRelayed(t *testing.T) {
	t.Attr("case", "F7")
	peer.Each(t, func(t *testing.T, legs peer.Legs) {
		r := peer.New(t, peer.Config{Legs: legs})
		c := r.Connect()
		c.Send(peer.Request("/", ""))
		u := r.Accept()
		u.ReadRequest()
		u.Send("HTTP/1.1 403 Forbidden\r\nContent-Length: 4\r\nX-Why: because\r\nKeep-Alive: timeout=9\r\nConnection: keep-alive, X-Hop\r\nX-Hop: 1\r\n\r\nno, ")
		h, body := c.WantStatus(403)
		if body != "no, " || h.Get("X-Why") != "because" || h.Get("X-Hop") != "" || h.Get("Keep-Alive") != "" {
			t.Errorf("got %v, body %q", h, body)
		}
		u.WantEnd()
		r.Failed(403, "refusal")
	})
}

// F8: a refusal without end is cut at 64 KiB, and the client can tell.
func TestEndlessRefusal(t *testing.T) {
	t.Attr("case", "F8")
	peer.Each(t, func(t *testing.T, legs peer.Legs) {
		r := peer.New(t, peer.Config{Legs: legs})
		c := r.Connect()
		c.Send(peer.Request("/", ""))
		u := r.Accept()
		u.ReadRequest()
		u.Send("HTTP/1.1 503 Busy\r\nTransfer-Encoding: chunked\r\n\r\n")
		written := make(chan int)
		go func() {
			chunk, n := "1000\r\n"+strings.Repeat("x", 0x1000)+"\r\n", 0
			for {
				m, err := io.WriteString(u, chunk)
				if n += m; err != nil {
					written <- n
					return
				}
			}
		}()
		resp, err := http.ReadResponse(c.In, nil)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		if resp.StatusCode != 503 || len(body) != 64<<10 || err == nil {
			t.Errorf("got %d, %d bytes of body, %v; want 503, 64 KiB and a broken end", resp.StatusCode, len(body), err)
		}
		c.WantEnd()
		<-written
		r.Failed(503, "refusal")
	})
}

// F9, F10: an invalid answer to a handshake opens no tunnel.
func TestWrongAnswers(t *testing.T) {
	answers := []struct{ name, cases, answer string }{
		{"garbage", "F9", "\x00\x01\x02\x03 not a protocol\r\n\r\n"},
		{"HTTP/0.9", "F9", "<html>hello</html>\r\n\r\n"},
		{"four digits", "F9", "HTTP/1.1 1010 Switching\r\n\r\n"},
		{"a TLS alert", "F9", "\x15\x03\x01\x00\x02\x02\x46\r\n\r\n"},
		{"a mail server", "F9", "220 mail.test ESMTP\r\n\r\n"},
		{"no end of header", "F9", "HTTP/1.1 101 Switching Protocols\r\n" + strings.Repeat("X-A: b\r\n", 20_000)},
		{"no Accept", "F10", "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"},
		{"wrong Accept", "F10", peer.Answer(wstest.Key, "")}, // of the client's key, which isn't ours
		{"right Accept and another", "F10", "ACCEPT" + "Sec-WebSocket-Accept: x\r\n\r\n"},
		{"with a body", "F10", "ACCEPT" + "Content-Length: 2\r\n\r\nhi"},
		{"in HTTP/1.0", "F10", "1.0"},
	}
	for _, a := range answers {
		t.Run(a.name, func(t *testing.T) {
			t.Attr("case", a.cases)
			peer.Each(t, func(t *testing.T, legs peer.Legs) {
				r := peer.New(t, peer.Config{Legs: legs})
				sockets := peer.Sockets()
				c := r.Connect()
				c.Send(peer.Request("/", "") + c.Frame(wstest.Text, "too early"))
				u := r.Accept()
				key := u.ReadRequest().Header.Get("Sec-WebSocket-Key")
				answer := a.answer
				if lines, ok := strings.CutPrefix(answer, "ACCEPT"); ok {
					answer = strings.TrimSuffix(peer.Answer(key, lines), "\r\n")
				} else if answer == "1.0" {
					answer = strings.Replace(peer.Answer(key, ""), "1.1", "1.0", 1)
				}
				go io.WriteString(u, answer)
				_, body := c.WantStatus(502)
				r.Phrase(502, body)
				u.WantEnd()
				kind := "bad answer"
				if a.name == "a TLS alert" {
					kind = "wants TLS"
				}
				r.Failed(502, kind)
				c.TCP().Close()
				u.TCP().Close()
				if !wstest.Until(func() bool { return peer.Sockets() <= sockets }) {
					t.Errorf("%d sockets, %d before", peer.Sockets(), sockets)
				}
			})
		})
	}
}

// F9: an upstream that does not speak TLS but should, and the reverse.
func TestPlainForTLS(t *testing.T) {
	t.Attr("case", "F9 A75")
	t.Run("no TLS", func(t *testing.T) {
		r := peer.New(t, peer.Config{Legs: peer.Legs{Client: wstest.TCP, Upstream: wstest.TLS}})
		c := r.Connect()
		c.Send(peer.Request("/", ""))
		u := r.AcceptRaw()
		u.Send("HTTP/1.1 400 Bad Request\r\n\r\n")
		_, body := c.WantStatus(502)
		r.Phrase(502, body)
		u.WantGone()
		r.Failed(502, "not TLS")
	})
	t.Run("TLS", func(t *testing.T) {
		r := peer.New(t, peer.Config{})
		c := r.Connect()
		c.Send(peer.Request("/", ""))
		u := r.AcceptRaw()
		if err := tls.Server(u.Conn, &tls.Config{Certificates: []tls.Certificate{wstest.NewAuthority().Issue("upstream.test", "127.0.0.1", "10.221.2.2")}}).Handshake(); err == nil {
			t.Error("a TLS handshake with plain HTTP went well")
		}
		u.TCP().CloseWrite()
		_, body := c.WantStatus(502)
		r.Phrase(502, body)
		if kind := failedKind(r); kind != "wants TLS" && kind != "closed" && kind != "reset" {
			t.Errorf("kind %q", kind)
		}
	})
}

// F11: a client that leaves before its 101 ends the upstream's handshake.
func TestClientLeavesEarly(t *testing.T) {
	t.Attr("case", "F11")
	steps := map[string]func(w *wstest.Wire){
		"in TLS":       nil,
		"in the wait":  func(w *wstest.Wire) { w.ReadRequest() },
		"in a refusal": func(w *wstest.Wire) { w.ReadRequest(); w.Send("HTTP/1.1 401 No\r\nContent-Length: 9\r\n\r\nab") },
	}
	for name, step := range steps {
		for _, reset := range []bool{false, true} {
			t.Run(name+map[bool]string{false: ", FIN", true: ", RST"}[reset], func(t *testing.T) {
				peer.Each(t, func(t *testing.T, legs peer.Legs) {
					if step == nil && legs.Upstream != wstest.TLS {
						return
					}
					r := peer.New(t, peer.Config{Legs: legs})
					c := r.Connect()
					c.Send(peer.Request("/", ""))
					u := r.Accept()
					if step != nil {
						step(u)
					}
					began := time.Now()
					if reset {
						c.Reset()
					} else {
						c.TCP().Close()
					}
					if step == nil {
						io.Copy(io.Discard, u.TCP())
					} else {
						u.WantEnd()
					}
					if d := time.Since(began); d > 8*time.Second {
						t.Errorf("the upstream's handshake went on for %v; want it ended at once", d)
					}
					if m := r.Failed(499, "client left"); m["side"] != "client" {
						t.Errorf("logged %v, want the client to be blamed", m)
					}
				})
			})
		}
	}
}

// F2: nobody answers the connection attempt: the listener's queue is full, and
// the kernel drops further SYNs.
func TestConnectionHangs(t *testing.T) {
	t.Attr("case", "F2")
	full := fullListener(t)
	for _, scheme := range []string{"http://", "https://"} {
		r := peer.New(t, peer.Config{Target: scheme + full, Options: []wsproxy.Option{wsproxy.WithHandshakeTimeout(soon)}})
		withinLimit(t, func() { refused(r, 504) })
		if m := r.Failed(504, "timeout"); m["op"] != "dial" {
			t.Errorf("logged %v, want a timeout of connecting", m)
		}
	}
}

// F20: a session that is lost right after its 101 is not retried elsewhere.
func TestNoReplay(t *testing.T) {
	t.Attr("case", "F20")
	peer.Each(t, func(t *testing.T, legs peer.Legs) {
		r := peer.New(t, peer.Config{Legs: legs})
		c, u := r.Open()
		c.SendText("only once")
		u.Want(wstest.Text, "only once")
		u.Reset()
		c.WantCloseAfterPings(1011)
		c.SendClose(1011, "")
		c.WantEnd()
		r.Ended(wsproxy.Upstream, wsproxy.ReasonLost)
		r.NoDial()
	})
}

// An upstream that refused a connection may be available the next moment: if it
// is the only one, it is tried every time.
func TestBackAgain(t *testing.T) {
	t.Attr("case", "F1")
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := ln.Addr().String()
	ln.Close()
	r := peer.New(t, peer.Config{Target: "http://" + address})
	for range 3 {
		refused(r, 502)
	}
	if ln, err = net.Listen("tcp", address); err != nil {
		t.Skipf("the port was taken meanwhile: %v", err)
	}
	defer ln.Close()
	c := r.Connect()
	c.Send(peer.Request("/", ""))
	accepted, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	u := wstest.NewWire(t, accepted, false)
	peer.Accept(u, "")
	c.WantStatus(101)
	u.SendText("here")
	c.Want(wstest.Text, "here")
	c.Reset()
	u.WantCloseAfterPings(1001)
	u.Close()
	r.Ended(wsproxy.Client, wsproxy.ReasonLost)
}
