// Package message takes whole messages out of the frames of a session, and makes
// frames of them again for the other side. The two sides' frames may differ: each
// connection has its own compression (RFC 7692). It has no I/O of its own: package
// relay reads and writes for it.
package message

import (
	"io"
	"sync"
	"unicode/utf8"

	"github.com/seed-ffb73231/wsproxy/internal/frame"
	"github.com/seed-ffb73231/wsproxy/internal/protocol"
)

// A Message is a message on its way. Its data belongs to the stage.
type Message struct {
	Op   byte // frame.OpText or frame.OpBinary
	Data []byte
}

// check returns what is wrong with a message, if anything.
func (m *Message) check() error {
	if m.Op == frame.OpText && !utf8.Valid(m.Data) {
		return protocol.ErrNotUTF8
	}
	return nil
}

// A Handler sees the messages of a session.
type Handler interface {
	// Handle is called with each message from a side. It may change m, and may
	// block. send and cause are those of [relay.Stage]. Calls for different sides
	// may be concurrent.
	Handle(from frame.Side, m *Message) (send bool, cause *protocol.Cause, err error)

	// End is that of [relay.Stage].
	End()
}

// Settings is what the stages of a proxy share.
type Settings struct {
	Limits [2]int // bytes of a message from each side, unpacked
	Packed Totals
}

// A Stage is the [relay.Stage] of a session.
type Stage struct {
	shared  *Settings
	handler Handler // nil: none
	legs    [2]leg
	taken   [2]taken // by the side that a message is from
}

// taken is the message of a direction.
type taken struct {
	Message
	buf *[]byte // what Data was read into; nil: there is no message
}

// New returns a stage for a session whose sides have negotiated the given
// compression. h may be nil.
func New(shared *Settings, h Handler, deflate [2]Deflate) *Stage {
	s := &Stage{shared: shared, handler: h}
	for side := range s.legs {
		s.legs[side] = leg{side: frame.Side(side), deflate: deflate[side]}
	}
	return s
}

// buffers holds buffers for messages.
var buffers = sync.Pool{New: func() any { return new([]byte) }}

// mostKept is the largest buffer that is used again.
const mostKept = 4 << 20

func putBuffer(buf *[]byte) {
	if cap(*buf) <= mostKept {
		buffers.Put(buf)
	}
}

// Take implements [relay.Stage].
func (s *Stage) Take(from frame.Side, in io.Reader) (send bool, cause *protocol.Cause, err error) {
	m := &s.taken[from]
	m.buf = buffers.Get().(*[]byte)
	if err = s.legs[from].read(m, in, s.shared.Limits[from], &s.shared.Packed[from]); err == nil {
		err = m.check()
	}
	switch {
	case err == nil && s.handler != nil:
		send, cause, err = s.handler.Handle(from, &m.Message)
	case err == nil:
		send = true
	case err == io.ErrUnexpectedEOF:
		err = nil
	default:
		cause = protocol.CauseOf(from, err)
	}
	if !send {
		m.free()
	}
	return send, cause, err
}

// Encode implements [relay.Stage].
func (s *Stage) Encode(from frame.Side, b []byte) ([]byte, error) {
	to := from.Other()
	return s.legs[to].write(b, &s.taken[from].Message, &s.shared.Packed[to])
}

// Done implements [relay.Stage].
func (s *Stage) Done(from frame.Side) { s.taken[from].free() }

// Append implements [relay.Stage].
func (s *Stage) Append(to frame.Side, op byte, data, b []byte) ([]byte, error) {
	return s.legs[to].write(b, &Message{op, data}, &s.shared.Packed[to])
}

// Renew has the stage go on with another upstream, which has negotiated d. Nothing of
// the old one's may be taken or encoded meanwhile.
func (s *Stage) Renew(d Deflate) {
	s.legs[frame.Upstream] = leg{side: frame.Upstream, deflate: d}
}

// End implements [relay.Stage].
func (s *Stage) End() {
	if s.handler != nil {
		s.handler.End()
	}
}

// free lets go of the message.
func (m *taken) free() {
	if m.buf != nil {
		putBuffer(m.buf)
	}
	*m = taken{}
}
