//go:build linux

package zoo

import (
	"net/http"

	"github.com/lxzan/gws"
)

// gws, with compression.
var gwsServer = server{
	name:   "gws",
	source: goModule("github.com/lxzan/gws"),
	start: httpServer("gws", func(w http.ResponseWriter, r *http.Request) {
		upgrader := gws.NewUpgrader(new(gwsEcho), &gws.ServerOption{
			SubProtocols:      []string{"zoo.v2"},
			PermessageDeflate: gws.PermessageDeflate{Enabled: true, ServerContextTakeover: true, ClientContextTakeover: true},
		})
		c, err := upgrader.Upgrade(w, r)
		if err != nil {
			return
		}
		c.ReadLoop()
	}),
	path:         "/echo",
	subprotocols: []string{"zoo.v1", "zoo.v2"},
	leave:        askToLeave,
	private:      &offer{path: "/private"},
}

type gwsEcho struct{ gws.BuiltinEventHandler }

func (gwsEcho) OnPing(c *gws.Conn, payload []byte) { _ = c.WritePong(payload) }

func (gwsEcho) OnMessage(c *gws.Conn, m *gws.Message) {
	defer m.Close()
	if string(m.Bytes()) == "leave" {
		_ = c.WriteClose(4001, []byte("as asked"))
		return
	}
	_ = c.WriteMessage(m.Opcode, m.Bytes())
}
