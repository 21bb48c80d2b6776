package wsproxy_test

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/seed-ffb73231/wsproxy"
	"github.com/seed-ffb73231/wsproxy/internal/wstest"
)

// A session carries messages both ways, relays the closing handshake, and logs
// one record.
func TestSession(t *testing.T) {
	t.Parallel()
	wstest.EachKind(t, func(t *testing.T, k wstest.Kind) {
		for _, detach := range []bool{false, true} {
			var options []wsproxy.Option
			if detach {
				options = append(options, wsproxy.WithDetach())
			}
			r := newRig(t, k, options...)
			client, upstream := r.open("", "")
			if detach {
				r.wantReturned() // before the session is over
			}
			big := strings.Repeat("0123456789abcdef", 20_000)
			for _, s := range []string{"", "hello", big, "x"} {
				client.SendLater(client.Frame(wstest.Text, s))
				upstream.Want(wstest.Text, s)
				upstream.SendLater(upstream.Frame(wstest.Text, s))
				client.Want(wstest.Text, s)
			}
			first, second, by := client, upstream, "client"
			if detach {
				first, second, by = upstream, client, "upstream"
			}
			first.SendClose(4000, "bye")
			second.Want(wstest.Close, wstest.CloseBody(4000, "bye"))
			second.SendClose(4000, "bye")
			first.Want(wstest.Close, wstest.CloseBody(4000, "bye"))
			client.WantEnd()
			upstream.Close()
			m := r.wantEnded(by, "closed")
			for _, key := range []string{"from_client.messages", "from_upstream.messages"} {
				if m[key] != uint64(4) {
					t.Errorf("%s: got %v, want 4", key, m[key])
				}
			}
			if m["code"] != int64(4000) {
				t.Errorf("code: got %v, want 4000", m["code"])
			}
		}
	})
}

// F26: a client that has answered a Ping and then vanishes is detected by an
// unanswered Ping.
func TestPingTimeout(t *testing.T) {
	t.Attr("case", "F26")
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, wstest.Memory)
		client, upstream := r.open("", "")
		answerOnce(t, client, upstream)
		began := time.Now()
		k := watched(upstream)
		f, err := client.ReadFrame()
		if err != nil || f.First != wstest.Ping {
			t.Fatalf("client: got %v %v, want a Ping", f, err)
		}
		if d := time.Since(began); d < 22*time.Second || d > 25*time.Second {
			t.Errorf("Ping after %v, want 22.5 s to 25 s", d)
		}
		client.WantEnd()
		at := time.Since(began)
		if at < 57*time.Second || at > 60*time.Second {
			t.Errorf("client given up after %v, want 35 s after the Ping", at)
		}
		k.wantClosed(t, 1001, at)
		r.wantEnded("client", "lost")
	})
}
