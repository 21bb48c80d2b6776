package protocol

import (
	"errors"
	"io"
	"testing"
	"time"

	"github.com/seed-ffb73231/wsproxy/internal/frame"
)

const (
	C, U = frame.Client, frame.Upstream
	sec  = time.Second
)

// policy is that of the tests.
var policy = &Policy{
	Pings: [2]Pinging{{25 * sec, 10 * sec}, {25 * sec, 10 * sec}},
	Write: 30 * sec,
	Close: 4 * sec,
}

// began returns a course that has started at 0.
func began(p *Policy) *Course {
	c := NewCourse(p, 1)
	c.Start(0, Expiry{})
	return &c
}

// An event of the tests happens to a course at a time.
type event func(c *Course, now time.Duration) Orders

func closes(side frame.Side, code frame.Code) event {
	return func(c *Course, now time.Duration) Orders { return c.Closed(now, side, code) }
}

func breaks(side frame.Side, err error) event {
	return func(c *Course, now time.Duration) Orders { return c.Broke(now, side, err) }
}

func leaves(side frame.Side) event {
	return func(c *Course, now time.Duration) Orders { return c.Left(now, side, io.EOF, true) }
}

func vanishes(side frame.Side) event {
	return func(c *Course, now time.Duration) Orders { return c.Lost(now, side, ErrReset) }
}

func stops(cause *Cause) event {
	return func(c *Course, now time.Duration) Orders { return c.Stop(now, cause, nil) }
}

func severs(c *Course, now time.Duration) Orders { return c.Sever(now, CausePanic, nil) }

func cuts(c *Course, now time.Duration) Orders {
	return c.Cut(now, &Cause{Reason: "cut", By: frame.Self}, nil)
}

// What each side is told, whatever comes first and second, and what is recorded
// of the end.
func TestCourseTold(t *testing.T) {
	const verbatim = 1 // no code of a Close frame
	bad := frame.ErrUnmasked
	drained := CauseFor("drained", frame.ServiceRestart, "shutting down")
	kicked := CauseFor("closed by proxy", frame.NormalClosure, "")
	tests := []struct {
		name   string
		events []event
		want   [2]frame.Code // what each side was told, in all
		cause  *Cause
		code   frame.Code
	}{
		{"client closes, upstream answers", []event{closes(C, 4000), closes(U, 4000)}, [2]frame.Code{verbatim, verbatim}, causeClosed[C], 4000},
		{"upstream closes, client answers", []event{closes(U, 4000), closes(C, 4000)}, [2]frame.Code{verbatim, verbatim}, causeClosed[U], 4000},
		{"client closes, upstream goes", []event{closes(C, 4000), leaves(U)}, [2]frame.Code{4000, verbatim}, causeClosed[C], 4000},
		{"upstream closes, client goes", []event{closes(U, 4000), leaves(C)}, [2]frame.Code{verbatim, 4000}, causeClosed[U], 4000},
		{"client closes without a code, upstream goes", []event{closes(C, frame.NoStatus), leaves(U)}, [2]frame.Code{frame.NoStatus, verbatim}, causeClosed[C], frame.NoStatus},
		{"client closes, and is stopped", []event{closes(C, 4000), stops(CauseIdle)}, [2]frame.Code{0, verbatim}, causeClosed[C], 4000},
		{"upstream lost", []event{leaves(U)}, [2]frame.Code{1011, 0}, causeLost[U], 1011},
		{"client lost", []event{leaves(C)}, [2]frame.Code{0, 1001}, causeLost[C], 1001},
		{"client lost, upstream answers", []event{leaves(C), closes(U, 1001)}, [2]frame.Code{0, 1001}, causeLost[C], 1001},
		{"upstream lost, client answers", []event{leaves(U), closes(C, 1011)}, [2]frame.Code{1011, 0}, causeLost[U], 1011},
		{"client given up, and found closed", []event{vanishes(C), leaves(C)}, [2]frame.Code{0, 1001}, causeLost[C], 1001},
		{"upstream given up, and found closed", []event{vanishes(U), leaves(U)}, [2]frame.Code{1011, 0}, causeLost[U], 1011},
		{"client breaks the protocol, upstream answers", []event{breaks(C, bad), closes(U, 1001)}, [2]frame.Code{1002, 1001}, causeProtocol[C], 1002},
		{"upstream breaks the protocol, client answers", []event{breaks(U, bad), closes(C, 1011)}, [2]frame.Code{1011, 1002}, causeProtocol[U], 1011},
		{"client breaks the protocol, upstream too", []event{breaks(C, bad), breaks(U, bad)}, [2]frame.Code{1002, 1001}, causeProtocol[C], 1002},
		{"client breaks the protocol, upstream goes", []event{breaks(C, bad), leaves(U)}, [2]frame.Code{1002, 1001}, causeProtocol[C], 1002},
		{"client's message is too big", []event{breaks(C, ErrTooBig), closes(U, 1001)}, [2]frame.Code{1009, 1001}, causeTooBig[C], 1009},
		{"upstream's message is too big", []event{breaks(U, ErrTooBig), closes(C, 1001)}, [2]frame.Code{1001, 1009}, causeTooBig[U], 1009},
		{"client sends too much", []event{breaks(C, ErrTooFast), closes(U, 1001)}, [2]frame.Code{1008, 1001}, causeTooFast[C], 1008},
		{"upstream sends too much", []event{breaks(U, ErrTooFast), closes(C, 1001)}, [2]frame.Code{1001, 1008}, causeTooFast[U], 1008},
		{"idle, both answer", []event{stops(CauseIdle), closes(C, 1001), closes(U, 1001)}, [2]frame.Code{1001, 1001}, CauseIdle, 1001},
		{"maximum age", []event{stops(causeAge)}, [2]frame.Code{1001, 1001}, causeAge, 1001},
		{"drained, and then idle", []event{stops(drained), stops(CauseIdle)}, [2]frame.Code{1012, 1001}, drained, 1012},
		{"a panic", []event{severs}, [2]frame.Code{1011, 1001}, CausePanic, 1011},
		{"a panic after a Close", []event{closes(C, 4000), severs}, [2]frame.Code{4000, verbatim}, causeClosed[C], 4000},
		{"a panic after a Close, and the answer", []event{closes(C, 4000), severs, closes(U, 4000)}, [2]frame.Code{4000, verbatim}, causeClosed[C], 4000},
		{"a panic after both Closes", []event{closes(C, 4000), closes(U, 4000), severs}, [2]frame.Code{verbatim, verbatim}, causeClosed[C], 4000},
		{"kicked with a code below the upstream's", []event{stops(kicked)}, [2]frame.Code{1000, 1001}, kicked, 1000},
	}
	for _, tt := range tests {
		c, told := began(policy), [2]frame.Code{}
		for _, happens := range tt.events {
			heard := [2]bool{c.legs[C].heard, c.legs[U].heard}
			o := happens(c, sec)
			for side := range told {
				code := o.Legs[side].Close
				if o.Verbatim && c.legs[side^1].heard && !heard[side^1] {
					code = verbatim
				}
				if code != 0 && told[side] != 0 {
					t.Errorf("%s: the side %d is told twice", tt.name, side)
				}
				told[side] += code
			}
		}
		cause, code, _ := c.Result()
		if told != tt.want || cause != tt.cause || code != tt.code {
			t.Errorf("%s: told %v, recorded %q by %d with %d, want %v, %q by %d with %d", tt.name,
				told, cause.Reason, cause.By, code, tt.want, tt.cause.Reason, tt.cause.By, tt.code)
		}
	}
}

// A cut tells nobody anything, and what is gone is closed without a goodbye.
func TestCourseAborts(t *testing.T) {
	for _, tt := range []struct {
		name    string
		happens event
		want    [2]bool
	}{
		{"cut", cuts, [2]bool{true, true}},
		{"client given up", vanishes(C), [2]bool{true, false}},
		{"upstream given up", vanishes(U), [2]bool{false, true}},
		{"client left", leaves(C), [2]bool{false, false}},
		{"client reset", func(c *Course, now time.Duration) Orders { return c.Left(now, C, ErrReset, false) }, [2]bool{true, false}},
	} {
		o := tt.happens(began(policy), sec)
		if got := [2]bool{o.Legs[C].Abort, o.Legs[U].Abort}; got != tt.want {
			t.Errorf("%s: aborts %v, want %v", tt.name, got, tt.want)
		}
		if !o.Began || o.Again != 2*sec {
			t.Errorf("%s: began=%v, next look at %v, want the first look of an end after 1s", tt.name, o.Began, o.Again)
		}
	}
	c := began(policy)
	cuts(c, sec)
	if o := c.Stop(2*sec, CauseIdle, nil); o != (Orders{}) {
		t.Errorf("stopped after a cut: got %+v, want nothing", o)
	}
}

// When a connection is closed, and when it only gets a FIN.
func TestCourseSettles(t *testing.T) {
	bad := frame.ErrUnmasked
	for _, tt := range []struct {
		name          string
		events        []event
		side          frame.Side
		closed, talks bool
		done, fin     bool
	}{
		{"nothing happened", nil, C, false, false, false, false},
		{"client was told, its answer is missing", []event{closes(U, 1000)}, C, true, false, false, false},
		{"client has answered", []event{closes(U, 1000), closes(C, 1000)}, C, true, false, true, false},
		{"client has answered, and talks on", []event{closes(U, 1000), closes(C, 1000)}, C, true, true, false, true},
		{"client has closed, and was not answered yet", []event{closes(C, 1000)}, C, false, false, false, false},
		{"upstream has answered: it closes first", []event{closes(C, 1000), closes(U, 1000)}, U, true, false, false, false},
		{"upstream has answered and left", []event{closes(C, 1000), closes(U, 1000), leaves(U)}, U, true, false, true, false},
		{"upstream has broken the protocol", []event{breaks(U, bad)}, U, true, false, false, true},
		{"upstream has broken the protocol and left", []event{breaks(U, bad), leaves(U)}, U, true, false, true, false},
		{"client has left, what it gets is on its way", []event{leaves(C)}, C, false, false, false, false},
		{"both have left", []event{leaves(C), leaves(U)}, C, false, false, true, false},
	} {
		c := began(policy)
		for _, happens := range tt.events {
			happens(c, sec)
		}
		if done, fin := c.Settle(tt.side, tt.closed, tt.talks); done != tt.done || fin != tt.fin {
			t.Errorf("%s: done=%v fin=%v, want %v, %v", tt.name, done, fin, tt.done, tt.fin)
		}
	}
}

// atRest is a look at two legs that do nothing.
func atRest(now time.Duration) *Look {
	l := &Look{Now: now}
	l.Legs[C].Writing, l.Legs[U].Writing = -1, -1
	return l
}

// An end that nobody completes is severed at the deadline; whoever is to blame for
// it is the cause if there is no better one.
func TestCourseDeadline(t *testing.T) {
	for _, tt := range []struct {
		name    string
		happens event
		cause   *Cause
		last    [2]frame.Code // the Close frames with which it is severed
	}{
		{"client closes, upstream is mute", closes(C, 4000), causeClosed[C], [2]frame.Code{4000, 0}},
		{"idle, both are mute", stops(CauseIdle), CauseIdle, [2]frame.Code{}},
		{"a write to the client failed", func(c *Course, now time.Duration) Orders { return c.WriteFailed(now, C) }, causeLost[C], [2]frame.Code{0, 1001}},
		{"a write to the upstream failed", func(c *Course, now time.Duration) Orders { return c.WriteFailed(now, U) }, causeLost[U], [2]frame.Code{1011, 0}},
	} {
		c := began(policy)
		o := tt.happens(c, 10*sec)
		for n := 0; !o.Sever; n++ {
			if n > 5 || o.Again > 14*sec {
				t.Fatalf("%s: not severed after %d looks, the next at %v", tt.name, n, o.Again)
			}
			o = c.Look(atRest(o.Again))
			if c.due > 14*sec {
				t.Fatalf("%s: looks at %v, after the deadline", tt.name, c.due)
			}
		}
		if got := [2]frame.Code{o.Legs[C].Close, o.Legs[U].Close}; got != tt.last || c.cause() != tt.cause {
			t.Errorf("%s: severed with %v as %q by %d", tt.name, got, c.cause().Reason, c.cause().By)
		}
		if c.due != 14*sec {
			t.Errorf("%s: severed at %v, want the deadline, 14s", tt.name, c.due)
		}
	}
}

// A slow peer that is still taking what was sent to it gets more time, up to the
// write timeout; not if more is to be sent to it, and not if it takes nothing.
func TestCourseLingers(t *testing.T) {
	for _, tt := range []struct {
		name    string
		takes   uint64 // bytes that it acknowledges a second
		closed  bool
		severed time.Duration
	}{
		{"takes it to the end", 1000, true, (14 + 30) * sec},
		{"takes it, but the Close is not written yet", 1000, false, 14 * sec},
		{"takes nothing", 0, true, 14 * sec},
	} {
		c := began(policy)
		o := c.Stop(10*sec, CauseIdle, nil)
		for !o.Sever {
			l := atRest(o.Again)
			l.Legs[C].Closed = tt.closed
			l.Legs[C].Acks = Acks{Known: true, Acked: tt.takes * uint64(l.Now/sec), Queued: 1}
			o = c.Look(l)
		}
		if c.due != tt.severed {
			t.Errorf("%s: severed at %v, want %v", tt.name, c.due, tt.severed)
		}
	}
}

// A timer that fires late ends nothing, neither what is silent nor what takes
// nothing nor what is idle or does not come to its end; one that fires in time
// does, and so does one that is always late.
func TestCourseLate(t *testing.T) {
	silent := *policy
	silent.Idle = 5 * sec
	ended := func(c *Course, o Orders) bool { return o.Began && c.cause() != nil || o.Sever }
	for _, tt := range []struct {
		name   string
		policy Policy
		due    func(c *Course, l *Look) // makes something due at l.Now
		reason string
	}{
		{"silent", *policy, func(c *Course, l *Look) {
			c.Answered(C, true)
			l.Legs[C].Pinged, l.Legs[C].Heard = l.Now-time.Minute, l.Now-2*time.Minute
		}, "lost"},
		{"stuck", *policy, func(c *Course, l *Look) { l.Legs[C].Writing = l.Now - time.Minute }, "lost"},
		{"idle", silent, func(*Course, *Look) {}, "idle"},
		{"ending", *policy, func(c *Course, l *Look) {
			c.end = &ending{deadline: l.Now - time.Minute, latest: l.Now - time.Minute, suspect: C}
		}, "lost"},
	} {
		look := func(c *Course, late time.Duration) bool {
			l := atRest(c.due + time.Hour)
			tt.due(c, l)
			c.due = l.Now - late
			return ended(c, c.Look(l))
		}
		c := began(&tt.policy)
		for i := range MostGraces {
			if look(c, time.Minute) {
				t.Fatalf("%s: ended by look %d, which was late", tt.name, i)
			}
		}
		if !look(c, time.Minute) || c.cause().Reason != tt.reason {
			t.Errorf("%s: not ended though every look is late: %+v", tt.name, c.cause())
		}
		if c = began(&tt.policy); !look(c, Lateness/2) || c.cause().Reason != tt.reason {
			t.Errorf("%s: not ended in time", tt.name)
		}
	}
}

// Input that waits in a socket delays the end of an idle session, but not without
// end.
func TestCourseInput(t *testing.T) {
	p := *policy
	p.Idle = 5 * sec
	c := began(&p)
	now := 20 * sec
	for i := range MostGraces {
		l := atRest(now)
		if asks := c.Asks(l); !asks[C].Input || !asks[U].Input {
			t.Fatal("nobody asks whether input waits")
		}
		l.Legs[U].Input = true
		c.due = now
		if o := c.Look(l); o.Began || o.Again != now+Lateness {
			t.Fatalf("look %d: began to end=%v, next at %v, want it a moment later", i, o.Began, o.Again)
		}
		now += Lateness
	}
	l := atRest(now)
	l.Legs[U].Input = true
	if o := c.Look(l); !o.Began || c.cause() != CauseIdle {
		t.Errorf("got %+v, want it idle", o)
	}
}

// A session is not idle while a slow peer accepts what our kernel holds for it.
func TestCourseSlowIsNotIdle(t *testing.T) {
	p := *policy
	p.Pings, p.Idle, p.Write = [2]Pinging{}, 10*sec, 60*sec
	for _, tt := range []struct {
		name  string
		acked []uint64      // at the looks
		at    time.Duration // the last one of these, which ends it
	}{
		{"it accepts", []uint64{100, 200, 200, 300, 300, 400, 400}, 0},
		{"it stops", []uint64{100, 200, 200, 200}, 26 * sec},
		{"it accepts nothing", []uint64{100, 100}, 16 * sec},
	} {
		c := began(&p)
		l := atRest(0)
		l.Legs[C].Writing = 1 * sec // it takes no more since
		for i, acked := range tt.acked {
			l.Now = c.due
			if i == 0 {
				l.Now = 11 * sec // nothing was measured before
				c.due = l.Now
			}
			l.Legs[C].Acks = Acks{Known: true, Acked: acked, Queued: 1000}
			o := c.Look(l)
			if want := tt.at > 0 && i == len(tt.acked)-1; c.Ending() != want || want && (c.cause() != CauseIdle || l.Now != tt.at) {
				t.Fatalf("%s: look %d, at %v: ends=%v because of %+v", tt.name, i, l.Now, c.Ending(), c.cause())
			}
			if !c.Ending() && o.Again < l.Now+p.Idle/2 {
				t.Errorf("%s: look %d, at %v: looks again at %v", tt.name, i, l.Now, o.Again)
			}
			if o.Legs[C].Moves {
				l.Legs[C].Writing = l.Now
			}
		}
	}
}

// That a slow peer has accepted nothing since a moment ago says little: it tells in
// steps what it has taken.
func TestCourseSlowInSteps(t *testing.T) {
	p := *policy
	p.Pings, p.Idle, p.Write = [2]Pinging{}, 10*sec, 60*sec
	c := began(&p)
	l := atRest(0)
	l.Legs[C].Writing = 1 * sec // it takes no more since
	l.Legs[C].Acks = Acks{Known: true, Acked: 100, Queued: 1000}
	for _, now := range []time.Duration{11 * sec, 11*sec + Grace/2, 11*sec + Grace} {
		l.Now, c.due = now, now // the expiry was changed, for instance
		if c.Look(l); c.Ending() {
			t.Fatalf("ended at %v because of %+v", now, c.cause())
		}
	}
	l.Now = c.due
	if c.Look(l); !c.Ending() || c.cause() != CauseIdle || l.Now != 16*sec+Grace {
		t.Errorf("at %v: ends=%v because of %+v, want it idle", l.Now, c.Ending(), c.cause())
	}
}

// A session ends at its age, or at its expiry if that is earlier.
func TestCourseExpiry(t *testing.T) {
	p := *policy
	p.Age = 100 * sec
	expired := CauseFor("expired", 4001, "token expired")
	for _, tt := range []struct {
		name  string
		x     Expiry
		now   time.Duration
		cause *Cause
	}{
		{"young", Expiry{}, 50 * sec, nil},
		{"of age", Expiry{}, 100 * sec, causeAge},
		{"expires before", Expiry{60 * sec, expired}, 60 * sec, expired},
		{"expires later", Expiry{200 * sec, expired}, 100 * sec, causeAge},
	} {
		c := began(&p)
		l := atRest(tt.now)
		l.Legs[C].Heard, l.Legs[U].Heard, l.Expiry = tt.now, tt.now, tt.x
		c.due = tt.now
		if o := c.Look(l); c.cause() != tt.cause || o.Began != (tt.cause != nil) {
			t.Errorf("%s: got %+v", tt.name, c.cause())
		} else if tt.cause == expired && (o.Legs[C].Close != 4001 || o.Legs[U].Close != 1001) {
			t.Errorf("%s: tells %+v", tt.name, o.Legs)
		}
	}
	c := began(&p)
	if o := c.Expire(7 * sec); o.Again != 7*sec {
		t.Errorf("a new expiry: looks at %v, want at once", o.Again)
	}
	c.Stop(8*sec, CauseIdle, nil)
	if o := c.Expire(9 * sec); o != (Orders{}) {
		t.Errorf("a new expiry of a session that ends: got %+v, want nothing", o)
	}
}

// A reader that waits for the rate limit is let go when the session ends, unless
// its peer is why: that has until the deadline.
func TestCourseSlowed(t *testing.T) {
	c := began(policy)
	if again, free, o := c.Slowed(sec, C, false); free || again != 2*sec || o != (Orders{}) {
		t.Errorf("nothing happened: free=%v, again at %v, %+v", free, again, o)
	}
	if again, free, o := c.Slowed(sec, C, true); free || again != 2*sec || !o.Began {
		t.Errorf("its peer has left: free=%v, again at %v, %+v", free, again, o)
	}
	if again, free, _ := c.Slowed(5*sec, C, true); free || again != 5*sec {
		t.Errorf("at the deadline: free=%v, again at %v, want no more", free, again)
	}
	if _, free, _ := c.Slowed(2*sec, U, false); !free {
		t.Error("the other side is still slowed down")
	}
	c = began(policy)
	c.WriteFailed(sec, C)
	if _, free, _ := c.Slowed(2*sec, C, false); free {
		t.Error("a peer that takes nothing is let go")
	}
}

// What acknowledgements say of a peer that has not answered the Ping of a while
// ago, which ends at byte 1,000 of the stream, 600 bytes behind what was
// acknowledged then.
func TestCourseAcks(t *testing.T) {
	const sent, due = 30 * sec, 40 * sec
	for _, tt := range []struct {
		name    string
		answers bool // it has answered a Ping before
		proven  bool // and that one ended at byte 1,000, too
		acks    Acks
		lost    bool
		need    Need
	}{
		{"answers, and what is before the Ping moves", true, false, Acks{Known: true, Acked: 700, Queued: 300, Age: sec}, false, NeedMoreTime},
		{"answers, and nothing moves", true, false, Acks{Known: true, Acked: 400, Queued: 600, Age: 20 * sec}, true, NeedNothing},
		{"answers, and what was before the Ping may be on its way", true, false, Acks{Known: true, Acked: 1000, Age: sec}, false, NeedNothing},
		{"answers, and what was before the Ping has arrived", true, true, Acks{Known: true, Acked: 1000, Age: sec}, true, NeedNothing},
		{"answers, and what is known is nothing", true, true, Acks{}, true, NeedNothing},
		{"never answers, and acknowledged all", false, false, Acks{Known: true, Acked: 1000, Age: 20 * sec}, false, NeedNothing},
		{"never answers, and acknowledged something since", false, false, Acks{Known: true, Acked: 400, Queued: 600, Age: sec}, false, NeedNothing},
		{"never answers, and acknowledged nothing since", false, false, Acks{Known: true, Acked: 400, Queued: 600, Age: 20 * sec}, true, NeedNothing},
		{"never answers, and what is known is nothing", false, false, Acks{}, false, NeedNothing},
	} {
		for _, base := range []uint64{0, 1<<32 - 700, 1 << 40} { // what the connection carried before
			from := func(a Acks) Acks {
				if a.Known {
					a.Acked += base
				}
				return a
			}
			c := began(policy)
			if tt.answers {
				c.Answered(C, false)
			}
			c.Pinged(sent, C, from(Acks{Known: true, Acked: 400, Queued: 600}))
			if tt.proven {
				c.Answered(C, true)
			}
			l := atRest(due)
			l.Legs[C].Pinged, l.Legs[C].Heard = sent, 5*sec
			l.Legs[U].Heard = due
			if asks := c.Asks(l); asks != [2]Ask{C: {Input: true, Acks: true}} {
				t.Fatalf("asks %+v", asks)
			}
			c.due, l.Legs[C].Acks = due, from(tt.acks)
			o := c.Look(l)
			if got := o.Legs[C]; got.Abort != tt.lost || got.Need != tt.need {
				t.Errorf("%s, after %d bytes: got %+v, want lost=%v, need %d", tt.name, base, got, tt.lost, tt.need)
			}
		}
	}
}

// The cause of an end may be known before its deadline, and the other way round.
func TestCourseEnding(t *testing.T) {
	check := func(when string, c *Course, ending bool, cause *Cause, text string) {
		t.Helper()
		if got, _, _ := c.Result(); got != cause || c.Ending() != ending || c.Text() != text || c.Resumes() != (cause == nil && !ending) {
			t.Errorf("%s: ends=%v because of %v, %q, resumes=%v; want %v, %v, %q", when, c.Ending(), got, c.Text(), c.Resumes(), ending, cause, text)
		}
	}
	c := resumable()
	check("at rest", c, false, nil, "")
	c.Blame(CausePanic, nil)
	check("a cause", c, false, CausePanic, "internal error")
	c.Blame(CauseIdle, nil)
	if o := c.WriteFailed(10*sec, C); !o.Began || o.Again != 11*sec {
		t.Errorf("a failed write after the cause: got %+v, want the end to begin", o)
	}
	check("a cause, and a failed write", c, true, CausePanic, "internal error")

	c = resumable()
	c.WriteFailed(10*sec, C)
	check("a failed write", c, true, nil, "")
	if o := c.Stop(11*sec, CauseIdle, nil); o.Began || o.Legs[C].Close != 1001 || o.Legs[U].Close != 1001 {
		t.Errorf("stopped after a failed write: got %+v, want both told, and nothing begun again", o)
	}
	check("a failed write, and a cause", c, true, CauseIdle, "idle timeout")
}

// The course of a session takes no memory of its own until the session begins to
// end; then one piece.
func TestCourseAllocs(t *testing.T) {
	err := errors.New("x")
	l := atRest(10 * sec)
	for _, tt := range []struct {
		name  string
		ends  func(*Course)
		after int
	}{
		{"at rest", func(*Course) {}, 0},
		{"broken", func(c *Course) { c.Broke(11*sec, C, err) }, 1},
		{"a failed write", func(c *Course) { c.WriteFailed(11*sec, U) }, 1},
		{"a panic", func(c *Course) { c.Blame(CausePanic, err) }, 1},
	} {
		var c Course
		if n := testing.AllocsPerRun(100, func() {
			c = NewCourse(policy, 1)
			c.Start(0, Expiry{})
			c.Expire(9 * sec)
			c.Asks(l)
			c.Look(l)
			if c.Result(); c.Text() != "" || c.Ending() {
				t.Fatal("it ends")
			}
			if tt.ends(&c); tt.after == 0 {
				return
			}
			c.Stop(12*sec, CauseIdle, nil)
			c.Closed(12*sec, U, frame.GoingAway)
			c.Left(12*sec, U, err, true)
			c.Settle(C, true, false)
			c.Slowed(12*sec, C, false)
			c.Look(atRest(13 * sec))
			c.Look(atRest(time.Minute))
		}); int(n) != tt.after {
			t.Errorf("%s: got %v allocations, want %d", tt.name, n, tt.after)
		}
	}
}
