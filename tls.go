package wsproxy

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
)

// clientTLS speaks TLS with the upstream over conn. name is what its
// certificate must be for, unless the configuration names something else.
func clientTLS(ctx context.Context, conn net.Conn, config *tls.Config, name string) (net.Conn, error) {
	config = config.Clone()
	if config.ServerName == "" {
		config.ServerName = name
	}
	// WebSockets over HTTP/2 are another handshake (RFC 8441).
	config.NextProtos = []string{"http/1.1"}
	c := tls.Client(conn, config)
	if err := c.HandshakeContext(ctx); err != nil {
		return nil, err
	}
	if p := c.ConnectionState().NegotiatedProtocol; p != "" && p != "http/1.1" {
		return nil, errors.New("upstream insists on another protocol than http/1.1")
	}
	return c, nil
}
