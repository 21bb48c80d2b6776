//go:build linux

package zoo

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/centrifugal/centrifuge-go"
)

// Centrifuge's client for Go.
var centrifugeGoClient = client{
	name:     "centrifuge-go",
	source:   goModule("github.com/centrifugal/centrifuge-go"),
	args:     goGuest("centrifuge", connectCentrifuge),
	of:       &centrifugeServer,
	patience: 8 * time.Second,
}

type centrifugeGuest struct {
	client *centrifuge.Client
	ended  chan string
}

func connectCentrifuge(url string, stay bool) (guest, error) {
	g := &centrifugeGuest{ended: make(chan string, 2)}
	g.client = centrifuge.NewJsonClient("ws"+strings.TrimPrefix(url, "http")+"/connection/websocket", centrifuge.Config{
		HandshakeTimeout: limit, // 1 s by default
	})
	connected := make(chan struct{}, 1)
	g.client.OnConnected(func(centrifuge.ConnectedEvent) {
		select {
		case connected <- struct{}{}:
		default: // once more
		}
	})
	g.client.OnConnecting(func(e centrifuge.ConnectingEvent) {
		if e.Code != 0 && !stay { // it would reconnect
			g.ended <- fmt.Sprintf("%d %s", e.Code, e.Reason)
			go g.client.Close()
		}
	})
	g.client.OnDisconnected(func(e centrifuge.DisconnectedEvent) { g.ended <- fmt.Sprintf("%d %s", e.Code, e.Reason) })
	if err := g.client.Connect(); err != nil {
		return nil, err
	}
	select {
	case <-connected:
		return g, nil
	case <-time.After(limit):
		return nil, errSlow
	}
}

func (g *centrifugeGuest) opened() string { return "Centrifuge" }

func (g *centrifugeGuest) say(size int) error {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	sent := `"` + strings.Repeat("ä", size) + `"`
	got, err := g.client.RPC(ctx, "echo", []byte(sent))
	if err == nil && string(got.Data) != sent {
		err = errors.New("another text comes")
	}
	return err
}

func (g *centrifugeGuest) close() { _ = g.client.Disconnect() }

func (g *centrifugeGuest) gone() string { return <-g.ended }
