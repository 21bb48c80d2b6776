//go:build linux

package zoo

import "github.com/fasthttp/websocket"

// fasthttp/websocket, by its Dialer.
var fasthttpClient = client{
	name:   "fasthttp/websocket",
	source: goModule("github.com/fasthttp/websocket"),
	run: errand(func(to ticket) (call, error) {
		d := websocket.Dialer{Subprotocols: offeredSubprotocols, TLSClientConfig: to.config}
		c, _, err := d.DialContext(to.ctx, to.url, to.header)
		if err != nil {
			return nil, err
		}
		_ = c.SetReadDeadline(soon())
		return &fasthttpCall{c}, nil
	}),
}

type fasthttpCall struct{ *websocket.Conn }

func (c *fasthttpCall) agreed() string { return c.Subprotocol() }

func (c *fasthttpCall) send(m message) error {
	if m.binary {
		return c.WriteMessage(websocket.BinaryMessage, m.data)
	}
	return c.WriteMessage(websocket.TextMessage, m.data)
}

func (c *fasthttpCall) receive() (message, error) {
	kind, data, err := c.ReadMessage()
	return message{kind == websocket.BinaryMessage, data}, err
}

func (c *fasthttpCall) close() error {
	defer c.Conn.Close()
	if err := c.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(1000, "bye"), soon()); err != nil {
		return err
	}
	_, err := c.receive()
	return err
}
