// Console is a proxy with a console for its operator, by package
// [github.com/seed-ffb73231/wsproxy/console]: a page that lists the open
// sessions, ends one of them with a code and a reason, or drains all of them.
//
//	go run ./examples/console
//	go run ./examples/console -addr :8080 -upstream http://127.0.0.1:9000
//
// Without -upstream it starts an upstream and some clients of its own. The
// console has a separate listener, on the loopback interface unless -console
// sets another address. It has no login: anyone who can connect to it can end
// sessions.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/coder/websocket"

	"github.com/seed-ffb73231/wsproxy"
	"github.com/seed-ffb73231/wsproxy/console"
)

type settings struct {
	addr, console string
	upstream      string
	ping          time.Duration
	window        time.Duration
	visitors      int
}

func main() {
	var s settings
	flag.StringVar(&s.addr, "addr", "127.0.0.1:8080", "`address` of the proxy, which serves /websocket")
	flag.StringVar(&s.console, "console", "127.0.0.1:8081", "`address` of the console; anyone who can connect to it can end sessions")
	flag.StringVar(&s.upstream, "upstream", "", "`URL` of the upstream; without it, the program starts its own")
	flag.DurationVar(&s.ping, "ping", 5*time.Second, "ping a peer that has been silent for this long; 0 disables pings and round-trip times")
	flag.DurationVar(&s.window, "window", 10*time.Second, "time over which a drain spreads the ends of sessions")
	flag.IntVar(&s.visitors, "visitors", 25, "number of demonstration clients; ignored with -upstream")
	flag.Parse()
	if flag.NArg() > 0 || s.window <= 0 || s.visitors < 0 {
		flag.Usage()
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // a second Ctrl-C doesn't wait
	if err := run(ctx, s); err != nil {
		fmt.Fprintln(os.Stderr, "console:", err)
		os.Exit(1)
	}
}

// userKey is the key of a session's user.
type userKey struct{}

// keepUser is a hook that stores the user of a session. Here the client states
// the name; a real program would check a cookie or a token.
func keepUser(s *wsproxy.Session, r *http.Request) error {
	s.Set(userKey{}, strings.Clone(r.URL.Query().Get("user"))) // not a part of a whole request
	return nil
}

// user returns the user of a session, for the console.
func user(s *wsproxy.Session) string {
	name, _ := s.Value(userKey{}).(string)
	return name
}

// watch returns the console's handler, for a server on the address. A drain
// that it starts is added to draining.
func watch(proxy *wsproxy.Proxy, s settings, on *net.TCPAddr, draining *sync.WaitGroup) http.Handler {
	notice := "Served to this machine only, because there is no login: whoever reaches this page can end sessions."
	if !on.IP.IsLoopback() {
		notice = "There is no login here, and other machines may reach this page: whoever does can end sessions."
	}
	page := console.Handler(proxy, &console.Options{
		Notice: notice,
		User:   user,
		Drain: func() {
			draining.Go(func() {
				ctx, cancel := context.WithTimeout(context.Background(), s.window+10*time.Second)
				defer cancel()
				proxy.Shutdown(ctx) // Stats has how it went
			})
		},
	})
	name, _, _ := net.SplitHostPort(s.console)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !ours(r.Host, name) {
			http.Error(w, "use the address or localhost", http.StatusMisdirectedRequest)
			return
		}
		page.ServeHTTP(w, r)
	})
}

// ours reports whether host is one of the console's own names: an IP address,
// localhost, or the name in its address. A page of the web may have its own
// name resolve to the console's address (DNS rebinding), and would then be of
// the same origin. A console behind a login needs no such check.
func ours(host, name string) bool {
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	host = strings.TrimSuffix(strings.TrimPrefix(host, "["), "]")
	if _, err := netip.ParseAddr(host); err == nil {
		return true
	}
	return strings.EqualFold(host, "localhost") || name != "" && strings.EqualFold(host, name)
}

func run(ctx context.Context, s settings) error {
	options := []wsproxy.Option{
		wsproxy.WithOnOpen(keepUser),
		wsproxy.WithPing(s.ping, 10*time.Second),
		wsproxy.WithDrain(s.window, websocket.StatusGoingAway),
	}
	demonstrating := s.upstream == ""
	if demonstrating {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return err
		}
		upstream := &http.Server{Handler: http.HandlerFunc(echo), ReadHeaderTimeout: 5 * time.Second}
		defer upstream.Close()
		go upstream.Serve(ln)
		s.upstream = "http://" + ln.Addr().String()
		options = append(options, wsproxy.WithLogger(slog.New(slog.DiscardHandler))) // the page tells it
	}

	// 1. The public server, with the proxy.
	proxy, err := wsproxy.New(s.upstream, options...)
	if err != nil {
		return err
	}
	defer proxy.Close()
	mux := http.NewServeMux()
	mux.Handle("/websocket", proxy)
	mux.Handle("/websocket/", proxy)
	outer, err := net.Listen("tcp", s.addr)
	if err != nil {
		return fmt.Errorf("%w (-addr 127.0.0.1:0 uses any free port)", err)
	}
	public := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	defer public.Close()

	// 2. The console's server, which the public cannot reach. It outlives the
	// drain, so that there is something to watch.
	inner, err := net.Listen("tcp", s.console)
	if err != nil {
		return fmt.Errorf("%w (-console 127.0.0.1:0 uses any free port)", err)
	}
	url := "ws://" + outer.Addr().String() + "/websocket"
	bound := inner.Addr().(*net.TCPAddr)
	var draining sync.WaitGroup
	private := &http.Server{Handler: watch(proxy, s, bound, &draining), ReadHeaderTimeout: 5 * time.Second}
	defer private.Close()

	failed := make(chan error, 2)
	go func() { failed <- public.Serve(outer) }()
	go func() { failed <- private.Serve(inner) }()
	say("proxy", "%s, to %s", url, s.upstream)
	say("console", "http://%s/", inner.Addr())
	if bound.IP.IsLoopback() {
		say("", "It has no login and can end sessions, so it listens only on this machine.")
	} else {
		say("", "WARNING: it has no login. Other machines may be able to connect to it and end sessions.")
	}
	say("", "Press Ctrl-C to drain the sessions and exit.")

	var visitors sync.WaitGroup
	visiting, stopVisiting := context.WithCancel(ctx) // visitors that are disconnected at the end do not reconnect
	defer visitors.Wait()
	defer stopVisiting()
	if demonstrating {
		for i := range s.visitors {
			visitors.Go(func() { visit(visiting, url, i) })
		}
	}
	select {
	case err := <-failed:
		proxy.Close() // or the visitors would stay
		return err
	case <-ctx.Done():
	}

	// 3. The end: of the sessions first, then of both servers.
	ctx, cancel := context.WithTimeout(context.Background(), s.window+20*time.Second)
	defer cancel()
	err = wsproxy.ShutdownServer(ctx, public, proxy)
	draining.Wait()
	err = errors.Join(err, private.Shutdown(ctx))
	if err != nil {
		return err
	}
	say("proxy", "shut down after %d sessions", proxy.Stats().Opened)
	return nil
}

func say(who, format string, args ...any) {
	fmt.Println(strings.TrimRight(fmt.Sprintf("%-9s %s", who, fmt.Sprintf(format, args...)), " "))
}
