//go:build linux

package zoo

import (
	"net/http"
	"net/http/httputil"
	"net/url"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"github.com/seed-ffb73231/wsproxy"
)

// A fuse passes WebSockets and requests on to a server, until it is blown.
type fuse struct {
	server string // its address
	pages  http.Handler
	blown  atomic.Bool
	again  chan struct{} // closed when somebody comes after it was blown
	comes  sync.Once

	mu       sync.Mutex
	sessions map[*websocket.Conn]struct{} // guarded by mu; their client's side
}

func newFuse(server string) *fuse {
	return &fuse{
		server:   server,
		pages:    httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: server}),
		again:    make(chan struct{}),
		sessions: make(map[*websocket.Conn]struct{}),
	}
}

// watch tells the fuse of those who come to h.
func (f *fuse) watch(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if f.blown.Load() {
			f.comes.Do(func() { close(f.again) })
		}
		h.ServeHTTP(w, r)
	})
}

// blow ends all sessions by a Close with the code, or drops them if the code is 0.
func (f *fuse) blow(code int) {
	f.blown.Store(true)
	f.mu.Lock()
	defer f.mu.Unlock()
	for c := range f.sessions {
		if code == 0 {
			c.Close()
			continue
		}
		_ = c.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(code, "zoo"), time.Now().Add(limit))
	}
}

func (f *fuse) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if !websocket.IsWebSocketUpgrade(r) {
		f.pages.ServeHTTP(w, r)
		return
	}
	header := r.Header.Clone()
	for _, own := range []string{"Connection", "Upgrade", "Sec-Websocket-Key", "Sec-Websocket-Version", "Sec-Websocket-Extensions"} {
		header.Del(own)
	}
	header.Set("Host", r.Host)
	up, resp, err := websocket.DefaultDialer.DialContext(r.Context(), "ws://"+f.server+r.URL.RequestURI(), header)
	if err != nil {
		status := http.StatusBadGateway
		if resp != nil {
			status = resp.StatusCode
		}
		http.Error(w, err.Error(), status)
		return
	}
	defer up.Close()
	answer := make(http.Header)
	if s := up.Subprotocol(); s != "" {
		answer.Set("Sec-Websocket-Protocol", s)
	}
	anyOrigin := websocket.Upgrader{CheckOrigin: func(*http.Request) bool { return true }}
	down, err := anyOrigin.Upgrade(w, r, answer)
	if err != nil {
		return
	}
	defer down.Close()
	f.mu.Lock()
	f.sessions[down] = struct{}{}
	f.mu.Unlock()
	defer func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		delete(f.sessions, down)
	}()
	go func() {
		copyMessages(down, up)
		down.Close()
	}()
	copyMessages(up, down)
}

func copyMessages(to, from *websocket.Conn) {
	for {
		kind, data, err := from.ReadMessage()
		if err != nil {
			return
		}
		if err := to.WriteMessage(kind, data); err != nil {
			return
		}
	}
}

// An ending is how a session ends that a client may open again.
type ending struct {
	name string
	// direct: the client connects without the proxy.
	direct bool
	// end ends the sessions of a fuse and of the proxy in front of it.
	end func(t *testing.T, f *fuse, p *wsproxy.Proxy)
}

// endings are in the order of the table. The first three are real ones.
var endings = []ending{
	{"dropped", true, func(_ *testing.T, f *fuse, _ *wsproxy.Proxy) { f.blow(0) }},
	{"1011, lost", false, func(_ *testing.T, f *fuse, _ *wsproxy.Proxy) { f.blow(0) }},
	{"1001, drained", false, func(t *testing.T, f *fuse, p *wsproxy.Proxy) {
		f.blown.Store(true)
		if err := p.Shutdown(t.Context()); err != nil {
			t.Error(err)
		}
	}},
	closed("1000", websocket.CloseNormalClosure),
	closed("no code", websocket.CloseNoStatusReceived),
	closed("1008", websocket.ClosePolicyViolation),
	closed("1012", websocket.CloseServiceRestart),
	closed("1013", websocket.CloseTryAgainLater),
	closed("4000", 4000),
}

// closed is the server's Close with a code.
func closed(name string, code int) ending {
	return ending{name, false, func(_ *testing.T, f *fuse, _ *wsproxy.Proxy) { f.blow(code) }}
}
