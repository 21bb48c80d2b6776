package interop

import (
	"context"
	"errors"
	"net/http"
	"testing"

	"github.com/coder/websocket"
)

// coder is github.com/coder/websocket.
type coder struct{}

func (coder) name() string   { return "coder" }
func (coder) traits() traits { return traits{fragments: true} }

func (coder) dial(ctx context.Context, o offer) (*conn, error) {
	in := newInbox()
	options := &websocket.DialOptions{
		HTTPClient:     &http.Client{Transport: &http.Transport{TLSClientConfig: o.tlsConfig()}},
		HTTPHeader:     http.Header{"Origin": {o.origin}},
		Subprotocols:   subprotocols,
		OnPingReceived: coderPing(in),
		OnPongReceived: coderPong(in),
	}
	if o.deflate {
		options.CompressionMode = websocket.CompressionContextTakeover
	}
	c, resp, err := websocket.Dial(ctx, o.url, options)
	if err != nil {
		return nil, err
	}
	return &conn{newCoderLink(c, in), in, c.Subprotocol(), resp.Header.Get("Sec-WebSocket-Extensions")}, nil
}

func (coder) listen(t *testing.T, arrived func(string, *conn)) string {
	return listenHTTP(t, func(w http.ResponseWriter, r *http.Request) (link, *inbox, string, error) {
		in := newInbox()
		c, err := websocket.Accept(w, r, &websocket.AcceptOptions{
			Subprotocols:    []string{subprotocol},
			CompressionMode: websocket.CompressionContextTakeover,
			OnPingReceived:  coderPing(in),
			OnPongReceived:  coderPong(in),
		})
		if err != nil {
			return nil, nil, "", err
		}
		return newCoderLink(c, in), in, c.Subprotocol(), nil
	}, arrived)
}

func coderPing(in *inbox) func(context.Context, []byte) bool {
	return func(_ context.Context, payload []byte) bool {
		in.gotPing(string(payload))
		return true
	}
}

func coderPong(in *inbox) func(context.Context, []byte) {
	return func(_ context.Context, payload []byte) { in.gotPong(string(payload)) }
}

type coderLink struct{ c *websocket.Conn }

func newCoderLink(c *websocket.Conn, in *inbox) coderLink {
	c.SetReadLimit(-1)
	l := coderLink{c}
	go l.read(in)
	return l
}

func (l coderLink) read(in *inbox) {
	defer l.c.CloseNow()
	for {
		kind, data, err := l.c.Read(context.Background())
		if err != nil {
			end := websocket.CloseError{Code: abnormal, Reason: err.Error()}
			errors.As(err, &end)
			in.gotEnd(int(end.Code), end.Reason)
			return
		}
		in.gotMessage(kind == websocket.MessageBinary, data)
	}
}

func (l coderLink) send(m message, parts ...[]byte) error {
	kind := websocket.MessageText
	if m.binary {
		kind = websocket.MessageBinary
	}
	ctx := context.Background()
	if len(parts) == 0 {
		return l.c.Write(ctx, kind, m.data)
	}
	w, err := l.c.Writer(ctx, kind)
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

// ping sends a payload of the library's own choice, and waits for the Pong.
func (l coderLink) ping([]byte) error {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	return l.c.Ping(ctx)
}

func (l coderLink) close(code int, reason string) error {
	err := l.c.Close(websocket.StatusCode(code), reason)
	if websocket.CloseStatus(err) != -1 {
		return nil // an answer with a code of the other end's own
	}
	return err
}
