package main

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"slices"
	"syscall"
)

// open opens the addresses that the config has and the gateway hasn't: all, or
// none and an error.
func (g *gateway) open(c *config) (map[address]net.Listener, error) {
	opened := make(map[address]net.Listener)
	var errs []error
	for _, a := range c.listen {
		if g.listeners[a] != nil {
			continue
		}
		ln, err := listen(a)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		opened[a] = ln
	}
	if len(errs) > 0 {
		for _, ln := range opened {
			ln.Close()
		}
		return nil, errors.Join(errs...)
	}
	return opened, nil
}

// listen listens. A unix socket that a process has left behind, which nobody
// answers at, is no obstacle.
func listen(a address) (net.Listener, error) {
	ln, err := net.Listen(a.network, a.text)
	if a.network == "unix" && errors.Is(err, syscall.EADDRINUSE) {
		conn, dialErr := net.Dial("unix", a.text)
		if dialErr == nil {
			conn.Close()
		} else if errors.Is(dialErr, syscall.ECONNREFUSED) && os.Remove(a.text) == nil {
			ln, err = net.Listen(a.network, a.text)
		}
	}
	return ln, err
}

// serve serves a listener until it is closed.
func (g *gateway) serve(a address, ln net.Listener) {
	server, what := g.public, "public"
	switch {
	case a.admin:
		server, what = g.private, "admin"
	case a.tls:
		what = "public, TLS"
	}
	g.log.Info("gateway: listening", "address", ln.Addr().String(), "for", what)
	go func() {
		var err error
		if a.tls {
			err = server.ServeTLS(ln, "", "")
		} else {
			err = server.Serve(ln)
		}
		if errors.Is(err, http.ErrServerClosed) || errors.Is(err, net.ErrClosed) {
			return
		}
		select {
		case g.failed <- fmt.Errorf("%v: %w", a, err):
		default: // another one has failed, too
		}
	}()
}

// closeOthers closes the listeners that the config hasn't any more. What has
// come in through them goes on.
func (g *gateway) closeOthers(c *config) {
	for a, ln := range g.listeners {
		if !slices.Contains(c.listen, a) {
			g.log.Info("gateway: no longer listening", "address", ln.Addr().String())
			ln.Close()
			delete(g.listeners, a)
		}
	}
}
