//go:build linux

package zoo

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"
)

// gorilla's Dialer, with compression offered.
var gorillaClient = client{
	name:   "gorilla",
	source: goModule("github.com/gorilla/websocket"),
	run: func(t *testing.T, url, root string) (all []outcome, err error) {
		dialer := websocket.Dialer{
			TLSClientConfig:   trusting(t, root),
			Subprotocols:      []string{"zoo.v1", "zoo.v2"},
			EnableCompression: true,
			HandshakeTimeout:  limit,
		}
		found := func(what, format string, args ...any) {
			all = append(all, outcome{what, fmt.Sprintf(format, args...)})
		}
		c, _, err := dialer.DialContext(t.Context(), url, nil)
		if err != nil {
			return all, err
		}
		defer c.Close()
		_ = c.SetReadDeadline(time.Now().Add(limit))
		found("open", "%s", c.Subprotocol())
		ponged := ""
		c.SetPongHandler(func(s string) error { ponged = s; return nil })
		if err := c.WriteControl(websocket.PingMessage, []byte("anybody"), time.Now().Add(limit)); err != nil {
			return all, err
		}
		for _, m := range errand {
			if err := c.WriteMessage(m.kind, m.data); err != nil {
				return all, err
			}
			kind, data, err := c.ReadMessage()
			if err != nil {
				return all, err
			}
			if kind != m.kind || !bytes.Equal(data, m.data) {
				return all, errors.New("another message comes back")
			}
		}
		found("messages", "all come back")
		found("Ping", "Pong %s", ponged)
		if err := c.WriteMessage(websocket.TextMessage, []byte("leave")); err != nil {
			return all, err
		}
		_, _, err = c.ReadMessage()
		found("server closes", "%v", err)

		if c, _, err = dialer.DialContext(t.Context(), url, nil); err != nil {
			return all, err
		}
		defer c.Close()
		_ = c.SetReadDeadline(time.Now().Add(limit))
		if err := c.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(1000, "bye"), time.Now().Add(limit)); err != nil {
			return all, err
		}
		_, _, err = c.ReadMessage()
		found("client closes", "%v", err)

		_, answer, err := dialer.DialContext(t.Context(), strings.TrimSuffix(url, "zoo")+"private", nil)
		if answer == nil {
			return all, fmt.Errorf("without login: %w", err)
		}
		found("without login", "%v: %s, %s", err, answer.Status, answer.Header.Get("WWW-Authenticate"))
		return all, nil
	},
}

// errand is what clients send and get back.
var errand = []struct {
	kind int // RFC 6455, 11.8
	data []byte
}{
	{websocket.TextMessage, []byte("small")},
	{websocket.TextMessage, bytes.Repeat([]byte("ä"), 35_000)},
	{websocket.BinaryMessage, []byte{0, 255}},
	{websocket.BinaryMessage, bytes.Repeat([]byte{7}, 300_000)},
}

// trusting returns a configuration that trusts the authority in a file.
func trusting(t *testing.T, root string) *tls.Config {
	t.Helper()
	text, err := os.ReadFile(root)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(text) {
		t.Fatalf("%s has no certificate", root)
	}
	return &tls.Config{RootCAs: pool}
}
