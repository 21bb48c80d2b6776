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

// A frame that is cut off ends the opposite stream with a FIN, over TLS with
// close_notify. The proxy closes that connection only after that side's own
// FIN, so that nothing it sends meanwhile causes a reset.
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
			for range 20 { // a second write would hit a closed connection
				to.SendText("still talking")
			}
			if s := r.the(); s.Err() != nil {
				t.Errorf("over before the other side's end: %v", s.Err())
			}
			to.Close()
			r.wantOver()
			r.wantEnded(w.name, "lost")
		}
	}, carrier.relaysFrames)
}

// What was written to a side, and counted, arrives there, even if that side
// keeps sending and its bytes are no longer needed.
func TestLastWordsArrive(t *testing.T) {
	t.Parallel()
	eachWay(t, func(t *testing.T, c carrier, w way) {
		for _, closes := range []bool{false, true} {
			if closes && w.masked() {
				continue // the upstream should close its connection first
			}
			if !closes && c.whole {
				continue // no message is cut off
			}
			inCase(t, fmt.Sprint("closes=", closes), func() {
				r := c.rig(t, wsproxy.WithCloseTimeout(time.Minute)) // the machine may be busy
				from, to := w.open(r, "", "")
				s, side := r.the(), wsproxy.Client
				if !w.masked() {
					side = wsproxy.Upstream
				}
				words := strings.Repeat(from.Frame(wstest.Text, strings.Repeat("x", 1000)), 400)
				if c.has(wstest.Memory) || c.has(wstest.Unix) { // which accept no more if nobody reads
					words = words[:len(words)/10]
				}
				junk := to.Frame(wstest.Text, strings.Repeat("y", 100))
				if closes { // and keeps sending
					to.SendClose(1000, "")
					from.WantClose(1000)
					words += from.Frame(wstest.Close, wstest.CloseBody(1000, ""))
				} else {
					words += from.Frame(wstest.Text, "cut off")[:7]
				}
				var talking sync.WaitGroup
				defer talking.Wait()
				talking.Go(func() { io.Copy(io.Discard, from.In) })
				for range 50 { // this arrives before the last words, whether or not the proxy has read it
					to.Send(junk)
				}
				from.Send(words)
				from.CloseWrite()
				wstest.Await(t, func() bool { return s.Counts(side).Bytes == uint64(len(words)) }, func() string {
					return fmt.Sprintf("counted %d bytes of %d", s.Counts(side).Bytes, len(words))
				})
				for range 50 { // a reset would have arrived by then
					io.WriteString(to, junk)
				}
				c.want(to, words)
				if _, err := to.In.ReadByte(); err != io.EOF {
					t.Errorf("got %v behind the last words, want the end of the stream", err)
				}
				to.Close()
				r.wantOver()
			})
		}
	})
}

// A side that gets a FIN and keeps sending, or does nothing at all, is not
// waited for longer than the close timeout.
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
	}, carrier.relaysFrames)
}
