package main

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/coder/websocket"
)

// A server is an upstream: it has rooms, and tells everyone in a room what one says.
type server struct {
	name   string
	url    string
	server *http.Server

	mu    sync.Mutex
	rooms map[string]map[*websocket.Conn]bool // guarded by mu
}

func startServer(name string) (*server, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	s := &server{name: name, url: "http://" + ln.Addr().String(), rooms: make(map[string]map[*websocket.Conn]bool)}
	s.server = &http.Server{Handler: http.HandlerFunc(s.chat), ReadHeaderTimeout: 5 * time.Second}
	go s.server.Serve(ln)
	return s, nil
}

// kill ends the server as a crash does: without a Close frame.
func (s *server) kill() {
	s.server.Close()
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, room := range s.rooms {
		for conn := range room {
			conn.CloseNow()
		}
	}
}

// chat relays what a client says to everyone in its room, with its name before it.
func (s *server) chat(w http.ResponseWriter, r *http.Request) {
	room, name := r.FormValue("room"), r.FormValue("name")
	conn, err := websocket.Accept(w, r, &websocket.AcceptOptions{InsecureSkipVerify: true}) // the proxy has checked the origin
	if err != nil {
		return // Accept has answered
	}
	defer conn.CloseNow()
	s.enter(room, conn)
	defer s.leave(room, conn)
	s.tell(r.Context(), room, fmt.Sprintf("%s is in %s on server %s", name, room, s.name))
	for {
		_, text, err := conn.Read(r.Context())
		if err != nil {
			return
		}
		s.tell(r.Context(), room, name+": "+string(text))
	}
}

func (s *server) enter(room string, conn *websocket.Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.rooms[room] == nil {
		s.rooms[room] = make(map[*websocket.Conn]bool)
	}
	s.rooms[room][conn] = true
}

func (s *server) leave(room string, conn *websocket.Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.rooms[room], conn)
}

// tell sends a text to everyone in a room. It holds the lock, so that all get the
// texts in the same order.
func (s *server) tell(ctx context.Context, room, text string) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	s.mu.Lock()
	defer s.mu.Unlock()
	for conn := range s.rooms[room] {
		conn.Write(ctx, websocket.MessageText, []byte(text)) // who has left is noticed elsewhere
	}
}
