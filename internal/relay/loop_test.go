//go:build linux && (amd64 || arm64) && !noloop

package relay

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
	"weak"

	"github.com/seed-ffb73231/wsproxy/internal/frame"
	"github.com/seed-ffb73231/wsproxy/internal/protocol"
)

// joinEvents joins two connections in the event driver.
func joinEvents(t *testing.T, pol protocol.Policy, h Host, conns [2]net.Conn) *Session {
	t.Helper()
	s := new(Session)
	s.Begin(time.Now())
	pol.Close = max(pol.Close, time.Second)
	pol.Write = max(pol.Write, time.Second)
	s.Join(&Settings{Policy: pol, Totals: NewTotals()}, h, 0, conns, [2][]byte{}, [2]byte{}, [2]byte{}, nil)
	if !s.events.has() {
		t.Fatal("the event driver does not take the session")
	}
	return s
}

// eventSession starts a session in the event driver, and returns the far ends of
// its connections.
func eventSession(t *testing.T, pol protocol.Policy, h Host) (s *Session, client, upstream net.Conn) {
	t.Helper()
	near, client := tcpPair(t)
	nearUpstream, upstream := tcpPair(t)
	s = joinEvents(t, pol, h, [2]net.Conn{near, nearUpstream})
	s.Detach()
	for _, c := range []net.Conn{client, upstream} {
		c.SetDeadline(time.Now().Add(20 * time.Second))
	}
	return s, client, upstream
}

// awaitNoLoops waits until the loops have ended: those of earlier tests, too, which
// would see what the test changes.
func awaitNoLoops(t *testing.T) {
	t.Helper()
	await(t, "no loop runs", func() bool { return loopCount() == 0 })
}

func loopCount() int {
	loops.Lock()
	defer loops.Unlock()
	return len(loops.list)
}

// ownLoop makes the loop of the sessions that come next, which the test drives by
// hand.
func ownLoop(t *testing.T) *loop {
	t.Helper()
	awaitNoLoops(t)
	l := newLoop()
	if l == nil {
		t.Fatal("no descriptors")
	}
	loops.Lock()
	loops.list = append(loops.list, l)
	loops.Unlock()
	t.Cleanup(func() {
		loops.Lock()
		loops.list = nil
		loops.Unlock()
		l.close()
	})
	return l
}

func wantOver(t *testing.T, over <-chan struct{}) {
	t.Helper()
	select {
	case <-over:
	case <-time.After(20 * time.Second):
		t.Fatal("the session goes on")
	}
}

func mask(b string) string { // with a key of zeros
	return b[:1] + string([]byte{b[1] | frame.MaskBit}) + "\x00\x00\x00\x00" + b[2:]
}

// The kernel may hold up who closes a connection that lingers (SO_LINGER). That must
// not be a loop.
func TestLoopDoesNotLinger(t *testing.T) {
	near, client := tcpPair(t)
	nearUpstream, _ := tcpPair(t)
	near.(*net.TCPConn).SetLinger(60)
	overfill(t, near, client)
	over := make(chan struct{})
	s := new(Session)
	s.Begin(time.Now())
	s.Join(&Settings{Policy: protocol.Policy{Close: time.Second, Write: time.Second}, Totals: NewTotals()}, silentHost{over}, 0,
		[2]net.Conn{near, nearUpstream}, [2][]byte{}, [2]byte{}, [2]byte{}, nil)
	s.Detach()
	_, other, far := eventSession(t, protocol.Policy{}, silentHost{make(chan struct{})})
	cut := make(chan struct{})
	go func() {
		defer close(cut)
		s.Cut(protocol.CauseIdle, nil)
	}()
	await(t, "the session is cut", func() bool { return s.legs[frame.Client].is(legShut) })
	for range 3 {
		io.WriteString(other, mask("\x82\x01x"))
		if _, err := io.ReadFull(far, make([]byte, 7)); err != nil {
			t.Fatalf("another session waits: %v", err)
		}
	}
	client.Close() // with unread data: a reset
	wantOver(t, over)
	<-cut
}

// When the last session is over, the driver leaves no goroutine, no descriptor and
// no loop. The next session starts it again.
func TestLoopEnds(t *testing.T) {
	open := func() int {
		all, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		return len(all)
	}
	running := func() string {
		all := make([]byte, 1<<20)
		stacks := string(all[:runtime.Stack(all, true)])
		for _, f := range []string{"(*loop).run", "callOvers"} {
			if strings.Contains(stacks, f) {
				return f
			}
		}
		return ""
	}
	await(t, "other tests' loops have ended", func() bool { return running() == "" })
	tcpPair(t) // the runtime's poller has descriptors, too
	before := open()
	for range 3 {
		var overs [5]chan struct{}
		var fars [5][2]net.Conn
		for i := range overs {
			overs[i] = make(chan struct{})
			_, client, upstream := eventSession(t, protocol.Policy{}, silentHost{overs[i]})
			fars[i] = [2]net.Conn{client, upstream}
		}
		if running() == "" {
			t.Fatal("there are sessions, and no loop")
		}
		for i := range overs {
			io.WriteString(fars[i][0], mask("\x88\x02\x03\xe8"))
			io.ReadFull(fars[i][1], make([]byte, 8))
			io.WriteString(fars[i][1], "\x88\x02\x03\xe8")
			fars[i][1].Close()
			io.ReadAll(fars[i][0])
			fars[i][0].Close()
			wantOver(t, overs[i])
		}
		await(t, "the loop has ended", func() bool { return running() == "" && open() <= before })
		loops.Lock()
		ended.Lock()
		if len(loops.list) != 0 || ended.loops != 0 || ended.workers != 0 {
			t.Errorf("%d loops, of which %d run, and %d goroutines are left", len(loops.list), ended.loops, ended.workers)
		}
		ended.Unlock()
		loops.Unlock()
	}
}

// A hook that does not return blocks neither the loop nor the ends of other
// sessions. Neither does one that ends its goroutine.
func TestOverBlocks(t *testing.T) {
	t.Parallel()
	var stuck sync.WaitGroup
	release := make(chan struct{})
	defer stuck.Wait()
	defer close(release)
	for round := range 3 {
		for range 5 {
			stuck.Add(1)
			entered := make(chan struct{})
			s, _, _ := eventSession(t, protocol.Policy{}, hookHost{over: func() {
				defer stuck.Done()
				close(entered)
				<-release
			}})
			s.Cut(protocol.CausePanic, nil)
			wantOver(t, entered)
			exited := make(chan struct{})
			s, _, _ = eventSession(t, protocol.Policy{}, hookHost{over: func() {
				defer close(exited)
				runtime.Goexit()
			}})
			s.Cut(protocol.CausePanic, nil)
			wantOver(t, exited)
		}
		over := make(chan struct{})
		s, client, upstream := eventSession(t, protocol.Policy{}, silentHost{over})
		io.WriteString(upstream, "\x82\x02ok")
		if _, err := io.ReadFull(client, make([]byte, 4)); err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
		s.Cut(protocol.CausePanic, nil)
		wantOver(t, over)
	}
}

// Hooks that take some time do not add up over many sessions.
func TestOverSlow(t *testing.T) {
	const many = 200
	var left sync.WaitGroup
	left.Add(many)
	var sessions []*Session
	for range many {
		s, _, _ := eventSession(t, protocol.Policy{}, hookHost{over: func() {
			defer left.Done()
			time.Sleep(50 * time.Millisecond) // what a hook may do
		}})
		sessions = append(sessions, s)
	}
	began := time.Now()
	for _, s := range sessions {
		s.Cut(protocol.CausePanic, nil)
	}
	left.Wait()
	if took := time.Since(began); took > many*50*time.Millisecond/2 {
		t.Errorf("took %v, as if one after the other", took)
	}
}

// A hookHost calls functions.
type hookHost struct {
	over      func()
	roundTrip func()
}

func (h hookHost) RoundTrip(frame.Side, time.Duration) { h.roundTrip() }
func (hookHost) Panicked(v any) error                  { return fmt.Errorf("panic: %v", v) }
func (h hookHost) Over()                               { h.over() }

// A panic while the loop carries a session ends that session only.
func TestLoopPanics(t *testing.T) {
	over, otherOver := make(chan struct{}), make(chan struct{})
	s, client, upstream := eventSession(t, protocol.Policy{Pings: [2]protocol.Pinging{{Interval: 300 * time.Millisecond, Timeout: time.Minute}}},
		hookHost{over: func() { close(over) }, roundTrip: func() { panic("observer") }})
	other, otherClient, otherUpstream := eventSession(t, protocol.Policy{}, silentHost{otherOver})
	ping := make([]byte, 2+protocol.PingBodySize)
	if _, err := io.ReadFull(client, ping); err != nil || ping[0] != 0x89 {
		t.Fatalf("got %x, %v, want a Ping", ping, err)
	}
	io.WriteString(client, mask("\x8a"+string(ping[1:])))
	wantOver(t, over)
	if cause, _, err := s.Result(); cause != protocol.CausePanic || err == nil {
		t.Errorf("ended by %+v, %v, want a panic", cause, err)
	}
	io.ReadAll(client)
	io.ReadAll(upstream)
	io.WriteString(otherUpstream, "\x82\x02ok")
	if got, err := io.ReadAll(io.LimitReader(otherClient, 4)); string(got) != "\x82\x02ok" {
		t.Fatalf("the other session got %q, %v", got, err)
	}
	other.Cut(protocol.CausePanic, nil)
	wantOver(t, otherOver)
}

// Events that are out of date do nothing to the session that has the descriptor
// now; nor do those that come without need.
func TestStaleEvents(t *testing.T) {
	l := ownLoop(t)
	over := make(chan struct{})
	first, client, upstream := eventSession(t, protocol.Policy{}, silentHost{over})
	l.turn()
	leg := first.legs[0].ev()
	stale := syscall.EpollEvent{Fd: leg.fd, Pad: leg.tag, Events: legEvents | syscall.EPOLLHUP | syscall.EPOLLERR}
	client.Close()
	upstream.Close()
	first.Cut(protocol.CausePanic, nil)
	await(t, "it is over", func() bool {
		l.handle(&stale)
		if !first.events.over {
			l.turn()
		}
		return first.events.over
	})
	wantOver(t, over)
	if l.sessions != 0 || !l.empty {
		t.Fatalf("%d sessions are left", l.sessions)
	}

	near, far := tcpPair(t)
	up, farUp := tcpPair(t)
	over = make(chan struct{})
	s := joinEvents(t, protocol.Policy{}, silentHost{over}, [2]net.Conn{near, up})
	fd := s.legs[0].ev().fd
	stale.Fd = fd // as if the kernel had given it the number of the first one
	s.Detach()
	l.turn()
	leg = s.legs[0].ev()
	for l.turn(); leg.ready; l.turn() {
	}
	l.handle(&stale)
	if leg.ready || leg.toEnd || s.legs[0].is(legShut) {
		t.Error("an event of the session before has had an effect")
	}
	l.handle(&syscall.EpollEvent{Fd: 1 << 20, Events: syscall.EPOLLIN})
	for range 3 { // nothing to write, and nothing to read
		l.handle(&syscall.EpollEvent{Fd: fd, Pad: leg.tag, Events: syscall.EPOLLOUT})
		l.handle(&syscall.EpollEvent{Fd: fd, Pad: leg.tag, Events: legEvents})
	}
	farUp.Write([]byte("\x82\x02ok"))
	far.SetReadDeadline(time.Now().Add(20 * time.Second))
	l.turn()
	if got, err := io.ReadAll(io.LimitReader(far, 4)); string(got) != "\x82\x02ok" {
		t.Errorf("got %q, %v", got, err)
	}
	s.Cut(protocol.CausePanic, nil)
	await(t, "it is over", func() bool { l.turn(); return s.events.over })
	wantOver(t, over)
}

// Pings and data from all sides, while a peer reads slowly, so that its socket is
// full most of the time: every frame arrives whole, in order, and once.
func TestInjectionWhileFull(t *testing.T) {
	over := make(chan struct{})
	near, client := tcpPair(t)
	nearUpstream, upstream := tcpPair(t)
	near.(*net.TCPConn).SetWriteBuffer(32 << 10)
	client.(*net.TCPConn).SetReadBuffer(32 << 10)
	s := joinEvents(t, protocol.Policy{Write: time.Minute, Close: time.Minute}, silentHost{over}, [2]net.Conn{near, nearUpstream})
	s.Detach()
	client.SetDeadline(time.Now().Add(20 * time.Second))
	upstream.SetDeadline(time.Now().Add(20 * time.Second))

	const many = 200
	var sent bytes.Buffer
	for i := range many {
		size := []int{0, 5, 300, 5_000, 70_000}[i%5]
		b := append([]byte{0x82}, 127)
		b = binary.BigEndian.AppendUint64(b, uint64(size))
		switch {
		case size < 126:
			b = []byte{0x82, byte(size)}
		case size < 1<<16:
			b = []byte{0x82, 126, byte(size >> 8), byte(size)}
		}
		sent.Write(b)
		sent.Write(bytes.Repeat([]byte{byte(i)}, size))
	}
	var working sync.WaitGroup
	working.Go(func() { upstream.Write(sent.Bytes()) })
	var done atomic.Bool
	for range 3 {
		working.Go(func() {
			for !done.Load() {
				s.legs[frame.Client].inject(pingPending)
				runtime.Gosched()
			}
		})
	}
	working.Go(func() {
		for !done.Load() {
			s.tick()
			runtime.Gosched()
		}
	})
	var got bytes.Buffer
	pings := 0
	header := make([]byte, 10)
	for got.Len() < sent.Len() {
		if _, err := io.ReadFull(client, header[:2]); err != nil {
			t.Fatalf("after %d bytes of %d, and %d pings: %v", got.Len(), sent.Len(), pings, err)
		}
		h, size := header[:2], uint64(header[1])
		switch size {
		case 126:
			io.ReadFull(client, header[2:4])
			h, size = header[:4], uint64(binary.BigEndian.Uint16(header[2:]))
		case 127:
			io.ReadFull(client, header[2:10])
			h, size = header[:10], binary.BigEndian.Uint64(header[2:])
		}
		if h[0] == 0x89 && size == protocol.PingBodySize {
			pings++
			io.CopyN(io.Discard, client, int64(size))
			continue
		}
		if h[0] != 0x82 || size > 70_000 {
			t.Fatalf("after %d bytes and %d pings: a header of %x", got.Len(), pings, h)
		}
		got.Write(h)
		if _, err := io.CopyN(&got, client, int64(size)); err != nil {
			t.Fatalf("after %d bytes of %d, and %d pings: %v", got.Len(), sent.Len(), pings, err)
		}
	}
	done.Store(true)
	if !bytes.Equal(got.Bytes(), sent.Bytes()) {
		t.Error("other bytes arrived than were sent")
	}
	if pings == 0 {
		t.Error("no Ping arrived")
	}
	go io.Copy(io.Discard, client)
	await(t, "all is counted", func() bool { return s.Counts(frame.Upstream).Messages == many })
	if c := s.Counts(frame.Upstream); c.Bytes != uint64(sent.Len()) || c.Frames != many {
		t.Errorf("counted %+v, want %d messages of %d bytes in all", c, many, sent.Len())
	}
	s.Cut(protocol.CausePanic, nil)
	wantOver(t, over)
	working.Wait()
}

// F22: a reset that came along with the last bytes ends the session, and those
// bytes are passed on before.
func TestResetBehindBytesInLoop(t *testing.T) {
	t.Attr("case", "F22")
	for _, last := range []string{"\x82\x03end", "\x88\x00"} {
		near, far := tcpPair(t) // the upstream's
		client, peer := tcpPair(t)
		far.Write([]byte(last))
		far.(*net.TCPConn).SetLinger(0)
		far.Close()
		over := make(chan struct{})
		s := joinEvents(t, protocol.Policy{Write: 2 * time.Second, Close: time.Minute}, silentHost{over}, [2]net.Conn{client, near})
		await(t, "the reset is there", s.legs[frame.Upstream].reset)
		s.Detach()
		peer.SetReadDeadline(time.Now().Add(20 * time.Second))
		if got, err := io.ReadAll(io.LimitReader(peer, int64(len(last)))); string(got) != last {
			t.Fatalf("client got %q, %v, want %q", got, err, last)
		}
		if last[0] == 0x88 {
			peer.Write([]byte("\x88\x80\x00\x00\x00\x00"))
		} else if got, err := io.ReadAll(io.LimitReader(peer, 17)); string(got) != "\x88\x0f\x03\xf3upstream lost" {
			t.Errorf("client got %q, %v, want Close 1011", got, err)
		}
		peer.Close()
		wantOver(t, over)
	}
}

// Urgent data, at which a read stops short, does not hide what is behind it.
func TestUrgentDataInLoop(t *testing.T) {
	over := make(chan struct{})
	s, client, upstream := eventSession(t, protocol.Policy{}, silentHost{over})
	raw, err := upstream.(*net.TCPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	for range 20 {
		upstream.Write([]byte("\x82\x02o"))
		raw.Write(func(fd uintptr) bool {
			err = syscall.Sendto(int(fd), []byte("!"), syscall.MSG_OOB, nil)
			return true
		})
		upstream.Write([]byte("k\x82\x02ok"))
		if got, err := io.ReadAll(io.LimitReader(client, 8)); string(got) != "\x82\x02ok\x82\x02ok" {
			t.Fatalf("got %q, %v", got, err)
		}
	}
	s.Cut(protocol.CausePanic, nil)
	wantOver(t, over)
}

// The user closes sessions at any time, from many goroutines, while they talk: each
// ends once.
func TestEndsFromElsewhere(t *testing.T) {
	var ends sync.WaitGroup
	for i := range 60 {
		over := make(chan struct{})
		s, client, upstream := eventSession(t, protocol.Policy{Close: 20 * time.Second}, silentHost{over})
		ends.Go(func() { io.Copy(client, client) }) // unmasked: a violation, when it comes to that
		ends.Go(func() { io.WriteString(upstream, strings.Repeat("\x82\x02ok", 10_000)) })
		for range 3 {
			ends.Go(func() {
				switch i % 4 {
				case 0:
					s.Cut(protocol.CausePanic, nil)
				case 1:
					s.Stop(protocol.CauseIdle, nil)
					s.Cut(protocol.CausePanic, nil)
				case 2:
					s.SetExpiry(time.Now(), protocol.CauseIdle)
					client.Close()
					upstream.Close()
				case 3:
					upstream.(*net.TCPConn).SetLinger(0)
					upstream.Close()
					client.Close()
				}
			})
		}
		wantOver(t, over)
		client.Close()
		upstream.Close()
	}
	ends.Wait()
}

// Sessions that talk are moved from loop to loop all the time, and end at any time:
// nothing is lost, each ends once, and the loops end with them.
func TestLoopsShare(t *testing.T) {
	awaitNoLoops(t)
	before := shareRules
	defer func() { shareRules = before }()
	for _, retire := range []bool{false, true} {
		shareRules.window, shareRules.busy, shareRules.free, shareRules.low = time.Millisecond, 0, 101, -1
		shareRules.most = func() int { return 4 }
		if retire {
			shareRules.low, shareRules.calm = 101, 1
		}
		var most atomic.Int32
		var talking sync.WaitGroup
		var overs []chan struct{}
		for i := range 24 {
			over := make(chan struct{})
			overs = append(overs, over)
			pol := protocol.Policy{Close: 20 * time.Second, Pings: [2]protocol.Pinging{frame.Upstream: {Interval: 3 * time.Millisecond, Timeout: time.Minute}}}
			s, client, upstream := eventSession(t, pol, silentHost{over})
			go io.Copy(io.Discard, upstream)
			talking.Go(func() {
				at := make(map[*loop]bool)
				got := make([]byte, 4)
				for n := range 300 {
					want := fmt.Sprintf("\x82\x02%02d", n%100)
					io.WriteString(upstream, want)
					if _, err := io.ReadFull(client, got); err != nil || string(got) != want {
						t.Errorf("session %d, message %d: got %q, %v", i, n, got, err)
						break
					}
					at[s.events.loop.Load()] = true
					for old := most.Load(); int(old) < len(at) && !most.CompareAndSwap(old, int32(len(at))); old = most.Load() {
					}
				}
				switch i % 4 {
				case 0:
					s.Cut(protocol.CausePanic, nil)
				case 1:
					s.Stop(protocol.CauseIdle, nil)
					s.Cut(protocol.CausePanic, nil)
				case 2:
					client.Close()
					upstream.Close()
				case 3:
					upstream.(*net.TCPConn).SetLinger(0)
					upstream.Close()
					client.Close()
				}
			})
		}
		talking.Wait()
		for _, over := range overs {
			wantOver(t, over)
		}
		awaitNoLoops(t)
		if most.Load() < 2 {
			t.Errorf("retire=%v: no session was moved", retire)
		}
	}
}

// A session that is ended while it is moved ends once, in the loop that has it then,
// whether the call for that came before the move or after it. Events of the first
// loop that are out of date do nothing.
func TestCutWhileMoved(t *testing.T) {
	for _, before := range []bool{false, true} {
		first := ownLoop(t)
		second := newLoop()
		if second == nil {
			t.Fatal("no descriptors")
		}
		loops.Lock()
		second.joinLocked()
		loops.Unlock()
		over := make(chan struct{})
		s, client, upstream := eventSession(t, protocol.Policy{}, silentHost{over})
		first.turn()
		leg := s.legs[0].ev()
		stale := syscall.EpollEvent{Fd: leg.fd, Pad: leg.tag, Events: legEvents | syscall.EPOLLHUP | syscall.EPOLLERR}
		if before {
			s.Cut(protocol.CausePanic, nil)
		}
		first.move(s, second)
		if !before {
			s.Cut(protocol.CausePanic, nil)
		}
		first.handle(&stale)
		if leg.ready || leg.fd < 0 || s.events.over {
			t.Fatalf("before=%v: the first loop still has it", before)
		}
		turn := func(l *loop) { l.wake(); l.turn() } // which does not wait
		turn(first)                                  // it passes on what it was called for
		await(t, "it is over", func() bool { turn(second); return s.events.over })
		wantOver(t, over) // closes it: a second end would panic
		for _, far := range []net.Conn{client, upstream} {
			if _, err := far.Read(make([]byte, 1)); err == nil || os.IsTimeout(err) {
				t.Errorf("before=%v: a connection is not closed: %v", before, err)
			}
		}
		loops.Lock()
		if first.sessions != 0 || second.sessions != 0 {
			t.Errorf("before=%v: %d and %d sessions are left", before, first.sessions, second.sessions)
		}
		loops.list = nil
		loops.Unlock()
		second.close()
	}
}

// A loop that was busy and has slept since is free.
func TestLoopLoad(t *testing.T) {
	first, second := ownLoop(t), newLoop()
	if second == nil {
		t.Fatal("no descriptors")
	}
	defer second.close()
	loops.Lock()
	defer loops.Unlock()
	loops.list = append(loops.list, second)
	for _, tt := range []struct {
		slept [2]time.Duration
		want  *loop
	}{
		{[2]time.Duration{0, 0}, second}, // both busy, the second one less
		{[2]time.Duration{time.Second, 0}, first},
		{[2]time.Duration{0, time.Second}, second},
	} {
		for i, l := range []*loop{first, second} {
			l.base = time.Now().Add(-time.Hour)
			l.share.load.Store(int32(99 - i))
			l.share.measured.Store(int64(time.Hour - tt.slept[i]))
		}
		if freestLocked(nil) != tt.want {
			t.Errorf("slept %v: took a loop with a load of %d, want %d", tt.slept, freestLocked(nil).load(), tt.want.load())
		}
	}
}

// A loop that has little to do for some time gives its sessions back, and ends.
func TestLoopRetires(t *testing.T) {
	awaitNoLoops(t)
	before := shareRules
	defer func() { shareRules = before }()
	shareRules.window, shareRules.busy, shareRules.free, shareRules.low, shareRules.calm = time.Millisecond, 0, 101, 101, 3
	most := atomic.Int32{}
	most.Store(3)
	shareRules.most = func() int { return int(most.Load()) }
	var sessions []*Session
	var overs []chan struct{}
	var fars [][2]net.Conn
	for range 10 {
		over := make(chan struct{})
		s, client, upstream := eventSession(t, protocol.Policy{}, silentHost{over})
		sessions, overs, fars = append(sessions, s), append(overs, over), append(fars, [2]net.Conn{client, upstream})
	}
	talk := func() {
		for _, far := range fars {
			io.WriteString(far[1], "\x82\x02ok")
			if got, err := io.ReadAll(io.LimitReader(far[0], 4)); string(got) != "\x82\x02ok" {
				t.Fatalf("got %q, %v", got, err)
			}
		}
	}
	await(t, "there are several loops", func() bool { talk(); return loopCount() > 1 })
	most.Store(1)
	await(t, "there is one loop", func() bool { talk(); return loopCount() == 1 })
	talk()
	for i, s := range sessions {
		s.Cut(protocol.CausePanic, nil)
		wantOver(t, overs[i])
	}
	awaitNoLoops(t)
}

// A loop that goes on does not hold on to a session that is over.
func TestLoopForgets(t *testing.T) {
	keptOver := make(chan struct{})
	kept, _, _ := eventSession(t, protocol.Policy{}, silentHost{keptOver})
	const size = 64 << 20 // many turns
	busy := func() weak.Pointer[Session] {
		over := make(chan struct{})
		s, client, upstream := eventSession(t, protocol.Policy{}, silentHost{over})
		go upstream.Write(append([]byte{0x82, 127, 0, 0, 0, 0, size >> 24, 0, 0, 0}, make([]byte, size)...))
		if _, err := io.CopyN(io.Discard, client, size); err != nil {
			t.Fatal(err)
		}
		s.Cut(protocol.CausePanic, nil)
		wantOver(t, over)
		return weak.Make(s)
	}()
	await(t, "the session is forgotten", func() bool {
		runtime.GC()
		return busy.Value() == nil
	})
	kept.Cut(protocol.CausePanic, nil)
	wantOver(t, keptOver)
}

// A timer may be further away than the kernel can wait.
func TestFarTimer(t *testing.T) {
	l := newLoop()
	if l == nil {
		t.Fatal("no descriptors")
	}
	defer l.close()
	var far Session
	l.wheel.set(&far, int64((1<<32*time.Millisecond)/tick)) // in 32 bits: now
	defer l.wheel.remove(&far)
	began := time.Now()
	time.AfterFunc(100*time.Millisecond, l.wake)
	for n := 0; time.Since(began) < 100*time.Millisecond; n++ {
		if n > 10 { // a signal may end a wait
			t.Fatal("it does not wait")
		}
		l.wait()
	}
}

// fill fills a leg's socket, and returns the number of bytes.
func fill(leg *leg) (n int) {
	for errno := syscall.Errno(0); errno == 0; {
		var m int
		m, errno = sendNow(leg.ev().fd, make([]byte, chunkSize))
		n += m
	}
	return n
}

// A client that has sent its Close frame and a FIN gets what was kept for it before
// its connection is closed.
func TestKeptBeforeClose(t *testing.T) {
	l := ownLoop(t)
	over := make(chan struct{})
	s, client, upstream := eventSession(t, protocol.Policy{Close: 20 * time.Second, Write: 20 * time.Second}, silentHost{over})
	leg := &s.legs[frame.Client]
	io.WriteString(client, mask("\x88\x02\x03\xe8"))
	client.(*net.TCPConn).CloseWrite()
	await(t, "the client's end is read", func() bool { l.turn(); return leg.ev().over })
	filled := fill(leg)
	const last = "\x82\x03end\x88\x02\x03\xe8"
	io.WriteString(upstream, last)
	await(t, "the upstream's Close is read", func() bool { l.turn(); return s.pumps[frame.Upstream].mind.Ended })
	got := make(chan string)
	go func() {
		io.CopyN(io.Discard, client, int64(filled))
		rest, _ := io.ReadAll(client)
		upstream.Close()
		got <- string(rest)
	}()
	await(t, "it is over", func() bool { l.turn(); return s.events.over })
	wantOver(t, over)
	if got := <-got; got != last {
		t.Errorf("the client got %q, want %q", got, last)
	}
	if c := s.Counts(frame.Upstream); c.Bytes != uint64(len(last)) || c.Frames != 2 || c.Messages != 1 {
		t.Errorf("counted %+v", c)
	}
}

// What follows a Close frame of the proxy's own in a chunk is dropped, and not
// counted, even if the Close frame has to wait for the socket.
func TestNothingCountsAfterClose(t *testing.T) {
	l := ownLoop(t)
	over := make(chan struct{})
	s, client, upstream := eventSession(t, protocol.Policy{Close: 20 * time.Second, Write: 20 * time.Second}, silentHost{over})
	leg := &s.legs[frame.Client]
	io.WriteString(upstream, "\x82\x02o")
	await(t, "the frame has begun", func() bool { l.turn(); return s.Counts(frame.Upstream).Bytes == 3 })
	s.Stop(protocol.CauseIdle, nil)
	filled := fill(leg)
	io.WriteString(upstream, "k\x82\x50dropped")
	await(t, "the rest is read", func() bool { l.turn(); return leg.is(legKeeps) })
	go func() {
		io.CopyN(io.Discard, client, 3+int64(filled))
		io.ReadAll(io.LimitReader(client, 1+4)) // the rest, and the start of a Close frame
		io.WriteString(client, mask("\x88\x02\x03\xe9"))
		io.Copy(io.Discard, client)
		upstream.Close()
	}()
	await(t, "it is over", func() bool { l.turn(); return s.events.over })
	wantOver(t, over)
	if c := s.Counts(frame.Upstream); c.Bytes != 4 || c.Frames != 1 || c.Messages != 1 {
		t.Errorf("counted %+v, want one frame of 4 bytes", c)
	}
}

// Descriptors that the peer of a unix socket sends, at which a read stops short, do
// not hide what is behind them.
func TestDescriptorsInLoop(t *testing.T) {
	ln, err := net.Listen("unix", filepath.Join(t.TempDir(), "upstream"))
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	near, err := net.Dial("unix", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	upstream, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer upstream.Close()
	client, peer := tcpPair(t)
	over := make(chan struct{})
	if _, _, err := upstream.(*net.UnixConn).WriteMsgUnix([]byte("\x82\x02o"), syscall.UnixRights(1), nil); err != nil {
		t.Fatal(err)
	}
	io.WriteString(upstream, "k\x82\x02ok")
	s := joinEvents(t, protocol.Policy{}, silentHost{over}, [2]net.Conn{client, near})
	s.Detach()
	peer.SetReadDeadline(time.Now().Add(5 * time.Second))
	if got, err := io.ReadAll(io.LimitReader(peer, 8)); string(got) != "\x82\x02ok\x82\x02ok" {
		t.Errorf("got %q, %v", got, err)
	}
	s.Cut(protocol.CausePanic, nil)
	wantOver(t, over)
}

// A writer that hands over what the socket has not taken has nothing to do with it
// any more: the loop may write the rest at once.
func TestHandOver(t *testing.T) {
	over := make(chan struct{})
	near, client := tcpPair(t)
	up, _ := tcpPair(t)
	near.(*net.TCPConn).SetWriteBuffer(64 << 10)
	s := joinEvents(t, protocol.Policy{Write: time.Minute}, silentHost{over}, [2]net.Conn{near, up})
	s.Detach()
	go io.Copy(io.Discard, client)
	leg := &s.legs[frame.Client]
	for range 50 {
		if err := s.Send(t.Context(), frame.Client, frame.OpBinary, make([]byte, 1<<20)); err != nil {
			t.Fatal(err)
		}
		await(t, "nothing is being written", func() bool { return !leg.is(legKeeps) })
	}
	s.Cut(protocol.CausePanic, nil)
	wantOver(t, over)
}

// A peer that takes nothing any more is lost when the write timeout is over.
func TestStuckInLoop(t *testing.T) {
	over := make(chan struct{})
	s, _, upstream := eventSession(t, protocol.Policy{Write: time.Second}, silentHost{over})
	go func() {
		upstream.Write([]byte("\x82\x7f\x00\x00\x01\x00\x00\x00\x00\x00"))
		for b := make([]byte, 64<<10); ; {
			if _, err := upstream.Write(b); err != nil {
				return
			}
		}
	}()
	wantOver(t, over)
	if c, _, err := s.Result(); c.Reason != "lost" || c.By != frame.Client {
		t.Errorf("ended as %+v, %v; want the client lost", c, err)
	}
}

// A session that was moved keeps its timer.
func TestTimerWhileMoved(t *testing.T) {
	first := ownLoop(t)
	second := newLoop()
	if second == nil {
		t.Fatal("no descriptors")
	}
	defer second.close()
	loops.Lock()
	second.joinLocked()
	loops.Unlock()
	over := make(chan struct{})
	s, _, _ := eventSession(t, protocol.Policy{Age: 300 * time.Millisecond}, silentHost{over})
	first.turn()
	first.move(s, second)
	await(t, "it is over", func() bool { second.wake(); second.turn(); return s.events.over })
	wantOver(t, over)
	if c, _, _ := s.Result(); c.Reason != "age" {
		t.Errorf("ended as %+v, want its age", c)
	}
}
