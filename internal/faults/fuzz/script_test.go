package fuzz_test

import (
	"fmt"
	"hash/fnv"
	"strings"
)

// A script says what the two endpoints of a session do. Any bytes make one.
type script struct {
	seed     uint64
	proxy    int    // which of the proxies
	lib      [2]int // of client and upstream: gorilla or coder
	cut      [4]int // how client, upstream, and the proxy's two connections cut
	deflate  bool   //
	buffer   int    // gorilla's write buffer, and with it its frames
	kill     int    // how the session is killed, if it is
	killAt   int    // before which of the acts
	closer   int    // who closes: client, upstream, both
	barrier  bool   // only when the other one has said everything
	code     int    // of the Close
	reason   string // in it
	acts     [2][]act
	together []act // in the order of the script
}

// The actions of an endpoint.
const (
	actText = iota
	actBinary
	actFragments
	actPing
	actPong
	actPause
	actBurst
	actEmpty
	actKinds
)

type act struct {
	side, kind, size int
}

// Ways to kill a session.
const (
	killNot = iota
	killClientReset
	killUpstreamReset
	killClientClose
	killUpstreamClose
	killSession
	killKinds
)

const (
	gorilla = 0
	coder   = 1

	mostActs  = 24
	mostBytes = 120 << 10 // that one endpoint sends: less than what sockets hold, or endpoints that write Pongs in their readers lock up
)

var closeCodes = []int{1000, 1001, 1011, 3000, 4999, 1003}

// parseScript makes a script from a fuzz input.
func parseScript(in []byte) *script {
	h := fnv.New64a()
	h.Write(in)
	b := func(i int) int {
		if i < len(in) {
			return int(in[i])
		}
		return 0
	}
	s := &script{
		seed:    h.Sum64(),
		proxy:   b(0) & 3,
		lib:     [2]int{b(0) >> 2 & 1, b(0) >> 3 & 1},
		deflate: b(0)>>4&1 == 1,
		barrier: b(0)>>5&1 == 0,
		closer:  b(0) >> 6 % 3,
		cut:     [4]int{b(1) & 3, b(1) >> 2 & 3, b(1) >> 4 & 3, b(1) >> 6 & 3},
		buffer:  []int{4096, 256, 1024, 64}[b(2)&3],
		code:    closeCodes[b(2)>>2%len(closeCodes)],
		reason:  fmt.Sprintf("%.*s", b(2)>>5*17, "a reason of some length, which is there to be carried as it is from one end to the other, byte for byte, up to 119 bytes"),
		kill:    max(b(3)%(2*killKinds)-killKinds, 0),
		killAt:  b(3) / (2 * killKinds),
	}
	var total [2]int
	for i := 4; i+1 < len(in) && len(s.together) < mostActs; i += 2 {
		a := act{side: b(i) & 1, kind: b(i) >> 1 % actKinds, size: b(i + 1)}
		if a.kind <= actFragments {
			switch b(i) >> 5 {
			case 0: // as it is
			case 1:
				a.size += 100 // about 125, 126
			case 2:
				a.size = 65536 - 128 + a.size // about 65535, 65536
			case 3, 4:
				a.size *= 16
			case 5:
				a.size *= 200
			}
		}
		if total[a.side] += a.size; total[a.side] > mostBytes {
			total[a.side] -= a.size
			a.size = 1
		}
		s.acts[a.side] = append(s.acts[a.side], a)
		s.together = append(s.together, a)
	}
	return s
}

// payload returns what an act sends: text in which neighbouring bytes differ.
func (s *script) payload(n int, of act) []byte {
	p := make([]byte, of.size)
	for i := range p {
		p[i] = byte(' ' + (i*7+n*31+int(s.seed&0xFF))%95)
	}
	return p
}

var (
	libNames   = []string{"gorilla", "coder"}
	killNames  = []string{"not", "client reset", "upstream reset", "client hangs up", "upstream hangs up", "Session.Close"}
	kindNames  = []string{"text", "binary", "fragments", "ping", "pong", "pause", "burst", "empty"}
	proxyNames = []string{"sockets", "wrapped connections", "sockets, slowed down, detached", "wrapped connections, slowed down"}
)

// String describes the script, for failures.
func (s *script) String() string {
	var text strings.Builder
	fmt.Fprintf(&text, "proxy: %s; client %s, upstream %s; pieces %v; deflate %v; buffer %d; kill: %s, at %d; closer %d (barrier %v), code %d, reason of %d;",
		proxyNames[s.proxy], libNames[s.lib[0]], libNames[s.lib[1]], s.cut, s.deflate, s.buffer, killNames[s.kill], s.killAt, s.closer, s.barrier, s.code, len(s.reason))
	for _, a := range s.together {
		fmt.Fprintf(&text, " %d:%s %d", a.side, kindNames[a.kind], a.size)
	}
	return text.String()
}
