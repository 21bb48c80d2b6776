package message

import (
	"strconv"
	"strings"

	"github.com/seed-ffb73231/wsproxy/internal/frame"
)

// This file negotiates permessage-deflate (RFC 7692, 7.1). The proxy is the server
// of its clients, and a client of its upstreams.

// Extension is the name of the extension.
const Extension = "permessage-deflate"

// Parameters, RFC 7692, 7.1.
const (
	serverForgets = "server_no_context_takeover"
	clientForgets = "client_no_context_takeover"
	serverBits    = "server_max_window_bits"
	clientBits    = "client_max_window_bits"
)

// A Compression is what the proxy wants for one side. The zero value is none.
type Compression struct {
	On    bool
	Keeps bool // context takeover
	Least int  // do not compress shorter messages; 0: the default
}

// least returns the smallest message to compress.
func (c Compression) least() int {
	switch {
	case c.Least > 0:
		return c.Least
	case c.Keeps:
		return 128
	}
	return 512
}

// A Deflate is what was negotiated with a side. The zero value is no compression.
type Deflate struct {
	on          bool
	keeps       [2]bool // whether what a peer sends refers to its earlier messages: the client's and the server's end
	least, most int     // the size of messages that the proxy compresses
}

// On reports whether messages may be compressed.
func (d *Deflate) On() bool { return d.on }

// packs reports whether the proxy compresses a message of n bytes.
func (d *Deflate) packs(n int) bool { return d.on && n >= d.least && n <= d.most }

const anySize = int(^uint(0) >> 1)

// Accept chooses the first of a client's offers that the proxy can keep to, each a
// Sec-WebSocket-Extensions element. It returns the answer, "" if there is none.
func (c Compression) Accept(offers []string) (d Deflate, answer string) {
	if !c.On {
		return Deflate{}, ""
	}
	for _, offer := range offers {
		if d, answer, ok := c.accept(offer); ok {
			return d, answer
		}
	}
	return Deflate{}, ""
}

func (c Compression) accept(offer string) (d Deflate, answer string, ok bool) {
	params, ok := parameters(offer)
	if !ok {
		return d, "", false
	}
	d = Deflate{on: true, keeps: [2]bool{c.Keeps, c.Keeps}, least: c.least(), most: anySize}
	bits := ""
	for name, value := range params {
		switch name {
		case serverForgets:
			d.keeps[frame.Upstream] = false
		case clientForgets:
			d.keeps[frame.Client] = false
		case serverBits:
			n, valid := windowBits(value)
			if !valid {
				return d, "", false
			}
			bits = value
			if n < 15 { // our window is always that of 15 bits: it must not come to more than it holds
				d.most = 1 << n
			}
		case clientBits:
			if _, valid := windowBits(value); !valid && value != "" {
				return d, "", false
			}
		}
	}
	if d.most != anySize {
		// A message refers to nothing before its own start then, and so no farther
		// back than the client allows.
		d.keeps[frame.Upstream] = false
	}
	answer = Extension
	if !d.keeps[frame.Upstream] {
		answer += "; " + serverForgets
	}
	if !d.keeps[frame.Client] {
		answer += "; " + clientForgets
	}
	if bits != "" {
		answer += "; " + serverBits + "=" + bits
	}
	return d, answer, true
}

// Offer returns the offer to an upstream, "" for none.
func (c Compression) Offer() string {
	switch {
	case !c.On:
		return ""
	case c.Keeps:
		return Extension
	}
	return Extension + "; " + serverForgets + "; " + clientForgets
}

// Accepted reads an upstream's answer to the offer. It returns false if the answer
// does not fit it.
func (c Compression) Accepted(answer string) (d Deflate, ok bool) {
	params, ok := parameters(answer)
	if !ok || !c.On {
		return d, false
	}
	// An upstream that does not confirm that it forgets is not believed to do so, though
	// it should not have accepted the offer then (RFC 7692, 7.1.1.1).
	d = Deflate{on: true, keeps: [2]bool{c.Keeps, true}, least: c.least(), most: anySize}
	for name, value := range params {
		switch name {
		case serverForgets:
			d.keeps[frame.Upstream] = false
		case clientForgets:
			d.keeps[frame.Client] = false
		case serverBits:
			if _, valid := windowBits(value); !valid {
				return Deflate{}, false
			}
		case clientBits: // it was not offered (RFC 7692, 7.1.2.2)
			return Deflate{}, false
		}
	}
	return d, true
}

// parameters returns the parameters of an element. It returns false if one occurs
// twice, is unknown, or has a value where it may have none.
func parameters(element string) (params map[string]string, ok bool) {
	fields := strings.Split(element, ";")
	params = make(map[string]string, len(fields))
	for _, field := range fields[1:] {
		name, value, _ := strings.Cut(strings.TrimSpace(field), "=")
		name, value = strings.ToLower(strings.TrimSpace(name)), strings.Trim(strings.TrimSpace(value), `"`)
		_, again := params[name]
		switch name {
		case serverForgets, clientForgets:
			ok = value == ""
		case serverBits, clientBits:
			ok = true
		default:
			ok = false
		}
		if again || !ok {
			return nil, false
		}
		params[name] = value
	}
	return params, true
}

// windowBits returns the value of a window's size: a number from 8 to 15, without
// leading zeros (RFC 7692, 7.1.2).
func windowBits(value string) (n int, ok bool) {
	n, err := strconv.Atoi(value)
	return n, err == nil && 8 <= n && n <= 15 && strconv.Itoa(n) == value
}
