package message

import (
	"strings"
	"testing"

	"github.com/seed-ffb73231/wsproxy/internal/frame"
	"github.com/seed-ffb73231/wsproxy/internal/wstest"
)

// Sessions never share a buffer, also after messages that cannot be unpacked.
func TestBuffersApart(t *testing.T) {
	settings := &Settings{Limits: [2]int{1000, 1000}}
	take := func(s *Stage, f string) bool {
		send, _, _ := s.Take(frame.Client, strings.NewReader(f))
		return send
	}
	var l leg
	l.deflate = Deflate{on: true}
	bomb, err := l.pack(nil, make([]byte, 2000))
	if err != nil {
		t.Fatal(err)
	}
	for name, payload := range map[string]string{"corrupt": "\x02\xff\xff\xff", "cut": "\xf2\x48", "too big": string(bomb)} {
		bad := wstest.RawFrame(wstest.Binary|wstest.RSV1, true, payload)
		for range 10 {
			var stages [3]*Stage
			for i := range stages {
				stages[i] = New(settings, nil, [2]Deflate{{on: true}})
			}
			for range 3 {
				if take(stages[2], bad) {
					t.Fatalf("%s: taken", name)
				}
			}
			var want [2]string
			for i, s := range stages[:2] {
				want[i] = strings.Repeat(string(rune('a'+i)), 300)
				if !take(s, wstest.RawFrame(wstest.Text, true, want[i])) {
					t.Fatal("not taken")
				}
			}
			for i, s := range stages[:2] {
				if got := string(s.taken[frame.Client].Data); got != want[i] {
					t.Fatalf("after %s messages: %.20q, want %.20q", name, got, want[i])
				}
				s.Done(frame.Client)
			}
		}
	}
}
