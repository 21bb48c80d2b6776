//go:build linux

package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"runtime"
	"runtime/pprof"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/seed-ffb73231/wsproxy"
	"github.com/seed-ffb73231/wsproxy/internal/faults/wire"
	"github.com/seed-ffb73231/wsproxy/internal/relay"
)

// settings of a soak.
type settings struct {
	length time.Duration // of the time in which sessions are opened
	every  time.Duration // between checks, for which all sessions but those that stay are let end
	rate   int           // sessions a second
	stay   int           // sessions that stay from the first to the last
	pause  time.Duration // at most, between what a session says
	out    io.Writer
}

// A soak is one run.
type soak struct {
	settings
	*world
	fates  []*fate // each as often as its weight
	tally  map[string]*tally
	live   sync.WaitGroup // sessions that are under way
	count  atomic.Int64   // of these
	closed chan struct{}  // closed when those that stay are to end
	parted sync.WaitGroup // those that stay and have heard of it

	began   time.Time
	cpu     time.Duration // before
	base    figures       // with no session
	staying figures       // with those that stay
	settled bool          // its heap is that of the first check
}

type tally struct{ done, failed, longest atomic.Int64 }

// figures are the resources that the process holds. The heap is left out where
// it does not matter.
type figures struct{ goroutines, files, heap int }

// stacks returns where all goroutines are.
func stacks() string {
	var b bytes.Buffer
	pprof.Lookup("goroutine").WriteTo(&b, 1)
	return b.String()
}

// run soaks the proxy and returns the number of problems.
func run(st settings) int {
	before := look()
	w, err := newWorld(st.pause)
	if err != nil {
		fmt.Fprintln(st.out, "soak:", err)
		return 1
	}
	k := &soak{settings: st, world: w, tally: make(map[string]*tally), closed: make(chan struct{}), began: time.Now(), cpu: wire.CPU()}
	all := slices.Concat(fates, refusals, attackers)
	for _, f := range all {
		k.tally[f.name] = new(tally)
		for range f.weight {
			k.fates = append(k.fates, f)
		}
	}
	k.printf("%d fates, %d a second for %v, %d sessions that stay\n", len(all), k.rate, k.length, k.stay)

	// Each fate runs once with each variant: that fills pools, and starts what
	// is started only once.
	for _, f := range all {
		for _, v := range w.variants {
			k.start(f, v)
		}
	}
	k.live.Wait()
	k.settle(figures{before.goroutines + 1_000, before.files + 1_000, 0})
	k.base = k.figures()
	k.check(0, "warm")

	k.keep()
	k.settle(figures{k.base.goroutines + 20*k.stay, k.base.files + 4*k.stay, 0})
	k.staying = k.figures()
	k.staying.goroutines++ // the one in which the event loop has hooks called: it starts when the first session ends
	k.soak()

	k.drain()
	k.check(0, "end")
	w.close()
	k.base = before
	k.base.heap += k.staying.heap // what is left of the world is garbage in part only
	if !k.settle(k.base) {
		k.explain("after the last", k.base)
	}
	k.summary()
	return w.problems.total()
}

// soak opens sessions until the time is up.
func (k *soak) soak() {
	end := time.Now().Add(k.length)
	ticker := time.NewTicker(time.Second / time.Duration(k.rate))
	defer ticker.Stop()
	next := time.Now().Add(k.every)
	for time.Now().Before(end) {
		<-ticker.C
		k.start(k.fates[rand.IntN(len(k.fates))], k.variants[rand.IntN(len(k.variants))])
		if time.Now().After(next) {
			k.check(k.stay, time.Since(k.began).Round(time.Second).String())
			next = time.Now().Add(k.every)
		}
	}
	k.check(k.stay, "last")
}

// start runs one session.
func (k *soak) start(f *fate, v *variant) {
	s := k.newSession(f, v)
	k.count.Add(1)
	k.live.Go(func() {
		defer k.count.Add(-1)
		defer s.leave()
		began := time.Now()
		k.judge(s, s.fate.run(s))
		longest := &k.tally[s.fate.name].longest
		longest.Store(max(longest.Load(), int64(time.Since(began)))) // of two at once one may be lost
	})
}

func (k *soak) judge(s *session, err error) {
	t := k.tally[s.fate.name]
	t.done.Add(1)
	if err != nil {
		t.failed.Add(1)
		toxic := ""
		if s.toxic+s.behind != "" {
			toxic = fmt.Sprintf(" toxic %q before the front, %q before the upstream", s.toxic, s.behind)
		}
		k.problems.add("session %d: %s (%v)%s: %v", s.id, s.fate.name, s.v, toxic, strings.ReplaceAll(err.Error(), "\n", "; "))
	}
}

// keep opens the sessions that stay.
func (k *soak) keep() {
	f := &fate{name: "stays", route: "calm", run: k.marathon}
	k.tally[f.name] = new(tally)
	var opened sync.WaitGroup
	for i := range k.stay {
		s := k.newSession(f, k.variants[i%len(k.variants)])
		s.marathon = true
		opened.Add(1)
		k.live.Add(1)
		k.parted.Add(1)
		go func() {
			defer k.live.Done()
			defer s.leave()
			err := s.open()
			opened.Done()
			if err == nil {
				err = f.run(s)
			} else {
				k.parted.Done()
			}
			k.judge(s, err)
		}()
	}
	opened.Wait()
}

// marathon exchanges messages until the end of the soak.
func (k *soak) marathon(s *session) error {
	for {
		select {
		case <-k.closed:
			if s.id%2 == 0 { // the others are drained
				s.client.Close(1000, "")
				err := s.want(1000, 1000, wsproxy.Client, wsproxy.ReasonClosed)
				k.parted.Done()
				if err != nil {
					return err
				}
				return s.complete()
			}
			k.parted.Done()
			if err := s.want(1001, 1001, wsproxy.Self, wsproxy.ReasonDrained); err != nil {
				return err
			}
			return s.complete()
		case <-time.After(3*time.Second + time.Duration(s.rng.Int64N(int64(5*time.Second)))):
			if err := s.talk(2, 8<<10, time.Millisecond); err != nil {
				k.parted.Done()
				return fmt.Errorf("a session that stays: %w", err)
			}
		}
	}
}

// drain ends the sessions that stay: some close, the others are drained.
func (k *soak) drain() {
	close(k.closed)
	k.parted.Wait()
	ctx, cancel := context.WithTimeout(context.Background(), wire.Timeout)
	defer cancel()
	for _, v := range k.variants {
		if err := v.proxies["calm"].proxy.Shutdown(ctx); err != nil {
			k.problems.add("Shutdown: %v", err)
		}
	}
	k.live.Wait()
}

// check lets the sessions end, and checks what is left: those that stay.
func (k *soak) check(open int, when string) {
	at, live := time.Now(), k.count.Load()
	for k.count.Load() > 0 && time.Since(at) < 3*wire.Timeout {
		time.Sleep(10 * time.Millisecond)
	}
	if n := k.count.Load(); n > 0 {
		k.problems.add("%d sessions don't end", n)
		k.stacks()
	}
	want := k.staying
	if open == 0 {
		want = k.base
	}
	ok := k.settle(want)
	k.checkEvents(open)
	for i, v := range k.variants {
		for _, name := range sortedKeys(v.proxies) {
			n := 0
			if name == "calm" && open > 0 {
				n = (open - i + len(k.variants) - 1) / len(k.variants)
			}
			v.proxies[name].check(fmt.Sprintf("%v, %s", v, name), n)
		}
	}
	f := k.line(when, live, want)
	if open > 0 && !k.settled { // those that stay have their buffers only when they have talked
		k.staying.heap, k.settled = f.heap, true
	}
	if !ok {
		k.explain(when, want)
	} else if over := f.heap - want.heap; over > 8<<20 && over > want.heap/2 {
		k.problems.add("%s: heap of %d KiB, it was %d", when, f.heap>>10, want.heap>>10)
	}
	k.tell()
}

// tell prints the problems found since the last call.
func (k *soak) tell() {
	for _, p := range k.problems.take() {
		k.printf("PROBLEM %s\n", p)
	}
}

// idlePipes is the number of descriptors that the proxies may keep for the next
// long frames.
var idlePipes = 2 * runtime.NumCPU()

// settle waits until the process holds no more goroutines and descriptors than
// that; those of timers and closings come and go.
func (k *soak) settle(want figures) bool {
	for end := time.Now().Add(wire.Timeout); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
		if f := look(); f.goroutines <= want.goroutines && f.files <= want.files+idlePipes {
			return true
		}
	}
	return false
}

// figures reads the figures at rest: the minimum of a few readings.
func (k *soak) figures() figures {
	f := look()
	for end := time.Now().Add(2 * time.Second); time.Now().Before(end); time.Sleep(200 * time.Millisecond) {
		g := look()
		f = figures{min(f.goroutines, g.goroutines), min(f.files, g.files), min(f.heap, g.heap)}
	}
	return f
}

// checkEvents checks what the event driver has: no more sessions than are open, no
// connection or timer of none, and without sessions soon nothing at all.
func (k *soak) checkEvents(open int) {
	var c relay.Census
	for end := time.Now().Add(wire.Timeout); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if c = relay.CountEvents(); c.Sessions <= open && c.Overs == 0 && c.Strays == 0 && (open > 0 || c == relay.Census{}) {
			return
		}
	}
	k.problems.add("the event driver has %+v, %d sessions are open", c, open)
}

func (k *soak) explain(when string, want figures) {
	f := look()
	k.problems.add("%s: %d goroutines, want %d; %d descriptors, want %d", when, f.goroutines, want.goroutines, f.files, want.files)
	k.stacks()
}

// stacks prints where goroutines are, for debugging.
func (k *soak) stacks() {
	for i, p := range strings.SplitAfter(stacks(), "\n\n") {
		if i == 25 {
			break
		}
		k.printf("%s", p)
	}
}

// line prints a line of figures.
func (k *soak) line(when string, live int64, want figures) figures {
	f := look()
	var done, opened, refused uint64
	for _, t := range k.tally {
		done += uint64(t.done.Load())
	}
	for _, v := range k.variants {
		for _, p := range v.proxies {
			st := p.proxy.Stats()
			opened += st.Opened
			for _, n := range st.Failed {
				refused += n
			}
		}
	}
	wrong := k.problems.total()
	k.printf("%8s  done %d  opened %d  refused %d  live %d  goroutines %d (%d)  fds %d (%d)  heap %d KiB (%d)  toxiproxy's lost %d with %d KiB  rss %d MiB  cpu %.0f%%  problems %d\n",
		when, done, opened, refused, live, f.goroutines, want.goroutines, f.files, want.files,
		f.heap>>10, want.heap>>10, astray(), toxiHeap()>>10, wire.RSS(0)>>20, 100*float64(wire.CPU()-k.cpu)/float64(time.Since(k.began)), wrong)
	return f
}

// summary prints the results of each fate, and how sessions ended.
func (k *soak) summary() {
	for _, name := range sortedKeys(k.tally) {
		t := k.tally[name]
		k.printf("%8d  %s, at most %v", t.done.Load(), name, time.Duration(t.longest.Load()).Round(time.Millisecond))
		if n := t.failed.Load(); n > 0 {
			k.printf(", %d of them not as it must be", n)
		}
		k.printf("\n")
	}
	ended, refused := make(map[string]uint64), make(map[string]uint64)
	for _, v := range k.variants {
		for _, p := range v.proxies {
			st := p.proxy.Stats()
			for o, n := range st.Ended {
				ended[o.String()] += n
			}
			for kind, n := range st.Failed {
				refused[string(kind)] += n
			}
		}
	}
	k.printf("ended:   %s\nrefused: %s\n", counts(ended), counts(refused))
	k.tell()
	wrong := k.problems.total()
	k.printf("soak of %v over: %d problems\n", time.Since(k.began).Round(time.Second), wrong)
}

func counts(m map[string]uint64) string {
	var parts []string
	for _, name := range sortedKeys(m) {
		if m[name] > 0 {
			parts = append(parts, fmt.Sprintf("%s %d", name, m[name]))
		}
	}
	return strings.Join(parts, ", ")
}

func (k *soak) printf(format string, args ...any) { fmt.Fprintf(k.out, format, args...) }
