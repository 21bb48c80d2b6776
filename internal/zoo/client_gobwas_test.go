//go:build linux

package zoo

import (
	"bufio"
	"io"
	"net"

	"github.com/gobwas/ws"
	"github.com/gobwas/ws/wsutil"
)

// gobwas/ws, by its wsutil, without extensions.
var gobwasClient = client{
	name:   "gobwas",
	source: goModule("github.com/gobwas/ws"),
	run: errand(func(to ticket) (call, error) {
		d := ws.Dialer{Protocols: offeredSubprotocols, Header: ws.HandshakeHeaderHTTP(to.header), TLSConfig: to.config}
		conn, early, hs, err := d.Dial(to.ctx, to.url)
		if err != nil {
			return nil, err
		}
		_ = conn.SetDeadline(soon())
		c := &gobwasCall{conn, conn, hs}
		if early != nil {
			c.in = early
		}
		return c, nil
	}),
}

type gobwasCall struct {
	conn net.Conn
	in   io.Reader // what came behind the 101 first
	hs   ws.Handshake
}

func (c *gobwasCall) agreed() string { return c.hs.Protocol }

func (c *gobwasCall) Read(p []byte) (int, error) {
	if b, ok := c.in.(*bufio.Reader); ok && b.Buffered() == 0 {
		c.in = c.conn
	}
	return c.in.Read(p)
}

func (c *gobwasCall) Write(p []byte) (int, error) { return c.conn.Write(p) }

func (c *gobwasCall) send(m message) error {
	if m.binary {
		return wsutil.WriteClientBinary(c.conn, m.data)
	}
	return wsutil.WriteClientText(c.conn, m.data)
}

func (c *gobwasCall) receive() (message, error) {
	data, op, err := wsutil.ReadServerData(c)
	return message{op == ws.OpBinary, data}, err
}

func (c *gobwasCall) close() error {
	defer c.conn.Close()
	if err := wsutil.WriteClientMessage(c.conn, ws.OpClose, ws.NewCloseFrameBody(1000, "bye")); err != nil {
		return err
	}
	for {
		all, err := wsutil.ReadServerMessage(c, nil) // answers no Ping, for which it is too late
		if err != nil {
			return err
		}
		for _, m := range all {
			if m.OpCode == ws.OpClose {
				return nil
			}
		}
	}
}
