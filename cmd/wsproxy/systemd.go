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

// In this file is what systemd and its services tell each other: sockets that
// it has opened (sd_listen_fds), and messages to it (sd_notify). Both are done
// by environment variables, so that other service managers can do the same.

// A socket is one that systemd has opened, for us to accept from.
type socket struct {
	name string // FileDescriptorName in the .socket file
	fd   int
	file *os.File
}

// is reports whether an address that begins with systemd: and goes on with text
// means the socket.
func (s socket) is(text string) bool { return text == s.name || text == strconv.Itoa(s.fd) }

// firstSocket is the descriptor of the first socket.
const firstSocket = 3

// inherited returns the sockets that systemd has passed. It may be called once.
func inherited() ([]socket, error) {
	pid, count, names := os.Getenv("LISTEN_PID"), os.Getenv("LISTEN_FDS"), os.Getenv("LISTEN_FDNAMES")
	for _, key := range []string{"LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"} {
		os.Unsetenv(key) // it is not for the processes that we start
	}
	if pid != strconv.Itoa(os.Getpid()) { // for another process, or nobody
		return nil, nil
	}
	n, err := strconv.Atoi(count)
	if err != nil || n < 0 {
		return nil, fmt.Errorf("LISTEN_FDS: %q is no number of sockets", count)
	}
	var sockets []socket
	for i, name := range append(strings.Split(names, ":"), make([]string, n)...)[:n] {
		s := socket{name: cmp.Or(name, "unknown"), fd: firstSocket + i}
		s.file = os.NewFile(uintptr(s.fd), s.name)
		sockets = append(sockets, s)
	}
	return sockets, nil
}

// accept returns a listener on the socket with a name, or with the number of
// its descriptor. The socket stays open when the listener is closed, for a
// later config to use it again.
func accept(sockets []socket, name string) (net.Listener, error) {
	var found *socket
	var all []string
	for _, s := range sockets {
		all = append(all, s.name)
		if !s.is(name) {
			continue
		}
		if found != nil {
			return nil, fmt.Errorf("systemd has passed several sockets named %q: name them %d and %d", name, found.fd, s.fd)
		}
		found = &s
	}
	switch {
	case len(sockets) == 0:
		return nil, fmt.Errorf("systemd has passed no socket: is it started by its .socket unit?")
	case found == nil:
		return nil, fmt.Errorf("systemd has passed no socket named %q, but %s", name, strings.Join(all, ", "))
	}
	ln, err := net.FileListener(found.file)
	if err != nil {
		return nil, fmt.Errorf("systemd's socket %q: %w", name, err)
	}
	return ln, nil
}

// notify sends systemd a message; it does nothing if systemd wants none.
func notify(lines ...string) error {
	path := os.Getenv("NOTIFY_SOCKET")
	if path == "" {
		return nil
	}
	conn, err := net.Dial("unixgram", path) // which takes @ for an abstract one
	if err != nil {
		return err
	}
	defer conn.Close()
	_, err = conn.Write([]byte(strings.Join(lines, "\n")))
	return err
}

// stopping is the message that says that we stop, and how long that may take.
func stopping(d time.Duration) []string {
	return []string{"STOPPING=1", fmt.Sprint("EXTEND_TIMEOUT_USEC=", d.Microseconds())}
}
