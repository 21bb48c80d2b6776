// Command wsproxy is a reverse proxy for WebSockets only. It replaces an nginx
// that does nothing else. It is package [github.com/seed-ffb73231/wsproxy] as a
// program.
//
//	wsproxy http://127.0.0.1:9000
//	wsproxy --config wsproxy.toml
//	wsproxy check wsproxy.toml
//
// With --help it says more. On SIGHUP it reads its file again, and sessions
// continue. On SIGTERM it drains its sessions and exits.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"slices"
	"syscall"
)

func main() {
	os.Exit(run(os.Args[1:], os.Stdout, os.Stderr))
}

// Exit codes.
const (
	exitOK     = 0
	exitFailed = 1
	exitUsage  = 2 // the command line is wrong
)

// run is the program; it returns the exit code.
func run(args []string, stdout, stderr io.Writer) int {
	in, err := parseArgs(args, stdout)
	switch {
	case errors.Is(err, errDone):
		return exitOK
	case err != nil:
		fmt.Fprintf(stderr, "wsproxy: %v; see wsproxy --help\n", err)
		return exitUsage
	}
	sockets, err := inherited()
	if err != nil {
		fmt.Fprintf(stderr, "wsproxy: %v\n", err)
		return exitFailed
	}
	read := func() (*config, error) { return in.config(sockets) }
	c, err := read()
	switch {
	case err != nil && in.file == "":
		fmt.Fprintln(stderr, err)
		return exitUsage
	case err != nil:
		fmt.Fprintln(stderr, err)
		return exitFailed
	case in.check:
		c.summarize(stdout)
		return exitOK
	}

	level := new(slog.LevelVar)
	level.Set(c.level)
	options := &slog.HandlerOptions{Level: level}
	handler := slog.Handler(slog.NewTextHandler(stderr, options))
	if c.json {
		handler = slog.NewJSONHandler(stderr, options)
	}
	log := slog.New(handler)
	slog.SetDefault(log)

	hangups := make(chan os.Signal, 1)
	signal.Notify(hangups, syscall.SIGHUP)
	defer signal.Stop(hangups)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	g := newGateway(log, sockets)
	// Preparing a config may block on name servers; signals must not wait for
	// that.
	type result struct {
		*change
		err error
	}
	prepared := make(chan result, 1)
	prepare := func(read func() (*config, error)) {
		ch, err := g.prepare(read)
		prepared <- result{ch, err}
	}
	go prepare(func() (*config, error) { return c, nil })
	preparing, again := true, false
	for {
		select {
		case <-hangups:
			again = preparing // the file has changed once more
			if !preparing {
				preparing = true
				go prepare(read)
			}
		case r := <-prepared:
			first := g.config == nil
			if r.err == nil {
				r.err = g.commit(r.change)
			}
			switch {
			case r.err != nil && first:
				complain(log, "not started", r.err)
				return exitFailed
			case r.err != nil:
				complain(log, "not reloaded", r.err)
				g.tell("STATUS=serving; the file was not reloaded: see the log")
			case first:
				g.warnOfUnused()
				g.tell("READY=1", "STATUS=serving")
			default:
				level.Set(r.config.level)
				log.Info("reloaded", "routes", len(r.config.routes))
				g.tell("STATUS=serving; the file was reloaded")
			}
			if preparing = again; again {
				again = false
				go prepare(read)
			}
		case err := <-g.failed:
			complain(log, "stopped", err)
			return exitFailed
		case <-ctx.Done():
			stop() // a second signal ends the program at once
			if g.config == nil {
				log.Info("not started", "cause", context.Cause(ctx).Error())
				return exitOK
			}
			if err := g.shutdown(context.Background()); err != nil {
				complain(log, "shutdown failed", err)
				return exitFailed
			}
			return exitOK
		}
	}
}

// tell sends a message to systemd, if it wants any.
func (g *gateway) tell(lines ...string) {
	if err := notify(lines...); err != nil {
		g.log.Warn("systemd not notified", "error", err.Error())
	}
}

// warnOfUnused logs the sockets that systemd has passed but no address of the
// config uses. Clients that connect to them would wait forever.
func (g *gateway) warnOfUnused() {
	for _, s := range g.sockets {
		if !slices.ContainsFunc(g.config.listen, func(a address) bool { return a.network == "systemd" && s.is(a.text) }) {
			g.log.Warn("a socket of systemd is not used", "name", s.name, "descriptor", s.fd)
		}
	}
}

// complain logs an error, with one record for each mistake.
func complain(log *slog.Logger, what string, err error) {
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		for _, err := range joined.Unwrap() {
			complain(log, what, err)
		}
		return
	}
	log.Error(what, "error", err.Error())
}

// summarize prints what the config does.
func (c *config) summarize(w io.Writer) {
	for _, a := range c.listen {
		what := ""
		if a.admin {
			what = ", for the admin"
		}
		fmt.Fprintf(w, "listens on %v%s\n", a, what)
	}
	for _, r := range c.routes {
		switch {
		case r.source != nil:
			fmt.Fprintf(w, "%s: upstreams looked up every %v\n", r.pattern, r.every)
		default:
			fmt.Fprintf(w, "%s: %d upstreams\n", r.pattern, len(r.members))
		}
	}
}
