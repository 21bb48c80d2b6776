//go:build linux

package zoo

import (
	"bytes"
	"net/http"
	"strings"

	"github.com/lxzan/gws"
)

// gws, which calls a handler, with compression.
var gwsClient = client{
	name:   "gws",
	source: goModule("github.com/lxzan/gws"),
	run: errand(func(to ticket) (call, error) {
		to.header.Set("Sec-WebSocket-Protocol", strings.Join(offeredSubprotocols, ", "))
		c := &gwsCall{came: make(chan message), ended: make(chan struct{})}
		conn, resp, err := gws.NewClient(c, &gws.ClientOption{
			Addr:              to.url,
			RequestHeader:     to.header,
			TlsConfig:         to.config,
			PermessageDeflate: gws.PermessageDeflate{Enabled: true, ServerContextTakeover: true, ClientContextTakeover: true},
		})
		if err != nil {
			return nil, err
		}
		c.conn, c.header = conn, resp.Header
		_ = conn.SetDeadline(soon())
		go conn.ReadLoop()
		return c, nil
	}),
}

type gwsCall struct {
	gws.BuiltinEventHandler
	conn   *gws.Conn
	header http.Header
	came   chan message
	ended  chan struct{}
	why    error // valid once ended is closed
}

func (c *gwsCall) OnMessage(_ *gws.Conn, m *gws.Message) {
	defer m.Close()
	select {
	case c.came <- message{m.Opcode == gws.OpcodeBinary, bytes.Clone(m.Bytes())}:
	case <-c.ended:
	}
}

func (c *gwsCall) OnPing(conn *gws.Conn, payload []byte) { _ = conn.WritePong(payload) }

func (c *gwsCall) OnClose(_ *gws.Conn, err error) {
	c.why = err
	close(c.ended)
}

func (c *gwsCall) agreed() string {
	return c.conn.SubProtocol() + ", " + c.header.Get("Sec-WebSocket-Extensions")
}

func (c *gwsCall) send(m message) error {
	if m.binary {
		return c.conn.WriteMessage(gws.OpcodeBinary, m.data)
	}
	return c.conn.WriteMessage(gws.OpcodeText, m.data)
}

func (c *gwsCall) receive() (message, error) {
	select {
	case m := <-c.came:
		return m, nil
	case <-c.ended:
		return message{}, c.why
	}
}

func (c *gwsCall) close() error {
	c.conn.WriteClose(1000, []byte("bye"))
	<-c.ended
	return c.why
}
