//go:build linux

package zoo

import (
	"net/http"
	"time"

	"github.com/gorilla/websocket"
)

// Gorilla is the most used one of Go, with compression. It compares the page's
// origin with Host.
var gorillaServer = server{
	name:   "gorilla/websocket",
	source: goModule("github.com/gorilla/websocket"),
	start: httpServer("gorilla", func(w http.ResponseWriter, r *http.Request) {
		upgrader := websocket.Upgrader{Subprotocols: []string{"zoo.v2"}, EnableCompression: true}
		c, err := upgrader.Upgrade(w, r, nil)
		if err != nil {
			return
		}
		defer c.Close()
		for {
			kind, data, err := c.ReadMessage()
			if err != nil {
				return
			}
			if string(data) == "leave" {
				_ = c.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(4001, "as asked"), time.Now().Add(limit))
				return
			}
			if err := c.WriteMessage(kind, data); err != nil {
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
