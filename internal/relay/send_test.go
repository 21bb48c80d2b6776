package relay

import (
	"context"
	"io"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"github.com/seed-ffb73231/wsproxy/internal/frame"
	"github.com/seed-ffb73231/wsproxy/internal/protocol"
)

// A plainStage makes messages of the program's own, and takes none.
type plainStage struct{}

func (plainStage) Take(frame.Side, io.Reader) (bool, *protocol.Cause, error) { return false, nil, nil }
func (plainStage) Encode(_ frame.Side, b []byte) ([]byte, error)             { return b, nil }
func (plainStage) Done(frame.Side)                                           {}
func (plainStage) End()                                                      {}
func (plainStage) Append(_ frame.Side, _ byte, data, b []byte) ([]byte, error) {
	return append(b, data...), nil
}

type noResumer struct{}

func (noResumer) Resume(<-chan struct{}) error { return nil }

// What is left to do for an upstream that was replaced does not touch a message for
// the next one, which would then wait for yet another upstream.
func TestSendToNextUpstream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var conns, far [2]net.Conn
		for side := range conns {
			conns[side], far[side] = net.Pipe()
			defer far[side].Close()
		}
		shared := &Settings{Policy: protocol.Policy{Close: time.Minute, Write: time.Minute}, Totals: NewTotals()}
		s := new(Session)
		s.Begin(time.Now())
		s.Outlive(noResumer{})
		s.Join(shared, nil, 1, conns, [2][]byte{}, [2]byte{}, [2]byte{}, plainStage{})
		old := &s.legs[frame.Upstream]
		s.mu.Lock()
		if o := s.course.Left(s.now(), frame.Upstream, io.EOF, true); !o.Hold {
			t.Fatal("not held")
		}
		s.mu.Unlock()
		old.silence(nil)
		near, next := net.Pipe()
		defer next.Close()
		s.Replace(near, nil, 0, 0)
		if !s.Resumed() {
			t.Fatal("not resumed")
		}
		l := s.pumps[frame.Upstream].from
		l.state.tryLock() // the message waits
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		result := make(chan error, 1)
		go func() { result <- s.Send(ctx, frame.Upstream, frame.OpText, []byte("hello")) }()
		synctest.Wait()
		old.pending.Or(sendPending) // by a Send that came when the old upstream was there
		old.flush()
		go l.release()
		b := make([]byte, 5)
		next.SetReadDeadline(time.Now().Add(time.Second))
		if _, err := io.ReadFull(next, b); err != nil || string(b) != "hello" {
			t.Errorf("the next upstream got %q, %v", b, err)
		}
		if err := <-result; err != nil {
			t.Error(err)
		}
	})
}
