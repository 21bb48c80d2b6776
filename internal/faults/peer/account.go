package peer

import (
	"fmt"
	"net/http"
	"os"
	"regexp"
	"runtime"
	"strings"
	"time"

	"github.com/seed-ffb73231/wsproxy"
	"github.com/seed-ffb73231/wsproxy/internal/wstest"
)

// counts is what a process holds.
type counts struct {
	sockets    int      // file descriptors; 0 where they can't be counted
	goroutines []string // their stacks
}

var (
	longAgo = time.Unix(1, 0)
	never   time.Time
)

func count() counts { return counts{Sockets(), stacks()} }

// Sockets returns the number of sockets that the process has open. Pipes are
// not counted, because empty ones are kept for the next long frame.
func Sockets() int {
	const dir = "/proc/self/fd"
	entries, err := os.ReadDir(dir)
	if err != nil {
		return 0
	}
	n := 0
	for _, e := range entries {
		if to, _ := os.Readlink(dir + "/" + e.Name()); strings.HasPrefix(to, "socket:") {
			n++
		}
	}
	return n
}

// stacks returns the stacks of all goroutines except those of Toxiproxy, some
// of which stay behind when a toxic has closed a connection.
func stacks() []string {
	b := make([]byte, 1<<20)
	b = b[:runtime.Stack(b, true)]
	var found []string
	for s := range strings.SplitSeq(string(b), "\n\n") {
		if !strings.Contains(s, "Shopify/toxiproxy") {
			found = append(found, s)
		}
	}
	return found
}

// ofSession matches the functions that run a session, in the proxy's package or
// in those below it.
var ofSession = regexp.MustCompile(`/wsproxy(/internal/relay)?\.\(\*(Proxy|Session|pump|leg)\)`)

// ofSessions returns the stacks that run a session.
func (c counts) ofSessions() []string {
	var found []string
	for _, s := range c.goroutines {
		if ofSession.MatchString(s) {
			found = append(found, s)
		}
	}
	return found
}

// The messages of the proxy's records.
const (
	opened = "wsproxy: session opened"
	ended  = "wsproxy: session ended"
	failed = "wsproxy: handshake failed"
)

// records returns the records with that message; "": those with a message other
// than the three above.
func (r *Rig) records(msg string) []wstest.Record {
	var found []wstest.Record
	for _, m := range r.logs.Records() {
		got := m["msg"]
		if got == msg || msg == "" && got != opened && got != ended && got != failed {
			found = append(found, m)
		}
	}
	return found
}

// Opened waits until n sessions have been opened.
func (r *Rig) Opened(n int) {
	r.t.Helper()
	if !wstest.Until(func() bool { return r.Proxy.Stats().Open == n }) {
		r.t.Fatalf("%d sessions are open, want %d", r.Proxy.Stats().Open, n)
	}
}

// Ended waits for the first session's end, checks that it was ended by that
// side for that reason, and returns its record.
func (r *Rig) Ended(by wsproxy.Side, reason wsproxy.Reason) wstest.Record {
	r.t.Helper()
	return r.EndedAs(0, by, reason)
}

// EndedAs is Ended for the n-th session that ends, from 0.
func (r *Rig) EndedAs(n int, by wsproxy.Side, reason wsproxy.Reason) wstest.Record {
	r.t.Helper()
	m := r.logs.WaitFor(r.t, ended, n)
	if m["by"] != by.String() || m["reason"] != string(reason) {
		r.t.Fatalf("logged %v, want a session ended by %v: %v", m, by, reason)
	}
	return m
}

// Failed waits for the first failed handshake, checks its logged status and
// kind, and returns its record.
func (r *Rig) Failed(status int, kind string) wstest.Record {
	r.t.Helper()
	return r.FailedAs(0, status, kind)
}

// FailedAs is Failed for the n-th handshake that fails, from 0.
func (r *Rig) FailedAs(n, status int, kind string) wstest.Record {
	r.t.Helper()
	m := r.logs.WaitFor(r.t, failed, n)
	if m["status"] != int64(status) || m["kind"] != kind {
		r.t.Fatalf("logged %v, want status %d, kind %q", m, status, kind)
	}
	return m
}

// Other returns the records that concern neither a session nor a handshake.
func (r *Rig) Other() []wstest.Record { return r.records("") }

// settle stops the rig and balances the accounts: every session has ended and
// every ServeHTTP has returned by itself; there is one record for each session
// and each failed handshake, and the counters agree; no goroutine and no socket
// is left.
func (r *Rig) settle(served <-chan struct{}) {
	t := r.t
	if t.Failed() || t.Skipped() {
		r.Proxy.Close()
		r.Server.Close()
		r.back.Close()
		<-served
		return
	}
	if !wstest.Until(func() bool {
		st := r.Proxy.Stats()
		return st.Open == 0 && st.Handshakes == 0 && r.entered.Load() == r.left.Load() &&
			uint64(len(r.records(ended))) >= st.Opened // a detached session is over before its record is written
	}) {
		st := r.Proxy.Stats()
		t.Errorf("%d sessions are open, %d handshakes are under way, ServeHTTP has returned %d of %d times; want all over",
			st.Open, st.Handshakes, r.left.Load(), r.entered.Load())
	}
	r.balance()
	r.Proxy.Close()
	r.Server.Close()
	r.back.Close()
	<-served
	var now counts
	if !wstest.Until(func() bool {
		now = count()
		return len(now.ofSessions()) == 0 && len(now.goroutines) <= len(r.base.goroutines) && now.sockets <= r.base.sockets
	}) {
		t.Errorf("%d sockets are left of %d, %d goroutines of %d:\n%s", now.sockets, r.base.sockets,
			len(now.goroutines), len(r.base.goroutines), strings.Join(now.goroutines, "\n\n"))
	}
}

// balance compares the proxy's counters with its log.
func (r *Rig) balance() {
	t, st := r.t, r.Proxy.Stats()
	equal := func(what string, got, want any) {
		t.Helper()
		if got != want {
			t.Errorf("%s: got %v, want %v", what, got, want)
		}
	}
	if text := r.logs.String(); strings.Contains(text, wstest.Secret) {
		t.Errorf("a secret was logged: %s", text)
	}
	ends, fails := r.records(ended), r.records(failed)
	equal("records of sessions opened", len(r.records(opened)), len(ends))
	equal("Stats.Opened", st.Opened, uint64(len(ends)))

	outcomes, kinds, ids := map[string]uint64{}, map[string]uint64{}, map[any]bool{}
	for _, m := range ends {
		outcomes[fmt.Sprint(m["by"], m["reason"])]++
		ids[m["id"]] = true
	}
	equal("ids", len(ids), len(ends))
	for o, n := range st.Ended {
		equal(fmt.Sprint("Stats.Ended of ", o), n, outcomes[fmt.Sprint(o.By.String(), string(o.Reason))])
	}
	for _, m := range fails {
		kinds[m["kind"].(string)]++
		if status := m["status"].(int64); status < 100 || status > 599 {
			t.Errorf("logged status %d", status)
		}
	}
	for kind, n := range st.Failed {
		equal("Stats.Failed of "+string(kind), n, kinds[string(kind)])
	}
	for _, side := range []struct {
		key    string
		counts wsproxy.Counts
	}{{"from_client.", st.FromClients}, {"from_upstream.", st.FromUpstreams}} {
		sum := func(key string) (n uint64) {
			for _, m := range ends {
				n += m[side.key+key].(uint64)
			}
			return n
		}
		equal(side.key+"bytes", side.counts.Bytes, sum("bytes"))
		equal(side.key+"frames", side.counts.Frames, sum("frames"))
		equal(side.key+"messages", side.counts.Messages, sum("messages"))
	}
	var observed uint64
	for _, n := range st.Durations.Counts {
		observed += n
	}
	equal("Stats.Durations", observed, uint64(len(ends)))
}

// Phrase checks that an answer's body is the fixed phrase of its status, which
// does not reveal what went wrong.
func (r *Rig) Phrase(status int, body string) {
	r.t.Helper()
	if want := http.StatusText(status) + "\n"; body != want {
		r.t.Errorf("got body %q, want %q", body, want)
	}
}
