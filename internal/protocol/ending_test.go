package protocol

import (
	"testing"

	"github.com/seed-ffb73231/wsproxy/internal/frame"
)

// Every pair of events of a session's end: who is told what.
func TestEnding(t *testing.T) {
	const C, U = frame.Client, frame.Upstream
	begin := func(c *Cause) func(*Ending) { return func(e *Ending) { e.Begin(c, nil); e.Tell(C); e.Tell(U) } }
	var told [2]int // what each side was told; -1: the other's Close verbatim
	closeFrom := func(s frame.Side, code int) func(*Ending) {
		return func(e *Ending) {
			verbatim, instead := e.CloseFrom(s, 4000)
			if verbatim {
				told[s.Other()] = -1
			} else if instead != 0 {
				told[s.Other()] = int(instead)
			}
		}
	}
	endFrom := func(s frame.Side, c [2]*Cause) func(*Ending) {
		return func(e *Ending) {
			e.Over[s] = true
			if !e.Ended[s] {
				if code := e.EndFrom(s, c[s], nil); code != 0 {
					told[s.Other()] = int(code)
				}
			}
		}
	}
	tests := []struct {
		name   string
		events []func(*Ending)
		want   [2]int
		cause  *Cause
	}{
		{"client closes, upstream answers", []func(*Ending){closeFrom(C, 4000), closeFrom(U, 4000)}, [2]int{-1, -1}, CauseClosed[C]},
		{"upstream closes, client answers", []func(*Ending){closeFrom(U, 4000), closeFrom(C, 4000)}, [2]int{-1, -1}, CauseClosed[U]},
		{"client closes, upstream goes", []func(*Ending){closeFrom(C, 4000), endFrom(U, CauseLost)}, [2]int{4000, -1}, CauseClosed[C]},
		{"upstream closes, client goes", []func(*Ending){closeFrom(U, 4000), endFrom(C, CauseLost)}, [2]int{-1, 4000}, CauseClosed[U]},
		{"client goes, upstream answers", []func(*Ending){endFrom(C, CauseLost), closeFrom(U, 1001)}, [2]int{0, 1001}, CauseLost[C]},
		{"upstream goes, client answers", []func(*Ending){endFrom(U, CauseLost), closeFrom(C, 1011)}, [2]int{1011, 0}, CauseLost[U]},
		{"client breaks, upstream answers", []func(*Ending){endFrom(C, CauseProtocol), closeFrom(U, 1001)}, [2]int{1002, 1001}, CauseProtocol[C]},
		{"upstream breaks, client answers", []func(*Ending){endFrom(U, CauseProtocol), closeFrom(C, 1011)}, [2]int{1011, 1002}, CauseProtocol[U]},
		{"client breaks, upstream breaks", []func(*Ending){endFrom(C, CauseProtocol), endFrom(U, CauseProtocol)}, [2]int{1002, 1001}, CauseProtocol[C]},
		{"client breaks, upstream goes", []func(*Ending){endFrom(C, CauseProtocol), endFrom(U, CauseLost)}, [2]int{1002, 1001}, CauseProtocol[C]},
		{"idle, both answer", []func(*Ending){begin(CauseIdle), closeFrom(C, 1001), closeFrom(U, 1001)}, [2]int{}, CauseIdle},
	}
	for _, tt := range tests {
		told = [2]int{}
		var e Ending
		for _, f := range tt.events {
			f(&e)
		}
		if told != tt.want || e.Cause != tt.cause {
			t.Errorf("%s: told %v for %q by the %v, want %v for %q by the %v", tt.name,
				told, e.Cause.Reason, e.Cause.By, tt.want, tt.cause.Reason, tt.cause.By)
		}
	}
}
