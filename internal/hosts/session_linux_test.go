package hosts

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/coder/websocket"
)

// A session is a client's, and is read all the time.
type session struct {
	hello
	took     time.Duration // its handshake
	conn     *websocket.Conn
	messages chan string
	done     chan struct{}
	ended    time.Time            // set when done is closed
	code     websocket.StatusCode // the same; -1: no Close frame
	err      error                // the same
}

// An answerError is a handshake that was not answered by 101.
type answerError struct {
	status int
	err    error
}

func (e *answerError) Error() string { return fmt.Sprintf("answered %d: %v", e.status, e.err) }

// dial opens a session in a room and waits for the hello.
func (d *deployment) dial(address, path, room string) (*session, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	began := time.Now()
	conn, resp, err := websocket.Dial(ctx, "ws://"+address+path+"?room="+room, &websocket.DialOptions{HTTPClient: d.http})
	if err != nil && resp != nil {
		return nil, &answerError{resp.StatusCode, err}
	}
	if err != nil {
		return nil, err
	}
	s := &session{conn: conn, took: time.Since(began), messages: make(chan string, 1), done: make(chan struct{})}
	_, text, err := conn.Read(ctx)
	if err == nil {
		err = json.Unmarshal(text, &s.hello)
	}
	if err == nil && s.Room != room {
		err = fmt.Errorf("is in room %q, want %q", s.Room, room)
	}
	if err != nil {
		conn.CloseNow()
		return nil, err
	}
	go s.read()
	return s, nil
}

func (s *session) read() {
	defer close(s.done)
	for {
		_, text, err := s.conn.Read(context.Background())
		if err != nil {
			s.ended, s.code, s.err = time.Now(), websocket.CloseStatus(err), err
			s.conn.CloseNow()
			return
		}
		select {
		case s.messages <- string(text):
		default: // nobody has asked for it
			s.conn.Close(websocket.StatusPolicyViolation, "a message too many")
		}
	}
}

func (s *session) over() bool {
	select {
	case <-s.done:
		return true
	default:
		return false
	}
}

// echo sends a message and waits for the echo.
func (s *session) echo(text string) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := s.conn.Write(ctx, websocket.MessageText, []byte(text)); err != nil {
		select {
		case <-s.done: // by a Close frame, perhaps
			return s.err
		case <-ctx.Done():
			return err
		}
	}
	select {
	case got := <-s.messages:
		if got != text {
			return fmt.Errorf("%q has come back, want %q", got, text)
		}
		return nil
	case <-s.done:
		return s.err
	case <-ctx.Done():
		return errors.New("nothing has come back")
	}
}

// say sends a message. The reader detects errors.
func (s *session) say(text string) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	s.conn.Write(ctx, websocket.MessageText, []byte(text))
}

func (s *session) close() {
	s.conn.Close(websocket.StatusNormalClosure, "")
	s.conn.CloseNow()
	<-s.done
}

// each calls f with the numbers from 0 to n-1, with limited concurrency.
func each(n, atOnce int, f func(i int)) {
	var wg sync.WaitGroup
	next := make(chan int)
	for range atOnce {
		wg.Go(func() {
			for i := range next {
				f(i)
			}
		})
	}
	for i := range n {
		next <- i
	}
	close(next)
	wg.Wait()
}

// openAt opens a session in each of the rooms at an address, with limited
// concurrency. All must be accepted.
func (d *deployment) openAt(address, path string, rooms []string, atOnce int) []*session {
	d.t.Helper()
	sessions := make([]*session, len(rooms))
	errs := make([]error, len(rooms))
	each(len(rooms), atOnce, func(i int) { sessions[i], errs[i] = d.dial(address, path, rooms[i]) })
	if err := errors.Join(errs...); err != nil {
		d.t.Fatalf("sessions at %s: %v", address, err)
	}
	return sessions
}

// openEach calls openAt for each of the proxies concurrently.
func (d *deployment) openEach(path string, rooms []string, atOnce int) [][]*session {
	d.t.Helper()
	sessions := make([][]*session, len(d.proxies))
	errs := make([]error, len(d.proxies)*len(rooms))
	for i := range sessions {
		sessions[i] = make([]*session, len(rooms))
	}
	each(len(errs), atOnce*len(d.proxies), func(k int) {
		i, j := k%len(d.proxies), k/len(d.proxies)
		sessions[i][j], errs[k] = d.dial(d.proxies[i].address(8080), path, rooms[j])
	})
	if err := errors.Join(errs...); err != nil {
		d.t.Fatal(err)
	}
	return sessions
}

func closeAll(sessions ...[]*session) {
	for _, list := range sessions {
		each(len(list), 32, func(i int) { list[i].close() })
	}
}

// rooms returns the names of n rooms.
func rooms(n int) []string {
	names := make([]string, n)
	for i := range names {
		names[i] = fmt.Sprint("room-", i)
	}
	return names
}

// statusOf returns the status with which a handshake was refused; 0: it was
// not.
func statusOf(err error) int {
	var e *answerError
	if errors.As(err, &e) {
		return e.status
	}
	return 0
}
