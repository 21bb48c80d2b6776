//go:build linux

package zoo

import (
	"fmt"
	"strings"
)

// promises are the documented differences from nginx. The table names each by its
// mark.
var promises = []struct {
	mark, text string
	holds      func(what, nginx, ours string) bool
}{
	{"silence", "nginx cuts what has been silent for 60 s; the proxy's Pings keep it",
		func(what, nginx, ours string) bool {
			return what == "silence" && strings.HasPrefix(nginx, "cut: ") && ours == "outlived"
		}},
	{"lost", "when the server drops the connection without a Close frame, or dies, the client is told so, with 1011 or the code of WithLostCode",
		func(what, nginx, ours string) bool {
			return strings.HasPrefix(nginx, "the connection ") && (ours == "Close 1011 upstream lost" || ours == "Close 1012 upstream lost")
		}},
	{"answered", "a client's Close is answered when the server drops the connection instead",
		func(what, nginx, ours string) bool {
			return what == "client closes" && strings.HasPrefix(nginx, "the connection ") && ours == "Close 1000"
		}},
	{"broken", "a Close frame that no server may send isn't passed on: the client gets the code that it sent, or 1011",
		func(what, nginx, ours string) bool {
			code := 0
			_, err := fmt.Sscanf(nginx, "Close %d", &code)
			return err == nil && code >= 5000 && (ours == "Close 1000" || ours == "Close 1011 protocol error by the upstream")
		}},
	{"drained", "the proxy can be drained: the client is told to come again, with 1001",
		func(what, nginx, ours string) bool {
			return what == "drained" && nginx == "" && strings.HasPrefix(ours, "Close 1001")
		}},
}

// promised returns the mark of the promise that explains a difference, or "".
func promised(what, nginx, ours string) string {
	for _, p := range promises {
		if p.holds(what, nginx, ours) {
			return p.mark
		}
	}
	return ""
}
