//go:build linux

package zoo

import (
	"net/http"

	"github.com/gobwas/ws"
	"github.com/gobwas/ws/wsutil"
)

// gobwas/ws, with its own helpers.
var gobwasServer = server{
	name:   "gobwas/ws",
	source: goModule("github.com/gobwas/ws"),
	start: httpServer("gobwas", func(w http.ResponseWriter, r *http.Request) {
		upgrader := ws.HTTPUpgrader{Protocol: func(p string) bool { return p == "zoo.v2" }}
		c, _, _, err := upgrader.Upgrade(r, w)
		if err != nil {
			return
		}
		defer c.Close()
		for {
			data, op, err := wsutil.ReadClientData(c)
			if err != nil {
				return
			}
			if string(data) == "leave" {
				_ = ws.WriteFrame(c, ws.NewCloseFrame(ws.NewCloseFrameBody(4001, "as asked")))
				return
			}
			if err := wsutil.WriteServerMessage(c, op, data); err != nil {
				return
			}
		}
	}),
	path:         "/echo",
	subprotocols: []string{"zoo.v1", "zoo.v2"},
	leave:        askToLeave,
	private:      &offer{path: "/private"},
}
