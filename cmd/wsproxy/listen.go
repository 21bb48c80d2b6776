package main

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"slices"
	"sync"
	"syscall"

	"github.com/seed-ffb73231/wsproxy"
)

// listeners describes how a change affects the gateway's listeners.
type listeners struct {
	opened  map[address]net.Listener
	moved   map[address]address // the new address is an old one, for another purpose
	blocked []address           // in use by a listener of ours that is to be closed
}

// open opens the addresses that are new in the config. It opens all of them, or
// none and returns an error.
func (g *gateway) open(c *config) (*listeners, error) {
	l := &listeners{make(map[address]net.Listener), make(map[address]address), nil}
	gone := make(map[address]bool)
	for a := range g.listeners {
		gone[a] = !slices.Contains(c.listen, a)
	}
	var errs []error
	for _, a := range c.listen {
		if g.listeners[a] != nil {
			continue
		}
		var old *address
		for b := range gone {
			if gone[b] && a.network == b.network && a.text == b.text {
				old = &b
				break
			}
		}
		var err error
		if old != nil {
			l.opened[a], err = again(g.listeners[*old])
			l.moved[a], gone[*old] = *old, false
		} else {
			l.opened[a], err = g.listen(a)
		}
		if err != nil {
			delete(l.opened, a)
			if errors.Is(err, syscall.EADDRINUSE) && slices.ContainsFunc(g.inTheWay(a, c), func(b address) bool { return gone[b] }) {
				l.blocked = append(l.blocked, a)
				continue
			}
			errs = append(errs, err)
		}
	}
	if len(errs) > 0 {
		l.close()
		return nil, errors.Join(errs...)
	}
	return l, nil
}

// inTheWay returns the addresses that the gateway listens on, that are not in
// the config, and that keep a from being opened.
func (g *gateway) inTheWay(a address, c *config) (in []address) {
	for b := range g.listeners {
		if a.overlaps(b) && !slices.Contains(c.listen, b) {
			in = append(in, b)
		}
	}
	return in
}

// unblock closes the listeners that block addresses, and opens those addresses.
// After an error, it opens the closed ones again.
func (g *gateway) unblock(l *listeners, c *config) error {
	var closed []address
	for _, a := range l.blocked {
		for _, b := range g.inTheWay(a, c) {
			g.listeners[b].Close()
			delete(g.listeners, b)
			closed = append(closed, b)
		}
		ln, err := g.listen(a)
		if err != nil {
			l.close()
			for _, b := range closed {
				ln, errAgain := g.listen(b)
				if errAgain != nil {
					err = errors.Join(err, errAgain)
					continue
				}
				g.listeners[b] = ln
				g.serve(b, ln)
			}
			return err
		}
		l.opened[a] = ln
	}
	return nil
}

// takeOver starts the new listeners and closes those that are not in the
// config. Connections that they have accepted continue.
func (g *gateway) takeOver(l *listeners, c *config) {
	for a, old := range l.moved {
		if of, ok := g.listeners[old].(*unixListener); ok {
			to := l.opened[a].(*unixListener)
			of.owns, to.owns = false, true
		}
		g.listeners[old].Close() // the socket stays: it has another listener
		delete(g.listeners, old)
	}
	for a, ln := range l.opened {
		g.listeners[a] = ln
		g.serve(a, ln)
	}
	for a, ln := range g.listeners {
		if !slices.Contains(c.listen, a) {
			g.log.Info("no longer listening", "address", ln.Addr().String())
			ln.Close()
			delete(g.listeners, a)
		}
	}
}

// close closes the new listeners of a change that is not used.
func (l *listeners) close() {
	for _, ln := range l.opened {
		ln.Close()
	}
}

// listen opens a listener, or takes one that systemd has opened.
func (g *gateway) listen(a address) (net.Listener, error) {
	if a.network == "systemd" {
		return accept(g.sockets, a.text)
	}
	return listen(a)
}

// listen opens a listener. It removes a unix socket that a dead process has
// left behind.
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
	if u, ok := ln.(*net.UnixListener); ok {
		u.SetUnlinkOnClose(false)
		own := &unixListener{UnixListener: u, path: a.text, owns: true}
		own.file, _ = os.Lstat(a.text) // an abstract socket has none
		return own, nil
	}
	return ln, err
}

// again returns another listener on the same socket. Closing it does not affect
// the first one.
func again(ln net.Listener) (net.Listener, error) {
	f, err := ln.(interface{ File() (*os.File, error) }).File()
	if err != nil {
		return nil, err
	}
	defer f.Close() // the listener has a descriptor of its own
	other, err := net.FileListener(f)
	if err != nil {
		return nil, err
	}
	if u, ok := ln.(*unixListener); ok {
		return &unixListener{UnixListener: other.(*net.UnixListener), path: u.path, file: u.file}, nil
	}
	return other, nil
}

// A unixListener removes its path when it is closed, but only if the path is
// still its own socket: another process may listen there by then.
type unixListener struct {
	*net.UnixListener
	path string
	file os.FileInfo
	owns bool // the path; otherwise another listener on the same socket does
	once sync.Once
}

func (u *unixListener) Close() error {
	u.once.Do(func() {
		// While the socket is open, no other file can have its inode number.
		if now, err := os.Lstat(u.path); u.owns && err == nil && u.file != nil && os.SameFile(now, u.file) {
			os.Remove(u.path)
		}
	})
	return u.UnixListener.Close()
}

// serve serves on a listener until it is closed.
func (g *gateway) serve(a address, ln net.Listener) {
	server, what := g.public, "public"
	switch {
	case a.admin:
		server, what = g.private, "admin"
	case a.tls:
		what = "public, TLS"
	}
	g.log.Info("listening", "address", ln.Addr().String(), "for", what)
	go func() {
		var err error
		if a.tls {
			err = server.ServeTLS(wsproxy.NewListener(ln), "", "")
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
