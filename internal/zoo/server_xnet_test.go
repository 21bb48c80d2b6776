//go:build linux

package zoo

import (
	"net/http"

	"golang.org/x/net/websocket"
)

// x/net's websocket is the oldest Go library. The server decides whether messages
// are text or binary, not the client.
var xnetServer = server{
	name:   "x/net/websocket",
	source: goModule("golang.org/x/net"),
	start: httpServer("xnet", func(w http.ResponseWriter, r *http.Request) {
		websocket.Server{
			Handshake: func(c *websocket.Config, _ *http.Request) error {
				c.Protocol = []string{"zoo.v2"}
				return nil
			},
			Handler: func(c *websocket.Conn) {
				for {
					var data string
					if err := websocket.Message.Receive(c, &data); err != nil {
						return
					}
					if data == "leave" {
						_ = c.WriteClose(1000)
						return
					}
					if err := websocket.Message.Send(c, data); err != nil {
						return
					}
				}
			},
		}.ServeHTTP(w, r)
	}),
	kinds:        onlyText,
	path:         "/echo",
	subprotocols: []string{"zoo.v1", "zoo.v2"},
	leave:        askToLeave,
	private:      &offer{path: "/private"},
}
