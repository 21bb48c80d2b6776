// Gateway is a reverse proxy for WebSockets only. It replaces an nginx that
// does nothing else. One file, gateway.toml, configures it.
//
//	gateway -config gateway.toml
//	gateway -config gateway.toml -check
//	gateway -listen :8080 -to http://10.0.0.1:9000 -to http://10.0.0.2:9000
//
// On SIGHUP it reads the file again, and sessions continue. On SIGTERM it
// drains its sessions and exits.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"strings"
	"syscall"
)

func main() {
	os.Exit(run(os.Args[1:], os.Stdout, os.Stderr))
}

// list is a flag that may be repeated.
type list []string

func (l *list) String() string     { return strings.Join(*l, " ") }
func (l *list) Set(v string) error { *l = append(*l, v); return nil }

// run is the program; it returns the exit code.
func run(args []string, stdout, stderr io.Writer) int {
	var listen, to list
	flags := flag.NewFlagSet("gateway", flag.ContinueOnError)
	flags.SetOutput(stderr)
	file := flags.String("config", "", "configuration `file`")
	check := flags.Bool("check", false, "check the configuration and exit")
	flags.Var(&listen, "listen", "without a file: `address` to listen on; may be repeated")
	flags.Var(&to, "to", "without a file: `URL` of an upstream; may be repeated")
	path := flags.String("path", "/", "without a file: `path` to proxy; / is every path")
	switch err := flags.Parse(args); {
	case errors.Is(err, flag.ErrHelp):
		return 0
	case err != nil:
		return 2
	case flags.NArg() > 0, (*file == "") == (len(to) == 0), *file != "" && len(listen) > 0:
		fmt.Fprintln(stderr, "gateway: use either -config, or -listen and -to")
		flags.Usage()
		return 2
	}
	read := func() (*config, error) {
		if *file == "" {
			return fromFlags(listen, to, *path)
		}
		return load(*file)
	}
	c, err := read()
	if err != nil {
		fmt.Fprintln(stderr, err)
		return 1
	}
	if *check {
		c.summarize(stdout)
		return 0
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
	g := newGateway(log)
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
				complain(log, "gateway: not started", r.err)
				return 1
			case r.err != nil:
				complain(log, "gateway: not reloaded", r.err)
			case !first:
				level.Set(r.config.level)
				log.Info("gateway: reloaded", "routes", len(r.config.routes))
			}
			if preparing = again; again {
				again = false
				go prepare(read)
			}
		case err := <-g.failed:
			complain(log, "gateway: stopped", err)
			return 1
		case <-ctx.Done():
			stop() // a second signal ends the program at once
			if g.config == nil {
				log.Info("gateway: not started", "cause", context.Cause(ctx).Error())
				return 0
			}
			if err := g.shutdown(context.Background()); err != nil {
				complain(log, "gateway: shutdown failed", err)
				return 1
			}
			return 0
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
