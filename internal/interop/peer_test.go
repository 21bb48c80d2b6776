package interop

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"
)

// limit is the time limit of a session of a test, and of a wait outside of one.
// It is far above what is needed: it turns a hang into a failure.
const limit = 30 * time.Second

// A peer is one WebSocket implementation, in both roles.
type peer interface {
	name() string
	traits() traits
	// dial opens a WebSocket as a client.
	dial(ctx context.Context, o offer) (*conn, error)
	// listen starts a server that ends with the test, and returns its URL.
	// It accepts the subprotocol [subprotocol], and permessage-deflate if
	// that is offered. Each WebSocket goes to arrived, with its request's path.
	listen(t *testing.T, arrived func(path string, c *conn)) string
}

// subprotocol is the one that every server chooses from the client's offer.
const subprotocol = "second.interop"

var subprotocols = []string{"first.interop", subprotocol}

// traits tell what an implementation allows its users to do.
type traits struct {
	fragments   bool // send a message in several frames
	pingPayload bool // choose a Ping's payload
}

// An offer is what a client asks for.
type offer struct {
	url     string            // ws or wss
	origin  string            // of the page, as a browser would send it
	deflate bool              // offer permessage-deflate
	root    *x509.Certificate // the trusted authority, for wss
}

func (o offer) tlsConfig() *tls.Config {
	if o.root == nil {
		return nil
	}
	roots := x509.NewCertPool()
	roots.AddCert(o.root)
	return &tls.Config{RootCAs: roots}
}

// A conn is one end of a WebSocket: what it can do, and what it has received.
type conn struct {
	link
	*inbox
	subprotocol string
	extensions  string // a client's: those negotiated; a server's: those offered
}

// A link is an implementation's part of an end. It puts what it receives into the
// end's inbox by itself.
type link interface {
	// send sends a message, one frame for each part if it can.
	send(m message, parts ...[]byte) error
	ping(payload []byte) error
	// close starts the closing handshake. It need not wait for the end.
	close(code int, reason string) error
}

type message struct {
	binary bool
	data   []byte
}

// A closing tells how a connection ended: by the Close frame that was received.
// Code 1006 means that there was none.
type closing struct {
	code   int
	reason string
}

const abnormal = 1006

// An inbox holds what one end has received.
type inbox struct {
	mu       sync.Mutex
	changed  chan struct{} // closed and replaced at every change
	messages []message
	pings    []string
	pongs    []string
	end      *closing
}

func newInbox() *inbox { return &inbox{changed: make(chan struct{})} }

func (b *inbox) change(f func()) {
	b.mu.Lock()
	defer b.mu.Unlock()
	f()
	close(b.changed)
	b.changed = make(chan struct{})
}

func (b *inbox) gotMessage(binary bool, data []byte) {
	b.change(func() { b.messages = append(b.messages, message{binary, data}) })
}
func (b *inbox) gotPing(payload string) { b.change(func() { b.pings = append(b.pings, payload) }) }
func (b *inbox) gotPong(payload string) { b.change(func() { b.pongs = append(b.pongs, payload) }) }

// gotEnd records the connection's end. Only the first one counts.
func (b *inbox) gotEnd(code int, reason string) {
	b.change(func() {
		if b.end == nil {
			b.end = &closing{code, reason}
		}
	})
}

// await waits until ready returns true, or until the connection has ended. ready
// is called with b locked.
func (b *inbox) await(ctx context.Context, ready func() bool) error {
	for {
		b.mu.Lock()
		ok, changed, end := ready(), b.changed, b.end
		b.mu.Unlock()
		switch {
		case ok:
			return nil
		case end != nil:
			return fmt.Errorf("the connection ended: %d %q", end.code, end.reason)
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// receive removes the next message and returns it.
func (b *inbox) receive(ctx context.Context) (m message, err error) {
	err = b.await(ctx, func() bool {
		if len(b.messages) == 0 {
			return false
		}
		m, b.messages = b.messages[0], b.messages[1:]
		return true
	})
	return m, err
}

// awaitEnd waits for the connection's end.
func (b *inbox) awaitEnd(ctx context.Context) (end closing, err error) {
	err = b.await(ctx, func() bool {
		if b.end != nil {
			end = *b.end
		}
		return b.end != nil
	})
	return end, err
}

// An acceptor does a server's handshake with a Go library.
type acceptor func(w http.ResponseWriter, r *http.Request) (link, *inbox, string, error)

// listenHTTP is listen for libraries that upgrade net/http's requests.
func listenHTTP(t *testing.T, accept acceptor, arrived func(string, *conn)) string {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		offered := strings.Join(r.Header["Sec-Websocket-Extensions"], ", ")
		link, in, chosen, err := accept(w, r)
		if err != nil {
			t.Errorf("upstream's handshake: %v", err)
			return
		}
		arrived(r.URL.Path, &conn{link, in, chosen, offered})
	}))
	t.Cleanup(server.Close)
	return server.URL
}
