//go:build !linux || !(amd64 || arm64) || noloop

package relay

import (
	"net"
	"time"
)

// Without an event driver, goroutines drive all sessions.

// HasEvents reports that there is an event driver.
const HasEvents = false

// CountEvents returns what the event driver has.
func CountEvents() Census { return Census{} }

type events struct{}

type eventLeg struct {
	kept    *kept
	closing bool
}

type kept struct{}

func (e *events) has() bool                       { return false }
func (e *events) take(*Session, [2]net.Conn) bool { return false }
func (e *events) arm(*Session)                    {}
func (e *events) start(*Session)                  {}
func (e *events) readToEnd(*Session)              {}
func (l *leg) shutdown()                          {}
func (l *leg) control(func(uintptr))              {}

func callOver(*Session) {}

func (l *leg) writeOrKeep([]byte, time.Duration) int { return 0 }
func (l *leg) keptSince() time.Duration              { return -1 }
func (l *leg) keptMoves(since, now time.Duration)    {}
func (l *leg) keeps() bool                           { return false }
func (l *leg) owe(frames, messages, bytes int)       {}
func (l *leg) addLater(*addition) bool               { return false }
func (l *leg) handOver() bool                        { return false }
func (l *leg) resume()                               {}
func (l *leg) endSoon(bool)                          {}

// A tlsSocket is never used.
type tlsSocket struct{}

func (t *tlsSocket) read([]byte) (int, error)  { return 0, errAgain }
func (t *tlsSocket) write([]byte) (int, error) { return 0, errAgain }
func (t *tlsSocket) hangUp()                   {}
