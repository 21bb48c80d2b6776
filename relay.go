package wsproxy

import (
	"encoding/binary"

	"github.com/coder/websocket"
)

// This file is the relay's mind. It decides what happens to the bytes that a
// peer sent and how a session comes to its end, and it does nothing: no I/O,
// no clock, no goroutine. What moves the bytes is in pump.go and leg.go.

// other returns the side across.
func (s Side) other() Side { return s ^ 1 }

// A direction follows the frames that come from one side. It is owned by
// whoever reads that side.
type direction struct {
	scan  scanner
	tag   [8]byte // how the Pongs to our own Pings to this side begin; set when made
	open  bool    // a frame is under way
	data  bool    // it is a data frame
	last  bool    // it is the last one of a message
	ended bool    // a Close or a violation was found: the rest counts for nothing
	left  uint64  // bytes of the frame under way that are still to come

	limits  *limits // set when made; nil: none
	quota   quota   // of one chunk
	message uint64  // bytes of payload of the message under way, as far as its headers tell
	empty   uint64  // its empty fragments
}

// A quota is how much may be complete with one chunk; 0: any number.
type quota struct {
	messages int32
	frames   int32 // absorbed ones included
}

// spent says whether nothing more may be complete with the chunk.
func (q *quota) spent(v *verdict) bool {
	return q.messages > 0 && v.messages >= int(q.messages) || q.frames > 0 && v.frames+v.absorbed >= int(q.frames)
}

// A final is what a direction ended with: a valid Close frame, which stands
// in the last chunk behind the bytes that go on, or something broken.
type final struct {
	size   int                  // of the Close frame; 0: it was something broken
	code   websocket.StatusCode // of the Close frame
	broken error                // what was
}

// A verdict is what is to be done with one chunk: its first n bytes go on.
type verdict struct {
	n    int  // bytes that go on
	edge int  // the last frame boundary in these; -1: none
	hold int  // bytes at the chunk's tail to present again before the next ones
	rest int  // bytes at the chunk's tail that weren't looked at, for the quota; there is no hold then
	data bool // a data frame's bytes are among the n

	frames, messages int    // that are complete with the n bytes
	absorbed         int    // frames that don't go on: answers to our own Pings
	pings            int    // that begin in these
	largest          uint64 // message of which a frame begins in these: bytes of payload so far
	pong             uint32 // the number of the last of our own Pings that was answered; 0: none

	final final // what the direction ended with, if it did in this chunk
}

// walk looks at the next chunk of the direction's bytes: the bytes held back
// last time, then what was read since; v is what is to be done with it. Where
// something in the middle is absorbed, it moves the rest of p together.
//
// Held back are an incomplete header and an incomplete Close or Pong, at
// most maxControlSize bytes: so nothing that breaks the protocol is ever
// passed on, and the boundary stays free for a frame of our own. All else
// goes on as it comes.
func (d *direction) walk(p []byte, v *verdict) {
	*v = verdict{edge: -1, data: d.open && d.data && len(p) > 0}
	i, n := 0, 0 // the next byte to look at; what goes on is p[:n]
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
		h, err := d.scan.next(p[i:])
		if err != nil {
			d.ended, v.final.broken = true, err
			break
		}
		if h.size == 0 {
			v.hold = len(p) - i
			break
		}
		if h.control() {
			if h.opcode() == opClose || h.opcode() == opPong && h.length == pingBodySize {
				size := h.size + int(h.length)
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
			} else if h.opcode() == opPing {
				v.pings++
			}
			d.data, d.last = false, false
		} else {
			if h.opcode() != opContinuation {
				d.message, d.empty = 0, 0
			}
			d.message += h.length
			if h.length == 0 {
				d.empty++
			}
			if d.limits != nil && d.limits.exceeded(h.length, max(d.message, d.empty)) {
				d.ended, v.final.broken = true, errTooBig
				break
			}
			v.largest = max(v.largest, d.message)
			d.data, d.last, v.data = true, h.fin(), true
		}
		d.open, d.left = true, h.length
		n = keep(p, n, i, h.size)
		i += h.size
	}
	v.n = n
}

// complete ends the frame under way, and says whether a message ends with it.
func (d *direction) complete() (message bool) {
	d.open = false
	return d.last
}

// control looks into a whole Close or Pong. A Close ends the direction; of a
// Pong it says whether it answers a Ping of our own.
func (d *direction) control(frame []byte, h header, v *verdict) (own bool) {
	var scratch [maxControlPayload]byte
	body := scratch[:h.length]
	unmask(body, frame[h.size:], h.key)
	if h.opcode() == opPong {
		if own = [8]byte(body) == d.tag; own {
			v.pong = binary.BigEndian.Uint32(body[8:])
		}
		return own
	}
	d.ended = true
	f := &v.final
	if f.code, f.broken = closeCode(body); f.broken == nil {
		f.size = len(frame)
	}
	return false
}

// keep moves p[from:from+n] down to p[to:], and returns where it ends there.
func keep(p []byte, to, from, n int) int {
	if to != from {
		copy(p[to:], p[from:from+n])
	}
	return to + n
}

// skip passes over n payload bytes of the frame under way that went on
// unseen, and returns what is complete with them.
func (d *direction) skip(n int64) (frames, messages int) {
	if d.left -= uint64(n); d.left > 0 {
		return 0, 0
	}
	if d.complete() {
		messages = 1
	}
	return 1, messages
}

// pingBodySize is the size of our own Pings' body: a tag that the session
// draws for each leg and a running number. By the tag, and its length, a
// Pong to it is told from the Pong to an application's Ping.
const pingBodySize = 8 + 4

func pingBody(tag [8]byte, number uint32) []byte {
	return binary.BigEndian.AppendUint32(tag[:], number)
}

// A cause is why a session ended, and by whom.
type cause struct {
	name Reason
	by   Side
	// What each side is told, by its index, if nothing better comes up; 0:
	// its connection is closed with no Close frame.
	owed [2]websocket.StatusCode
	// The reason in these Close frames: short, fixed, ASCII, or the user's.
	reason string
}

// upstreamLost is the code that tells a client of it. 1014 (bad gateway)
// would say it better, but clients in use reject it.
const upstreamLost = websocket.StatusInternalError

const goingAway = websocket.StatusGoingAway

// Causes that one side brought about, by its index.
var (
	causeClosed = [2]*cause{
		{name: ReasonClosed, by: Client},
		{name: ReasonClosed, by: Upstream},
	}
	causeLost = [2]*cause{
		{name: ReasonLost, by: Client, owed: [2]websocket.StatusCode{Upstream: goingAway}, reason: "client lost"},
		{name: ReasonLost, by: Upstream, owed: [2]websocket.StatusCode{Client: upstreamLost}, reason: "upstream lost"},
	}
	causeProtocol = [2]*cause{
		{name: ReasonProtocolError, by: Client, owed: [2]websocket.StatusCode{websocket.StatusProtocolError, goingAway}, reason: "protocol error by the client"},
		{name: ReasonProtocolError, by: Upstream, owed: [2]websocket.StatusCode{upstreamLost, websocket.StatusProtocolError}, reason: "protocol error by the upstream"},
	}
	causeTooBig = [2]*cause{
		{name: ReasonLimit, by: Client, owed: [2]websocket.StatusCode{websocket.StatusMessageTooBig, goingAway}, reason: "message too big"},
		{name: ReasonLimit, by: Upstream, owed: [2]websocket.StatusCode{goingAway, websocket.StatusMessageTooBig}, reason: "message too big"},
	}
	causeTooFast = [2]*cause{
		{name: ReasonLimit, by: Client, owed: [2]websocket.StatusCode{websocket.StatusPolicyViolation, goingAway}, reason: "too many messages"},
		{name: ReasonLimit, by: Upstream, owed: [2]websocket.StatusCode{goingAway, websocket.StatusPolicyViolation}, reason: "too many messages"},
	}
)

// Ways to go over a limit.
const (
	errTooBig  violation = "message or frame over the limit"
	errTooFast violation = "messages, frames or bytes over the rate limit"
)

// causeOf returns the cause of what a side has broken.
func causeOf(side Side, broken error) *cause {
	switch broken {
	case errTooBig:
		return causeTooBig[side]
	case errTooFast:
		return causeTooFast[side]
	}
	return causeProtocol[side]
}

// Causes that lie with the proxy: both sides are told at once.
var (
	causeIdle      = &cause{name: ReasonIdle, by: Self, owed: [2]websocket.StatusCode{goingAway, goingAway}, reason: "idle timeout"}
	causeAge       = &cause{name: ReasonAge, by: Self, owed: [2]websocket.StatusCode{goingAway, goingAway}, reason: "maximum age"}
	causeCancelled = &cause{name: ReasonCancelled, by: Self, owed: [2]websocket.StatusCode{goingAway, goingAway}, reason: "going away"}
	causePanic     = &cause{name: ReasonPanic, by: Self, owed: [2]websocket.StatusCode{upstreamLost, goingAway}, reason: "internal error"}
	causeCut       = &cause{name: ReasonCut, by: Self}
	causeRemoved   = causeFor(ReasonRemoved, websocket.StatusServiceRestart, "upstream removed")
	causeDown      = causeFor(ReasonDown, websocket.StatusServiceRestart, "upstream down")
)

// causeFor makes a cause that lies with the proxy and of which the client is
// told a code of the user's.
func causeFor(name Reason, code websocket.StatusCode, reason string) *cause {
	return &cause{name: name, by: Self, owed: [2]websocket.StatusCode{code, goingAway}, reason: reason}
}

// An ending is how a session comes to its end: what ended it, and which side
// is to be told what. The first cause wins; whatever follows from it (a
// reply, an EOF) changes only who still has to be told.
type ending struct {
	cause *cause
	err   error     // what made it so, where something did
	code  uint16    // of the Close frame that came first, from a peer or from us
	owed  [2]uint16 // codes; see cause
	told  [2]bool   // a Close was sent to it, or is about to be
	ended [2]bool   // nothing that comes from it will be passed on any more
	heard [2]bool   // its Close has come
	over  [2]bool   // its stream can't be read any further
}

// begin names the cause, if there is none yet.
func (e *ending) begin(c *cause, err error) bool {
	if e.cause != nil {
		return false
	}
	e.cause, e.err = c, err
	e.owed = [2]uint16{uint16(c.owed[Client]), uint16(c.owed[Upstream])}
	e.code = max(e.owed[Client], e.owed[Upstream])
	if c.by == Self {
		e.code = e.owed[Client]
	}
	return true
}

// tell returns the code of the Close frame that is to be sent to a side now;
// 0: none.
func (e *ending) tell(to Side) websocket.StatusCode {
	if e.told[to] || e.owed[to] == 0 {
		return 0
	}
	e.told[to] = true
	return websocket.StatusCode(e.owed[to])
}

// closeFrom takes in a Close frame from a side. Either the frame goes on to
// the other side as it is, or the other side is told a code of ours; 0: it
// is told nothing.
func (e *ending) closeFrom(from Side, code websocket.StatusCode) (verbatim bool, instead websocket.StatusCode) {
	e.ended[from], e.heard[from] = true, true
	to := from.other()
	if e.begin(causeClosed[from], nil) {
		// Its own code comes back to it should the other side not answer.
		e.code, e.owed[from] = uint16(code), uint16(code)
	} else if e.cause != causeClosed[to] {
		return false, e.tell(to)
	}
	if e.told[to] {
		return false, 0
	}
	e.told[to] = true
	return true, 0
}

// endFrom takes in that nothing more will be passed on from a side, for a
// reason other than a Close frame. It returns what to tell the other side.
func (e *ending) endFrom(from Side, c *cause, err error) websocket.StatusCode {
	e.begin(c, err)
	e.ended[from] = true
	return e.tell(from.other())
}

// done says whether a side's connection may be closed: nothing more will be
// read from it that matters and nothing more is to be written to it. closed
// says that a Close frame has been written to it in full, talks that the side
// goes on sending behind its own.
//
// The client's is closed by us first, the upstream's by the upstream
// (RFC 6455, 7.1.1), so that the TIME_WAIT of a proxied session doesn't use
// up our ports.
func (e *ending) done(side Side, closed, talks bool) bool {
	if side == Client && e.heard[side] && closed && !talks {
		return true
	}
	return e.over[side] && (closed || e.ended[side.other()])
}

// fin says whether a side that isn't done is to be sent a FIN now: the last word
// has been written to it and nothing that it sends counts any more. It has
// broken the protocol, so that its own Close can't be made out, or talks on
// behind that. Until its own FIN comes, what it sends is read and dropped, so
// that the last words arrive (RFC 6455, 7.1.1).
func (e *ending) fin(side Side, closed bool) bool {
	return closed && e.ended[side] && !e.over[side] && (side == Client || !e.heard[side])
}
