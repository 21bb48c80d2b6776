package wsproxy_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"unicode/utf8"

	"github.com/coder/websocket"

	"github.com/seed-ffb73231/wsproxy"
	"github.com/seed-ffb73231/wsproxy/internal/wstest"
)

// Two real ends talk through a message session whose hook changes, drops and
// adds messages, with any combination of compression. What arrives is what the
// model says, whatever the messages, their fragments and the way in which the
// session ends.
func FuzzMessages(f *testing.F) {
	for i := range 32 {
		script := make([]byte, 100)
		rand.NewChaCha8([32]byte{byte(i)}).Read(script)
		f.Add(script)
	}
	f.Fuzz(func(t *testing.T, script []byte) {
		synctest.Test(t, func(t *testing.T) { newExchange(t, script).run() })
	})
}

// fuzzLimit is the limit of messages in FuzzMessages.
const fuzzLimit = 100_000

// A script is what a fuzz target does, in bytes. It ends with zeros.
type script []byte

func (s *script) next(n int) int {
	if len(*s) == 0 {
		return 0
	}
	b := (*s)[0]
	*s = (*s)[1:]
	return int(b) % n
}

// A note is a message of FuzzMessages.
type note struct {
	typ  websocket.MessageType
	data string
}

func (n note) String() string {
	return fmt.Sprintf("%v of %d bytes: %.30q", n.typ, len(n.data), n.data)
}

// tagAdded is the first byte of a message that the program sends from outside
// of a hook, and tagReply that of a message that the hook sends to where a
// message came from. Both come in between the messages of the other direction.
// No other message begins with such a byte.
const tagReply, tagAdded = "\x01", "\x02"

// lastWord is the last message of an end that closes. It does so when the reply has
// arrived.
const lastWord = "R"

// handle is what the hook does with a message: before it goes on as out, unless
// that is nil, the hook sends ahead to the same side and back to the sender. The
// first byte of the message decides.
func handle(m note) (ahead, out, back *note, err error) {
	if m.data == "" {
		return nil, &m, nil, nil
	}
	switch m.data[0] {
	case 'd':
		return nil, nil, nil, nil
	case 'l':
		m.data = strings.Repeat("longer "+m.data, 3)
	case 's':
		if half := m.data[:len(m.data)/2]; utf8.ValidString(half) {
			m.data = half
		}
	case 'g':
		m.data += "grown"
	case 'b':
		m.typ, m.data = websocket.MessageBinary, strings.Map(func(r rune) rune { return r ^ 1 }, m.data)
	case 'e':
		m.data = ""
	case 'a':
		ahead = &note{websocket.MessageText, "added, " + strings.Repeat("ahead ", len(m.data)%300)}
	case 'r', 'R':
		return nil, nil, &note{websocket.MessageBinary, tagReply + m.data}, nil
	case 'C':
		return nil, nil, nil, &wsproxy.CloseError{Code: 4321, Reason: "hook"}
	case 'E':
		return nil, nil, nil, errors.New("no")
	}
	return ahead, &m, back, nil
}

// kinds of messages that go on, and what ends a session.
const (
	actions = "abdeglprs"

	endCloses = iota
	endNotUTF8
	endTooBig
	endCloseError
	endHook
	ends
)

// An exchange is one run of FuzzMessages.
type exchange struct {
	t    *testing.T
	rig  *rig
	ends [2]*noter // by side

	ender  int // the side that ends the session
	how    int
	pinger int // the side that sends Pings

	added [2][]note // by the side that they are sent to
	ahead [2]int    // how many messages the hook has sent ahead; by the side that they go before a message of
}

// A noter is one end. It sends its notes and keeps what it gets.
type noter struct {
	conn      *websocket.Conn
	send      []note
	parts     []int // by note: into how many writes it is cut
	ping      []bool
	got       []note
	closed    error
	sent      int   // how many have been sent
	sendError error // of the next one
}

func newExchange(t *testing.T, in script) *exchange {
	x := &exchange{t: t, ender: in.next(2), pinger: in.next(2)}
	x.how = endCloses + in.next(ends-endCloses)
	modes := []websocket.CompressionMode{websocket.CompressionDisabled, websocket.CompressionNoContextTakeover, websocket.CompressionContextTakeover}
	offers, accepts := modes[in.next(3)], modes[in.next(3)]
	options := []wsproxy.Option{
		wsproxy.WithOnMessage(x.onMessage),
		wsproxy.WithMaxMessageSize(wsproxy.Client, fuzzLimit),
		wsproxy.WithMaxMessageSize(wsproxy.Upstream, fuzzLimit),
	}
	for _, side := range []wsproxy.Side{wsproxy.Client, wsproxy.Upstream} {
		if mode := in.next(4); mode < 3 {
			options = append(options, wsproxy.WithCompression(side, modes[mode], []int{0, 1, 100}[in.next(3)]))
		}
	}
	d := drivers[in.next(len(drivers))]
	x.rig = carrier{d, bothLegs(wstest.Memory)}.rig(t, options...)
	for i := range x.ends {
		x.ends[i] = new(noter)
	}
	x.open(offers, accepts)
	for range 1 + in.next(24) {
		x.compose(&in)
	}
	bad := x.ends[x.ender]
	switch x.how {
	case endCloses:
		bad.add(note{websocket.MessageText, lastWord}, 1, false)
	case endNotUTF8:
		bad.add(note{websocket.MessageText, strings.Repeat("x", in.next(200)) + "\xC3\x28"}, 1, false)
	case endTooBig:
		bad.add(note{websocket.MessageBinary, strings.Repeat("x", fuzzLimit+1+100*in.next(250))}, 1+in.next(3), false)
	case endCloseError:
		bad.add(note{websocket.MessageText, "C"}, 1, false)
	case endHook:
		bad.add(note{websocket.MessageText, "E"}, 1, false)
	}
	return x
}

func (n *noter) add(m note, parts int, ping bool) {
	n.send, n.parts, n.ping = append(n.send, m), append(n.parts, parts), append(n.ping, ping)
}

// compose adds a message to one end, or one that the program sends.
func (x *exchange) compose(in *script) {
	side := in.next(2)
	end := x.ends[side]
	size := []int{0, 1, 2, 100, 125, 126, 511, 512, 1000, 40_000, 65_535, 65_536}[in.next(12)]
	typ := websocket.MessageText
	var data []byte
	switch in.next(5) {
	case 0:
		data = bytes.Repeat([]byte("text that repeats itself, "), size/26+1)[:size]
	case 1:
		data = []byte(strings.Repeat("ü→𝄞", size/9))
	case 2:
		typ, data = websocket.MessageBinary, make([]byte, size)
	case 3:
		typ, data = websocket.MessageBinary, make([]byte, size)
		rand.NewChaCha8([32]byte{byte(in.next(256))}).Read(data)
	case 4: // again, for compression that refers to earlier messages
		if len(end.send) == 0 {
			return
		}
		last := end.send[len(end.send)-1]
		typ, data = last.typ, []byte(last.data)
	}
	if in.next(8) == 0 {
		x.added[side] = append(x.added[side], note{typ, tagAdded + string(data)})
		return
	}
	action := actions[in.next(len(actions))]
	ping := in.next(6) == 0 && side == x.pinger
	if action == 'r' && side != x.pinger {
		// The library reads nothing while its answer to a Ping waits for its writer;
		// that may wait for the hook; and a reply would have the hook wait for the
		// reader.
		action = 'p'
	}
	if len(data) > 0 && data[0] < utf8.RuneSelf {
		data[0] = action
	} else if len(data) > 0 {
		data = append([]byte{action}, data...)
	}
	end.add(note{typ, string(data)}, 1+in.next(4), ping)
}

func (x *exchange) open(offers, accepts websocket.CompressionMode) {
	arrived := make(chan *websocket.Conn, 1)
	upstream := &http.Server{ErrorLog: wstest.ErrorLog(), Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, err := websocket.Accept(w, r, &websocket.AcceptOptions{CompressionMode: accepts, CompressionThreshold: 1, InsecureSkipVerify: true})
		if err != nil {
			x.t.Error(err)
		}
		arrived <- c
	})}
	go upstream.Serve(x.rig.back)
	x.t.Cleanup(func() { upstream.Close() })
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return wstest.Dial(ctx, x.rig.front) }}
	c, _, err := websocket.Dial(x.t.Context(), "ws://front.test/", &websocket.DialOptions{
		HTTPClient: &http.Client{Transport: transport}, CompressionMode: offers, CompressionThreshold: 1,
	})
	if err != nil {
		x.t.Fatal(err)
	}
	x.ends[wsproxy.Client].conn, x.ends[wsproxy.Upstream].conn = c, wstest.Receive(x.t, arrived)
}

// onMessage is the hook.
func (x *exchange) onMessage(ctx context.Context, s *wsproxy.Session, m *wsproxy.Message) error {
	other := wsproxy.Client + wsproxy.Upstream - m.From
	ahead, out, back, err := handle(note{m.Type, string(m.Data)})
	if err != nil {
		return err
	}
	if ahead != nil {
		if err := s.Send(ctx, other, ahead.typ, []byte(ahead.data)); err == nil {
			x.ahead[m.From]++
		} else if int(m.From) == x.ender || !errors.Is(err, wsproxy.ErrNotOpen) && ctx.Err() == nil {
			x.t.Error(err)
		}
	}
	if back != nil {
		s.Send(ctx, m.From, back.typ, []byte(back.data)) // what arrives is checked
	}
	if out == nil {
		return wsproxy.ErrDrop
	}
	if m.Type = out.typ; len(out.data) <= cap(m.Data) { // in place if possible
		m.Data = append(m.Data[:0], out.data...)
	} else {
		m.Data = []byte(out.data)
	}
	return nil
}

func (x *exchange) run() {
	var reading, writing sync.WaitGroup
	for _, end := range x.ends {
		end.conn.SetReadLimit(-1)
		reading.Go(end.read)
		writing.Go(func() { end.write(x.t.Context()) })
	}
	for s := range x.rig.proxy.Sessions() {
		for side, notes := range x.added {
			writing.Go(func() {
				for _, n := range notes {
					if s.Send(x.t.Context(), wsproxy.Side(side), n.typ, []byte(n.data)) != nil {
						return
					}
				}
			})
		}
	}
	reading.Wait()
	writing.Wait()
	x.rig.wantOver()
	x.check()
}

func (n *noter) read() {
	defer n.conn.CloseNow()
	for {
		typ, data, err := n.conn.Read(context.Background())
		if err != nil {
			n.closed = err
			return
		}
		n.got = append(n.got, note{typ, string(data)})
		if string(data) == tagReply+lastWord {
			// Not in the writer: the library's Close reads, too.
			n.closed = n.conn.Close(4001, "as it is: ü")
			return
		}
	}
}

func (n *noter) write(ctx context.Context) {
	for i, m := range n.send {
		if n.sendError = n.writeOne(ctx, m, n.parts[i], n.ping[i]); n.sendError != nil {
			return
		}
		n.sent++
	}
}

func (n *noter) writeOne(ctx context.Context, m note, parts int, ping bool) error {
	if parts == 1 && !ping {
		return n.conn.Write(ctx, m.typ, []byte(m.data))
	}
	w, err := n.conn.Writer(ctx, m.typ)
	if err != nil {
		return err
	}
	for i := range parts {
		if _, err := w.Write([]byte(m.data[i*len(m.data)/parts : (i+1)*len(m.data)/parts])); err != nil {
			return err
		}
		if ping { // and wait for the Pong
			if err := n.conn.Ping(ctx); err != nil {
				return err
			}
		}
	}
	return w.Close()
}

// check compares what each end got with the model.
func (x *exchange) check() {
	var want, replies [2][]note // by the end that gets them
	var sent [2]int             // ahead of messages
	for from, end := range x.ends {
		to := 1 - from
		for _, m := range end.send {
			if m.typ == websocket.MessageText && !utf8.ValidString(m.data) || len(m.data) > fuzzLimit {
				break
			}
			ahead, out, back, err := handle(m)
			if err != nil {
				break
			}
			if ahead != nil && sent[from] < x.ahead[from] {
				sent[from]++
				want[to] = append(want[to], *ahead)
			}
			if out != nil {
				want[to] = append(want[to], *out)
			}
			if back != nil {
				replies[from] = append(replies[from], *back)
			}
		}
	}
	for side, end := range x.ends {
		var got, gotReplies, gotAdded []note
		for _, n := range end.got {
			switch {
			case strings.HasPrefix(n.data, tagReply):
				gotReplies = append(gotReplies, n)
			case strings.HasPrefix(n.data, tagAdded):
				gotAdded = append(gotAdded, n)
			default:
				got = append(got, n)
			}
		}
		// All that the side that ends the session has sent before that arrives. What
		// the other one is sending meanwhile may be cut short.
		x.compare(side, "messages", got, want[side], side != x.ender)
		x.compare(side, "replies", gotReplies, replies[side], false)
		x.compare(side, "added messages", gotAdded, x.added[side], false)
	}
	if end := x.ends[x.ender]; end.sent < len(end.send)-1 || end.sendError != nil && x.how == endCloses {
		x.t.Errorf("%v: %v", wsproxy.Side(x.ender), end.sendError)
	}
	x.checkEnd()
}

func (x *exchange) compare(side int, what string, got, want []note, all bool) {
	for i := range max(len(got), len(want)) {
		switch {
		case i >= len(got):
			if all {
				x.t.Errorf("%v: got %d %s of %d; the next one: %v", wsproxy.Side(side), len(got), what, len(want), want[i])
			}
			return
		case i >= len(want):
			x.t.Errorf("%v: got more than %d %s: %v", wsproxy.Side(side), len(want), what, got[i])
			return
		case got[i] != want[i]:
			x.t.Errorf("%v: %s %d: got %v, want %v", wsproxy.Side(side), what, i, got[i], want[i])
			return
		}
	}
}

// checkEnd checks the Close frames.
func (x *exchange) checkEnd() {
	var told [2]websocket.CloseError // by side
	bad, other := &told[x.ender], &told[1-x.ender]
	switch *other = (websocket.CloseError{Code: 1001}); x.how {
	case endCloses:
		*other = websocket.CloseError{Code: 4001, Reason: "as it is: ü"}
	case endNotUTF8:
		bad.Code = 1007
		if x.ender == int(wsproxy.Upstream) {
			other.Code = 1011
		}
	case endTooBig:
		bad.Code = 1009
	case endCloseError:
		told = [2]websocket.CloseError{{Code: 4321, Reason: "hook"}, {Code: 1001, Reason: "hook"}}
	case endHook:
		bad.Code = 1008
	}
	for side, end := range x.ends {
		if side == x.ender && x.how == endCloses {
			if end.closed != nil {
				x.t.Errorf("%v: closing handshake: %v", wsproxy.Side(side), end.closed)
			}
			continue
		}
		var got websocket.CloseError
		want := told[side]
		if errors.As(end.closed, &got); want.Reason == "" {
			got.Reason = ""
		}
		if got != want {
			x.t.Errorf("%v, ended by the %v: got %v, want code %d", wsproxy.Side(side), wsproxy.Side(x.ender), end.closed, want.Code)
		}
	}
}
