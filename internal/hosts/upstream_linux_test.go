package hosts

import (
	"context"
	"encoding/json"
	"fmt"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/coder/websocket"
)

// upstreamName is the environment variable that makes this program an upstream,
// and names it.
const upstreamName = "WSPROXY_HOSTS_UPSTREAM"

func TestMain(m *testing.M) {
	if name := os.Getenv(upstreamName); name != "" {
		serveUpstream(name)
		return
	}
	os.Exit(m.Run())
}

// A hello is an upstream's first message.
type hello struct {
	Upstream string
	Room     string // that the client has asked for
	Proxy    string // the address that the connection comes from
}

// serveUpstream is the program of an upstream: it sends a hello and echoes,
// until SIGTERM.
func serveUpstream(name string) {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	var open atomic.Int64
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, r *http.Request) {})
	mux.HandleFunc("GET /open", func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, open.Load()) })
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		conn, err := websocket.Accept(w, r, nil)
		if err != nil {
			log.Print(err)
			return
		}
		defer conn.CloseNow()
		open.Add(1)
		defer open.Add(-1)
		from, _, _ := net.SplitHostPort(r.RemoteAddr)
		text, _ := json.Marshal(hello{name, r.URL.Query().Get("room"), from}) // of strings
		kind := websocket.MessageText
		for err == nil {
			if err = conn.Write(r.Context(), kind, text); err == nil {
				kind, text, err = conn.Read(r.Context())
			}
		}
	})
	// A peer that has vanished, for example because its host was cut off, is
	// detected soon.
	lc := net.ListenConfig{KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: 2 * time.Second, Interval: time.Second, Count: 3}}
	ln, err := lc.Listen(ctx, "tcp", ":9000")
	if err != nil {
		log.Fatal(err)
	}
	server := &http.Server{Handler: mux, ReadHeaderTimeout: patience}
	go func() {
		<-ctx.Done()
		server.Close()
	}()
	if err := server.Serve(ln); err != http.ErrServerClosed {
		log.Fatal(err)
	}
}
