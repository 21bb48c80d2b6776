//go:build linux

package zoo

import (
	"context"
	"net/http"

	"github.com/coder/websocket"
)

// coder/websocket, with compression.
var coderClient = client{
	name:   "coder",
	source: goModule("github.com/coder/websocket"),
	run: errand(func(to ticket) (call, error) {
		c, resp, err := websocket.Dial(to.ctx, to.url, &websocket.DialOptions{
			HTTPClient:      &http.Client{Transport: &http.Transport{TLSClientConfig: to.config}},
			HTTPHeader:      to.header,
			Subprotocols:    offeredSubprotocols,
			CompressionMode: websocket.CompressionContextTakeover,
		})
		if err != nil {
			return nil, err
		}
		c.SetReadLimit(1 << 20)
		return &coderCall{to.ctx, c, resp.Header.Get("Sec-WebSocket-Extensions")}, nil
	}),
}

type coderCall struct {
	ctx        context.Context
	conn       *websocket.Conn
	extensions string
}

func (c *coderCall) agreed() string { return c.conn.Subprotocol() + ", " + c.extensions }

func (c *coderCall) send(m message) error {
	if m.binary {
		return c.conn.Write(c.ctx, websocket.MessageBinary, m.data)
	}
	return c.conn.Write(c.ctx, websocket.MessageText, m.data)
}

func (c *coderCall) receive() (message, error) {
	kind, data, err := c.conn.Read(c.ctx)
	return message{kind == websocket.MessageBinary, data}, err
}

func (c *coderCall) close() error { return c.conn.Close(websocket.StatusNormalClosure, "bye") }
