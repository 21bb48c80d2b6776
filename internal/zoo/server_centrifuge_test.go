//go:build linux

package zoo

import (
	"context"
	"fmt"
	"net/http"

	"github.com/centrifugal/centrifuge"
)

// Centrifuge is the library under Centrifugo. It sends its own pings.
var centrifugeServer = server{
	name:   "Centrifuge",
	keeps:  true,
	source: goModule("github.com/centrifugal/centrifuge"),
	start:  goServer("centrifuge", serveCentrifuge),
	path:   "/connection/websocket",
	nginx:  ownHost,
	why:    "it compares the page's origin with Host",
	kinds:  onlyText,
	most:   500_000, // a client for whom more than 1 MiB is queued is slow
	auto: func(m message) *message { // its ping
		if m.is("{}") {
			return &message{false, []byte("{}")}
		}
		return nil
	},
	greet: func(v *visit) error {
		_, err := v.ask(`{"id":1,"connect":{}}`, `{"id":1,"connect":{"client":`)
		return err
	},
	say: func(v *visit, m message) error {
		return v.echoes(fmt.Sprintf(`{"id":2,"rpc":{"method":"echo","data":"%s"}}`, m.data),
			fmt.Sprintf(`{"id":2,"rpc":{"data":"%s"}}`, m.data))
	},
	leave: func(v *visit) error { return v.send(text(`{"id":3,"rpc":{"method":"leave","data":""}}`)) },
}

func serveCentrifuge(addr string) error {
	node, err := centrifuge.New(centrifuge.Config{})
	if err != nil {
		return err
	}
	node.OnConnecting(func(context.Context, centrifuge.ConnectEvent) (centrifuge.ConnectReply, error) {
		return centrifuge.ConnectReply{Credentials: &centrifuge.Credentials{UserID: "lion"}}, nil
	})
	node.OnConnect(func(c *centrifuge.Client) {
		c.OnRPC(func(e centrifuge.RPCEvent, done centrifuge.RPCCallback) {
			if e.Method == "leave" {
				c.Disconnect(centrifuge.Disconnect{Code: 4501, Reason: "as asked"}) // above 4500: for good
				return
			}
			done(centrifuge.RPCReply{Data: e.Data}, nil)
		})
	})
	if err := node.Run(); err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.Handle("/connection/websocket", centrifuge.NewWebsocketHandler(node, centrifuge.WebsocketConfig{MessageSizeLimit: 2 << 20}))
	return http.ListenAndServe(addr, mux)
}
