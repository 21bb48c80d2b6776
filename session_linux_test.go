package wsproxy_test

import (
	"fmt"
	"io"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/seed-ffb73231/wsproxy"
	"github.com/seed-ffb73231/wsproxy/internal/wstest"
)

// Clients that do not read long frames hold pipes, but at most a quarter of the
// descriptors: others can still connect, and their frames are relayed all the
// same.
func TestPipesAreFew(t *testing.T) {
	t.Attr("case", "F52")
	if !alone(t) {
		return
	}
	var old syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &old); err != nil {
		t.Fatal(err)
	}
	const limit, sessions, size = 200, 30, 6 << 20 // more than the buffers hold
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &syscall.Rlimit{Cur: limit, Max: old.Max}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { syscall.Setrlimit(syscall.RLIMIT_NOFILE, &old) })
	r := newRig(t, wstest.TCP)
	frame := []byte(wstest.RawFrame(wstest.Binary, false, strings.Repeat("x", size)))
	var clients []*wstest.Wire
	for range sessions {
		c, u := r.open("", "")
		c.TCP().SetReadBuffer(64 << 10) // so that its kernel takes little
		go func() {
			if _, err := u.Write(frame); err != nil {
				t.Errorf("%s: write: %v", u.Who(), err)
			}
		}()
		clients = append(clients, c)
	}
	stuck, last, since := 0, uint64(0), time.Now()
	wstest.Await(t, func() bool {
		n, sum := 0, uint64(0)
		for s := range r.proxy.Sessions() {
			bytes := s.Counts(wsproxy.Upstream).Bytes
			if sum += bytes; bytes > 64<<10 { // more than one chunk: it has asked for a pipe
				n++
			}
		}
		if n != stuck || sum != last {
			stuck, last, since = n, sum, time.Now()
		}
		return stuck == sessions && time.Since(since) > 100*time.Millisecond
	}, func() string { return fmt.Sprintf("%d of %d are stuck", stuck, sessions) })
	if _, pipes := descriptors(t); pipes > limit/4+2*runtime.NumCPU() {
		t.Errorf("%d pipe ends, want a quarter of %d descriptors at most", pipes, limit)
	}
	c, u := r.open("", "")
	u.SendText("others get in")
	c.Want(wstest.Text, "others get in")
	for _, c := range clients {
		if n, err := io.CopyN(io.Discard, c.In, int64(len(frame))); err != nil {
			t.Fatalf("%d bytes of %d came: %v", n, len(frame), err)
		}
	}
}
