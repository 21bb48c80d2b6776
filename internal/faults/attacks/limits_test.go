package attacks

import (
	"io"
	"strings"
	"testing"
	"time"

	"github.com/seed-ffb73231/wsproxy"
	"github.com/seed-ffb73231/wsproxy/internal/wstest"
)

// A67, A69: neither slow bytes nor Pings keep a session open beyond its limits:
// its age counts whatever arrives, and only data frames reset its idle time.
func TestKeptAlive(t *testing.T) {
	eachSide(t, func(t *testing.T, secure bool, s side) {
		for _, row := range []struct {
			cases, name, drip string
			option            wsproxy.Option
			want              string
		}{
			{"A67", "frames in drips", frame(s.who, wstest.Text, "x"), wsproxy.WithMaxAge(500 * time.Millisecond), "proxy: age 1001"},
			{"A67", "Pings in drips", frame(s.who, wstest.Ping, "x"), wsproxy.WithMaxAge(500 * time.Millisecond), "proxy: age 1001"},
			{"A69", "Pings", frame(s.who, wstest.Ping, "x"), wsproxy.WithIdleTimeout(500 * time.Millisecond), "proxy: idle 1001"},
			{"A69", "Pongs", frame(s.who, wstest.Pong, "twelve bytes"), wsproxy.WithIdleTimeout(500 * time.Millisecond), "proxy: idle 1001"},
		} {
			t.Run(row.name, func(t *testing.T) {
				t.Attr("case", row.cases)
				r := newRig(t, secure, row.option, wsproxy.WithCloseTimeout(100*time.Millisecond))
				from, to := r.between(s, "", "")
				go io.Copy(io.Discard, to.In)
				go io.Copy(io.Discard, from.In)
				began := time.Now()
				for i := 0; ; i++ {
					if _, err := io.WriteString(from, row.drip[i%len(row.drip):][:1]); err != nil {
						break
					}
					if time.Since(began) > wstest.Timeout/2 {
						t.Fatal("the session still lasts")
					}
					<-time.After(time.Millisecond)
				}
				if got := r.ended(0); got != row.want {
					t.Errorf("logged %q, want %q", got, row.want)
				}
			})
		}
	})
}

// A58: a message or a frame without end ends the session as soon as a header
// shows that it exceeds its limit, with Close 1009 to its sender.
func TestEndless(t *testing.T) {
	t.Attr("case", "A58")
	eachSide(t, func(t *testing.T, secure bool, s side) {
		of := wsproxy.Client
		if s.who == "upstream" {
			of = wsproxy.Upstream
		}
		for name, f := range map[string]struct {
			first, more string
			option      wsproxy.Option
		}{
			"message": {frame(s.who, 0x01, "x"), frame(s.who, 0x00, strings.Repeat("x", 999)), wsproxy.WithMaxMessageSize(of, 10_000)},
			"frame":   {frame(s.who, 0x01, "x"), frame(s.who, 0x00, strings.Repeat("x", 1001)), wsproxy.WithMaxFrameSize(of, 1000)},
		} {
			t.Run(name, func(t *testing.T) {
				r := newRig(t, secure, f.option)
				from, to := r.between(s, "", "")
				go io.WriteString(from, f.first+strings.Repeat(f.more, 20))
				to.WantBytes(f.first)
				for name == "message" {
					if b, err := to.In.Peek(1); err != nil || b[0] == wstest.Close {
						break
					}
					to.WantBytes(f.more)
				}
				to.WantClose(1001)
				to.Close()
				from.Close()
				if got := r.ended(0); got != s.who+": limit 1009" {
					t.Errorf("logged %q, want the %s at its limit", got, s.who)
				}
			})
		}
	})
}

// A68: above the limits nothing is dialled, and refused clients take no places.
func TestTooMany(t *testing.T) {
	eachLeg(t, func(t *testing.T, secure bool) {
		for _, row := range []struct {
			name   string
			option wsproxy.Option
			want   string
		}{
			{"sessions", wsproxy.WithMaxSessions(2), refused(503, "")},
			{"sessions of one client", wsproxy.WithMaxSessionsPerClient(2, nil), refused(429, "")},
		} {
			t.Run(row.name, func(t *testing.T) {
				t.Attr("case", "A68")
				r := newRig(t, secure, row.option)
				for range 3 {
					c1, u1 := r.open("", "")
					c2, u2 := r.open("", "")
					for range 20 {
						c := r.client()
						c.Send(handshake("") + second)
						if got := undated(c.Rest()); got != row.want {
							t.Fatalf("client: got\n%q, want\n%q", got, row.want)
						}
					}
					closed(sides[0], c1, u1)
					closed(sides[1], u2, c2)
					await(t, "both sessions to end", func() bool { return r.proxy.Stats().Open == 0 })
				}
				// Refusals of any kind and number do not count.
				for _, bad := range refusals[:20] {
					c := r.client()
					go io.WriteString(c, bad.send+second)
					c.Rest()
				}
				r.open("", "")
				r.open("", "")
			})
		}
	})
}
