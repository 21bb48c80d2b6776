package wsproxy_test

import (
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/seed-ffb73231/wsproxy"
)

// A frame that is cut off ends the stream across by a FIN, over TLS by
// close_notify, and no sooner than at that side's own FIN is its connection
// closed: whatever it says in the meantime resets nothing.
func TestCutFrameIsNoReset(t *testing.T) {
	eachWay(t, func(t *testing.T, k kind, w way) {
		for _, reset := range []bool{false, true} {
			r := newRig(t, k)
			from, to := w.open(r, "", "")
			passed := from.frame(text, "hello") + from.frame(data, "12345678")[:9]
			from.send(passed)
			to.wantBytes(passed)
			if reset {
				from.reset()
			} else {
				from.closeWrite()
			}
			if b, err := io.ReadAll(to.br); len(b) > 0 || err != nil {
				t.Fatalf("reset=%v: %q, %v behind the frame that was cut off, want the end of the stream", reset, b, err)
			}
			for range 20 { // a second write would find a connection that is closed
				to.sendText("still talking")
			}
			if s := r.the(); s.Err() != nil {
				t.Errorf("over before the other side's end: %v", s.Err())
			}
			to.Close()
			r.wantReturned()
			r.wantEnded(w.name, "lost")
		}
	})
}

// What was written to a side, and counted, arrives there, although that side
// talks all the time and what it says is of no use any more.
func TestLastWordsArrive(t *testing.T) {
	eachWay(t, func(t *testing.T, k kind, w way) {
		for _, closes := range []bool{false, true} {
			if closes && w.masked() {
				continue // the upstream's connection is the upstream's to close first
			}
			t.Run(fmt.Sprint("closes=", closes), func(t *testing.T) {
				r := newRig(t, k, wsproxy.WithCloseTimeout(time.Minute)) // the machine may be busy
				from, to := w.open(r, "", "")
				s, side := r.the(), wsproxy.Client
				if !w.masked() {
					side = wsproxy.Upstream
				}
				words := strings.Repeat(from.frame(text, strings.Repeat("x", 1000)), 400)
				if k == memory || k == unix { // which take no more with nobody reading
					words = words[:len(words)/10]
				}
				junk := to.frame(text, strings.Repeat("y", 100))
				if closes { // and goes on talking
					to.sendClose(1000, "")
					from.wantClose(1000)
					words += from.frame(closing, closeBody(1000, ""))
				} else {
					words += from.frame(text, "cut off")[:7]
				}
				var talking sync.WaitGroup
				defer talking.Wait()
				talking.Go(func() { io.Copy(io.Discard, from.br) })
				for range 50 { // it comes before the last words, whether the proxy has read it or not
					to.send(junk)
				}
				from.send(words)
				from.closeWrite()
				await(t, func() bool { return s.Counts(side).Bytes == uint64(len(words)) }, func() string {
					return fmt.Sprintf("counted %d bytes of %d", s.Counts(side).Bytes, len(words))
				})
				for range 50 { // a reset, were there one, is there by then
					io.WriteString(to, junk)
				}
				to.wantBytes(words)
				if _, err := to.br.ReadByte(); err != io.EOF {
					t.Errorf("got %v behind the last words, want the end of the stream", err)
				}
				to.Close()
				r.wantReturned()
			})
		}
	})
}

// A side that is sent a FIN and goes on talking, or does nothing at all, is
// not waited for longer than the close timeout.
func TestFINUnanswered(t *testing.T) {
	eachWayInTime(t, func(t *testing.T, w way) {
		for _, talks := range []bool{false, true} {
			r := newRig(t, memory, wsproxy.WithCloseTimeout(3*time.Second))
			from, to := w.open(r, "", "")
			passed := from.frame(data, "12345678")[:9]
			from.send(passed)
			to.wantBytes(passed)
			began := time.Now()
			from.Close()
			to.wantEnd()
			wantAt(t, began, 0)
			var talking sync.WaitGroup
			talking.Go(func() {
				for talks && time.Since(began) < time.Minute {
					if _, err := io.WriteString(to, to.frame(text, "still there")); err != nil {
						return
					}
					elapse(time.Millisecond)
				}
			})
			r.wantReturned()
			wantAt(t, began, 3*time.Second)
			talking.Wait()
			r.wantEnded(w.name, "lost")
		}
	})
}
