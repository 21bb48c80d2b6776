package wsproxy

import (
	"errors"
	"net"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/net/idna"
)

// This file parses and normalizes targets, hosts and ports.

// redactTarget reduces an invalid target to what an error may show: no user,
// password or query. A password that should have been escaped may contain a
// question mark, a slash or a number sign.
func redactTarget(target string) string {
	if i := strings.LastIndexByte(target, '@'); i >= 0 && !strings.HasPrefix(target, "unix:") {
		scheme, _, _ := strings.Cut(target, ":")
		target = scheme + "://…@" + target[i+1:]
	}
	if i := strings.IndexAny(target, "?#"); i >= 0 {
		target = target[:i]
	}
	return target
}

// parseTarget returns a target in the form in which targets are compared (RFC
// 3986, 6.2.2 and 6.2.3): ws and wss become http and https, the host is in
// lower case and in A-labels, and the scheme's default port and a path of "/"
// are omitted. "" and "/" are joined to a request's path alike. A unix socket
// becomes a URL with the scheme "unix" and the socket's path as its host.
func parseTarget(target string) (*url.URL, error) {
	if path, ok := strings.CutPrefix(target, "unix:"); ok {
		// unix:/run/app.sock, unix:///run/app.sock, unix:app.sock, unix:@abstract
		path = strings.TrimPrefix(path, "//")
		if path == "" {
			return nil, errors.New("unix socket without a path")
		}
		return &url.URL{Scheme: "unix", Host: path}, nil
	}
	u, err := url.Parse(target)
	if err != nil {
		// The parser's own error quotes the target, or parts of it that may
		// belong to a password.
		return nil, errors.New("not a URL")
	}
	switch u.Scheme {
	case "ws":
		u.Scheme = "http"
	case "wss":
		u.Scheme = "https"
	case "http", "https":
	case "":
		return nil, errors.New("no scheme; want http, https, ws, wss or unix")
	default:
		return nil, errors.New("unknown scheme; want http, https, ws, wss or unix")
	}
	switch {
	case u.Hostname() == "":
		return nil, errors.New("no host")
	case u.User != nil:
		return nil, errors.New("contains a user; set Authorization in WithRewrite instead")
	case u.Fragment != "":
		return nil, errors.New("contains a fragment")
	}
	if u.Host, err = normalHost(u.Scheme, u.Host); err != nil {
		return nil, err
	}
	if u.Path == "/" {
		u.Path, u.RawPath = "", ""
	}
	return u, nil
}

// targetHost returns the default Host of a request to u.
func targetHost(u *url.URL) string {
	if u.Scheme == "unix" {
		return "localhost"
	}
	return u.Host
}

// normalPath returns an escaped path in the form in which members are compared
// (RFC 3986, 6.2.2.1 and 6.2.2.2): only bytes that need it are escaped, with
// upper-case digits. The path that is sent to the upstream is the one that was
// given.
func normalPath(path string) string {
	var b strings.Builder
	for {
		plain, rest, ok := strings.Cut(path, "%")
		b.WriteString(plain)
		if !ok {
			return b.String()
		}
		c, err := strconv.ParseUint(rest[:min(2, len(rest))], 16, 8)
		switch r := rune(c); {
		case err == nil && ('a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || strings.ContainsRune("-._~", r)):
			b.WriteRune(r)
			rest = rest[2:]
		case err == nil:
			b.WriteString("%" + strings.ToUpper(rest[:2]))
			rest = rest[2:]
		default:
			b.WriteByte('%')
		}
		path = rest
	}
}

// normalHost returns a URL's host, with an optional port, in normal form.
func normalHost(scheme, host string) (string, error) {
	name, port, err := readHost(host)
	if err != nil {
		return "", err
	}
	if port == defaultPort(scheme) {
		port = ""
	}
	return joinHost(name, port), nil
}

// normalAddress returns a Member's Address in normal form. The port may be the
// name of a service.
func normalAddress(address string) (string, error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil || host == "" || port == "" {
		return "", errors.New("address is not host:port")
	}
	n, err := net.LookupPort("tcp", port) // reads a file at most
	if err != nil || n == 0 {
		return "", errBadPort
	}
	name, _, err := readHost(joinHost(host, ""))
	if err != nil {
		return "", err
	}
	return net.JoinHostPort(name, strconv.Itoa(n)), nil
}

var (
	errBadHost = errors.New("not a host name or an IP address")
	errBadPort = errors.New("port is not from 1 to 65535")
)

// longestName exceeds the length of any host name (RFC 1035, 2.3.4: 255).
const longestName = 255

// readHost splits "host[:port]" and normalizes both: a name in lower case and
// in A-labels (RFC 5890, 2.3.2.1), an IPv6 address without its brackets, a port
// without leading zeros. An empty port is ignored.
func readHost(s string) (name, port string, err error) {
	name = s
	if i := strings.LastIndexByte(s, ':'); i > strings.LastIndexByte(s, ']') {
		name, port = s[:i], s[i+1:]
	}
	switch {
	case strings.HasPrefix(name, "[") && strings.HasSuffix(name, "]"):
		a, err := netip.ParseAddr(name[1 : len(name)-1])
		if err != nil || !a.Is6() {
			return "", "", errors.New("invalid IPv6 address in brackets")
		}
		name = a.String()
	case strings.Contains(name, ":"):
		return "", "", errors.New("IPv6 address must be in brackets")
	default:
		// Limit the length before the conversion, which takes quadratic time.
		beyond := func(r rune) bool { return r > unicode.MaxASCII }
		if strings.ContainsFunc(name, beyond) && len(name) <= 4*longestName {
			if name, err = idna.Lookup.ToASCII(name); err != nil {
				return "", "", errBadHost
			}
		}
		if name == "" || len(name) > longestName || strings.ContainsFunc(name, func(r rune) bool { return !inName(r) }) {
			return "", "", errBadHost
		}
		name = strings.ToLower(name)
	}
	if port != "" {
		n, err := strconv.ParseUint(port, 10, 16)
		if err != nil || n == 0 {
			return "", "", errBadPort
		}
		port = strconv.FormatUint(n, 10)
	}
	return name, port, nil
}

// inName reports whether a host name may contain the character, by RFC 3986,
// 3.2.2 without escapes, which name servers do not support.
func inName(r rune) bool {
	return 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || r < utf8.RuneSelf && strings.ContainsRune("-._~!$&'()*+,;=", r)
}

// joinHost is the inverse of readHost.
func joinHost(name, port string) string {
	if strings.Contains(name, ":") {
		name = "[" + name + "]"
	}
	if port != "" {
		name += ":" + port
	}
	return name
}

// defaultPort returns the scheme's default port, or "" if it has none.
func defaultPort(scheme string) string {
	switch scheme {
	case "http", "ws":
		return "80"
	case "https", "wss":
		return "443"
	}
	return ""
}
