package main

import (
	"cmp"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"time"
)

// This file implements two protocols of systemd: socket activation
// (sd_listen_fds) and notifications (sd_notify). Both use environment variables,
// and other service managers implement them, too.

// A socket is a listening socket that systemd has opened and passed.
type socket struct {
	name string // FileDescriptorName in the .socket file
	fd   int
	file *os.File
}

// is reports whether the address systemd:text refers to the socket, by its name
// or its descriptor.
func (s socket) is(text string) bool { return text == s.name || text == strconv.Itoa(s.fd) }

// firstSocket is the descriptor of the first socket.
const firstSocket = 3

// inherited returns the sockets that systemd has passed. It must be called only
// once.
func inherited() ([]socket, error) {
	pid, count, names := os.Getenv("LISTEN_PID"), os.Getenv("LISTEN_FDS"), os.Getenv("LISTEN_FDNAMES")
	for _, key := range []string{"LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"} {
		os.Unsetenv(key) // child processes must not use them
	}
	if pid != strconv.Itoa(os.Getpid()) { // unset, or meant for another process
		return nil, nil
	}
	n, err := strconv.Atoi(count)
	if err != nil || n < 0 {
		return nil, fmt.Errorf("LISTEN_FDS: %q is not a number of sockets", count)
	}
	var sockets []socket
	for i, name := range append(strings.Split(names, ":"), make([]string, n)...)[:n] {
		s := socket{name: cmp.Or(name, "unknown"), fd: firstSocket + i}
		s.file = os.NewFile(uintptr(s.fd), s.name)
		sockets = append(sockets, s)
	}
	return sockets, nil
}

// accept returns a listener for the socket with the name or descriptor. Closing
// the listener leaves the socket open, so that a later config can use it again.
func accept(sockets []socket, name string) (net.Listener, error) {
	var found *socket
	var all []string
	for _, s := range sockets {
		all = append(all, s.name)
		if !s.is(name) {
			continue
		}
		if found != nil {
			return nil, fmt.Errorf("systemd has passed several sockets named %q; use their numbers, %d and %d", name, found.fd, s.fd)
		}
		found = &s
	}
	switch {
	case len(sockets) == 0:
		return nil, fmt.Errorf("systemd has passed no sockets; is the .socket unit started?")
	case found == nil:
		return nil, fmt.Errorf("systemd has passed no socket named %q, but %s", name, strings.Join(all, ", "))
	}
	ln, err := net.FileListener(found.file)
	if err != nil {
		return nil, fmt.Errorf("systemd's socket %q: %w", name, err)
	}
	return ln, nil
}

// notify sends a message to systemd. Without NOTIFY_SOCKET it does nothing.
func notify(lines ...string) error {
	path := os.Getenv("NOTIFY_SOCKET")
	if path == "" {
		return nil
	}
	conn, err := net.Dial("unixgram", path) // a path that begins with @ is an abstract socket
	if err != nil {
		return err
	}
	defer conn.Close()
	_, err = conn.Write([]byte(strings.Join(lines, "\n")))
	return err
}

// stopping returns the message that the program is stopping, which takes at most
// d.
func stopping(d time.Duration) []string {
	return []string{"STOPPING=1", fmt.Sprint("EXTEND_TIMEOUT_USEC=", d.Microseconds())}
}
