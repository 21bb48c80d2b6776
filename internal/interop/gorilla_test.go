package interop

import (
	"context"
	"errors"
	"net/http"
	"testing"
	"time"

	"github.com/gorilla/websocket"
)

// gorilla is github.com/gorilla/websocket.
type gorilla struct{}

func (gorilla) name() string   { return "gorilla" }
func (gorilla) traits() traits { return traits{fragments: true, pingPayload: true} }

// gorillaBuffer is the size of its write buffers. A message that is written in
// several parts is sent as a frame whenever the buffer is full.
const gorillaBuffer = 1 << 10

func (gorilla) dial(ctx context.Context, o offer) (*conn, error) {
	d := websocket.Dialer{
		TLSClientConfig:   o.tlsConfig(),
		Subprotocols:      subprotocols,
		EnableCompression: o.deflate,
		WriteBufferSize:   gorillaBuffer,
	}
	c, resp, err := d.DialContext(ctx, o.url, http.Header{"Origin": {o.origin}})
	if err != nil {
		return nil, err
	}
	in := newInbox()
	return &conn{newGorillaLink(c, in), in, c.Subprotocol(), resp.Header.Get("Sec-WebSocket-Extensions")}, nil
}

func (gorilla) listen(t *testing.T, arrived func(string, *conn)) string {
	u := websocket.Upgrader{
		Subprotocols:      []string{subprotocol},
		EnableCompression: true,
		WriteBufferSize:   gorillaBuffer,
	}
	return listenHTTP(t, func(w http.ResponseWriter, r *http.Request) (link, *inbox, string, error) {
		c, err := u.Upgrade(w, r, nil)
		if err != nil {
			return nil, nil, "", err
		}
		in := newInbox()
		return newGorillaLink(c, in), in, c.Subprotocol(), nil
	}, arrived)
}

type gorillaLink struct{ c *websocket.Conn }

func newGorillaLink(c *websocket.Conn, in *inbox) gorillaLink {
	answer := c.PingHandler()
	c.SetPingHandler(func(payload string) error {
		in.gotPing(payload)
		return answer(payload)
	})
	c.SetPongHandler(func(payload string) error {
		in.gotPong(payload)
		return nil
	})
	l := gorillaLink{c}
	go l.read(in)
	return l
}

func (l gorillaLink) read(in *inbox) {
	defer l.c.Close()
	for {
		kind, data, err := l.c.ReadMessage()
		if err != nil {
			end := &websocket.CloseError{Code: abnormal, Text: err.Error()}
			errors.As(err, &end)
			in.gotEnd(end.Code, end.Text)
			return
		}
		in.gotMessage(kind == websocket.BinaryMessage, data)
	}
}

func (l gorillaLink) send(m message, parts ...[]byte) error {
	kind := websocket.TextMessage
	if m.binary {
		kind = websocket.BinaryMessage
	}
	if len(parts) == 0 {
		return l.c.WriteMessage(kind, m.data)
	}
	w, err := l.c.NextWriter(kind)
	if err != nil {
		return err
	}
	for _, p := range parts {
		if _, err := w.Write(p); err != nil {
			return err
		}
	}
	return w.Close()
}

func (l gorillaLink) ping(payload []byte) error {
	return l.c.WriteControl(websocket.PingMessage, payload, time.Now().Add(limit))
}

func (l gorillaLink) close(code int, reason string) error {
	return l.c.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(code, reason), time.Now().Add(limit))
}
