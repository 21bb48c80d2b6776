//go:build linux

package zoo

import (
	"time"

	"github.com/fasthttp/websocket"
	"github.com/valyala/fasthttp"
)

// fasthttp/websocket is what Fiber has. It compares the page's origin with Host.
var fasthttpServer = server{
	name:   "fasthttp/websocket",
	source: goModule("github.com/fasthttp/websocket"),
	start: goServer("fasthttp", func(addr string) error {
		upgrader := websocket.FastHTTPUpgrader{Subprotocols: []string{"zoo.v2"}, EnableCompression: true}
		return fasthttp.ListenAndServe(addr, func(ctx *fasthttp.RequestCtx) {
			if string(ctx.Path()) == "/private" && len(ctx.Request.Header.Peek("Authorization")) == 0 {
				ctx.Error("who are you", fasthttp.StatusUnauthorized)
				ctx.Response.Header.Set("WWW-Authenticate", `Basic realm="zoo"`)
				return
			}
			_ = upgrader.Upgrade(ctx, func(c *websocket.Conn) {
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
			})
		})
	}),
	nginx:        ownHost,
	why:          "it compares the page's origin with Host",
	path:         "/echo",
	subprotocols: []string{"zoo.v1", "zoo.v2"},
	leave:        askToLeave,
	private:      &offer{path: "/private"},
}
