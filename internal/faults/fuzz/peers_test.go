package fuzz_test

import (
	"context"
	"errors"
	"net"
	"net/http"
	"time"

	coderws "github.com/coder/websocket"
	gorillaws "github.com/gorilla/websocket"
)

// timeout limits every wait: it is less than the ten seconds after which go
// test gives up on an input without naming it.
const timeout = 9 * time.Second

// A peer is an endpoint, built on one library or the other.
type peer interface {
	// message sends a message in parts: as many frames, if the library allows
	// it.
	message(text bool, parts ...[]byte) error
	ping(body []byte) error
	pong(body []byte) error
	close(code int, reason string) error
	read() (text bool, body []byte, err error)
	hangUp()
}

// dialPeer connects a client.
func dialPeer(r *run, url string) (peer, error) {
	dial := func(ctx context.Context, network, addr string) (net.Conn, error) {
		var d net.Dialer
		c, err := d.DialContext(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		t := newTap(c, true, r.deflate, newCutter(r.seed, r.cut[0]))
		r.taps[0].Store(t)
		return t, nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	if r.lib[0] == gorilla {
		d := gorillaws.Dialer{NetDialContext: dial, EnableCompression: r.deflate, WriteBufferSize: r.buffer}
		c, _, err := d.DialContext(ctx, url, nil)
		if err != nil {
			return nil, err
		}
		return newGorilla(c), nil
	}
	transport := &http.Transport{DialContext: dial}
	c, _, err := coderws.Dial(ctx, url, &coderws.DialOptions{
		HTTPClient:           &http.Client{Transport: transport},
		CompressionMode:      compression(r.deflate),
		CompressionThreshold: 1,
	})
	if err != nil {
		return nil, err
	}
	return newCoder(c), nil
}

func compression(on bool) coderws.CompressionMode {
	if on {
		return coderws.CompressionNoContextTakeover
	}
	return coderws.CompressionDisabled
}

// acceptPeer answers a handshake as an upstream.
func acceptPeer(r *run, w http.ResponseWriter, req *http.Request) (peer, error) {
	if r.lib[1] == gorilla {
		u := gorillaws.Upgrader{EnableCompression: r.deflate, WriteBufferSize: r.buffer}
		c, err := u.Upgrade(w, req, nil)
		if err != nil {
			return nil, err
		}
		return newGorilla(c), nil
	}
	c, err := coderws.Accept(w, req, &coderws.AcceptOptions{CompressionMode: compression(r.deflate), CompressionThreshold: 1})
	if err != nil {
		return nil, err
	}
	return newCoder(c), nil
}

type gorillaPeer struct{ *gorillaws.Conn }

// newGorilla returns a peer that answers Pings however long that takes:
// gorilla's own handler gives up after a second.
func newGorilla(c *gorillaws.Conn) peer {
	c.SetPingHandler(func(body string) error {
		err := c.WriteControl(gorillaws.PongMessage, []byte(body), time.Now().Add(timeout))
		if errors.Is(err, gorillaws.ErrCloseSent) {
			return nil
		}
		return err
	})
	return gorillaPeer{c}
}

func (p gorillaPeer) message(text bool, parts ...[]byte) error {
	kind := gorillaws.BinaryMessage
	if text {
		kind = gorillaws.TextMessage
	}
	if len(parts) == 1 {
		return p.WriteMessage(kind, parts[0])
	}
	w, err := p.NextWriter(kind)
	if err != nil {
		return err
	}
	for _, part := range parts {
		if _, err := w.Write(part); err != nil {
			return err
		}
	}
	return w.Close()
}

func (p gorillaPeer) control(kind int, body []byte) error {
	return p.WriteControl(kind, body, time.Now().Add(timeout))
}

func (p gorillaPeer) ping(body []byte) error { return p.control(gorillaws.PingMessage, body) }
func (p gorillaPeer) pong(body []byte) error { return p.control(gorillaws.PongMessage, body) }

func (p gorillaPeer) close(code int, reason string) error {
	return p.control(gorillaws.CloseMessage, gorillaws.FormatCloseMessage(code, reason))
}

func (p gorillaPeer) read() (bool, []byte, error) {
	kind, body, err := p.ReadMessage()
	return kind == gorillaws.TextMessage, body, err
}

func (p gorillaPeer) hangUp() { p.Conn.Close() }

type coderPeer struct{ *coderws.Conn }

func newCoder(c *coderws.Conn) peer {
	c.SetReadLimit(-1)
	return coderPeer{c}
}

func (p coderPeer) message(text bool, parts ...[]byte) error {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	kind := coderws.MessageBinary
	if text {
		kind = coderws.MessageText
	}
	if len(parts) == 1 {
		return p.Write(ctx, kind, parts[0])
	}
	w, err := p.Writer(ctx, kind)
	if err != nil {
		return err
	}
	for _, part := range parts {
		if _, err := w.Write(part); err != nil {
			return err
		}
	}
	return w.Close()
}

// ping sends a Ping with the library's payload and waits for the Pong.
func (p coderPeer) ping([]byte) error {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	return p.Ping(ctx)
}

// pong does nothing: the library does not support it.
func (p coderPeer) pong([]byte) error { return nil }

func (p coderPeer) close(code int, reason string) error {
	return p.Close(coderws.StatusCode(code), reason)
}

func (p coderPeer) read() (bool, []byte, error) {
	kind, body, err := p.Read(context.Background())
	return kind == coderws.MessageText, body, err
}

func (p coderPeer) hangUp() { p.CloseNow() }
