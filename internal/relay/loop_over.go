//go:build linux && (amd64 || arm64) && !noloop

package relay

import (
	"sync"
	"time"
)

// ended calls Host.Over for the sessions of the event driver: it writes log
// records and calls the user's hooks, which may take long or never return. So it
// does not run in a loop, but in goroutines of its own. One of them waits while
// a loop runs. If a session has waited too long for its turn, others
// join it, and end when no session waits any more: a hook blocks only its own
// session.
var ended struct {
	sync.Mutex
	wanted  sync.Cond // with the mutex as its L; see init
	loops   int       // that run
	over    queue     // whose Over is to be called
	taken   int       // how many of these were taken, ever
	workers int       // goroutines, including those that a hook blocks
	idle    int       // of these, those that wait
	watched bool      // watchOver will look
	seen    int       // the value of taken at which all sessions were taken that its last look has seen
}

func init() { ended.wanted.L = &ended.Mutex }

// patience is how long sessions wait for hooks of others.
const patience = 20 * time.Millisecond

// expectOvers counts the loops. While there are any, a goroutine waits for what they
// leave.
func expectOvers(loops int) {
	f := &ended
	f.Lock()
	defer f.Unlock()
	if f.loops += loops; f.loops == 0 {
		f.wanted.Broadcast()
	}
}

// callOver has Over called for a session.
func callOver(s *Session) {
	f := &ended
	f.Lock()
	defer f.Unlock()
	f.over.add(s)
	switch {
	case f.idle > 0:
		f.wanted.Signal()
	case f.workers == 0:
		f.workers++
		go callOvers()
	}
	if !f.watched {
		f.watched = true
		f.seen = f.taken + f.over.length
		time.AfterFunc(patience, watchOver)
	}
}

// watchOver adds goroutines if sessions have waited since its last look.
func watchOver() {
	for range moreWorkers() { // not with the lock held: there may be very many
		go callOvers()
	}
}

// moreWorkers counts the goroutines to add, and has watchOver look again.
func moreWorkers() (n int) {
	f := &ended
	f.Lock()
	defer f.Unlock()
	if f.over.length == 0 {
		f.watched = false
		return 0
	}
	if f.taken < f.seen {
		n = min(max(f.workers, 1), f.over.length)
		f.workers += n
	}
	f.seen = f.taken + f.over.length
	time.AfterFunc(patience, watchOver)
	return n
}

// callOvers calls Over for one session after the other.
func callOvers() {
	f := &ended
	f.Lock()
	defer f.Unlock()
	defer func() {
		f.workers--
		if f.workers == 0 && f.over.length > 0 { // Over has ended this goroutine (runtime.Goexit)
			f.workers++
			go callOvers()
		}
	}()
	for {
		for f.over.length == 0 {
			if f.idle > 0 || f.loops == 0 {
				return
			}
			f.idle++
			f.wanted.Wait()
			f.idle--
		}
		s := f.over.take()
		f.taken++
		s.overUnlocked()
	}
}

// overUnlocked calls Over without the lock of ended, which is held before
// and after.
func (s *Session) overUnlocked() {
	f := &ended
	f.Unlock()
	defer f.Lock()
	s.host.Over()
}
