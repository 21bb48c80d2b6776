package wsproxy

import (
	"crypto/rand"
	"crypto/sha1"
	"encoding/base64"
	"errors"
	"iter"
	"net/http"
	"slices"
	"strings"

	"golang.org/x/net/http/httpguts"

	"github.com/seed-ffb73231/wsproxy/internal/message"
)

// This file handles the fields that both sides' handshakes have: the key, what the
// request offers, and what the answer selects. The proxy forwards normalized lists
// of subprotocols and extensions: each element once, separated by a comma and a
// space.

// maxListed limits the elements of a list in a handshake: subprotocols, or
// extensions together with their parameters. Each costs more memory and time
// than its bytes do.
const maxListed = 256

// Limits for the header of both sides' handshakes. A line of a few bytes takes over
// a hundred bytes of memory, so limiting the bytes alone is not enough.
const (
	maxHandshakeHeader = 64 << 10 // bytes
	maxFields          = 256      // lines
)

var (
	errMalformed = errors.New("malformed")
	errLong      = errors.New("too many elements")
)

// An offer is what a handshake asks for. The client's offer is parsed from its
// request before any hook sees the request, and never changes: the answer is
// for its key, and selects only subprotocols and extensions that it contains.
type offer struct {
	key        string // as received
	protocols  []string
	extensions []extension

	// compression is set in offers to an upstream whose compression the proxy
	// negotiates itself.
	compression *message.Compression

	// from is the client's request, for its Host, address and TLS state: user code
	// sees only copies of it. It is nil in offers that the proxy sends.
	from *http.Request
}

// An extension is an element of Sec-WebSocket-Extensions (RFC 6455, 9.1).
type extension struct {
	name string // in lower case
	text string // including parameters
}

// parseProtocols returns the subprotocols in the field's values, without empty
// elements and duplicates (RFC 9110, 5.6.1.2).
func parseProtocols(values []string) (list []string, err error) {
	n := 0
	for t := range elements(values) {
		if n++; n > maxListed {
			return nil, errLong
		}
		if !isProtocol(t) {
			return nil, errMalformed
		}
		if !slices.Contains(list, t) {
			list = append(list, t)
		}
	}
	return list, nil
}

// elements yields the elements of a list field, without empty ones (RFC 9110,
// 5.6.1.2).
func elements(values []string) iter.Seq[string] {
	return func(yield func(string) bool) {
		for _, v := range values {
			for element := range strings.SplitSeq(v, ",") {
				if element = strings.Trim(element, " \t"); element != "" && !yield(element) {
					return
				}
			}
		}
	}
}

// isProtocol reports whether every implementation reads an element as one
// subprotocol. RFC 6455, 4.1 requires a token; clients that send credentials
// also use the rest of base64's alphabet and similar characters. An element
// that could be read as two elements, a quoted string, a comment or a parameter
// is invalid.
func isProtocol(s string) bool {
	for i := range len(s) {
		if c := s[i]; c <= ' ' || c >= 0x7F || strings.IndexByte(`"(),;\`, c) >= 0 {
			return false
		}
	}
	return s != ""
}

// parseExtensions returns the extensions in the field's values, without empty
// elements and empty parameters. An extension may occur several times with
// different parameters, of which the upstream selects one (RFC 7692, 5).
func parseExtensions(values []string) (list []extension, err error) {
	n := 0
	var buf [128]byte
	for _, v := range values {
		for {
			if v = strings.TrimLeft(v, " \t,"); v == "" {
				break
			}
			name, rest, ok := cutToken(v)
			if !ok {
				return nil, errMalformed
			}
			n++
			text := append(buf[:0], name...)
			for strings.HasPrefix(rest, ";") && n <= maxListed {
				rest = strings.TrimLeft(rest[1:], " \t")
				if rest == "" || rest[0] == ';' || rest[0] == ',' {
					continue // nothing follows the semicolon
				}
				var parameter, value string
				if parameter, value, rest, ok = cutParameter(rest); !ok {
					return nil, errMalformed
				}
				n++
				text = append(append(append(text, "; "...), parameter...), value...)
			}
			switch {
			case n > maxListed:
				return nil, errLong
			case rest != "" && rest[0] != ',':
				return nil, errMalformed
			}
			as := v[:len(v)-len(rest)]
			if as != string(text) { // it was not in normal form
				as = string(text)
			}
			list = append(list, extension{strings.ToLower(name), as})
			v = rest
		}
	}
	return list, nil
}

// cutParameter cuts s after the parameter that it starts with, and the white
// space around that. value begins with the equals sign, if there is one. A
// value may be quoted, but must still be a token (RFC 6455, 9.1), so that a
// parser that does not support quoting sees the same commas and semicolons.
func cutParameter(s string) (name, value, rest string, ok bool) {
	name, rest, ok = cutToken(s)
	if !ok || !strings.HasPrefix(rest, "=") {
		return name, "", rest, ok
	}
	rest = strings.TrimLeft(rest[1:], " \t")
	if strings.HasPrefix(rest, `"`) {
		quoted, tail, found := strings.Cut(rest[1:], `"`)
		ok = found && httpguts.ValidHeaderFieldName(quoted) // a token
		return name, `="` + quoted + `"`, strings.TrimLeft(tail, " \t"), ok
	}
	value, rest, ok = cutToken(rest)
	return name, "=" + value, rest, ok
}

// cutToken cuts s after the token that it starts with, and the white space
// around that.
func cutToken(s string) (token, rest string, ok bool) {
	s = strings.TrimLeft(s, " \t")
	n := 0
	for n < len(s) && httpguts.IsTokenRune(rune(s[n])) {
		n++
	}
	return s[:n], strings.TrimLeft(s[n:], " \t"), n > 0
}

// joinExtensions returns the list in the form in which it is forwarded.
func joinExtensions(list []extension) string {
	switch len(list) {
	case 0:
		return ""
	case 1:
		return list[0].text
	}
	texts := make([]string, len(list))
	for i, e := range list {
		texts[i] = e.text
	}
	return strings.Join(texts, ", ")
}

// withoutExtension returns the list without the extensions of that name.
func withoutExtension(list []extension, name string) []extension {
	return slices.DeleteFunc(list, func(e extension) bool { return e.name == name })
}

// hasExtension reports whether the list contains an extension with the name, in
// lower case.
func hasExtension(list []extension, name string) bool {
	return slices.ContainsFunc(list, func(e extension) bool { return e.name == name })
}

// sole returns the value of a field that may occur only once, or "" if there is
// none. It ignores empty values, and accepts several equal ones.
func sole(values []string) (value string, ok bool) {
	for _, v := range values {
		switch {
		case v == "" || v == value:
		case value != "":
			return "", false
		default:
			value = v
		}
	}
	return value, true
}

// parseOffer returns what the values of the two fields offer, or the error and
// the field that has it.
func parseOffer(protocols, extensions []string) (o offer, field string, err error) {
	if o.protocols, err = parseProtocols(protocols); err != nil {
		return o, "Sec-WebSocket-Protocol", err
	}
	o.extensions, err = parseExtensions(extensions)
	return o, "Sec-WebSocket-Extensions", err
}

// addTo adds the offer's fields to a request, with the names spelled as in the
// RFC: some upstreams compare names case-sensitively.
func (o *offer) addTo(q *request) {
	q.add("Sec-WebSocket-Key", o.key)
	q.add("Sec-WebSocket-Version", "13")
	if len(o.protocols) > 0 {
		q.add("Sec-WebSocket-Protocol", strings.Join(o.protocols, ", "))
	}
	if len(o.extensions) > 0 {
		q.add("Sec-WebSocket-Extensions", joinExtensions(o.extensions))
	}
}

// headerSize returns the number of lines and bytes of a header.
func headerSize(h http.Header) (fields, size int) {
	for name, values := range h {
		fields += len(values)
		for _, v := range values {
			size += len(name) + len(v) + len(": \r\n")
		}
	}
	return fields, size
}

// validKey reports whether key is valid. RFC 6455, 4.2.1, 5.: "a base64-encoded
// value that, when decoded, is 16 bytes in length". The last four bits of the
// 22nd digit are ignored: many clients choose the digits at random, and RFC
// 6455's own example has them set.
func validKey(key string) bool {
	b, err := base64.StdEncoding.DecodeString(key)
	return err == nil && len(b) == 16 && len(key) == 24
}

// acceptKey returns the Sec-WebSocket-Accept for a key (RFC 6455, 4.2.2).
func acceptKey(key string) string {
	sum := sha1.Sum([]byte(key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	return base64.StdEncoding.EncodeToString(sum[:])
}

// newKey returns a fresh Sec-WebSocket-Key. With the client's key, the client
// would know the correct answer in advance.
func newKey() string {
	var key [16]byte
	rand.Read(key[:])
	return base64.StdEncoding.EncodeToString(key[:])
}
