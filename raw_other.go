//go:build !(linux && (amd64 || arm64))

package wsproxy

import (
	"net"

	"github.com/seed-ffb73231/wsproxy/internal/protocol"
)

// On other systems every leg is read and written as a net.Conn.

type rawLeg struct{}
type rawPump struct{}
type rawChunk struct{}

func (l *leg) initRaw()     {}
func (l *leg) reset() bool  { return false } // its reader always notices
func (l *leg) wakeIfReset() {}

func writeConn(conn net.Conn, b []byte) (int, error) { return conn.Write(b) }

func writeNow(net.Conn, []byte) (int, error) { return 0, nil }

func send(_ *leg, conn net.Conn, _ rawLeg, b []byte) (int, error) { return conn.Write(b) }

func (p *pump) receive() error { return p.receivePlain() }

// takesAtOnce returns false: whether a write waits is unknown.
func takesAtOnce(net.Conn) bool { return false }

// freeDescriptors returns false: no descriptors are kept.
func freeDescriptors() bool { return false }

// hungUp returns false: whether the peer has left is unknown.
func hungUp(net.Conn) (fin, reset bool) { return false, false }

// inputWaits returns false: whether input waits is unknown.
func inputWaits(net.Conn) bool { return false }

// acksTell is false: what a peer has acknowledged is unknown.
const acksTell = false

func peerAcks(net.Conn) protocol.Acks { return protocol.Acks{} }
