package fuzz_test

import (
	"testing"
	"time"
)

// seeds are scripts with each proxy, pair of libraries, way of cutting and way
// of killing.
func seeds() (list [][]byte) {
	acts := []byte{
		0, 20, 1, 20, // text
		2 | 1<<5, 25, 3 | 1<<5, 26, // binary, of 125 and 126 bytes
		10, 100, 10, 200, // pauses, in which the proxy pings
		4, 90, 5 | 3<<5, 250, // fragments
		6, 12, 7, 3, // pings
		8, 12, 9, 0, // pongs
		2 | 2<<5, 127, 11, 100, // 64 KiB, and a pause
		12, 200, 13, 100, // bursts
		14, 0, 15, 1, // empty
		2 | 5<<5, 200, 3 | 5<<5, 201, // 40 KiB
	}
	for first := range 256 {
		if first%5 != 0 {
			continue
		}
		head := []byte{byte(first), byte(first * 7), byte(first * 3), byte(first * 11)}
		list = append(list, append(head, acts[first%len(acts)&^1:]...))
	}
	for kill := range killKinds {
		for proxy := range 4 {
			for lib := range 4 {
				head := []byte{byte(proxy | lib<<2), 0xE4, 0, byte(killKinds + kill + 2*killKinds*(kill+proxy+lib))}
				list = append(list, append(head, acts...))
			}
		}
	}
	return list
}

// TestPings checks that the proxies send Pings on both legs, so that there is
// something to find between the frames.
func TestPings(t *testing.T) {
	for proxy := range 4 {
		in := []byte{byte(proxy), 0, 0, 0}
		for range 10 {
			in = append(in, 0, 20, 10, 200, 1, 20, 11, 200)
		}
		s := parseScript(in)
		pinged := 0
		for deadline := time.Now().Add(timeout); pinged < 5 && time.Now().Before(deadline); {
			if err := play(s); err != nil {
				t.Fatalf("%v\n%v", err, s)
			}
			for side := range 2 {
				_, got := current.Load().taps[side].Load().streams()
				sent, _ := current.Load().taps[side^1].Load().streams()
				pinged += len(injected(got.frames, sent.frames))
			}
		}
		if pinged < 5 {
			t.Errorf("%s: %d Pings", proxyNames[proxy], pinged)
		}
	}
}
