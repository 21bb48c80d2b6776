//go:build !(linux && (amd64 || arm64))

package wsproxy

import "net"

// Elsewhere every leg is read and written as a net.Conn.

type rawLeg struct{}
type rawPump struct{}
type rawChunk struct{}

func (l *leg) initRaw()     {}
func (l *leg) reset() bool  { return false } // its reader is always told
func (l *leg) wakeIfReset() {}

func writeConn(conn net.Conn, b []byte) (int, error) { return conn.Write(b) }

func writeNow(net.Conn, []byte) (int, error) { return 0, nil }

func send(_ *leg, conn net.Conn, _ rawLeg, b []byte) (int, error) { return conn.Write(b) }

func (p *pump) receive() error { return p.receivePlain() }

// takesAtOnce: whether a write waits can't be told.
func takesAtOnce(net.Conn) bool { return false }

// freeDescriptors: none are kept.
func freeDescriptors() bool { return false }

// hungUp: it can't be told.
func hungUp(net.Conn) (fin, reset bool) { return false, false }

// inputWaits: what waits can't be told.
func inputWaits(net.Conn) bool { return false }

// acksTell: what a peer has acknowledged can't be told.
const acksTell = false

func peerAcks(net.Conn) (acks, bool) { return acks{}, false }
