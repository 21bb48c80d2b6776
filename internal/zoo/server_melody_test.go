//go:build linux

package zoo

import (
	"net/http"

	"github.com/olahol/melody"
)

// melody puts rooms on gorilla.
var melodyServer = server{
	name:   "melody",
	source: goModule("github.com/olahol/melody"),
	start: httpServer("melody", func() http.HandlerFunc {
		m := melody.New()
		m.Config.MaxMessageSize = 2 << 20
		m.Config.PingPeriod = limit / scale
		m.HandleMessage(func(s *melody.Session, data []byte) {
			if string(data) == "leave" {
				_ = s.CloseWithMsg(melody.FormatCloseMessage(4001, "as asked"))
				return
			}
			_ = s.Write(data)
		})
		m.HandleMessageBinary(func(s *melody.Session, data []byte) { _ = s.WriteBinary(data) })
		return func(w http.ResponseWriter, r *http.Request) { _ = m.HandleRequest(w, r) }
	}()),
	path:         "/echo",
	subprotocols: []string{"zoo.v1", "zoo.v2"},
	leave:        askToLeave,
	private:      &offer{path: "/private"},
}
