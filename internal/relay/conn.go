package relay

import (
	"errors"
	"io"
	"net"
	"sync/atomic"
)

// This file lets the event driver have connections with TLS. TLS belongs to the
// user's server: a tls.Conn reads and writes a connection that was accepted. If
// that is a Conn, the driver can take over its descriptor below TLS.

// A Conn is a connection that works like the one below it until the event
// driver takes it over. From then on its Read returns errAgain instead of
// waiting, after which a tls.Conn can continue, and its Write keeps what the
// socket does not take.
type Conn struct {
	net.Conn
	direct atomic.Pointer[tlsSocket] // nil: not taken over
}

// NewConn returns a Conn over conn.
func NewConn(conn net.Conn) *Conn { return &Conn{Conn: conn} }

// Below returns the connection below a Conn, and any other connection itself.
func Below(conn net.Conn) net.Conn {
	if c, ok := conn.(*Conn); ok {
		return c.Conn
	}
	return conn
}

// NetConn returns the connection below, as [crypto/tls.Conn] does.
func (c *Conn) NetConn() net.Conn { return c.Conn }

// Read reads from the connection.
func (c *Conn) Read(b []byte) (int, error) {
	if d := c.direct.Load(); d != nil {
		return d.read(b)
	}
	return c.Conn.Read(b)
}

// Write writes to the connection.
func (c *Conn) Write(b []byte) (int, error) {
	if d := c.direct.Load(); d != nil {
		return d.write(b)
	}
	return c.Conn.Write(b)
}

// ReadFrom copies from r to the connection. A server uses it to send files
// without copying them.
func (c *Conn) ReadFrom(r io.Reader) (int64, error) {
	if to, ok := c.Conn.(io.ReaderFrom); ok && c.direct.Load() == nil {
		return to.ReadFrom(r)
	}
	return io.Copy(struct{ io.Writer }{c}, r)
}

// CloseWrite sends a FIN.
func (c *Conn) CloseWrite() error {
	half, ok := c.Conn.(interface{ CloseWrite() error })
	if !ok || c.direct.Load() != nil {
		return errors.ErrUnsupported
	}
	return half.CloseWrite()
}

// Close closes the connection.
func (c *Conn) Close() error {
	if d := c.direct.Load(); d != nil {
		d.hangUp()
	}
	return c.Conn.Close()
}

// errAgain is the error of a Read that would have to wait. A tls.Conn does not
// keep errors that are temporary.
var errAgain net.Error = again{}

type again struct{}

func (again) Error() string   { return "nothing to read now" }
func (again) Timeout() bool   { return true }
func (again) Temporary() bool { return true }
