//go:build linux

package zoo

import (
	"testing"
)

// websocketd makes a WebSocket of any program's input and output, line by line.
// Debian's websocketd with cat.
var websocketd = server{
	name:   "websocketd",
	source: debian("websocketd"),
	start: func(t *testing.T) *process {
		return command{args: []string{"websocketd", "--port=PORT", "--address=127.0.0.1", "cat"}}.start(t)
	},
	path:  "/",
	kinds: onlyText,
	most:  60_000, // a longer line is cut in two
}
