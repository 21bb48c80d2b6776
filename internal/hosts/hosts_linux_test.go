package hosts

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
)

// TestHosts takes machines away from under sessions, one after the other, and
// restores them.
func TestHosts(t *testing.T) {
	d := deploy(t)
	places := d.placement(t)
	if t.Failed() {
		return
	}

	// A room's own upstream, and those whose upstreams are left alone.
	killed, cut, steady := d.upstreams[0], d.upstreams[1], d.upstreams[2]
	var quiet []string
	for room, name := range places {
		if name == steady.host.name {
			quiet = append(quiet, room)
		}
	}
	slices.Sort(quiet)
	mine := d.openAt(d.balancer.address(80), "/crowd/", quiet[:40], 8)
	byProxy := make(map[string][]*session)
	for _, s := range mine {
		byProxy[s.Proxy] = append(byProxy[s.Proxy], s)
	}
	a, b := d.proxies[0], d.proxies[1]
	controlA, controlB := byProxy[a.ip.String()], byProxy[b.ip.String()]
	if len(controlA) != 20 || len(controlB) != 20 {
		t.Errorf("round robin has put %d and %d of 40 sessions on the proxies", len(controlA), len(controlB))
	}
	onA := d.watch("control on proxy-a", controlA)
	onB := d.watch("control on proxy-b", controlB)
	calm := func(after string) {
		t.Helper()
		onA.well(after)
		onB.well(after)
	}

	d.outage(outage{
		victim: killed, places: places,
		take: func() { killed.kill() },
		give: func() { killed.begin(); d.awaitUpstream(killed) },
		what: "killed (SIGKILL)", path: "/rooms/", code: websocket.StatusInternalError, ends: slack, handshake: slack,
	})
	calm("an upstream was killed")
	d.outage(outage{
		victim: cut, places: places,
		take: func() { cut.cut(t) },
		give: func() { cut.mend(t) },
		what: "cut off (packets dropped)", path: "/rooms/", code: websocket.StatusInternalError, ends: pingInterval + pingTimeout + slack, handshake: handshakeTimeout,
	})
	calm("an upstream was cut off")
	d.outage(outage{
		victim: killed, places: places,
		take: func() { killed.cut(t) },
		give: func() { killed.mend(t) },
		what: "cut off from its health checks, too", path: "/checked/", code: websocket.StatusServiceRestart,
		ends: checkFall*(checkInterval+checkTimeout) + drainWindow + slack, handshake: handshakeTimeout,
	})
	calm("an upstream was marked down")
	onA.end()

	d.drain(a, b)
	onB.well("a proxy was drained")
	d.back(a)
	onB.well("a proxy came back")
	onB.end()
	d.wantNothing()
	d.end()
}

// placement opens many rooms at each proxy and returns each room's upstream.
func (d *deployment) placement(t *testing.T) map[string]string {
	const n = 300
	names := rooms(n)
	sessions := d.openEach("/rooms/", names, 8)
	places := make(map[string]string, n)
	counts := make(map[string]int)
	for j, room := range names {
		a, b := sessions[0][j], sessions[1][j]
		if a.Proxy == b.Proxy {
			t.Fatalf("both sessions of %s come from %s", room, a.Proxy)
		}
		if a.Upstream != b.Upstream {
			t.Errorf("%s is at %s by %s, and at %s by %s", room, a.Upstream, d.name(a.Proxy), b.Upstream, d.name(b.Proxy))
		}
		places[room] = a.Upstream
		counts[a.Upstream]++
	}
	for _, u := range d.upstreams {
		if got := counts[u.host.name]; got < n/3-n/10 || got > n/3+n/10 {
			t.Errorf("%s has %d of %d rooms, want about %d", u, got, n, n/3)
		}
	}
	closeAll(sessions...)
	d.say("%d rooms at each proxy, placed alike: %s", n, tally(counts))
	return places
}

// tally formats counts in the order of their names.
func tally(counts map[string]int) string {
	var parts []string
	for _, name := range slices.Sorted(maps.Keys(counts)) {
		parts = append(parts, fmt.Sprintf("%s %d", name, counts[name]))
	}
	return strings.Join(parts, ", ")
}

// slack is the additional time that a busy machine may take.
const slack = 3 * time.Second

// An outage describes the loss of one upstream.
type outage struct {
	victim     *machine
	places     map[string]string
	take, give func()
	what       string
	path       string               // the route
	code       websocket.StatusCode // by which its sessions are to end,
	ends       time.Duration        // and within which time
	handshake  time.Duration        // within this new ones are to be elsewhere
}

// outage takes an upstream away while there are sessions in rooms of all
// upstreams, and restores it.
func (d *deployment) outage(o outage) {
	t := d.t
	t.Helper()
	names := rooms(120)
	isHit := func(room string) bool { return o.places[room] == o.victim.host.name }
	d.awaitMembers()
	sessions := d.openEach(o.path, names, 8)
	for _, list := range sessions {
		for _, s := range list {
			if s.Upstream != o.places[s.Room] {
				t.Fatalf("%s is at %s, want %s", s.Room, s.Upstream, o.places[s.Room])
			}
		}
	}
	all := slices.Concat(sessions...)
	hit := slices.DeleteFunc(slices.Clone(all), func(s *session) bool { return !isHit(s.Room) })
	others := slices.DeleteFunc(slices.Clone(all), func(s *session) bool { return isHit(s.Room) })
	hitRooms := slices.DeleteFunc(slices.Clone(names), func(room string) bool { return !isHit(room) })

	began := time.Now()
	o.take()
	d.say("%s is %s; it has %d of %d sessions", o.victim, o.what, len(hit), len(all))

	// Every other session sends a message that nobody will get.
	for i := 0; i < len(hit); i += 2 {
		hit[i].say("into the void")
	}
	// Its rooms are opened again at once, at both proxies, in parallel, but by
	// fewer clients than there may be retries (WithRetry).
	anew := d.openEach(o.path, hitRooms, 8)
	opened := time.Since(began)

	first, last := time.Duration(0), time.Duration(0)
	for i, s := range hit {
		select {
		case <-s.done:
		case <-time.After(time.Until(began.Add(o.ends + patience))):
			t.Fatalf("%s by %s: the session with %s is open %v after it was %s", s.Room, s.Proxy, o.victim, time.Since(began), o.what)
		}
		took := s.ended.Sub(began)
		if s.code != o.code {
			t.Errorf("%s by %s: has ended by %v, want Close %d", s.Room, s.Proxy, s.err, o.code)
		}
		if took > o.ends {
			t.Errorf("%s by %s: Close has come after %v, want %v at most", s.Room, s.Proxy, took, o.ends)
		}
		if last = max(last, took); i == 0 || took < first {
			first = took
		}
	}
	d.say("its %d sessions have got Close %d, %v to %v after that", len(hit), o.code, round(first), round(last))

	var slowest time.Duration
	slow := 0
	counts := make(map[string]int)
	for j, room := range hitRooms {
		a, b := anew[0][j], anew[1][j]
		if a.Upstream != b.Upstream || a.Upstream == o.victim.host.name {
			t.Errorf("%s is at %s by %s, and at %s by %s", room, a.Upstream, d.name(a.Proxy), b.Upstream, d.name(b.Proxy))
		}
		counts[a.Upstream]++
		for _, s := range []*session{a, b} {
			if s.took > o.handshake {
				t.Errorf("%s by %s: the handshake took %v, want %v at most", room, s.Proxy, s.took, o.handshake)
			}
			if slowest = max(slowest, s.took); s.took > 500*time.Millisecond {
				slow++
			}
		}
	}
	d.say("its %d rooms were opened anew within %v, alike at both proxies: %s; the slowest handshake %v, over 500ms %d of %d",
		len(hitRooms), round(opened), tally(counts), round(slowest), slow, 2*len(hitRooms))

	for _, s := range others {
		if err := s.echo("undisturbed"); err != nil {
			t.Errorf("%s at %s by %s: %v", s.Room, s.Upstream, s.Proxy, err)
		}
	}
	d.say("the %d sessions with the other upstreams are as they were", len(others))
	closeAll(others, anew[0], anew[1])

	o.give()
	began = time.Now()
	d.say("%s is back", o.victim)
	for _, p := range d.proxies {
		waitFor(t, fmt.Sprintf("%s to give %s its rooms again", p, o.victim), 2*patience, func() error {
			s, err := d.dial(p.address(8080), o.path, hitRooms[0])
			if err != nil {
				t.Fatal(err)
			}
			defer s.close()
			if s.Upstream != o.victim.host.name {
				return fmt.Errorf("%s is at %s", s.Room, s.Upstream)
			}
			return nil
		})
	}
	took := time.Since(began)
	again := d.openEach(o.path, names, 8)
	for _, s := range slices.Concat(again...) {
		if s.Upstream != o.places[s.Room] {
			t.Errorf("%s is at %s by %s, want %s as before", s.Room, s.Upstream, s.Proxy, o.places[s.Room])
		}
	}
	closeAll(again...)
	d.say("all rooms are where they were, %v after that", round(took))
}

func round(d time.Duration) time.Duration { return d.Round(time.Millisecond) }
