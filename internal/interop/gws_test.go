package interop

import (
	"bytes"
	"context"
	"errors"
	"net/http"
	"strings"
	"testing"

	"github.com/lxzan/gws"
)

// gwsPeer is github.com/lxzan/gws. It closes the TCP connection together with
// sending a Close frame, whether that is the first one or an answer.
type gwsPeer struct{}

func (gwsPeer) name() string   { return "gws" }
func (gwsPeer) traits() traits { return traits{pingPayload: true} }

func (gwsPeer) dial(_ context.Context, o offer) (*conn, error) {
	c, resp, err := gws.NewClient(gwsEvents{}, &gws.ClientOption{
		Addr:      o.url,
		TlsConfig: o.tlsConfig(),
		RequestHeader: http.Header{
			"Origin":                 {o.origin},
			"Sec-Websocket-Protocol": {strings.Join(subprotocols, ", ")},
		},
		CheckUtf8Enabled:  true,
		PermessageDeflate: gwsDeflate(o.deflate, true),
	})
	if err != nil {
		return nil, err
	}
	l, in := newGWSLink(c)
	return &conn{l, in, c.SubProtocol(), resp.Header.Get("Sec-WebSocket-Extensions")}, nil
}

// gwsDeflate keeps the windows at their full size: smaller ones, gws's default
// with context takeover, it demands of clients that haven't offered them.
//
// A server is to have no context takeover of its own: gws 1.8.9 gives the
// window back to a pool when its reading ends, while WriteClose may be at it.
func gwsDeflate(enabled, serverTakeover bool) gws.PermessageDeflate {
	return gws.PermessageDeflate{
		Enabled:               enabled,
		ServerContextTakeover: serverTakeover,
		ClientContextTakeover: true,
		ServerMaxWindowBits:   15,
		ClientMaxWindowBits:   15,
	}
}

func (gwsPeer) listen(t *testing.T, arrived func(string, *conn)) string {
	u := gws.NewUpgrader(gwsEvents{}, &gws.ServerOption{
		SubProtocols:      []string{subprotocol},
		CheckUtf8Enabled:  true,
		PermessageDeflate: gwsDeflate(true, false),
	})
	return listenHTTP(t, func(w http.ResponseWriter, r *http.Request) (link, *inbox, string, error) {
		c, err := u.Upgrade(w, r)
		if err != nil {
			return nil, nil, "", err
		}
		l, in := newGWSLink(c)
		return l, in, c.SubProtocol(), nil
	}, arrived)
}

// gwsEvents puts what a connection receives into the inbox in its storage.
type gwsEvents struct{ gws.BuiltinEventHandler }

const gwsInboxKey = "inbox"

func gwsInbox(c *gws.Conn) *inbox {
	in, _ := c.Session().Load(gwsInboxKey)
	return in.(*inbox)
}

func (gwsEvents) OnMessage(c *gws.Conn, m *gws.Message) {
	defer m.Close()
	gwsInbox(c).gotMessage(m.Opcode == gws.OpcodeBinary, bytes.Clone(m.Bytes()))
}

func (gwsEvents) OnPing(c *gws.Conn, payload []byte) {
	gwsInbox(c).gotPing(string(payload))
	c.WritePong(payload) // an error shows as the connection's end
}

func (gwsEvents) OnPong(c *gws.Conn, payload []byte) { gwsInbox(c).gotPong(string(payload)) }

func (gwsEvents) OnClose(c *gws.Conn, err error) {
	end := &gws.CloseError{Code: abnormal, Reason: []byte(err.Error())}
	errors.As(err, &end)
	gwsInbox(c).gotEnd(int(end.Code), string(end.Reason))
}

type gwsLink struct{ c *gws.Conn }

func newGWSLink(c *gws.Conn) (gwsLink, *inbox) {
	in := newInbox()
	c.Session().Store(gwsInboxKey, in)
	go c.ReadLoop()
	return gwsLink{c}, in
}

func (l gwsLink) send(m message, _ ...[]byte) error {
	kind := gws.OpcodeText
	if m.binary {
		kind = gws.OpcodeBinary
	}
	return l.c.WriteMessage(kind, m.data)
}

func (l gwsLink) ping(payload []byte) error { return l.c.WritePing(payload) }
func (l gwsLink) close(code int, reason string) error {
	return l.c.WriteClose(uint16(code), []byte(reason))
}
