//go:build !(linux && (amd64 || arm64))

package relay

import (
	"net"

	"github.com/seed-ffb73231/wsproxy/internal/protocol"
)

// On other systems every leg is read and written as a net.Conn.

type rawLeg struct{}
type rawReader struct{}
type rawChunk struct{}
type rawRead struct{}

func (*rawRead) read(l *leg, b []byte) (int, error) { return l.conn.Read(b) }

func (l *leg) initRaw(bool) {}
func (l *leg) reset() bool  { return false } // its reader always notices
func (l *leg) wakeIfReset() {}

// Write writes b to a connection that does not belong to a leg yet.
func Write(conn net.Conn, b []byte) (int, error) { return conn.Write(b) }

// WriteNow writes nothing: whether a write waits is unknown.
func WriteNow(net.Conn, []byte) (int, error) { return 0, nil }

func send(_ *leg, conn net.Conn, _ rawLeg, b []byte) (int, error) { return conn.Write(b) }

func (p *pump) receive() error { return p.receivePlain() }

// takesAtOnce returns false: whether a write waits is unknown.
func takesAtOnce(net.Conn) bool { return false }

// FreeDescriptors returns false: no descriptors are kept.
func FreeDescriptors() bool { return false }

// hungUp returns false: whether the peer has left is unknown.
func hungUp(net.Conn) (fin, reset bool) { return false, false }

// inputWaits returns false: whether input waits is unknown.
func inputWaits(net.Conn) bool { return false }

// AcksTell is false: what a peer has acknowledged is unknown.
const AcksTell = false

func peerAcks(net.Conn) protocol.Acks { return protocol.Acks{} }

func (l *leg) inputWaits() bool    { return inputWaits(l.conn) }
func (l *leg) acks() protocol.Acks { return peerAcks(l.conn) }
