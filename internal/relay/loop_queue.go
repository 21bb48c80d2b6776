//go:build linux && (amd64 || arm64) && !noloop

package relay

// A queue holds sessions that wait for their turn, first in, first out. Its owner
// guards it with a lock, and up to all sessions may be in it, when they end at once. So
// it consists of short parts: a slice of them all would be copied when it grows,
// which takes 20 ms with some 100,000 of them.
type queue struct {
	full   [][]*Session // parts that were filled; some of the first one may have been taken
	last   []*Session
	length int
}

func (q *queue) add(s *Session) {
	if len(q.last) == perTurn {
		q.full, q.last = append(q.full, q.last), nil
	}
	q.last = append(q.last, s)
	q.length++
}

// takeSome takes perTurn sessions at most, and none only if the queue is empty.
func (q *queue) takeSome() (some []*Session) {
	if len(q.full) > 0 {
		some = q.full[0]
		q.drop()
	} else {
		some, q.last = q.last, nil
	}
	q.length -= len(some)
	return some
}

// take takes one session. The queue is not empty.
func (q *queue) take() (s *Session) {
	part := &q.last
	if len(q.full) > 0 {
		part = &q.full[0]
	}
	s, (*part)[0] = (*part)[0], nil // the array may outlive it
	if *part = (*part)[1:]; len(*part) == 0 && len(q.full) > 0 {
		q.drop()
	}
	q.length--
	return s
}

// drop removes the first of the parts that were filled.
func (q *queue) drop() {
	q.full[0] = nil
	if q.full = q.full[1:]; len(q.full) == 0 {
		q.full = nil
	}
}
