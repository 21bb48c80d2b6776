package fuzz_test

import (
	"bytes"
	"errors"
	"fmt"
	"slices"

	"github.com/seed-ffb73231/wsproxy"
	"github.com/seed-ffb73231/wsproxy/internal/faults/wire"
	"github.com/seed-ffb73231/wsproxy/internal/wstest"
)

// check compares what each end has sent with what the other one has received.
func (r *run) check() error {
	client, upstream := r.taps[0].Load(), r.taps[1].Load()
	sentC, gotC := client.streams()
	sentU, gotU := upstream.streams()
	var errs []error
	for name, s := range map[string]*stream{"sent by the client": &sentC, "received by the client": &gotC, "sent by the upstream": &sentU, "received by the upstream": &gotU} {
		if s.err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", name, s.err))
		}
	}
	if errs != nil {
		return errors.Join(errs...)
	}
	killed := r.kill != killNot
	early := [2]bool{client.leftEarly(), upstream.leftEarly()}
	if early[0] && !r.mayLeaveEarly(0) || early[1] && !r.mayLeaveEarly(1) {
		return fmt.Errorf("left early: client %v, upstream %v", early[0], early[1])
	}
	// An end that leaves early resets the connection, and what it has sent may
	// be lost.
	complete := !killed && !early[0] && !early[1]
	toUpstream, err := compare(&sentC, &gotU, injected(gotC.frames, sentU.frames), complete)
	if err != nil {
		errs = append(errs, fmt.Errorf("to the upstream: %w; its stream ended with %v; early %v; %v", err, upstream.ended, early, r.session.Load().Err()))
	}
	toClient, err := compare(&sentU, &gotC, injected(gotU.frames, sentC.frames), complete)
	if err != nil {
		errs = append(errs, fmt.Errorf("to the client: %w; its stream ended with %v; early %v; %v", err, client.ended, early, r.session.Load().Err()))
	}
	if errs != nil {
		return errors.Join(errs...)
	}
	lost := [2]bool{
		early[0] || r.kill == killClientReset || r.kill == killClientClose,
		early[1] || r.kill == killUpstreamReset || r.kill == killUpstreamClose,
	}
	errs = append(errs, r.checkClose(toClient.closed, 0, lost[1]), r.checkClose(toUpstream.closed, 1, lost[0]), r.checkOutcome(lost))
	if complete {
		if n := gotC.parser.Partial() + gotU.parser.Partial(); n > 0 {
			errs = append(errs, fmt.Errorf("%d bytes of cut frames", n))
		}
		s := r.session.Load()
		errs = append(errs, toUpstream.counted(s.Counts(wsproxy.Client)), toClient.counted(s.Counts(wsproxy.Upstream)))
	}
	for side := range 2 {
		errs = append(errs, r.checkMessages(side, killed, complete))
	}
	return errors.Join(errs...)
}

// A passage is what was relayed in one direction.
type passage struct {
	frames, messages, bytes, pings int
	closed                         *wire.Frame  // a Close of the proxy's
	injected                       []wire.Frame // Pings of the proxy's
}

// compare checks the received frames: each is the next one that was sent, byte
// for byte, or one of the proxy's own. Of the sent frames only answers to the
// proxy's Pings, whose payloads are in own, may be missing.
func compare(from, to *stream, own map[string]bool, complete bool) (p passage, err error) {
	sent, received := from.frames, to.frames
	absorbed := func(f *wire.Frame) bool {
		return f.Opcode() == wstest.OpPong && own[string(f.Payload)]
	}
	i := 0
	for j := range received {
		f := &received[j]
		for i < len(sent) && absorbed(&sent[i]) {
			i++
		}
		if i < len(sent) && bytes.Equal(sent[i].Raw, f.Raw) {
			i++
			p.count(f)
			continue
		}
		switch {
		case p.closed != nil:
			return p, fmt.Errorf("frame %d, %v, behind a Close of the proxy's", j, f)
		case f.Opcode() == wstest.OpPing && len(f.Payload) == 12 && f.First == wstest.Ping:
			p.injected = append(p.injected, *f)
		case f.Opcode() == wstest.OpClose:
			p.closed = f
		default:
			next := "nothing"
			if i < len(sent) {
				next = sent[i].String()
			}
			return p, fmt.Errorf("frame %d, %v, where %s was sent, the %dth of %d", j, f, next, i, len(sent))
		}
	}
	for i < len(sent) && absorbed(&sent[i]) {
		i++
	}
	if rest := to.parser.Rest(); len(rest) > 0 {
		next := from.parser.Rest()
		if i < len(sent) {
			next = sent[i].Raw
		}
		own := rest[0] == wstest.Ping && (len(rest) < 2 || rest[1]&0x7F == 12) || rest[0] == wstest.Close
		if !bytes.HasPrefix(next, rest) && !own {
			return p, fmt.Errorf("it ends in %d bytes that aren't those of the frame that was sent", len(rest))
		}
	}
	if complete && i < len(sent) {
		return p, fmt.Errorf("%d of %d frames are missing, the first is %v", len(sent)-i, len(sent), &sent[i])
	}
	return p, p.checkInjected()
}

// injected returns the payloads of the Pings that an end received and the other
// end has not sent.
func injected(received, sent []wire.Frame) map[string]bool {
	own := make(map[string]bool)
	for i := range received {
		if f := &received[i]; f.Opcode() == wstest.OpPing && len(f.Payload) == 12 {
			own[string(f.Payload)] = true
		}
	}
	for i := range sent {
		if sent[i].Opcode() == wstest.OpPing {
			delete(own, string(sent[i].Payload))
		}
	}
	return own
}

// mayLeaveEarly: when coder closes, it disconnects at the first Ping after its
// own Close, because it can no longer answer. A killed end leaves early, too.
func (r *run) mayLeaveEarly(side int) bool {
	return r.kill != killNot || r.lib[side] == coder && (r.closer == side || r.closer == 2)
}

func (p *passage) count(f *wire.Frame) {
	p.frames++
	p.bytes += len(f.Raw)
	if !f.Control() && f.First&wstest.Fin != 0 {
		p.messages++
	}
	if f.Opcode() == wstest.OpPing {
		p.pings++
	}
}

// counted compares the frames with the proxy's counts.
func (p *passage) counted(c wsproxy.Counts) error {
	if c.Frames != uint64(p.frames) || c.Messages != uint64(p.messages) || c.Bytes != uint64(p.bytes) || c.Pings != uint64(p.pings) {
		return fmt.Errorf("counted %+v; %d frames, %d messages, %d bytes, %d pings passed", c, p.frames, p.messages, p.bytes, p.pings)
	}
	return nil
}

// checkInjected: the proxy's Pings carry one tag and are numbered, and no two
// masking keys are the same.
func (p *passage) checkInjected() error {
	keys := make(map[string]bool)
	for i := range p.injected {
		f := &p.injected[i]
		if !bytes.Equal(f.Payload[:8], p.injected[0].Payload[:8]) || f.Payload[11] != byte(i+1) {
			return fmt.Errorf("the proxy's Ping %d is %x, the first was %x", i+1, f.Payload, p.injected[0].Payload)
		}
		if f.Raw[1]&0x80 != 0 {
			keys[string(f.Raw[2:6])] = true
		}
	}
	if len(keys) > 0 && len(keys) < len(p.injected) {
		return fmt.Errorf("%d masking keys for %d Pings", len(keys), len(p.injected))
	}
	return nil
}

// checkClose: the proxy's own Closes match the way in which the session was
// killed. lost reports whether the proxy may have lost the other side.
func (r *run) checkClose(f *wire.Frame, side int, lost bool) error {
	if f == nil {
		return nil
	}
	type closing struct {
		code   int
		reason string
	}
	var allowed []closing
	if r.kill == killSession {
		allowed = append(allowed, []closing{{killCode, killReason}, {1001, killReason}}[side])
	}
	if lost {
		// Its own code, if it has sent a Close before and nobody is there to
		// answer.
		allowed = append(allowed, []closing{{1011, "upstream lost"}, {1001, "client lost"}}[side], closing{r.code, ""})
	}
	got := closing{code: wire.CloseCode(f.Payload)}
	if len(f.Payload) > 2 {
		got.reason = string(f.Payload[2:])
	}
	if !slices.Contains(allowed, got) {
		return fmt.Errorf("the proxy sent %v to side %d, allowed are %v", got, side, allowed)
	}
	return nil
}

// checkOutcome checks the reported end of the session.
func (r *run) checkOutcome(lost [2]bool) error {
	end, ok := errors.AsType[*wsproxy.SessionError](r.session.Load().Err())
	if !ok {
		return fmt.Errorf("session ended with %v", r.session.Load().Err())
	}
	allowed := []wsproxy.Outcome{{By: wsproxy.Client, Reason: wsproxy.ReasonClosed}, {By: wsproxy.Upstream, Reason: wsproxy.ReasonClosed}}
	if r.closer != 2 {
		allowed = allowed[r.closer : r.closer+1]
	}
	if r.kill == killSession {
		allowed = append(allowed, wsproxy.Outcome{By: wsproxy.Self, Reason: wsproxy.ReasonClosedByProxy})
	}
	for side, lost := range lost {
		if lost {
			allowed = append(allowed, wsproxy.Outcome{By: wsproxy.Side(side), Reason: wsproxy.ReasonLost})
		}
	}
	if !slices.Contains(allowed, wsproxy.Outcome{By: end.By, Reason: end.Reason}) {
		return fmt.Errorf("session ended: %v, want %v", end, allowed)
	}
	return nil
}

// checkMessages: the messages that a side has read are those that the other one
// has sent; all of them, unless a side was killed or has left early, or this
// one may have discarded the last ones while it closed. Coder's Close reads
// concurrently with the reader, so what that gets then may be anything, and so
// may what it gets when the stream ends within a message.
func (r *run) checkMessages(side int, killed, complete bool) error {
	got, said := r.got[side], r.said[side^1]
	closes := r.closer == side || r.closer == 2
	garbled := (killed || closes) && r.lib[side] == coder
	for i := range got {
		right := i < len(said) && got[i].text == said[i].text && bytes.Equal(got[i].body, said[i].body)
		if !right && garbled {
			break
		}
		if i >= len(said) {
			return fmt.Errorf("side %d read %d messages, %d were sent", side, len(got), len(said))
		}
		if !right {
			same := 0
			for same < min(len(got[i].body), len(said[i].body)) && got[i].body[same] == said[i].body[same] {
				same++
			}
			return fmt.Errorf("side %d read message %d of %d, text %v, of %d bytes; sent was text %v, of %d; %d are the same",
				side, i, len(got), got[i].text, len(got[i].body), said[i].text, len(said[i].body), same)
		}
	}
	if complete && r.barrier && !closes && len(got) < len(said) {
		return fmt.Errorf("side %d read %d of %d messages", side, len(got), len(said))
	}
	return nil
}
