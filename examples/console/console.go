package main

import (
	"context"
	"embed"
	"encoding/json"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/coder/websocket"

	"github.com/seed-ffb73231/wsproxy"
)

//go:embed page
var files embed.FS

// contentPolicy lets the page load its own files and connect to its own server,
// and nothing else. It also forbids frames: a page around it could trick the
// operator into clicking its buttons.
const contentPolicy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; " +
	"base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

const (
	interval  = time.Second      // between snapshots
	sendLimit = 10 * time.Second // a page that accepts nothing for this long is dropped
	closing   = 10 * time.Second // after a drain's window, for the last sessions to end
)

// A console is an operator's view of a proxy: a page, and on /feed the
// WebSocket that the page uses. Nothing else can change anything, so a form or
// a link of another site cannot: the WebSocket refuses foreign origins.
type console struct {
	// Set when made.
	proxy  *wsproxy.Proxy
	window time.Duration
	hello  hello
	local  bool
	host   string // allowed as the Host, besides IP addresses and localhost
	mux    *http.ServeMux

	drain   sync.Once
	running sync.WaitGroup // feeds, and the drain
}

// hello is the first message to a page.
type hello struct {
	Public string `json:"public"` // the proxy's URL
	Local  bool   `json:"local"`  // only this machine reaches the console
	Window string `json:"window"` // of a drain
	Most   int    `json:"most"`   // rows
}

func newConsole(proxy *wsproxy.Proxy, s settings, public string, bound *net.TCPAddr) *console {
	c := &console{
		proxy:  proxy,
		window: s.window,
		local:  bound.IP.IsLoopback(),
		mux:    http.NewServeMux(),
	}
	c.host, _, _ = net.SplitHostPort(s.console)
	c.hello = hello{public, c.local, s.window.String(), most}
	dir, err := fs.Sub(files, "page")
	if err != nil {
		panic(err) // the name is a constant
	}
	c.mux.Handle("GET /", http.FileServerFS(dir))
	c.mux.HandleFunc("GET /feed", c.feed)
	return c
}

func (c *console) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("Content-Security-Policy", contentPolicy)
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("Cache-Control", "no-store") // the next run is another program
	if !c.ours(r.Host) {
		http.Error(w, "use the address or localhost", http.StatusMisdirectedRequest)
		return
	}
	c.mux.ServeHTTP(w, r)
}

// ours reports whether host is one of the console's own names. A page of the
// web may have its own name resolve to the console's address (DNS rebinding)
// and would then be of the same origin. That is impossible with an address or
// localhost.
func (c *console) ours(host string) bool {
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	host = strings.TrimSuffix(strings.TrimPrefix(host, "["), "]")
	if _, err := netip.ParseAddr(host); err == nil {
		return true
	}
	return strings.EqualFold(host, "localhost") || c.host != "" && strings.EqualFold(host, c.host)
}

// A command is a request of a page.
type command struct {
	ID int    `json:"id"` // of the reply
	Do string `json:"do"` // view, kick or drain
	view

	// Of a kick.
	Session uint64               `json:"session"`
	Code    websocket.StatusCode `json:"code"`
	Reason  string               `json:"reason"`
}

// A message is sent to a page. One of its fields is set.
type message struct {
	Hello    *hello    `json:"hello,omitempty"`
	Snapshot *snapshot `json:"snapshot,omitempty"`
	Reply    *reply    `json:"reply,omitempty"`
}

type reply struct {
	ID    int    `json:"id"`
	Error string `json:"error,omitempty"`
}

// feed serves a page's WebSocket: snapshots one way, commands the other.
func (c *console) feed(w http.ResponseWriter, r *http.Request) {
	c.running.Add(1)
	defer c.running.Done()
	conn, err := websocket.Accept(w, r, nil)
	if err != nil {
		return // Accept has answered
	}
	defer conn.CloseNow()
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	commands := make(chan command)
	c.running.Go(func() {
		defer cancel() // the page has left
		for {
			var cmd command
			kind, data, err := conn.Read(context.WithoutCancel(ctx)) // Close, below, reads on
			if err != nil {
				return
			}
			if kind != websocket.MessageText || json.Unmarshal(data, &cmd) != nil {
				conn.Close(websocket.StatusUnsupportedData, "not a command")
				return
			}
			select {
			case commands <- cmd:
			case <-ctx.Done():
				return
			}
		}
	})

	v := view{Sort: "id"}
	if c.send(ctx, conn, message{Hello: &c.hello}) != nil || c.send(ctx, conn, c.look(v)) != nil {
		return
	}
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	for {
		var m message
		select {
		case <-ticker.C:
			m = c.look(v)
		case cmd := <-commands:
			switch err := c.do(cmd); {
			case cmd.Do == "view":
				v = cmd.view
				m = c.look(v)
			case err != nil:
				m = message{Reply: &reply{cmd.ID, err.Error()}}
			default:
				m = message{Reply: &reply{ID: cmd.ID}}
			}
		case <-ctx.Done():
			c.send(context.WithoutCancel(ctx), conn, c.look(v)) // how it has come out
			conn.Close(websocket.StatusGoingAway, "shutting down")
			return
		}
		if c.send(ctx, conn, m) != nil {
			return
		}
	}
}

func (c *console) look(v view) message {
	return message{Snapshot: take(c.proxy, v)}
}

func (c *console) send(ctx context.Context, conn *websocket.Conn, m message) error {
	data, err := json.Marshal(m)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, sendLimit)
	defer cancel()
	return conn.Write(ctx, websocket.MessageText, data)
}

func (c *console) do(cmd command) error {
	switch cmd.Do {
	case "view":
		return nil
	case "kick":
		for s := range c.proxy.Sessions() {
			if s.ID() == cmd.Session {
				return s.Close(cmd.Code, cmd.Reason)
			}
		}
		return fmt.Errorf("session %d has ended already", cmd.Session)
	case "drain":
		c.drain.Do(func() {
			c.running.Go(func() {
				ctx, cancel := context.WithTimeout(context.Background(), c.window+closing)
				defer cancel()
				c.proxy.Shutdown(ctx) // Stats has how it went
			})
		})
		return nil
	}
	return fmt.Errorf("unknown command %q", cmd.Do)
}

// wait waits for everything that the console has started. Its server must have
// been shut down.
func (c *console) wait() { c.running.Wait() }
