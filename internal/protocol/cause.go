package protocol

import "github.com/seed-ffb73231/wsproxy/internal/frame"

// A Cause is why a session ended, and by whom.
type Cause struct {
	Reason string // the text of a wsproxy.Reason
	By     frame.Side
	// The close code for each side, by its index, unless a better one is found;
	// 0: its connection is closed without a Close frame.
	Owed [2]frame.Code
	// The reason in these Close frames: short fixed ASCII, or given by the user.
	Text string
}

// upstreamLost is the close code for a client whose upstream was lost. 1014
// (bad gateway) would be more precise, but some clients reject it.
const upstreamLost = frame.InternalError

const goingAway = frame.GoingAway

// Causes for which one side is responsible, by its index.
var (
	causeClosed = [2]*Cause{
		{Reason: "closed", By: frame.Client},
		{Reason: "closed", By: frame.Upstream},
	}
	causeLost = [2]*Cause{
		{Reason: "lost", By: frame.Client, Owed: [2]frame.Code{frame.Upstream: goingAway}, Text: "client lost"},
		{Reason: "lost", By: frame.Upstream, Owed: [2]frame.Code{frame.Client: upstreamLost}, Text: "upstream lost"},
	}
	causeProtocol = [2]*Cause{
		{Reason: "protocol error", By: frame.Client, Owed: [2]frame.Code{frame.ProtocolError, goingAway}, Text: "protocol error by the client"},
		{Reason: "protocol error", By: frame.Upstream, Owed: [2]frame.Code{upstreamLost, frame.ProtocolError}, Text: "protocol error by the upstream"},
	}
	causeTooBig = [2]*Cause{
		{Reason: "limit", By: frame.Client, Owed: [2]frame.Code{frame.MessageTooBig, goingAway}, Text: "message too big"},
		{Reason: "limit", By: frame.Upstream, Owed: [2]frame.Code{goingAway, frame.MessageTooBig}, Text: "message too big"},
	}
	causeInvalid = [2]*Cause{
		{Reason: "protocol error", By: frame.Client, Owed: [2]frame.Code{frame.InvalidPayload, goingAway}, Text: "invalid data by the client"},
		{Reason: "protocol error", By: frame.Upstream, Owed: [2]frame.Code{upstreamLost, frame.InvalidPayload}, Text: "invalid data by the upstream"},
	}
	causeTooFast = [2]*Cause{
		{Reason: "limit", By: frame.Client, Owed: [2]frame.Code{frame.PolicyViolation, goingAway}, Text: "too many messages"},
		{Reason: "limit", By: frame.Upstream, Owed: [2]frame.Code{goingAway, frame.PolicyViolation}, Text: "too many messages"},
	}
)

// Ways to exceed a limit.
const (
	ErrTooBig  frame.Violation = "message or frame over the limit"
	ErrTooFast frame.Violation = "messages, frames or bytes over the rate limit"
)

// What may be wrong with the payload of a message.
const (
	ErrNotUTF8 frame.Violation = "text that is not UTF-8"
	ErrCorrupt frame.Violation = "corrupt compressed data"
)

// CauseOf returns the cause for an error in what a side sent.
func CauseOf(side frame.Side, broken error) *Cause {
	switch broken {
	case ErrNotUTF8, ErrCorrupt:
		return causeInvalid[side]
	case ErrTooBig:
		return causeTooBig[side]
	case ErrTooFast:
		return causeTooFast[side]
	}
	return causeProtocol[side]
}

// Causes for which the proxy is responsible: both sides are closed at once.
var (
	CauseIdle  = &Cause{Reason: "idle", By: frame.Self, Owed: [2]frame.Code{goingAway, goingAway}, Text: "idle timeout"}
	causeAge   = &Cause{Reason: "age", By: frame.Self, Owed: [2]frame.Code{goingAway, goingAway}, Text: "maximum age"}
	CausePanic = &Cause{Reason: "panic", By: frame.Self, Owed: [2]frame.Code{upstreamLost, goingAway}, Text: "internal error"}
)

// CauseFor returns a cause for which the proxy is responsible, with a close
// code for the client that the user has set.
func CauseFor(reason string, code frame.Code, text string) *Cause {
	return &Cause{Reason: reason, By: frame.Self, Owed: [2]frame.Code{code, goingAway}, Text: text}
}
