package wsproxy

import (
	"net"

	"github.com/seed-ffb73231/wsproxy/internal/relay"
)

// This file makes listeners for servers with TLS.

// NewListener returns a listener whose connections are those of inner. Use it
// for a server with TLS, directly below TLS, best together with [WithDetach]:
//
//	inner, err := net.Listen("tcp", ":443")
//	…
//	err = server.ServeTLS(wsproxy.NewListener(inner), "cert.pem", "key.pem")
//
// On Linux (amd64, arm64), an event loop then carries the sessions as without TLS
// (see [Proxy]), for the proxy can reach the TCP or unix connections below TLS. Without this listener, or
// elsewhere, such a session works the same, with goroutines of its own.
//
// It also suits [tls.NewListener], and does no harm without TLS. Other code that
// needs an accepted [net.TCPConn] gets it from the connection's NetConn method,
// which [tls.Conn] has as well. Connections of other types are returned as they
// are: if another listener wraps them in a type of its own, for example to limit
// their number, below this one or between it and TLS, this one has no effect.
func NewListener(inner net.Listener) net.Listener { return listener{inner} }

// Listen is [net.Listen] with a [NewListener] over it.
func Listen(network, address string) (net.Listener, error) {
	inner, err := net.Listen(network, address)
	if err != nil {
		return nil, err
	}
	return NewListener(inner), nil
}

type listener struct{ net.Listener }

// Accept returns the next connection.
func (l listener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return belowTLS(conn), nil
}

// belowTLS returns a connection over conn that the event driver can take over
// below TLS, or conn itself if there can be none.
func belowTLS(conn net.Conn) net.Conn {
	switch conn.(type) {
	case *net.TCPConn, *net.UnixConn:
		return relay.NewConn(conn)
	}
	return conn
}
