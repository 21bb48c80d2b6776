// Quickstart runs everything in one process: an upstream that echoes messages,
// a net/http server with the proxy on /websocket, and a client that connects
// through the proxy. It prints what each of them sees.
//
//	go run ./examples/quickstart          # runs the client and exits
//	go run ./examples/quickstart -serve   # keeps serving, for your own client
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"slices"
	"strings"
	"time"

	"github.com/coder/websocket"

	"github.com/seed-ffb73231/wsproxy"
)

func main() {
	serve := flag.Bool("serve", false, "keep serving instead of running the client")
	addr := flag.String("addr", "127.0.0.1:0", "`address` to listen on; with -serve the default is 127.0.0.1:8080")
	flag.Parse()
	if *serve && *addr == "127.0.0.1:0" {
		*addr = "127.0.0.1:8080"
	}
	if err := run(*serve, *addr); err != nil {
		fmt.Fprintln(os.Stderr, "quickstart:", err)
		os.Exit(1)
	}
}

func run(serve bool, addr string) error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()

	// 1. The upstream: any WebSocket server.
	upstream, err := listenAndServe("127.0.0.1:0", http.HandlerFunc(echo))
	if err != nil {
		return err
	}
	defer upstream.server.Close()

	// 2. Your server: any net/http server, with the proxy on one route.
	options := []wsproxy.Option{wsproxy.WithLogger(slog.New(slog.DiscardHandler))}
	if serve {
		options = []wsproxy.Option{wsproxy.WithInsecureAnyOrigin()} // for a page opened from a file
	} else {
		// The default interval is 25 s. A short one shows the Pings.
		options = append(options, wsproxy.WithPing(200*time.Millisecond, 2*time.Second))
	}
	proxy, err := wsproxy.New(upstream.url, options...)
	if err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.Handle("/websocket", proxy)
	front, err := listenAndServe(addr, mux)
	if err != nil {
		return err
	}
	defer front.server.Close()
	url := "ws" + strings.TrimPrefix(front.url, "http") + "/websocket"
	say("upstream", "listens on %s", upstream.url)
	say("proxy", "listens on %s", url)

	if serve {
		fmt.Printf(`
Connect with one of these, and what you send comes back:

  npx wscat -c %[1]s
  websocat %[1]s
  in a browser's console:  ws = new WebSocket(%[1]q); ws.onmessage = e => console.log(e.data); ws.onopen = () => ws.send("hello")

Ctrl-C ends it. Connected clients get Close 1001.

`, url)
		<-ctx.Done()
	} else if err := client(ctx, url); err != nil {
		return err
	}

	// 3. The end: the proxy ends its sessions, and then the server stops.
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := wsproxy.ShutdownServer(ctx, front.server, proxy); err != nil {
		return err
	}
	say("proxy", "shut down")
	return nil
}

// client sends text and binary messages through the proxy, is silent until the
// proxy has pinged both sides, and has the upstream close the session.
func client(ctx context.Context, url string) error {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	pinged := make(chan struct{}, 100)
	conn, resp, err := websocket.Dial(ctx, url, &websocket.DialOptions{
		Subprotocols: []string{"echo.v2", "echo.v1"},
		OnPingReceived: func(context.Context, []byte) bool {
			pinged <- struct{}{}
			return true // answer it
		},
	})
	if err != nil {
		return err
	}
	defer conn.CloseNow()
	say("client", "connected: %s, subprotocol %q", resp.Status, conn.Subprotocol())

	send := func(kind websocket.MessageType, message string) error {
		began := time.Now()
		if err := conn.Write(ctx, kind, []byte(message)); err != nil {
			return err
		}
		gotKind, got, err := conn.Read(ctx)
		if err != nil {
			return err
		}
		if gotKind != kind || string(got) != message {
			return fmt.Errorf("sent %v %q, got %v %q back", kind, message, gotKind, got)
		}
		say("client", "sent %q (%s), echoed after %v", message, kindName(kind), time.Since(began).Round(time.Microsecond))
		return nil
	}
	if err := send(websocket.MessageText, "hello"); err != nil {
		return err
	}
	if err := send(websocket.MessageBinary, "\x00\x01\x02"); err != nil {
		return err
	}

	say("client", "waiting in silence for a ping")
	reading, stopReading := context.WithCancel(ctx)
	defer stopReading()
	ended := make(chan error, 1)
	go func() { // a client must read to answer pings
		_, _, err := conn.Read(reading)
		ended <- err
	}()
	for _, who := range []struct {
		name   string
		pinged <-chan struct{}
	}{{"client", pinged}, {"upstream", upstreamPinged}} {
		select {
		case <-who.pinged:
			say(who.name, "was pinged by the proxy and answered")
		case err := <-ended:
			return fmt.Errorf("session ended while waiting for a ping: %w", err)
		case <-ctx.Done():
			return fmt.Errorf("the %s got no ping", who.name)
		}
	}
	if err := conn.Write(ctx, websocket.MessageText, []byte("bye")); err != nil {
		return err
	}
	err = <-ended
	if code := websocket.CloseStatus(err); code != 4001 {
		return fmt.Errorf("session ended with %w, want close code 4001", err)
	}
	var closed websocket.CloseError
	errors.As(err, &closed)
	say("client", "was closed by the upstream: code %d, reason %q", closed.Code, closed.Reason)
	return nil
}

var upstreamPinged = make(chan struct{}, 100)

// echo is the upstream. It closes the session on "bye", with its own code.
func echo(w http.ResponseWriter, r *http.Request) {
	say("upstream", "got %s %s with", r.Method, r.URL.RequestURI())
	r.Header["Host"] = []string{r.Host}
	names := make([]string, 0, len(r.Header))
	for name := range r.Header {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		say("", "    %s: %s", name, strings.Join(r.Header[name], ", "))
	}
	conn, err := websocket.Accept(w, r, &websocket.AcceptOptions{
		Subprotocols:       []string{"echo.v1"},
		InsecureSkipVerify: true, // the proxy has checked the origin
		OnPingReceived: func(context.Context, []byte) bool {
			select {
			case upstreamPinged <- struct{}{}:
			default:
			}
			return true
		},
	})
	if err != nil {
		say("upstream", "refused: %v", err)
		return
	}
	defer conn.CloseNow()
	for {
		kind, message, err := conn.Read(r.Context())
		if err != nil {
			if code := websocket.CloseStatus(err); code != -1 {
				say("upstream", "was closed with code %d", code)
			}
			return
		}
		if string(message) == "bye" {
			conn.Close(4001, "see you")
			return
		}
		if err := conn.Write(r.Context(), kind, message); err != nil {
			return
		}
	}
}

type running struct {
	server *http.Server
	url    string
}

func listenAndServe(addr string, h http.Handler) (*running, error) {
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, err
	}
	s := &http.Server{Handler: h, ReadHeaderTimeout: 5 * time.Second}
	go s.Serve(ln)
	return &running{s, "http://" + ln.Addr().String()}, nil
}

func kindName(k websocket.MessageType) string {
	if k == websocket.MessageText {
		return "text"
	}
	return "binary"
}

func say(who, format string, args ...any) {
	fmt.Printf("%-9s %s\n", who, fmt.Sprintf(format, args...))
}
