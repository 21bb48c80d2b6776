package message

import "sync/atomic"

// Totals counts the messages that were packed on each side's connection, in both
// directions.
type Totals [2]Total

// A Total counts packed messages.
type Total struct{ messages, wire, unpacked atomic.Uint64 }

func (t *Total) add(wire, unpacked int) {
	t.messages.Add(1)
	t.wire.Add(uint64(wire))
	t.unpacked.Add(uint64(unpacked))
}

// Load returns the number of messages, their bytes on the wire, and their bytes of
// payload unpacked.
func (t *Total) Load() (messages, wire, unpacked uint64) {
	return t.messages.Load(), t.wire.Load(), t.unpacked.Load()
}
