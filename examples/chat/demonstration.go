package main

import (
	"bufio"
	"context"
	"embed"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/coder/websocket"

	"github.com/seed-ffb73231/wsproxy"
)

//go:embed page
var files embed.FS

// A site is three chat servers with the gateway before them.
type site struct {
	servers []*server
	proxy   *wsproxy.Proxy
	front   *http.Server
	addr    string
}

func startSite(addr string) (*site, error) {
	t := new(site)
	var urls []string
	for _, name := range []string{"A", "B", "C"} {
		s, err := startServer(name)
		if err != nil {
			return nil, err
		}
		t.servers, urls = append(t.servers, s), append(urls, s.url)
	}
	var err error
	if t.proxy, err = newGateway(urls); err != nil {
		return nil, err
	}
	page, err := fs.Sub(files, "page")
	if err != nil {
		return nil, err
	}
	mux := http.NewServeMux()
	mux.Handle("/chat", t.proxy)
	mux.Handle("/", http.FileServerFS(page))
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, err
	}
	t.addr = ln.Addr().String()
	t.front = &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	go t.front.Serve(ln)
	return t, nil
}

func (t *site) stop() error {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	err := wsproxy.ShutdownServer(ctx, t.front, t.proxy)
	for _, s := range t.servers {
		s.kill()
	}
	return err
}

// serve serves the page, and announces the lines that it reads.
func serve(ctx context.Context, addr string, in io.Reader) error {
	t, err := startSite(addr)
	if err != nil {
		return err
	}
	say("gateway", "open http://%s/ in two browsers; a line typed here is announced to all, kill kills a server", t.addr)
	go func() {
		alive := t.servers
		for lines := bufio.NewScanner(in); lines.Scan(); {
			switch text := lines.Text(); {
			case text != "kill":
				say("gateway", "announced to %d clients", announce(ctx, t.proxy, text))
			case len(alive) > 1:
				say("server", "%s is killed", alive[0].name)
				alive[0].kill()
				alive = alive[1:]
			}
		}
	}()
	<-ctx.Done()
	return t.stop()
}

// demonstrate has six people chat in three rooms.
func demonstrate(ctx context.Context) error {
	t, err := startSite("127.0.0.1:0")
	if err != nil {
		return err
	}
	defer t.stop()
	var people []*person
	for i, name := range []string{"ann", "bob", "cem", "dot", "eve", "fay"} {
		p, err := join(ctx, t.addr, fmt.Sprint("room-", i/2+1), name)
		if err != nil {
			return err
		}
		defer p.conn.CloseNow()
		people = append(people, p)
	}
	// What one says, both in the room hear; nobody else does.
	meet := func(greeting string) error {
		for i, p := range people {
			if err := p.says(ctx, greeting); err != nil {
				return err
			}
			for _, other := range people[i/2*2:][:2] {
				if err := other.hears(ctx, p.name+": "+greeting); err != nil {
					return err
				}
			}
		}
		return nil
	}
	if err := meet("hello"); err != nil {
		return err
	}
	say("rooms", "everybody was heard by the others in the room: %s", where(people))

	ann, bob := people[0], people[1]
	if err := errors.Join(ann.says(ctx, "what the heck"), ann.says(ctx, "buy at http://cheap.test"), ann.says(ctx, "sorry")); err != nil {
		return err
	}
	if err := errors.Join(bob.hears(ctx, "ann: what the ****"), bob.hears(ctx, "ann: sorry")); err != nil {
		return err
	}
	say("moderation", "a rude word was hidden, and an advertisement dropped")
	gus, err := join(ctx, t.addr, "room-1", "gus")
	if err != nil {
		return err
	}
	defer gus.conn.CloseNow()
	for range mostWarnings + 1 {
		if err := gus.says(ctx, "darn!"); err != nil {
			return err
		}
	}
	if err := gus.hears(ctx, "he hears no more"); websocket.CloseStatus(err) != 4003 {
		return fmt.Errorf("want Close 4003: %w", err)
	}
	say("moderation", "gus was rude too often, and was disconnected")

	n := announce(ctx, t.proxy, "a server is about to be killed")
	for _, p := range people {
		if err := p.hears(ctx, "announcement: a server is about to be killed"); err != nil {
			return err
		}
	}
	say("gateway", "announced it to %d people", n)

	killed := ann.server
	for _, s := range t.servers {
		if s.name == killed {
			s.kill()
		}
	}
	say("server", "%s is killed", killed)
	for _, p := range people {
		if p.server == killed {
			if err := p.hears(ctx, p.name+" is in "+p.room); err != nil { // on another server
				return err
			}
		}
	}
	if err := meet("still there?"); err != nil {
		return err
	}
	st := t.proxy.Stats()
	if st.Opened != uint64(len(people))+1 || st.Open != len(people) {
		return fmt.Errorf("%d sessions were opened, and %d are open: somebody was disconnected", st.Opened, st.Open)
	}
	say("rooms", "everybody is still connected, and was heard: %s", where(people))
	for _, p := range people {
		if err := p.conn.Close(websocket.StatusNormalClosure, "bye"); err != nil {
			return err
		}
	}
	return t.stop()
}

// A person is a client.
type person struct {
	name, room, server string
	conn               *websocket.Conn
}

func join(ctx context.Context, addr, room, name string) (*person, error) {
	conn, _, err := websocket.Dial(ctx, "ws://"+addr+"/chat?"+url.Values{"room": {room}, "name": {name}}.Encode(), nil)
	if err != nil {
		return nil, err
	}
	p := &person{name: name, room: room, conn: conn}
	return p, p.hears(ctx, name+" is in "+room)
}

func (p *person) says(ctx context.Context, text string) error {
	return p.conn.Write(ctx, websocket.MessageText, []byte(text))
}

// hears reads until somebody says something that starts with the text.
func (p *person) hears(ctx context.Context, text string) error {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	for {
		_, got, err := p.conn.Read(ctx)
		if err != nil {
			return fmt.Errorf("%s waits for %q: %w", p.name, text, err)
		}
		if _, server, ok := strings.Cut(string(got), " on server "); ok && !strings.Contains(string(got), ": ") {
			p.server = server
		}
		if strings.HasPrefix(string(got), text) {
			return nil
		}
		if strings.Contains(string(got), "http://") || strings.Contains(string(got), "heck") {
			return fmt.Errorf("%s got %q", p.name, got)
		}
	}
}

// where says which room is on which server.
func where(people []*person) string {
	var rooms []string
	for i := 0; i < len(people); i += 2 {
		rooms = append(rooms, people[i].room+" on "+people[i].server)
	}
	return strings.Join(rooms, ", ")
}
