//go:build linux

package zoo

import "github.com/gorilla/websocket"

// gorilla/websocket, as its examples use it, with compression.
var gorillaClient = client{
	name:   "gorilla",
	source: goModule("github.com/gorilla/websocket"),
	run: errand(func(to ticket) (call, error) {
		d := websocket.Dialer{Subprotocols: offeredSubprotocols, EnableCompression: true, TLSClientConfig: to.config}
		c, resp, err := d.DialContext(to.ctx, to.url, to.header)
		if err != nil {
			return nil, err
		}
		_ = c.SetReadDeadline(soon())
		g := &gorillaCall{Conn: c, extensions: resp.Header.Get("Sec-WebSocket-Extensions")}
		c.SetPongHandler(func(payload string) error { g.ponged = payload; return nil })
		return g, nil
	}),
}

type gorillaCall struct {
	*websocket.Conn
	extensions string
	ponged     string // while it reads
}

func (c *gorillaCall) agreed() string { return c.Subprotocol() + ", " + c.extensions }

func (c *gorillaCall) ping(payload string) error {
	return c.WriteControl(websocket.PingMessage, []byte(payload), soon())
}

func (c *gorillaCall) pong() string { return c.ponged }

func (c *gorillaCall) send(m message) error {
	if m.binary {
		return c.WriteMessage(websocket.BinaryMessage, m.data)
	}
	return c.WriteMessage(websocket.TextMessage, m.data)
}

func (c *gorillaCall) receive() (message, error) {
	kind, data, err := c.ReadMessage()
	return message{kind == websocket.BinaryMessage, data}, err
}

func (c *gorillaCall) close() error {
	defer c.Conn.Close()
	if err := c.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(1000, "bye"), soon()); err != nil {
		return err
	}
	_, err := c.receive()
	return err
}
