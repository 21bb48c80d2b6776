package protocol

import "github.com/seed-ffb73231/wsproxy/internal/frame"

// An Ending tracks how a session ends: why, and which side gets which close
// code. The first cause is kept; later events that follow from it (a reply, an
// EOF) only change who still gets a Close frame.
type Ending struct {
	Cause *Cause
	Err   error         // the underlying error, if any
	Code  frame.Code    // of the first Close frame, from a peer or from us
	owed  [2]frame.Code // codes; see cause
	told  [2]bool       // a Close was sent to it, or is about to be
	Ended [2]bool       // nothing more from it will be forwarded
	heard [2]bool       // its Close has arrived
	Over  [2]bool       // nothing more can be read from it
}

// Begin names the cause, if there is none yet.
func (e *Ending) Begin(c *Cause, err error) bool {
	if e.Cause != nil {
		return false
	}
	e.Cause, e.Err = c, err
	e.owed = c.Owed
	e.Code = max(e.owed[frame.Client], e.owed[frame.Upstream])
	if c.By == frame.Self {
		e.Code = e.owed[frame.Client]
	}
	return true
}

// Tell returns the code of the Close frame to send to a side now; 0: none.
func (e *Ending) Tell(to frame.Side) frame.Code {
	if e.told[to] || e.owed[to] == 0 {
		return 0
	}
	e.told[to] = true
	return e.owed[to]
}

// CloseFrom records a Close frame from a side. Either the frame is forwarded
// verbatim to the other side, or the other side gets the code instead; 0: it
// gets none.
func (e *Ending) CloseFrom(from frame.Side, code frame.Code) (verbatim bool, instead frame.Code) {
	e.Ended[from], e.heard[from] = true, true
	to := from.Other()
	if e.Begin(CauseClosed[from], nil) {
		// It gets its own code back if the other side does not answer.
		e.Code, e.owed[from] = code, code
	} else if e.Cause != CauseClosed[to] {
		return false, e.Tell(to)
	}
	if e.told[to] {
		return false, 0
	}
	e.told[to] = true
	return true, 0
}

// EndFrom records that nothing more will be forwarded from a side, for a reason
// other than a Close frame. It returns the close code for the other side.
func (e *Ending) EndFrom(from frame.Side, c *Cause, err error) frame.Code {
	e.Begin(c, err)
	e.Ended[from] = true
	return e.Tell(from.Other())
}

// Done reports whether a side's connection may be closed: nothing more that
// matters will be read from it, and nothing more will be written to it. closed
// means that a Close frame was written to it completely, talks that the side
// keeps sending after its own.
//
// We close the client's connection first; the upstream closes its own first
// (RFC 6455, 7.1.1), so that the TIME_WAIT of a proxied session does not use up
// our ports.
func (e *Ending) Done(side frame.Side, closed, talks bool) bool {
	if side == frame.Client && e.heard[side] && closed && !talks {
		return true
	}
	return e.Over[side] && (closed || e.Ended[side.Other()])
}

// Fin reports whether to send a FIN now to a side that is not done: everything
// has been written to it and nothing that it sends matters any more. Either it
// violated the protocol, so that its own Close cannot be recognized, or it
// keeps sending after its Close. Until its own FIN arrives, its input is read
// and dropped, so that what was written arrives (RFC 6455, 7.1.1).
func (e *Ending) Fin(side frame.Side, closed bool) bool {
	return closed && e.Ended[side] && !e.Over[side] && (side == frame.Client || !e.heard[side])
}
