//go:build linux

package floods_test

import (
	"bufio"
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/seed-ffb73231/wsproxy/internal/faults/wire"
	"github.com/seed-ffb73231/wsproxy/internal/wstest"
)

// The good sessions run in their own process, so that the flood's goroutines
// and garbage do not count as slowness of the proxy.

const (
	goodSessions = 20
	goodPause    = 50 * time.Millisecond // between a session's messages
)

// runMeter is that process: it serves the upstream of the good sessions, and
// measures when asked to.
func runMeter() error {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	go echo(l)
	return greet(hello{Plain: l.Addr().String()}, http.HandlerFunc(measure), func() {})
}

// echo is an upstream that returns every message unmasked. All messages have 32
// bytes.
func echo(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer c.Close()
			r, br, err := wire.ReadRequest(c)
			if err != nil {
				return
			}
			io.WriteString(c, wstest.AnswerTo(r, ""))
			c.SetDeadline(time.Time{})
			p := wire.Parser{Masked: true, Each: func(f *wire.Frame) {
				first := f.First
				if f.Opcode() == wstest.OpPing {
					first = wstest.Pong
				}
				c.Write(wstest.AppendFrame(nil, first, nil, f.Payload))
			}}
			buf := make([]byte, 1024)
			for {
				n, err := br.Read(buf)
				if p.Add(buf[:n]) != nil || err != nil {
					return
				}
			}
		}()
	}
}

// A latency is the round-trip time of messages.
type latency struct {
	N        int
	P50, P99 time.Duration
	Err      string
}

// measure has good sessions exchange messages for a while: /?front=…&for=….
func measure(w http.ResponseWriter, r *http.Request) {
	length, _ := time.ParseDuration(r.FormValue("for"))
	var (
		mu   sync.Mutex
		all  []time.Duration
		bad  string
		talk sync.WaitGroup
	)
	for i := range goodSessions {
		talk.Go(func() {
			time.Sleep(goodPause * time.Duration(i) / goodSessions)
			took, err := talkFor(r.FormValue("front"), length)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				bad = err.Error()
			}
			all = append(all, took...)
		})
	}
	talk.Wait()
	slices.Sort(all)
	l := latency{N: len(all), Err: bad}
	if l.N > 0 {
		l.P50, l.P99 = all[l.N/2], all[l.N*99/100]
	}
	json.NewEncoder(w).Encode(l)
}

func talkFor(front string, length time.Duration) (took []time.Duration, err error) {
	c, err := net.DialTimeout("tcp", front, wire.Timeout)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	e, status, err := wire.Open(c, "/good/", "")
	if e == nil {
		return nil, fmt.Errorf("good session: %d, %v", status, err)
	}
	c.SetDeadline(time.Now().Add(length + wire.Timeout))
	br := bufio.NewReader(c)
	body := bytes.Repeat([]byte("good"), 8)
	got := make([]byte, 2+len(body))
	for end := time.Now().Add(length); time.Now().Before(end); time.Sleep(goodPause) {
		at := time.Now()
		if err := e.Frame(wstest.Binary, body); err != nil {
			return took, err
		}
		if _, err := io.ReadFull(br, got); err != nil {
			return took, fmt.Errorf("good session: %w", err)
		}
		if !bytes.Equal(got[2:], body) {
			return took, fmt.Errorf("good session got %q", got)
		}
		took = append(took, time.Since(at))
	}
	return took, nil
}

// good is a test's handle on the good sessions.
type good struct {
	t        *testing.T
	meter    *child
	front    string
	unloaded time.Duration // p99
}

const (
	slower    = 3                    // times as long as unloaded may the 99th percentile be
	leastP99  = 3 * time.Millisecond // what counts as unloaded at least, for the machine has other things to do
	windows   = 3                    // of which the median counts
	tries     = 3                    // under a flood
	goodFor   = 1500 * time.Millisecond
	goodLeast = goodSessions * 5 // messages in a window
)

// latency returns the median window, by its 99th percentile.
func (g *good) latency() latency {
	g.t.Helper()
	var all [windows]latency
	for i := range all {
		l := &all[i]
		g.meter.ask(fmt.Sprintf("/?front=%s&for=%v", g.front, goodFor), l)
		if l.Err != "" || l.N < goodLeast {
			g.t.Errorf("good sessions: %d messages, %s", l.N, l.Err)
		}
	}
	slices.SortFunc(all[:], func(a, b latency) int { return cmp.Compare(a.P99, b.P99) })
	return all[windows/2]
}

// rest measures the latency without a flood.
func (g *good) rest() {
	g.t.Helper()
	g.unloaded = g.latency().P99
}

// keep checks that the good sessions keep their pace under a flood. It retries,
// because the machine may be busy with something else.
func (g *good) keep(during string) {
	g.t.Helper()
	limit := slower * max(g.unloaded, leastP99)
	for try := 1; ; try++ {
		l := g.latency()
		g.t.Logf("%s: p50 %v, p99 %v; unloaded p99 %v", during, l.P50, l.P99, g.unloaded)
		if l.P99 <= limit {
			return
		}
		if try == tries {
			g.t.Errorf("%s: the good sessions' p99 is %v, over %v", during, l.P99, limit)
			return
		}
	}
}
