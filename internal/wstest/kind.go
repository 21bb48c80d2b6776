package wstest

import (
	"context"
	"crypto/tls"
	"net"
	"testing"
	"time"
)

// A Kind is what connections are made of.
type Kind string

// Memory is the kind that works in a synctest bubble.
const (
	Memory Kind = "memory"
	TCP    Kind = "tcp"
	Unix   Kind = "unix"
	TLS    Kind = "tls" // over TCP
)

// EachKind runs a test over real sockets and in memory.
func EachKind(t *testing.T, f func(t *testing.T, k Kind)) {
	for _, k := range []Kind{Memory, TCP, Unix, TLS} {
		t.Run(string(k), func(t *testing.T) { f(t, k) })
	}
}

// Listen listens until the test is over. TLS begins above the listener.
func Listen(t testing.TB, k Kind) net.Listener {
	t.Helper()
	var ln net.Listener
	var err error
	switch k {
	case Memory:
		ln = newMemListener()
	case Unix:
		ln, err = net.Listen("unix", t.TempDir()+"/s")
	default:
		ln, err = net.Listen("tcp", "127.0.0.1:0")
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	return ln
}

// Dial connects to a listener.
func Dial(ctx context.Context, ln net.Listener) (net.Conn, error) {
	if m, ok := ln.(*memListener); ok {
		return m.dial(ctx)
	}
	var d net.Dialer
	return d.DialContext(ctx, ln.Addr().Network(), ln.Addr().String())
}

// Accept waits for a connection. If none comes, the test fails, and the
// listener is closed.
func Accept(t testing.TB, ln net.Listener) net.Conn {
	t.Helper()
	timeout := time.AfterFunc(patience(), func() { ln.Close() }) // in a bubble, a Ping and its Pong may take a minute
	defer timeout.Stop()
	c, err := ln.Accept()
	if err != nil {
		t.Fatalf("nobody connects to %v: %v", ln.Addr(), err)
	}
	return c
}

// Secure has a server's connections use TLS if they are of that kind.
func (k Kind) Secure(ln net.Listener) net.Listener {
	if k == TLS {
		return tls.NewListener(ln, ServerConfig())
	}
	return ln
}

// Connect connects a client to a server, [Kind.Secure] with its listener. Each
// side's TLS handshake begins with its first byte.
func (k Kind) Connect(t testing.TB, ln net.Listener) *Wire {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), Timeout)
	defer cancel()
	c, err := Dial(ctx, ln)
	if err != nil {
		t.Fatal(err)
	}
	if k == TLS {
		c = tls.Client(c, ClientConfig("front.test"))
	}
	return NewWire(t, c, true)
}

// Accept waits for a connection to an upstream that is the test.
func (k Kind) Accept(t testing.TB, ln net.Listener) *Wire {
	t.Helper()
	c := Accept(t, ln)
	if k == TLS {
		c = tls.Server(c, ServerConfig())
	}
	return NewWire(t, c, false)
}
