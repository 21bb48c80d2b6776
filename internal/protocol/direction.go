// Package protocol makes the decisions of a session: what of a chunk is forwarded
// ([Direction]), how fast ([Throttle]), and, in a [Course], whether its peers are
// alive and how it ends. It has no I/O, clock, locks, goroutines or random numbers:
// what happened and what time it is are arguments, and what to do about it is
// returned. Package relay carries it out.
package protocol

import (
	"bytes"
	"encoding/binary"
	"math"

	"github.com/seed-ffb73231/wsproxy/internal/frame"
)

// A Direction tracks the frames that arrive from one side. It is owned by the
// reader of that side.
type Direction struct {
	Scan  frame.Scanner
	Tag   [4]byte // of our Pings to this side, see PingBody; set when made
	open  bool    // within a frame
	Data  bool    // it is a data frame
	last  bool    // it is the last one of a message
	Ended bool    // a Close or a violation was found: the rest is ignored
	empty uint32  // empty fragments of the current message; 2^32-1 at most
	Left  uint64  // remaining bytes of the current frame

	message uint64 // payload bytes of the current message, according to its headers so far
}

// A Quota limits what may be completed by one chunk; 0: any number.
type Quota struct {
	messages int32
	frames   int32 // including absorbed ones
}

// spent reports whether the chunk may complete nothing more.
func (q *Quota) spent(v *Verdict) bool {
	return q.messages > 0 && v.Messages >= int(q.messages) || q.frames > 0 && v.Frames+v.Absorbed >= int(q.frames)
}

// A Final is what a direction ended with: a valid Close frame, which follows
// the forwarded bytes in the last chunk, or an error.
type Final struct {
	Size   int        // of the Close frame; 0: it was an error
	Code   frame.Code // of the Close frame
	Broken error      // the error
}

// A Verdict is what to do with one chunk: its first n bytes are forwarded.
type Verdict struct {
	N       int  // bytes to forward
	Edge    int  // the last frame boundary in these; -1: none
	Between int  // the end of the last message that they complete; 0: none
	Hold    int  // bytes at the end of the chunk to present again before the next ones
	Rest    int  // bytes at the end of the chunk that were not examined, because of the quota; hold is 0 then
	Data    bool // the n bytes include bytes of a data frame

	Frames, Messages int    // completed by the n bytes
	Absorbed         int    // frames that are not forwarded: answers to our Pings
	Control          bool   // the n bytes are a control frame; only set with Limits.Apart
	Pings            int    // that begin in these
	Largest          uint64 // the largest message with a frame that begins in these: its payload bytes so far
	Pong             uint32 // the number of our last Ping that was answered; 0: none

	Final Final // what the direction ended with, if it ended in this chunk
}

// Walk examines the next chunk of the direction: the bytes held back last time,
// followed by what was read since. It sets v to what to do with the chunk. If
// it absorbs a frame in the middle, it moves the rest of p down.
//
// It holds back an incomplete header and an incomplete Close or Pong, at most
// frame.MaxControlSize bytes: so nothing that violates the protocol is forwarded, and
// the frame boundary remains free for a frame of our own. Everything else is
// forwarded unchanged.
//
// With Limits.Apart it examines less than the whole chunk: up to the end of a
// message, or to a control frame, or one control frame, which is held back until it
// is complete. limits is what the side may send, nil: anything;
// quota limits what the chunk may complete.
func (d *Direction) Walk(p []byte, limits *Limits, quota Quota, v *Verdict) {
	*v = Verdict{Edge: -1, Data: d.open && d.Data && len(p) > 0}
	i, n := 0, 0 // i: the next byte to examine; p[:n] is forwarded
	for {
		if d.Left > 0 {
			m := len(p) - i
			if d.Left < uint64(m) {
				m = int(d.Left)
			}
			n = keep(p, n, i, m)
			i += m
			if d.Left -= uint64(m); d.Left > 0 {
				break
			}
		}
		if d.open {
			v.Frames++
			if d.complete() {
				v.Messages++
				v.Between = n
			}
		}
		v.Edge = n
		if i == len(p) {
			break
		}
		apart := limits != nil && limits.Apart
		if quota.spent(v) || apart && (v.Messages > 0 || v.Control) {
			v.Rest = len(p) - i
			break
		}
		h, err := d.Scan.Next(p[i:])
		if err == frame.ErrUnmasked {
			if ours, size := d.unmaskedPong(p[i:]); ours {
				switch {
				case apart && n > 0:
					v.Rest = len(p) - i
				case size == 0:
					v.Hold = len(p) - i
				default:
					v.Pong = binary.BigEndian.Uint32(p[i+size-4:])
					v.Absorbed++
					i += size
					continue
				}
				break
			}
		}
		if err != nil {
			d.Ended, v.Final.Broken = true, err
			break
		}
		if h.Size == 0 {
			v.Hold = len(p) - i
			break
		}
		if h.Control() {
			if apart && n > 0 {
				v.Rest = len(p) - i
				break
			}
			looks := h.Opcode() == frame.OpClose || h.Opcode() == frame.OpPong && h.Length == PingBodySize
			size := h.Size + int(h.Length)
			if (looks || apart) && len(p)-i < size {
				v.Hold = len(p) - i
				break
			}
			if looks {
				if own := d.control(p[i:i+size], h, v); d.Ended {
					keep(p, n, i, v.Final.Size)
					break
				} else if own {
					v.Absorbed++
					i += size
					continue
				}
			} else if h.Opcode() == frame.OpPing {
				v.Pings++
			}
			d.Data, d.last, v.Control = false, false, apart
		} else {
			if h.Opcode() != frame.OpContinuation {
				d.message, d.empty = 0, 0
			}
			d.message += h.Length
			if h.Length == 0 && d.empty < math.MaxUint32 {
				d.empty++
			}
			if limits != nil && limits.exceeded(h.Length, max(d.message, uint64(d.empty))) {
				d.Ended, v.Final.Broken = true, ErrTooBig
				break
			}
			v.Largest = max(v.Largest, d.message)
			d.Data, d.last, v.Data = true, h.Fin(), true
		}
		d.open, d.Left = true, h.Length
		n = keep(p, n, i, h.Size)
		i += h.Size
	}
	v.N = n
}

// Continues reports whether the last frame that Walk has found, which begins with
// the byte first, is within a fragmented message.
func (d *Direction) Continues(first byte) bool {
	switch first & 0x0F {
	case frame.OpText, frame.OpBinary:
		return false
	case frame.OpContinuation:
		return true
	}
	return d.Scan.InMessage
}

// Restart has the direction begin anew, with another connection.
func (d *Direction) Restart(scan frame.Scanner) {
	d.Scan = scan
	d.open, d.Data, d.last, d.Ended = false, false, false, false
	d.Left, d.message, d.empty = 0, 0, 0
}

// complete ends the current frame and reports whether it completes a message.
func (d *Direction) complete() (message bool) {
	d.open = false
	return d.last
}

// control examines a complete Close or Pong. A Close ends the direction. own
// reports whether a Pong answers one of our Pings.
func (d *Direction) control(whole []byte, h frame.Header, v *Verdict) (own bool) {
	var scratch [frame.MaxControlPayload]byte
	body := scratch[:h.Length]
	frame.Unmask(body, whole[h.Size:], h.Key)
	if h.Opcode() == frame.OpPong {
		if own = [8]byte(body) == pingStart(d.Tag); own {
			v.Pong = binary.BigEndian.Uint32(body[8:])
		}
		return own
	}
	d.Ended = true
	f := &v.Final
	if f.Code, f.Broken = frame.CloseCode(body); f.Broken == nil {
		f.Size = len(whole)
	}
	return false
}

// unmaskedPong reports whether a client's unmasked frame at the start of p answers
// one of our Pings, as far as p has it, and returns its size, 0 if it is
// incomplete. RFC 6455, 5.1 forbids it, but some clients mask everything except
// their Pongs (paho-mqtt for Python). Where only the server sends Pings to find
// dead clients, nobody would notice. It is harmless: its bytes are ours, and it is
// not forwarded.
func (d *Direction) unmaskedPong(p []byte) (ours bool, size int) {
	const whole = 2 + PingBodySize
	start := pingStart(d.Tag)
	want := [2 + len(start)]byte{frame.FinBit | frame.OpPong, PingBodySize}
	copy(want[2:], start[:])
	m := min(len(p), len(want))
	ours = bytes.Equal(p[:m], want[:m])
	if ours && len(p) >= whole {
		size = whole
	}
	return ours, size
}

// keep moves p[from:from+n] down to p[to:] and returns the end of the moved
// bytes.
func keep(p []byte, to, from, n int) int {
	if to != from {
		copy(p[to:], p[from:from+n])
	}
	return to + n
}

// Skip accounts for n payload bytes of the current frame that were forwarded
// unseen, and returns what they complete.
func (d *Direction) Skip(n int64) (frames, messages int) {
	if d.Left -= uint64(n); d.Left > 0 {
		return 0, 0
	}
	if d.complete() {
		messages = 1
	}
	return 1, messages
}

// PingBodySize is the size of the body of our Pings: a mark, a tag that is random for
// each leg of a session, and a sequence number. The length, the mark and the tag
// distinguish a Pong to our Ping from the Pong to an application's Ping; the tag
// alone from that to a Ping of another session, or of another proxy like this one.
const PingBodySize = 4 + 4 + 4

// PingBody returns the body of a Ping.
func PingBody(tag [4]byte, number uint32) []byte {
	start := pingStart(tag)
	return binary.BigEndian.AppendUint32(start[:], number)
}

// pingStart returns the mark and the tag. The mark is the same everywhere, to take no
// memory; no UTF-8 begins like it, and no time or counter of today does.
func pingStart(tag [4]byte) [4 + 4]byte {
	return [...]byte{0xF3, 0xC1, 0x9D, 0xB6, tag[0], tag[1], tag[2], tag[3]}
}
