package wsproxy_test

import (
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/seed-ffb73231/wsproxy"
	"github.com/seed-ffb73231/wsproxy/internal/wstest"
)

// A frame that is cut off ends the stream across by a FIN, over TLS by
// close_notify, and no sooner than at that side's own FIN is its connection
// closed: whatever it says in the meantime resets nothing.
func TestCutFrameIsNoReset(t *testing.T) {
	t.Parallel()
	eachWay(t, func(t *testing.T, c carrier, w way) {
		for _, reset := range []bool{false, true} {
			r := c.rig(t)
			from, to := w.open(r, "", "")
			passed := from.Frame(wstest.Text, "hello") + from.Frame(wstest.Binary, "12345678")[:9]
			from.Send(passed)
			to.WantBytes(passed)
			if reset {
				from.Reset()
			} else {
				from.CloseWrite()
			}
			if b, err := io.ReadAll(to.In); len(b) > 0 || err != nil {
				t.Fatalf("reset=%v: %q, %v behind the frame that was cut off, want the end of the stream", reset, b, err)
			}
			for range 20 { // a second write would find a connection that is closed
				to.SendText("still talking")
			}
			if s := r.the(); s.Err() != nil {
				t.Errorf("over before the other side's end: %v", s.Err())
			}
			to.Close()
			r.wantOver()
			r.wantEnded(w.name, "lost")
		}
	})
}

// What was written to a side, and counted, arrives there, although that side
// talks all the time and what it says is of no use any more.
func TestLastWordsArrive(t *testing.T) {
	t.Parallel()
	eachWay(t, func(t *testing.T, c carrier, w way) {
		for _, closes := range []bool{false, true} {
			if closes && w.masked() {
				continue // the upstream's connection is the upstream's to close first
			}
			inCase(t, fmt.Sprint("closes=", closes), func() {
				r := c.rig(t, wsproxy.WithCloseTimeout(time.Minute)) // the machine may be busy
				from, to := w.open(r, "", "")
				s, side := r.the(), wsproxy.Client
				if !w.masked() {
					side = wsproxy.Upstream
				}
				words := strings.Repeat(from.Frame(wstest.Text, strings.Repeat("x", 1000)), 400)
				if c.has(wstest.Memory) || c.has(wstest.Unix) { // which take no more with nobody reading
					words = words[:len(words)/10]
				}
				junk := to.Frame(wstest.Text, strings.Repeat("y", 100))
				if closes { // and goes on talking
					to.SendClose(1000, "")
					from.WantClose(1000)
					words += from.Frame(wstest.Close, wstest.CloseBody(1000, ""))
				} else {
					words += from.Frame(wstest.Text, "cut off")[:7]
				}
				var talking sync.WaitGroup
				defer talking.Wait()
				talking.Go(func() { io.Copy(io.Discard, from.In) })
				for range 50 { // it comes before the last words, whether the proxy has read it or not
					to.Send(junk)
				}
				from.Send(words)
				from.CloseWrite()
				wstest.Await(t, func() bool { return s.Counts(side).Bytes == uint64(len(words)) }, func() string {
					return fmt.Sprintf("counted %d bytes of %d", s.Counts(side).Bytes, len(words))
				})
				for range 50 { // a reset, were there one, is there by then
					io.WriteString(to, junk)
				}
				to.WantBytes(words)
				if _, err := to.In.ReadByte(); err != io.EOF {
					t.Errorf("got %v behind the last words, want the end of the stream", err)
				}
				to.Close()
				r.wantOver()
			})
		}
	})
}

// A side that is sent a FIN and goes on talking, or does nothing at all, is
// not waited for longer than the close timeout.
func TestFINUnanswered(t *testing.T) {
	t.Parallel()
	eachWayInTime(t, func(t *testing.T, c carrier, w way) {
		for _, talks := range []bool{false, true} {
			r := c.rig(t, wsproxy.WithCloseTimeout(3*time.Second))
			from, to := w.open(r, "", "")
			passed := from.Frame(wstest.Binary, "12345678")[:9]
			from.Send(passed)
			to.WantBytes(passed)
			began := time.Now()
			from.Close()
			to.WantEnd()
			wantAt(t, began, 0)
			var talking sync.WaitGroup
			talking.Go(func() {
				for talks && time.Since(began) < time.Minute {
					if _, err := io.WriteString(to, to.Frame(wstest.Text, "still there")); err != nil {
						return
					}
					wstest.Elapse(time.Millisecond)
				}
			})
			r.wantOver()
			wantAt(t, began, 3*time.Second)
			talking.Wait()
			r.wantEnded(w.name, "lost")
		}
	})
}
