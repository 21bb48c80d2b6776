//go:build linux

package zoo

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"
)

// A call is a WebSocket that a Go client has opened.
type call interface {
	agreed() string
	send(m message) error
	receive() (message, error)
	close() error // with 1000 and "bye"; waits for the end
}

// A pinger is a call that can send Pings and remembers the last Pong.
type pinger interface {
	ping(payload string) error
	pong() string
}

// A ticket is what is needed to open a WebSocket.
type ticket struct {
	ctx    context.Context
	url    string
	header http.Header // contains Origin
	config *tls.Config
}

var offeredSubprotocols = []string{"zoo.v1", "zoo.v2"}

// errand does the errand with a Go client.
func errand(open func(ticket) (call, error)) func(t *testing.T, url, root string) ([]outcome, error) {
	return func(t *testing.T, url, root string) (done []outcome, err error) {
		ctx, cancel := context.WithTimeout(t.Context(), limit)
		defer cancel()
		base := strings.TrimSuffix(url, "/zoo")
		tell := func(what, format string, args ...any) {
			done = append(done, outcome{what, fmt.Sprintf(format, args...)})
		}
		at := func(path string) ticket {
			return ticket{ctx, base + path, http.Header{"Origin": {"http" + strings.TrimPrefix(base, "ws")}}, trust(t)}
		}
		c, err := open(at("/zoo"))
		if err != nil {
			return done, err
		}
		tell("open", "%s", c.agreed())
		p, pings := c.(pinger)
		if pings {
			if err := p.ping("anybody"); err != nil {
				return done, err
			}
		}
		for _, m := range []message{
			text("small"), text(strings.Repeat("ä", 35000)), {true, []byte{0, 255}}, {true, bytes.Repeat([]byte{7}, 300000)},
		} {
			if err := c.send(m); err != nil {
				return done, err
			}
			got, err := c.receive()
			if err != nil {
				return done, err
			}
			if got.binary != m.binary || !bytes.Equal(got.data, m.data) {
				return done, fmt.Errorf("of %s comes %s back", m, got)
			}
		}
		tell("messages", "all come back")
		if pings {
			tell("Ping", "Pong %s", p.pong())
		}
		if err := c.send(text("leave")); err != nil {
			return done, err
		}
		if _, err := c.receive(); err == nil {
			return done, errors.New("the server does not leave")
		} else {
			tell("server closes", "%v", err)
		}
		_ = c.close()
		if c, err = open(at("/zoo")); err != nil {
			return done, err
		}
		if err := c.close(); err != nil {
			tell("client closes", "%v", err)
		} else {
			tell("client closes", "ended")
		}
		if _, err = open(at("/private")); err == nil {
			return done, errors.New("it opens without a login")
		}
		tell("without login", "%s", strings.ReplaceAll(err.Error(), base, "URL"))
		return done, nil
	}
}

// soon returns the time at which a Go client gives up.
func soon() time.Time { return time.Now().Add(limit) }
