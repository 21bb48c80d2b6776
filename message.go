package wsproxy

import (
	"context"
	"errors"
	"fmt"
	"math"
	"unicode/utf8"

	"github.com/coder/websocket"

	"github.com/seed-ffb73231/wsproxy/internal/frame"
	"github.com/seed-ffb73231/wsproxy/internal/message"
	"github.com/seed-ffb73231/wsproxy/internal/protocol"
	"github.com/seed-ffb73231/wsproxy/internal/relay"
)

// This file holds what concerns whole messages: their hooks, and how these end a
// session.

// A Message is a message on its way through the proxy ([WithOnMessage]).
type Message struct {
	From Side                  // who has sent it; changes are ignored
	Type websocket.MessageType // text or binary
	Data []byte                // without compression
}

// ErrDrop is what a hook of [WithOnMessage] returns to have a message not go on.
var ErrDrop = errors.New("wsproxy: drop the message")

// A CloseError ends a session when a hook of [WithOnMessage] returns it, or an error
// that wraps it: as [Session.Close] does, with this code and reason.
type CloseError struct {
	Code   websocket.StatusCode
	Reason string // UTF-8, up to 123 bytes
}

// Error returns a text such as "wsproxy: close with 4000: quota exceeded".
func (e *CloseError) Error() string {
	return fmt.Sprintf("wsproxy: close with %d: %s", e.Code, e.Reason)
}

// WithOnMessage calls f with each whole message of each session, in both directions,
// before it goes on. f may change m.Data and m.Type. If it returns [ErrDrop], or an
// error that wraps it, the message does not go on. Another error ends the session:
// one that is, or wraps, a [*CloseError] with its code, and any other with 1008 to
// the sender and 1001 to the other side ([ReasonHook]); the error is in the session's
// log record. If f panics, the client is sent 1011.
//
// The option may be given several times. The hooks are called in order until one
// returns an error. By default there are none, and the proxy does not look into
// messages at all.
//
// The messages of one direction come in order, and one at a time; the two directions
// are concurrent, and so are sessions: f must be safe for concurrent use. While f
// runs, nothing more is read from that side, so that a slow hook slows the sender
// down; Pings go on, and so does the other direction. ctx ends when the session does:
// a hook that blocks should return then. Unless [WithDetach] is set, it has the values
// of the request's context. m and m.Data are valid during the call only: copy what is to
// be kept.
//
// With hooks, a session holds one whole message for each direction. [WithMaxMessageSize]
// limits what the hook sees, unpacked; without it, the limit is 1 MiB, and a larger
// message ends the session with 1009. Text must be UTF-8, otherwise the session ends
// with 1007. The proxy negotiates compression with each side on its own
// ([WithCompression]) and no other extensions. Messages go on as one frame, however
// they came.
func WithOnMessage(f func(ctx context.Context, s *Session, m *Message) error) Option {
	return func(c *config) {
		if c.onMessage = append(c.onMessage, f); f == nil {
			c.mistake("WithOnMessage", nil, "nil function")
		}
	}
}

// WithCompression sets which compression the proxy negotiates with a side, [Client] or
// [Upstream], by RFC 7692, on its own: so clients can have compression from an
// upstream that has none. threshold is the size in bytes from which messages are
// compressed; 0 stands for 512, or 128 with context takeover. Without this option the
// proxy relays what client and upstream negotiate with each other, and does not look
// into messages.
//
// The first option with a mode other than [websocket.CompressionDisabled], or a hook
// of [WithOnMessage], has the proxy unpack and pack all messages. Then the default for
// clients is [websocket.CompressionNoContextTakeover]: the proxy accepts what a client
// offers, and both forget each message. The default for upstreams is
// [websocket.CompressionDisabled]: nothing is offered. With
// [websocket.CompressionContextTakeover], messages may refer to earlier ones, if the
// peer agrees. That compresses better, and takes about a megabyte of memory for a
// session as soon as it is used. A client's limit for the proxy's window is kept by not
// compressing longer messages.
//
// If CompressionDisabled is all that is set, for either side, the proxy relays frames
// as before and removes the offer of compression from handshakes: then
// [WithMaxMessageSize] counts real bytes.
//
// Compression together with secrets in messages can reveal these to an attacker who
// chooses part of the message and sees its size.
func WithCompression(side Side, mode websocket.CompressionMode, threshold int) Option {
	return func(c *config) {
		if side != Client && side != Upstream {
			c.mistake("WithCompression", side, "must be Client or Upstream")
			return
		}
		switch mode {
		case websocket.CompressionDisabled, websocket.CompressionContextTakeover, websocket.CompressionNoContextTakeover:
		default:
			c.mistake("WithCompression", int(mode), "unknown mode")
		}
		c.compression[side] = &message.Compression{
			On:    mode != websocket.CompressionDisabled,
			Keeps: mode == websocket.CompressionContextTakeover,
			Least: c.count("WithCompression", threshold),
		}
	}
}

// defaultMessageSize limits the messages of message sessions.
const defaultMessageSize = 1 << 20

// useMessages decides whether the proxy handles whole messages, and how.
func (c *config) useMessages() {
	client, upstream := c.compression[Client], c.compression[Upstream]
	c.messages = len(c.onMessage) > 0 || len(c.taps) > 0 || c.resume != nil || client != nil && client.On || upstream != nil && upstream.On
	if !c.messages {
		return
	}
	if client == nil {
		c.compression[Client] = &message.Compression{On: true}
	}
	if upstream == nil {
		c.compression[Upstream] = new(message.Compression)
	}
	for side := range c.relay.Limits {
		limit := &c.relay.Limits[side]
		if limit.Message == 0 {
			limit.Message = defaultMessageSize
		}
		c.stage.Limits[side] = int(min(limit.Message, math.MaxInt-1))
	}
}

// offerUpstream replaces the extensions that an upstream is offered, if the proxy
// negotiates compression itself.
func (c *config) offerUpstream(sent *offer) {
	switch {
	case c.messages:
		sent.extensions, sent.compression = nil, c.compression[Upstream]
		if text := sent.compression.Offer(); text != "" {
			sent.extensions = []extension{{message.Extension, text}}
		}
	case c.compression != [2]*message.Compression{}: // disabled
		sent.extensions = withoutExtension(sent.extensions, message.Extension)
	}
}

// stageFor returns the stage of a session, or nil if it needs none: what the client
// is answered is then decided. It sets the extensions of the answer.
func (p *Proxy) stageFor(ctx context.Context, s *Session, asked *offer, up *upstreamConn) (stage relay.Stage, rsvMessage [2]byte) {
	if !p.messages {
		return nil, [2]byte{up.rsvMessage, up.rsvMessage}
	}
	var offers []string
	for _, e := range asked.extensions {
		if e.name == message.Extension {
			offers = append(offers, e.text)
		}
	}
	deflate := [2]message.Deflate{Upstream: up.deflate}
	deflate[Client], up.extensions = p.compression[Client].Accept(offers)
	for side := range deflate {
		if deflate[side].On() {
			rsvMessage[side] = frame.RSV1Bit // RFC 7692, 6
		}
	}
	switch {
	case len(p.onMessage) > 0 || len(p.taps) > 0:
		return message.New(&p.stage, newMessageHooks(ctx, s), deflate), rsvMessage
	case rsvMessage != [2]byte{}, p.resume != nil:
		return message.New(&p.stage, nil, deflate), rsvMessage
	}
	return nil, rsvMessage
}

// messageHooks calls a session's hooks with its messages.
type messageHooks struct {
	s      *Session
	ctx    context.Context
	cancel context.CancelFunc
	tap    *tap       // nil: none
	calls  [2]Message // by the side that the message is from; what the hooks get
}

func newMessageHooks(ctx context.Context, s *Session) *messageHooks {
	h := &messageHooks{s: s}
	h.ctx, h.cancel = context.WithCancel(ctx)
	if len(s.proxy.taps) > 0 {
		h.tap = s.openTap()
	}
	return h
}

// End implements [message.Handler].
func (h *messageHooks) End() { h.cancel() }

// Handle implements [message.Handler].
func (h *messageHooks) Handle(from frame.Side, m *message.Message) (send bool, cause *protocol.Cause, err error) {
	call := &h.calls[from]
	*call = Message{From: Side(from), Type: websocket.MessageType(m.Op), Data: m.Data}
	err = h.s.proxy.callOnMessage(h.ctx, h.s, call)
	if err == nil {
		err = checkMessage(call.Type, call.Data)
	}
	m.Op, m.Data = byte(call.Type), call.Data
	if err == nil && h.tap != nil {
		h.tap.put(Message{Side(from), call.Type, call.Data}) // whatever a hook has made of From
	}
	*call = Message{}
	switch {
	case err == nil:
		return true, nil, nil
	case errors.Is(err, ErrDrop):
		return false, nil, nil
	case errors.Is(err, errPanic):
		return false, protocol.CausePanic, err
	}
	if c, ok := errors.AsType[*CloseError](err); ok && checkClose(c.Code, c.Reason) == nil {
		return false, protocol.CauseFor(string(ReasonClosedByProxy), frame.Code(c.Code), c.Reason), err
	}
	return false, causeHook[from], err
}

// checkMessage returns what is wrong with a message that the program wants sent.
func checkMessage(typ websocket.MessageType, data []byte) error {
	switch {
	case typ != websocket.MessageText && typ != websocket.MessageBinary:
		return fmt.Errorf("wsproxy: message of type %d, neither text nor binary", typ)
	case typ == websocket.MessageText && !utf8.Valid(data):
		return errors.New("wsproxy: text message that is not UTF-8")
	}
	return nil
}

// causeHook is for an error of a hook of [WithOnMessage], by the sender of the message.
var causeHook = [2]*protocol.Cause{
	{Reason: string(ReasonHook), By: frame.Self, Owed: [2]frame.Code{frame.PolicyViolation, frame.GoingAway}, Text: "message refused"},
	{Reason: string(ReasonHook), By: frame.Self, Owed: [2]frame.Code{frame.GoingAway, frame.PolicyViolation}, Text: "message refused"},
}
