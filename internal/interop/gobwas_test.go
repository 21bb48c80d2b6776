package interop

import (
	"bytes"
	"compress/flate"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/gobwas/httphead"
	"github.com/gobwas/ws"
	"github.com/gobwas/ws/wsflate"
	"github.com/gobwas/ws/wsutil"
)

// gobwas is github.com/gobwas/ws, which leaves reading, answering and
// compressing to its users.
type gobwas struct{}

func (gobwas) name() string   { return "gobwas" }
func (gobwas) traits() traits { return traits{fragments: true, pingPayload: true} }

func (gobwas) dial(ctx context.Context, o offer) (*conn, error) {
	d := ws.Dialer{
		Header:    ws.HandshakeHeaderHTTP{"Origin": {o.origin}},
		Protocols: subprotocols,
		TLSConfig: o.tlsConfig(),
	}
	if o.deflate {
		d.Extensions = []httphead.Option{wsflate.DefaultParameters.Option()}
	}
	c, early, hs, err := d.Dial(ctx, o.url)
	if err != nil {
		return nil, err
	}
	var agreed []string
	for _, e := range hs.Extensions {
		agreed = append(agreed, string(e.Name))
	}
	var source io.Reader = c
	if early != nil {
		source = early
	}
	l := newGobwasLink(c, source, ws.StateClientSide, len(agreed) > 0)
	return &conn{l, l.in, hs.Protocol, strings.Join(agreed, ", ")}, nil
}

func (gobwas) listen(t *testing.T, arrived func(string, *conn)) string {
	return listenHTTP(t, func(w http.ResponseWriter, r *http.Request) (link, *inbox, string, error) {
		deflate := wsflate.Extension{Parameters: wsflate.DefaultParameters}
		u := ws.HTTPUpgrader{
			Protocol:  func(p string) bool { return p == subprotocol },
			Negotiate: deflate.Negotiate,
		}
		c, buffered, hs, err := u.Upgrade(r, w)
		if err != nil {
			return nil, nil, "", err
		}
		_, agreed := deflate.Accepted()
		l := newGobwasLink(c, buffered, ws.StateServerSide, agreed)
		return l, l.in, hs.Protocol, nil
	}, arrived)
}

// gobwasDeflate compresses for speed, as the other libraries do.
var gobwasDeflate = wsflate.Helper{
	Compressor: func(w io.Writer) wsflate.Compressor {
		c, _ := flate.NewWriter(w, flate.BestSpeed) // errs on a bad level only
		return c
	},
	Decompressor: func(r io.Reader) wsflate.Decompressor { return flate.NewReader(r) },
}

type gobwasLink struct {
	conn    net.Conn
	state   ws.State
	deflate bool
	in      *inbox
	mu      sync.Mutex // held while frames are written
}

func newGobwasLink(c net.Conn, source io.Reader, state ws.State, deflate bool) *gobwasLink {
	l := &gobwasLink{conn: c, state: state, deflate: deflate, in: newInbox()}
	go l.read(source)
	return l
}

// Write writes the answers of a wsutil.ControlHandler, one frame each.
func (l *gobwasLink) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.conn.Write(p)
}

func (l *gobwasLink) read(source io.Reader) {
	defer l.conn.Close()
	err := l.readMessages(source)
	end := wsutil.ClosedError{Code: abnormal, Reason: err.Error()}
	errors.As(err, &end)
	l.in.gotEnd(int(end.Code), end.Reason)
}

func (l *gobwasLink) readMessages(source io.Reader) error {
	var compression wsflate.MessageState
	r := &wsutil.Reader{
		Source:         source,
		State:          l.state | ws.StateExtended,
		Extensions:     []wsutil.RecvExtension{&compression},
		OnIntermediate: l.control,
	}
	for {
		h, err := r.NextFrame()
		if err != nil {
			return err
		}
		if h.OpCode.IsControl() {
			if err := l.control(h, r); err != nil {
				return err
			}
			continue
		}
		data, err := io.ReadAll(r)
		if err != nil {
			return err
		}
		if compression.IsCompressed() {
			if data, err = gobwasDeflate.Decompress(data); err != nil {
				return err
			}
		}
		l.in.gotMessage(h.OpCode == ws.OpBinary, data)
	}
}

// control handles a control frame, whose unmasked payload r returns.
func (l *gobwasLink) control(h ws.Header, r io.Reader) error {
	payload, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	switch h.OpCode {
	case ws.OpPing:
		l.in.gotPing(string(payload))
	case ws.OpPong:
		l.in.gotPong(string(payload))
	}
	return wsutil.ControlHandler{
		Src:                 bytes.NewReader(payload),
		Dst:                 l,
		State:               l.state,
		DisableSrcCiphering: true,
	}.Handle(h)
}

func (l *gobwasLink) send(m message, parts ...[]byte) error {
	op := ws.OpText
	if m.binary {
		op = ws.OpBinary
	}
	if len(parts) == 0 {
		parts = [][]byte{m.data}
	}
	if l.deflate {
		// The compressed message is split into frames.
		data, err := gobwasDeflate.Compress(m.data)
		if err != nil {
			return err
		}
		step := len(data)/len(parts) + 1
		parts = slices.Collect(slices.Chunk(data, step))
	}
	frames := make([]ws.Frame, len(parts))
	for i, p := range parts {
		frames[i] = ws.NewFrame(op, i == len(parts)-1, p)
		frames[i].Header.Rsv = ws.Rsv(l.deflate && i == 0, false, false)
		op = ws.OpContinuation
	}
	return l.write(frames...)
}

func (l *gobwasLink) ping(payload []byte) error { return l.write(ws.NewPingFrame(payload)) }

func (l *gobwasLink) close(code int, reason string) error {
	return l.write(ws.NewCloseFrame(ws.NewCloseFrameBody(ws.StatusCode(code), reason)))
}

func (l *gobwasLink) write(frames ...ws.Frame) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, f := range frames {
		if l.state.ClientSide() {
			f = ws.MaskFrame(f)
		}
		if err := ws.WriteFrame(l.conn, f); err != nil {
			return err
		}
	}
	return nil
}
