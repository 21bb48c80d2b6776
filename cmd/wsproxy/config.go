package main

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"time"

	"github.com/seed-ffb73231/wsproxy"
)

// A config is a configuration that has been checked as far as is possible
// without using it.
type config struct {
	listen       []address
	adminHosts   []string              // host names that the admin server answers to
	console      string                // who may use the admin's console: local, all or off
	certificates *wsproxy.Certificates // of the listeners with TLS; nil: selfSigned
	selfSigned   bool                  // the listeners with TLS show a certificate that is made at run time

	drainWindow     time.Duration
	shutdownDelay   time.Duration
	shutdownTimeout time.Duration

	json  bool // log format
	level slog.Level

	routes []*route
}

// An address is an address to listen on.
type address struct {
	network, text string // "tcp" or "unix", and what net.Listen takes; or "systemd", and a socket's name
	tls, admin    bool
}

func (a address) String() string {
	text := a.text
	if a.network != "tcp" {
		text = a.network + ":" + text
	}
	if a.tls {
		text = "tls:" + text
	}
	return text
}

// overlaps reports whether two addresses are the same, or cannot be listened on
// at the same time. Host names are not looked up.
func (a address) overlaps(b address) bool {
	if a.network != b.network {
		return false
	}
	switch a.network {
	case "unix":
		return filepath.Clean(a.text) == filepath.Clean(b.text)
	case "systemd":
		return a.text == b.text
	}
	hostA, portA := a.hostPort()
	hostB, portB := b.hostPort()
	if portA != portB || portA == 0 { // port 0 is a new port each time
		return false
	}
	// Other systems allow listening on one address and on all of them.
	all := runtime.GOOS == "linux" && (hostA == "" || hostB == "")
	return hostA == hostB || all
}

// hostPort returns host and port in a canonical form. The host is "" for all
// addresses.
func (a address) hostPort() (host string, port int) {
	host, text, _ := net.SplitHostPort(a.text) // checked before
	port, _ = net.LookupPort("tcp", text)      // the same
	if ip, err := netip.ParseAddr(host); err == nil {
		if host = ip.Unmap().String(); ip.IsUnspecified() {
			host = ""
		}
	}
	return strings.ToLower(host), port
}

// tlsHosts returns the hosts of the addresses with TLS.
func (c *config) tlsHosts() (hosts []string) {
	for _, a := range c.listen {
		if a.tls && a.network == "tcp" {
			host, _ := a.hostPort()
			hosts = append(hosts, host)
		}
	}
	return hosts
}

// load reads a config from a file. The error contains all mistakes in the file.
func load(name string) (*config, error) {
	text, err := os.ReadFile(name)
	if err != nil {
		return nil, fmt.Errorf("wsproxy: %w", err)
	}
	doc, root := parse(name, text)
	if root == nil {
		return nil, doc.err()
	}
	return read(root)
}

// read reads the document's root table.
func read(t *table) (*config, error) {
	c := &config{
		drainWindow:     t.duration("drain_window", 20*time.Second),
		shutdownDelay:   t.duration("shutdown_delay", 0),
		shutdownTimeout: t.duration("shutdown_timeout", 30*time.Second),
	}
	switch {
	case c.shutdownTimeout <= 0:
		t.mistake("shutdown_timeout", "must be positive")
	case c.drainWindow >= c.shutdownTimeout:
		t.mistake("drain_window", "%v is not less than shutdown_timeout (%v)", c.drainWindow, c.shutdownTimeout)
	}
	if c.shutdownDelay < 0 {
		t.mistake("shutdown_delay", "negative")
	}
	c.readLog(t)
	for i, text := range t.texts("listen") {
		c.readAddress(t, fmt.Sprintf("listen[%d]", i), text, address{})
	}
	if tls := t.table("tls"); tls != nil {
		c.readTLS(tls)
	}
	if len(t.texts("listen")) == 0 && !t.has("tls") {
		t.mistake("listen", "no listen address")
	}
	if text, ok := get[string](t, "admin"); ok {
		c.readAddress(t, "admin", text, address{admin: true})
		if host, _, err := net.SplitHostPort(text); err == nil && host != "" {
			c.adminHosts = append(c.adminHosts, strings.ToLower(host))
		}
	}
	for _, host := range t.texts("admin_hosts") {
		c.adminHosts = append(c.adminHosts, strings.ToLower(strings.TrimSuffix(host, ".")))
	}
	switch c.console = cmp.Or(t.text("console"), "local"); c.console {
	case "local", "all", "off":
	default:
		t.mistake("console", `%q is none of "local", "all", "off"`, c.console)
	}
	for _, key := range []string{"admin_hosts", "console"} {
		if t.has(key) && !t.has("admin") {
			t.mistake(key, "set without admin")
		}
	}
	c.readRoutes(t)
	t.end()
	return c, t.doc.err()
}

func (c *config) readLog(t *table) {
	switch format := t.text("log"); format {
	case "", "text":
	case "json":
		c.json = true
	default:
		t.mistake("log", `%q is neither "text" nor "json"`, format)
	}
	if level, ok := get[string](t, "log_level"); ok {
		if err := c.level.UnmarshalText([]byte(level)); err != nil {
			t.mistake("log_level", `%q is none of "debug", "info", "warn", "error"`, level)
		}
	}
}

// readAddress reads an address to listen on. It completes a, which says what the
// address is for.
func (c *config) readAddress(t *table, key, text string, a address) {
	a.network, a.text = "tcp", text
	if path, ok := strings.CutPrefix(text, "unix:"); ok {
		a.network, a.text = "unix", path
		if path == "" {
			t.mistake(key, "a unix socket without a path")
			return
		}
	} else if name, ok := strings.CutPrefix(text, "systemd:"); ok {
		a.network, a.text = "systemd", name
		if name == "" {
			t.mistake(key, "a socket of systemd without a name")
			return
		}
	} else if _, port, err := net.SplitHostPort(text); err != nil || port == "" {
		t.mistake(key, "%q is none of host:port, unix:/path, systemd:name", text)
		return
	} else if _, err := net.LookupPort("tcp", port); err != nil {
		t.mistake(key, "%q: unknown port %q", text, port)
		return
	}
	for _, b := range c.listen {
		switch {
		case a == b || a.overlaps(b) && a.text == b.text:
			t.mistake(key, "%q is listed twice", text)
			return
		case a.overlaps(b):
			t.mistake(key, "%q is already used by %q", text, b.String())
			return
		}
	}
	c.listen = append(c.listen, a)
}

// readTLS reads the addresses to listen on with TLS, and the certificates.
func (c *config) readTLS(t *table) {
	for i, text := range t.texts("listen") {
		c.readAddress(t, fmt.Sprintf("listen[%d]", i), text, address{tls: true})
	}
	if len(t.texts("listen")) == 0 {
		t.mistake("listen", "no listen address")
	}
	if c.selfSigned = t.flag("self_signed"); c.selfSigned && t.has("certificates") {
		t.mistake("self_signed", "cannot be combined with certificates")
	}
	var pairs []wsproxy.CertificateFiles
	for _, pair := range t.tables("certificates") {
		files := wsproxy.CertificateFiles{Cert: t.doc.file(pair.text("cert")), Key: t.doc.file(pair.text("key"))}
		pair.end()
		switch {
		case pair.text("cert") == "":
			pair.mistake("cert", "no file")
		case pair.text("key") == "":
			pair.mistake("key", "no file")
		default:
			if _, err := wsproxy.LoadCertificates(files); err != nil {
				pair.mistake("cert", "%s", strings.TrimPrefix(err.Error(), "wsproxy: "))
				continue
			}
			pairs = append(pairs, files)
		}
	}
	if len(t.tables("certificates")) == 0 && !c.selfSigned {
		t.mistake("certificates", "no certificate")
	}
	t.end()
	if len(t.doc.mistakes) > 0 || c.selfSigned {
		return
	}
	var err error
	if c.certificates, err = wsproxy.LoadCertificates(pairs...); err != nil { // one has changed since
		t.mistake("certificates", "%v", err)
	}
}

// readRoutes reads the routes. [wsproxy.New] checks each.
func (c *config) readRoutes(t *table) {
	tables := t.tables("route")
	if len(tables) == 0 {
		t.mistake("route", "no routes")
	}
	mux := http.NewServeMux()
	for _, at := range tables {
		r := readRoute(at, c)
		c.routes = append(c.routes, r)
		if err := tryPattern(mux, r.pattern); err != nil {
			at.mistake("path", "%v", err)
		}
		r.check()
	}
}

// conflict matches the mux's panic about two conflicting patterns.
var conflict = regexp.MustCompile(`conflicts with pattern ("[^"]*")`)

// tryPattern registers a pattern with the mux and returns what the mux panics
// with if the pattern is invalid.
func tryPattern(mux *http.ServeMux, pattern string) (err error) {
	if pattern == "" {
		return errors.New("no path")
	}
	if strings.ContainsAny(pattern, " \t") {
		return fmt.Errorf("%q has a method; all WebSockets are opened with GET", pattern)
	}
	defer func() {
		if v := recover(); v != nil {
			text := fmt.Sprint(v)
			if other := conflict.FindStringSubmatch(text); other != nil {
				text = fmt.Sprintf("%q matches what the route %s does, too", pattern, other[1])
			}
			err = errors.New(text)
		}
	}()
	mux.Handle(pattern, http.NotFoundHandler())
	return nil
}
