package wsproxy

import (
	"encoding/binary"

	"github.com/seed-ffb73231/wsproxy/internal/frame"
)

// This file contains the decisions of the relay: what happens to the bytes that a
// peer sent, and how a session ends. It has no I/O, clock or goroutines; pump.go
// and leg.go move the bytes.

// A direction tracks the frames that arrive from one side. It is owned by the
// reader of that side.
type direction struct {
	scan  frame.Scanner
	tag   [8]byte // the start of the Pongs to our Pings to this side; set when made
	open  bool    // within a frame
	data  bool    // it is a data frame
	last  bool    // it is the last one of a message
	ended bool    // a Close or a violation was found: the rest is ignored
	left  uint64  // remaining bytes of the current frame

	limits  *limits // set when made; nil: none
	quota   quota   // of one chunk
	message uint64  // payload bytes of the current message, according to its headers so far
	empty   uint64  // its empty fragments
}

// A quota limits what may be completed by one chunk; 0: any number.
type quota struct {
	messages int32
	frames   int32 // including absorbed ones
}

// spent reports whether the chunk may complete nothing more.
func (q *quota) spent(v *verdict) bool {
	return q.messages > 0 && v.messages >= int(q.messages) || q.frames > 0 && v.frames+v.absorbed >= int(q.frames)
}

// A final is what a direction ended with: a valid Close frame, which follows
// the forwarded bytes in the last chunk, or an error.
type final struct {
	size   int        // of the Close frame; 0: it was an error
	code   frame.Code // of the Close frame
	broken error      // the error
}

// A verdict is what to do with one chunk: its first n bytes are forwarded.
type verdict struct {
	n    int  // bytes to forward
	edge int  // the last frame boundary in these; -1: none
	hold int  // bytes at the end of the chunk to present again before the next ones
	rest int  // bytes at the end of the chunk that were not examined, because of the quota; hold is 0 then
	data bool // the n bytes include bytes of a data frame

	frames, messages int    // completed by the n bytes
	absorbed         int    // frames that are not forwarded: answers to our Pings
	pings            int    // that begin in these
	largest          uint64 // the largest message with a frame that begins in these: its payload bytes so far
	pong             uint32 // the number of our last Ping that was answered; 0: none

	final final // what the direction ended with, if it ended in this chunk
}

// walk examines the next chunk of the direction: the bytes held back last time,
// followed by what was read since. It sets v to what to do with the chunk. If
// it absorbs a frame in the middle, it moves the rest of p down.
//
// It holds back an incomplete header and an incomplete Close or Pong, at most
// frame.MaxControlSize bytes: so nothing that violates the protocol is forwarded, and
// the frame boundary remains free for a frame of our own. Everything else is
// forwarded unchanged.
func (d *direction) walk(p []byte, v *verdict) {
	*v = verdict{edge: -1, data: d.open && d.data && len(p) > 0}
	i, n := 0, 0 // i: the next byte to examine; p[:n] is forwarded
	for {
		if d.left > 0 {
			m := len(p) - i
			if d.left < uint64(m) {
				m = int(d.left)
			}
			n = keep(p, n, i, m)
			i += m
			if d.left -= uint64(m); d.left > 0 {
				break
			}
		}
		if d.open {
			v.frames++
			if d.complete() {
				v.messages++
			}
		}
		v.edge = n
		if i == len(p) {
			break
		}
		if d.quota.spent(v) {
			v.rest = len(p) - i
			break
		}
		h, err := d.scan.Next(p[i:])
		if err != nil {
			d.ended, v.final.broken = true, err
			break
		}
		if h.Size == 0 {
			v.hold = len(p) - i
			break
		}
		if h.Control() {
			if h.Opcode() == frame.OpClose || h.Opcode() == frame.OpPong && h.Length == pingBodySize {
				size := h.Size + int(h.Length)
				if len(p)-i < size {
					v.hold = len(p) - i
					break
				}
				if own := d.control(p[i:i+size], h, v); d.ended {
					keep(p, n, i, v.final.size)
					break
				} else if own {
					v.absorbed++
					i += size
					continue
				}
			} else if h.Opcode() == frame.OpPing {
				v.pings++
			}
			d.data, d.last = false, false
		} else {
			if h.Opcode() != frame.OpContinuation {
				d.message, d.empty = 0, 0
			}
			d.message += h.Length
			if h.Length == 0 {
				d.empty++
			}
			if d.limits != nil && d.limits.exceeded(h.Length, max(d.message, d.empty)) {
				d.ended, v.final.broken = true, errTooBig
				break
			}
			v.largest = max(v.largest, d.message)
			d.data, d.last, v.data = true, h.Fin(), true
		}
		d.open, d.left = true, h.Length
		n = keep(p, n, i, h.Size)
		i += h.Size
	}
	v.n = n
}

// complete ends the current frame and reports whether it completes a message.
func (d *direction) complete() (message bool) {
	d.open = false
	return d.last
}

// control examines a complete Close or Pong. A Close ends the direction. own
// reports whether a Pong answers one of our Pings.
func (d *direction) control(whole []byte, h frame.Header, v *verdict) (own bool) {
	var scratch [frame.MaxControlPayload]byte
	body := scratch[:h.Length]
	frame.Unmask(body, whole[h.Size:], h.Key)
	if h.Opcode() == frame.OpPong {
		if own = [8]byte(body) == d.tag; own {
			v.pong = binary.BigEndian.Uint32(body[8:])
		}
		return own
	}
	d.ended = true
	f := &v.final
	if f.code, f.broken = frame.CloseCode(body); f.broken == nil {
		f.size = len(whole)
	}
	return false
}

// keep moves p[from:from+n] down to p[to:] and returns the end of the moved
// bytes.
func keep(p []byte, to, from, n int) int {
	if to != from {
		copy(p[to:], p[from:from+n])
	}
	return to + n
}

// skip accounts for n payload bytes of the current frame that were forwarded
// unseen, and returns what they complete.
func (d *direction) skip(n int64) (frames, messages int) {
	if d.left -= uint64(n); d.left > 0 {
		return 0, 0
	}
	if d.complete() {
		messages = 1
	}
	return 1, messages
}

// pingBodySize is the size of the body of our Pings: a tag that is random for
// each leg of a session, and a sequence number. The tag and the length
// distinguish a Pong to our Ping from the Pong to an application's Ping.
const pingBodySize = 8 + 4

func pingBody(tag [8]byte, number uint32) []byte {
	return binary.BigEndian.AppendUint32(tag[:], number)
}

// A cause is why a session ended, and by whom.
type cause struct {
	name Reason
	by   frame.Side
	// The close code for each side, by its index, unless a better one is found;
	// 0: its connection is closed without a Close frame.
	owed [2]frame.Code
	// The reason in these Close frames: short fixed ASCII, or given by the user.
	reason string
}

// upstreamLost is the close code for a client whose upstream was lost. 1014
// (bad gateway) would be more precise, but some clients reject it.
const upstreamLost = frame.InternalError

const goingAway = frame.GoingAway

// Causes for which one side is responsible, by its index.
var (
	causeClosed = [2]*cause{
		{name: ReasonClosed, by: frame.Client},
		{name: ReasonClosed, by: frame.Upstream},
	}
	causeLost = [2]*cause{
		{name: ReasonLost, by: frame.Client, owed: [2]frame.Code{frame.Upstream: goingAway}, reason: "client lost"},
		{name: ReasonLost, by: frame.Upstream, owed: [2]frame.Code{frame.Client: upstreamLost}, reason: "upstream lost"},
	}
	causeProtocol = [2]*cause{
		{name: ReasonProtocolError, by: frame.Client, owed: [2]frame.Code{frame.ProtocolError, goingAway}, reason: "protocol error by the client"},
		{name: ReasonProtocolError, by: frame.Upstream, owed: [2]frame.Code{upstreamLost, frame.ProtocolError}, reason: "protocol error by the upstream"},
	}
	causeTooBig = [2]*cause{
		{name: ReasonLimit, by: frame.Client, owed: [2]frame.Code{frame.MessageTooBig, goingAway}, reason: "message too big"},
		{name: ReasonLimit, by: frame.Upstream, owed: [2]frame.Code{goingAway, frame.MessageTooBig}, reason: "message too big"},
	}
	causeTooFast = [2]*cause{
		{name: ReasonLimit, by: frame.Client, owed: [2]frame.Code{frame.PolicyViolation, goingAway}, reason: "too many messages"},
		{name: ReasonLimit, by: frame.Upstream, owed: [2]frame.Code{goingAway, frame.PolicyViolation}, reason: "too many messages"},
	}
)

// Ways to exceed a limit.
const (
	errTooBig  frame.Violation = "message or frame over the limit"
	errTooFast frame.Violation = "messages, frames or bytes over the rate limit"
)

// causeOf returns the cause for an error in what a side sent.
func causeOf(side frame.Side, broken error) *cause {
	switch broken {
	case errTooBig:
		return causeTooBig[side]
	case errTooFast:
		return causeTooFast[side]
	}
	return causeProtocol[side]
}

// Causes for which the proxy is responsible: both sides are closed at once.
var (
	causeIdle      = &cause{name: ReasonIdle, by: frame.Self, owed: [2]frame.Code{goingAway, goingAway}, reason: "idle timeout"}
	causeAge       = &cause{name: ReasonAge, by: frame.Self, owed: [2]frame.Code{goingAway, goingAway}, reason: "maximum age"}
	causeCancelled = &cause{name: ReasonCancelled, by: frame.Self, owed: [2]frame.Code{goingAway, goingAway}, reason: "going away"}
	causePanic     = &cause{name: ReasonPanic, by: frame.Self, owed: [2]frame.Code{upstreamLost, goingAway}, reason: "internal error"}
	causeCut       = &cause{name: ReasonCut, by: frame.Self}
	causeRemoved   = causeFor(ReasonRemoved, frame.ServiceRestart, "upstream removed")
	causeDown      = causeFor(ReasonDown, frame.ServiceRestart, "upstream down")
)

// causeFor returns a cause for which the proxy is responsible, with a close
// code for the client that the user has set.
func causeFor(name Reason, code frame.Code, reason string) *cause {
	return &cause{name: name, by: frame.Self, owed: [2]frame.Code{code, goingAway}, reason: reason}
}

// An ending tracks how a session ends: why, and which side gets which close
// code. The first cause is kept; later events that follow from it (a reply, an
// EOF) only change who still gets a Close frame.
type ending struct {
	cause *cause
	err   error         // the underlying error, if any
	code  frame.Code    // of the first Close frame, from a peer or from us
	owed  [2]frame.Code // codes; see cause
	told  [2]bool       // a Close was sent to it, or is about to be
	ended [2]bool       // nothing more from it will be forwarded
	heard [2]bool       // its Close has arrived
	over  [2]bool       // nothing more can be read from it
}

// begin names the cause, if there is none yet.
func (e *ending) begin(c *cause, err error) bool {
	if e.cause != nil {
		return false
	}
	e.cause, e.err = c, err
	e.owed = c.owed
	e.code = max(e.owed[frame.Client], e.owed[frame.Upstream])
	if c.by == frame.Self {
		e.code = e.owed[frame.Client]
	}
	return true
}

// tell returns the code of the Close frame to send to a side now; 0: none.
func (e *ending) tell(to frame.Side) frame.Code {
	if e.told[to] || e.owed[to] == 0 {
		return 0
	}
	e.told[to] = true
	return e.owed[to]
}

// closeFrom records a Close frame from a side. Either the frame is forwarded
// verbatim to the other side, or the other side gets the code instead; 0: it
// gets none.
func (e *ending) closeFrom(from frame.Side, code frame.Code) (verbatim bool, instead frame.Code) {
	e.ended[from], e.heard[from] = true, true
	to := from.Other()
	if e.begin(causeClosed[from], nil) {
		// It gets its own code back if the other side does not answer.
		e.code, e.owed[from] = code, code
	} else if e.cause != causeClosed[to] {
		return false, e.tell(to)
	}
	if e.told[to] {
		return false, 0
	}
	e.told[to] = true
	return true, 0
}

// endFrom records that nothing more will be forwarded from a side, for a reason
// other than a Close frame. It returns the close code for the other side.
func (e *ending) endFrom(from frame.Side, c *cause, err error) frame.Code {
	e.begin(c, err)
	e.ended[from] = true
	return e.tell(from.Other())
}

// done reports whether a side's connection may be closed: nothing more that
// matters will be read from it, and nothing more will be written to it. closed
// means that a Close frame was written to it completely, talks that the side
// keeps sending after its own.
//
// We close the client's connection first; the upstream closes its own first
// (RFC 6455, 7.1.1), so that the TIME_WAIT of a proxied session does not use up
// our ports.
func (e *ending) done(side frame.Side, closed, talks bool) bool {
	if side == frame.Client && e.heard[side] && closed && !talks {
		return true
	}
	return e.over[side] && (closed || e.ended[side.Other()])
}

// fin reports whether to send a FIN now to a side that is not done: everything
// has been written to it and nothing that it sends matters any more. Either it
// violated the protocol, so that its own Close cannot be recognized, or it
// keeps sending after its Close. Until its own FIN arrives, its input is read
// and dropped, so that what was written arrives (RFC 6455, 7.1.1).
func (e *ending) fin(side frame.Side, closed bool) bool {
	return closed && e.ended[side] && !e.over[side] && (side == frame.Client || !e.heard[side])
}
