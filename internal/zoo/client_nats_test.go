//go:build linux

package zoo

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
)

// NATS' client for Go, with compression. It waits 2 s before it reconnects.
var natsClient = client{
	name:     "nats.go",
	source:   goModule("github.com/nats-io/nats.go"),
	args:     goGuest("nats", connectNATS),
	of:       &natsServer,
	patience: 10 * time.Second,
}

type natsGuest struct {
	conn    *nats.Conn
	subject string
	heard   *nats.Subscription
	ended   chan string
}

func connectNATS(url string, stay bool) (guest, error) {
	g := &natsGuest{subject: "zoo." + strconv.FormatUint(rand.Uint64(), 16), ended: make(chan string, 1)}
	options := []nats.Option{nats.Compression(true), nats.ClosedHandler(func(c *nats.Conn) {
		end := "closed"
		if err := c.LastError(); err != nil {
			end = err.Error()
		}
		g.ended <- end
	})}
	if !stay {
		options = append(options, nats.NoReconnect())
	}
	var err error
	if g.conn, err = nats.Connect("ws"+strings.TrimPrefix(url, "http"), options...); err != nil {
		return nil, err
	}
	g.heard, err = g.conn.SubscribeSync(g.subject)
	return g, err
}

func (g *natsGuest) opened() string { return "NATS" }

func (g *natsGuest) say(size int) error {
	sent := bytes.Repeat([]byte{7}, size)
	if err := g.conn.Publish(g.subject, sent); err != nil {
		return err
	}
	m, err := g.heard.NextMsg(limit)
	if err == nil && !bytes.Equal(m.Data, sent) {
		err = errors.New("another payload comes")
	}
	return err
}

func (g *natsGuest) close() { g.conn.Close() }

func (g *natsGuest) gone() string { return <-g.ended }
