package protocol

import (
	"errors"
	"io"
	"testing"
	"time"

	"github.com/seed-ffb73231/wsproxy/internal/frame"
)

// resumable returns a course that may outlive its upstream.
func resumable() *Course {
	p := *policy
	p.Resume = new(Resume)
	return began(&p)
}

var removed = CauseFor("removed", frame.ServiceRestart, "upstream removed")

func moves(c *Course, now time.Duration) Orders {
	o, _ := c.Move(now, removed)
	return o
}

func tears(c *Course, now time.Duration) Orders { return c.Torn(now, io.ErrShortWrite) }

func resumes(c *Course, now time.Duration) Orders {
	o, _ := c.Resumed(now)
	return o
}

func givesUp(err error) event {
	return func(c *Course, now time.Duration) Orders { return c.GiveUp(now, err) }
}

// What holds a session, what each side is told, and what is recorded in the end.
func TestCourseHold(t *testing.T) {
	const verbatim = 1 // no code of a Close frame
	bad := frame.ErrUnmasked
	other := errors.New("other subprotocol")
	tests := []struct {
		name   string
		events []event
		held   bool
		want   [2]frame.Code // what each side was told, in all, by whichever upstream
		cause  *Cause
		code   frame.Code
	}{
		{"lost", []event{leaves(U)}, true, [2]frame.Code{}, nil, 0},
		{"given up", []event{vanishes(U)}, false, [2]frame.Code{}, nil, 0},
		{"given up, and found closed", []event{vanishes(U), leaves(U)}, true, [2]frame.Code{}, nil, 0},
		{"going away", []event{closes(U, 1001)}, true, [2]frame.Code{0, 1001}, nil, 0},
		{"restarts", []event{closes(U, 1012)}, true, [2]frame.Code{0, 1012}, nil, 0},
		{"overloaded", []event{closes(U, 1013)}, true, [2]frame.Code{0, 1013}, nil, 0},
		{"done", []event{closes(U, 1000)}, false, [2]frame.Code{verbatim, 0}, causeClosed[U], 1000},
		{"without a code", []event{closes(U, frame.NoStatus)}, false, [2]frame.Code{verbatim, 0}, causeClosed[U], frame.NoStatus},
		{"policy", []event{closes(U, 1008)}, false, [2]frame.Code{verbatim, 0}, causeClosed[U], 1008},
		{"the application's", []event{closes(U, 4000)}, false, [2]frame.Code{verbatim, 0}, causeClosed[U], 4000},
		{"breaks the protocol", []event{breaks(U, bad), closes(C, 1011)}, false, [2]frame.Code{1011, 1002}, causeProtocol[U], 1011},
		{"lost after the client's Close", []event{closes(C, 1000), leaves(U)}, false, [2]frame.Code{1000, verbatim}, causeClosed[C], 1000},
		{"answers the client's Close with 1001", []event{closes(C, 1000), closes(U, 1001)}, false, [2]frame.Code{verbatim, verbatim}, causeClosed[C], 1000},
		{"lost once the session ends", []event{stops(CauseIdle), leaves(U)}, false, [2]frame.Code{1001, 1001}, CauseIdle, 1001},
		{"lost, another one", []event{leaves(U), resumes}, false, [2]frame.Code{}, nil, 0},
		{"lost twice", []event{leaves(U), resumes, leaves(U)}, true, [2]frame.Code{}, nil, 0},
		{"lost, another one restarts", []event{leaves(U), resumes, closes(U, 1012)}, true, [2]frame.Code{0, 1012}, nil, 0},
		{"lost, another one closes", []event{leaves(U), resumes, closes(U, 4000)}, false, [2]frame.Code{verbatim, 0}, causeClosed[U], 4000},

		{"lost, no other one", []event{leaves(U), givesUp(nil)}, false, [2]frame.Code{1011, 0}, causeLost[U], 1011},
		{"restarts, no other one", []event{closes(U, 1012), givesUp(nil)}, false, [2]frame.Code{verbatim, 1012}, causeClosed[U], 1012},
		{"restarts, the other one differs", []event{closes(U, 1012), givesUp(other)}, false, [2]frame.Code{1011, 1012}, causeLost[U], 1011},
		{"held, client closes", []event{leaves(U), closes(C, 4000), givesUp(nil)}, false, [2]frame.Code{4000, 0}, causeClosed[C], 4000},
		{"held, client lost", []event{leaves(U), leaves(C), givesUp(nil)}, false, [2]frame.Code{0, 0}, causeLost[C], 1001},
		{"held, client breaks the protocol", []event{leaves(U), breaks(C, bad), givesUp(nil)}, false, [2]frame.Code{1002, 0}, causeProtocol[C], 1002},
		{"held, idle", []event{leaves(U), stops(CauseIdle), givesUp(nil)}, false, [2]frame.Code{1001, 0}, CauseIdle, 1001},
		{"held, idle, too late", []event{leaves(U), stops(CauseIdle), resumes, givesUp(nil)}, false, [2]frame.Code{1001, 0}, CauseIdle, 1001},
		{"held, cut", []event{leaves(U), cuts, givesUp(nil)}, false, [2]frame.Code{}, &Cause{Reason: "cut", By: frame.Self}, 0},

		{"moves", []event{moves}, false, [2]frame.Code{0, 1001}, nil, 0},
		{"moves twice", []event{moves, moves}, false, [2]frame.Code{0, 1001}, nil, 0},
		{"moves, upstream answers", []event{moves, closes(U, 1001)}, true, [2]frame.Code{0, 1001}, nil, 0},
		{"moves, upstream answers without a code", []event{moves, closes(U, frame.NoStatus)}, true, [2]frame.Code{0, 1001}, nil, 0},
		{"moves, upstream goes", []event{moves, leaves(U)}, true, [2]frame.Code{0, 1001}, nil, 0},
		{"moves, no other one", []event{moves, closes(U, 1001), givesUp(nil)}, false, [2]frame.Code{1012, 1001}, removed, 1012},
		{"moves, is there, moves again", []event{moves, closes(U, 1001), resumes, moves}, false, [2]frame.Code{0, 2002}, nil, 0},
		{"held, and to move", []event{leaves(U), moves, resumes}, false, [2]frame.Code{}, nil, 0},

		{"torn", []event{tears, leaves(U)}, false, [2]frame.Code{1011, 0}, causeLost[U], 1011},
		{"lost, and torn", []event{leaves(U), tears, givesUp(nil)}, false, [2]frame.Code{1011, 0}, causeLost[U], 1011},
		{"moves, and torn", []event{moves, tears, leaves(U)}, false, [2]frame.Code{1011, 1001}, causeLost[U], 1011},
	}
	for _, tt := range tests {
		c, told := resumable(), [2]frame.Code{}
		for _, happens := range tt.events {
			heard := [2]bool{c.legs[C].heard, c.legs[U].heard}
			o := happens(c, sec)
			for side := range told {
				code := o.Legs[side].Close
				if o.Verbatim && c.legs[side^1].heard && !heard[side^1] {
					code = verbatim
				}
				told[side] += code
			}
			if o.Hold && !c.Held() {
				t.Errorf("%s: ordered to replace the upstream of a session that is not held", tt.name)
			}
		}
		cause, code, _ := c.Result()
		switch {
		case c.Held() != tt.held:
			t.Errorf("%s: held=%v, want %v", tt.name, c.Held(), tt.held)
		case (cause == nil) != (tt.cause == nil), cause != nil && *cause != *tt.cause, code != tt.code:
			t.Errorf("%s: recorded %v with %d, want %v with %d", tt.name, cause, code, tt.cause, tt.code)
		case told != tt.want:
			t.Errorf("%s: told %v, want %v", tt.name, told, tt.want)
		case tt.held && c.end != nil:
			t.Errorf("%s: the end has begun", tt.name)
		}
	}
}

// Without a Resume nothing is held.
func TestCourseHoldsNothing(t *testing.T) {
	for _, happens := range []event{leaves(U), closes(U, 1012)} {
		if o := happens(began(policy), sec); o.Hold {
			t.Error("a session is held that cannot resume")
		}
	}
	if _, ok := began(policy).Move(sec, removed); ok {
		t.Error("a session moves that cannot resume")
	}
}

// Of a held session, only the client is watched.
func TestCourseHeldLook(t *testing.T) {
	c := resumable()
	c.Left(sec, U, io.EOF, true)
	now := time.Hour
	look := Look{Now: now}
	look.Legs[C] = Facts{Heard: now - 30*sec, Writing: -1}
	look.Legs[U] = Facts{Pinged: sec, Writing: 0, Pings: 1} // of the one that is gone
	c.due = now
	if asks := c.Asks(&look); asks[U] != (Ask{}) {
		t.Errorf("asks %v of an upstream that is gone", asks[U])
	}
	o := c.Look(&look)
	if o.Legs[C].Need != NeedPing || o.Legs[U] != (LegOrders{}) || c.cause() != nil {
		t.Errorf("ordered %+v, want a Ping to the client and nothing else", o)
	}
	c.Resumed(now)
	look.Now += sec
	look.Legs[U] = Facts{Heard: now, Writing: -1}
	if o := c.Look(&look); o.Legs[U] != (LegOrders{}) || o.Again > now+25*sec {
		t.Errorf("ordered %+v for a new upstream, next look at %v, want a Ping in time", o.Legs[U], o.Again)
	}
}

// An upstream that cannot be written to, or does not leave when it is told to, is
// dropped after a while.
func TestCourseDrops(t *testing.T) {
	fails := func(c *Course, now time.Duration) Orders { return c.WriteFailed(now, U) }
	for _, tt := range []struct {
		name    string
		happens event
		at      time.Duration
		err     error
	}{
		{"write failed", fails, 2 * sec, errUnwritable},
		{"moves", moves, 5 * sec, errLate},
	} {
		c := resumable()
		if o := tt.happens(c, sec); !o.Arm || o.Again != tt.at || o.Began {
			t.Errorf("%s: next look at %v, want %v", tt.name, o.Again, tt.at)
		}
		if at := c.Start(sec, Expiry{}); at != tt.at { // it may start later
			t.Errorf("%s: first look at %v, want %v", tt.name, at, tt.at)
		}
		look := Look{Now: tt.at - 1}
		look.Legs = [2]Facts{{Writing: -1}, {Writing: -1}}
		if o := c.Look(&look); o.Legs[U].Abort || o.Again > tt.at+time.Millisecond {
			t.Errorf("%s: ordered %+v too early, or the next look too late", tt.name, o)
		}
		look.Now = tt.at
		if o := c.Look(&look); !o.Legs[U].Abort {
			t.Errorf("%s: the upstream is not dropped", tt.name)
		}
		if o := c.Left(tt.at, U, io.ErrClosedPipe, false); !o.Hold || c.policy.Resume.err != tt.err {
			t.Errorf("%s: hold=%v for %v, want %v", tt.name, o.Hold, c.policy.Resume.err, tt.err)
		}
	}
}
