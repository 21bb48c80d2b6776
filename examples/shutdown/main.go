// Shutdown shows how a program with WebSockets shuts down: on SIGTERM it stops
// being ready, drains its sessions over some seconds, and exits. The clients
// reconnect to another server, spread over that time, and lose nothing.
//
//	go run ./examples/shutdown            # runs the demonstration and exits
//	go run ./examples/shutdown -at-once   # the same without a drain: all clients reconnect at once
//	go run ./examples/shutdown -addr :8080 -upstream http://127.0.0.1:9000   # runs only the server
//
// The code to copy is in server.go. The rest is the demonstration: it starts
// that server twice, A and B, opens 1,000 sessions through A, sends A a SIGTERM,
// and counts when and how the clients reconnect to B.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"
)

type settings struct {
	// Of the program.
	addr, upstream string
	grace          time.Duration
	window         time.Duration
	timeout        time.Duration
	atOnce         bool
	child          bool

	// Of the demonstration.
	sessions int
	delay    time.Duration
}

func main() {
	var s settings
	flag.StringVar(&s.addr, "addr", "127.0.0.1:0", "`address` to listen on")
	flag.StringVar(&s.upstream, "upstream", "", "run only the server, with the upstream at this `URL`; without it, run the demonstration")
	flag.DurationVar(&s.grace, "grace", time.Second, "after SIGTERM, how long to wait for the balancer to notice that the server is not ready")
	flag.DurationVar(&s.window, "window", 5*time.Second, "then, the time over which the ends of sessions are spread")
	flag.DurationVar(&s.timeout, "timeout", 25*time.Second, "time from SIGTERM until the remaining sessions are cut; should be less than the container's grace period")
	flag.BoolVar(&s.atOnce, "at-once", false, "end all sessions at the same time, to see what -window changes")
	flag.BoolVar(&s.child, "child", false, "also exit when standard input is closed")
	flag.IntVar(&s.sessions, "sessions", 1000, "number of clients in the demonstration")
	flag.DurationVar(&s.delay, "delay", 250*time.Millisecond, "in the demonstration, clients wait a random part of this before they reconnect")
	flag.Parse()
	if flag.NArg() > 0 || s.grace < 0 || s.window <= 0 || s.timeout <= s.grace || s.sessions < 1 || s.delay < 0 {
		flag.Usage()
		os.Exit(2)
	}

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // a second signal doesn't wait
	run := demonstrate
	if s.upstream != "" {
		run = serve
	}
	if err := run(ctx, s); err != nil {
		fmt.Fprintln(os.Stderr, "shutdown:", err)
		os.Exit(1)
	}
}

func say(who, format string, args ...any) {
	fmt.Printf("%-9s %s\n", who, fmt.Sprintf(format, args...))
}
