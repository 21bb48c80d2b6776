package wsproxy_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/seed-ffb73231/wsproxy"
	"github.com/seed-ffb73231/wsproxy/internal/wstest"
)

// waysToLeave are the ways in which an upstream leaves so that its session resumes.
var waysToLeave = []struct {
	name  string
	leave func(u *wstest.Wire)
}{
	{"FIN", func(u *wstest.Wire) { u.Below().Close() }},
	{"reset", func(u *wstest.Wire) { u.Reset() }},
	{"in a message", func(u *wstest.Wire) { u.Send("\x81\x7ehalf"); u.Below().Close() }},
	{"in a fragmented message", func(u *wstest.Wire) { u.Send("\x01\x04half"); u.Below().Close() }},
	{"1001", func(u *wstest.Wire) { u.SendClose(1001, "bye"); u.WantClose(1001); u.Conn.Close() }},
	{"1012", func(u *wstest.Wire) { u.SendClose(1012, "restart"); u.WantClose(1012); u.Conn.Close() }},
	{"1013", func(u *wstest.Wire) { u.SendClose(1013, ""); u.WantClose(1013); u.WantEnd() }},
}

func resuming(r wsproxy.Resume, more ...wsproxy.Option) []wsproxy.Option {
	return append(more, wsproxy.WithResume(r))
}

// The client notices nothing when its upstream leaves and another one is there, and
// neither side misses a message, or gets a part of one.
func TestResume(t *testing.T) {
	t.Parallel()
	for _, way := range waysToLeave {
		t.Run(way.name, func(t *testing.T) {
			t.Parallel()
			eachSession(t, func(t *testing.T, c carrier) {
				r := c.rig(t, resuming(wsproxy.Resume{}, wsproxy.WithCloseTimeout(time.Second))...)
				client, old := r.open("Sec-WebSocket-Protocol: chat, other\r\n", "Sec-WebSocket-Protocol: chat\r\n")
				client.SendText("one")
				old.Want(wstest.Text, "one")
				old.SendText("two")
				client.Want(wstest.Text, "two")
				way.leave(old)

				next := r.upstream()
				client.SendText("three") // before there is an answer
				req := next.Answer("Sec-WebSocket-Protocol: chat\r\nSet-Cookie: other=" + wstest.Secret + "\r\n")
				if req.URL.String() != "/?token="+wstest.Secret || req.Header.Get("Authorization") != "Bearer "+wstest.Secret || req.Header.Get("Sec-WebSocket-Protocol") != "chat, other" {
					t.Errorf("the next upstream was asked for %v with %v, want what the client asked for", req.URL, req.Header)
				}
				next.Want(wstest.Text, "three")
				next.SendText("four")
				client.Want(wstest.Text, "four")
				client.Send(client.Frame(wstest.Ping, "ping"))
				next.Want(wstest.Ping, "ping")

				// It ends as any session does.
				client.SendClose(1000, "done")
				next.WantClose(1000)
				next.SendClose(1000, "done")
				client.WantClose(1000)
				client.WantEnd()
				next.Conn.Close()
				r.wantOver()
				m := r.logs.WaitFor(t, "wsproxy: session resumed", 0)
				if fmt.Sprint(m["attempts"]) != "1" || m["from"] != m["upstream"] {
					t.Errorf("logged %v, want one attempt", m)
				}
				m = r.logs.WaitFor(t, "wsproxy: session ended", 0)
				if m["by"] != "client" || m["resumes"] == nil {
					t.Errorf("logged %v, want an end by the client after one resume", m)
				}
				if st := r.proxy.Stats(); st.Resumes != 1 || st.ResumesFailed != 0 || st.Open != 0 {
					t.Errorf("%d resumes, %d failed, %d open; want one, and nothing else", st.Resumes, st.ResumesFailed, st.Open)
				}
			})
		})
	}
}
