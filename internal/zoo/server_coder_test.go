//go:build linux

package zoo

import (
	"net/http"

	"github.com/coder/websocket"
)

// coder/websocket, with compression. It compares the page's origin with Host.
var coderServer = server{
	name:   "coder/websocket",
	source: goModule("github.com/coder/websocket"),
	start: httpServer("coder", func(w http.ResponseWriter, r *http.Request) {
		c, err := websocket.Accept(w, r, &websocket.AcceptOptions{
			Subprotocols:    []string{"zoo.v2"},
			CompressionMode: websocket.CompressionContextTakeover,
		})
		if err != nil {
			return
		}
		defer c.CloseNow()
		c.SetReadLimit(2 << 20)
		for {
			kind, data, err := c.Read(r.Context())
			if err != nil {
				return
			}
			if string(data) == "leave" {
				_ = c.Close(4001, "as asked")
				return
			}
			if err := c.Write(r.Context(), kind, data); err != nil {
				return
			}
		}
	}),
	nginx:        ownHost,
	why:          "it compares the page's origin with Host",
	path:         "/echo",
	subprotocols: []string{"zoo.v1", "zoo.v2"},
	leave:        askToLeave,
	private:      &offer{path: "/private"},
}
