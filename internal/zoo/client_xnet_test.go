//go:build linux

package zoo

import "golang.org/x/net/websocket"

// golang.org/x/net/websocket, which knows neither Close codes nor fragments.
var xnetClient = client{
	name:   "x/net/websocket",
	source: goModule("golang.org/x/net"),
	run: errand(func(to ticket) (call, error) {
		config, err := websocket.NewConfig(to.url, to.header.Get("Origin"))
		if err != nil {
			return nil, err
		}
		config.Protocol, config.TlsConfig = offeredSubprotocols, to.config
		c, err := config.DialContext(to.ctx)
		if err != nil {
			if u, ok := err.(*websocket.DialError); ok {
				err = u.Err
			}
			return nil, err
		}
		_ = c.SetDeadline(soon())
		return &xnetCall{c}, nil
	}),
}

type xnetCall struct{ *websocket.Conn }

func (c *xnetCall) agreed() string { return c.Config().Protocol[0] }

func (c *xnetCall) send(m message) error {
	if m.binary {
		return websocket.Message.Send(c.Conn, m.data)
	}
	return websocket.Message.Send(c.Conn, string(m.data))
}

// whole receives what comes with its kind, which Message doesn't tell.
var whole = websocket.Codec{Unmarshal: func(data []byte, kind byte, v any) error {
	*v.(*message) = message{kind == websocket.BinaryFrame, data}
	return nil
}}

func (c *xnetCall) receive() (m message, err error) {
	err = whole.Receive(c.Conn, &m)
	return m, err
}

func (c *xnetCall) close() error { return c.Conn.Close() }
