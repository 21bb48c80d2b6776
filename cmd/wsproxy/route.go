package main

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"maps"
	"net/http"
	"net/http/httputil"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/coder/websocket"
	"golang.org/x/net/http/httpguts"

	"github.com/seed-ffb73231/wsproxy"
)

// A route is a path and the proxy behind it.
type route struct {
	at      *table
	pattern string
	options []wsproxy.Option // all but those that say who the members are
	members []wsproxy.Member // or
	source  wsproxy.Source
	every   time.Duration

	// settings holds everything that requires a new proxy when it changes: all
	// settings except the members.
	settings map[string]any
	cited    []citation
}

// A citation records which key an option's value comes from.
type citation struct {
	option string
	value  string
	path   string
}

// add adds an option.
func (r *route) add(o wsproxy.Option) { r.options = append(r.options, o) }

// cite records where an argument of an option comes from, in case [wsproxy.New]
// rejects it.
func (r *route) cite(option, path string, value any) {
	r.cited = append(r.cited, citation{option, fmt.Sprint(value), path})
}

// addFile adds a file's content to the settings.
func (r *route) addFile(t *table, key string, content []byte) {
	r.settings["content of "+strings.TrimPrefix(t.at(key), r.at.path)] = sha256.Sum256(content)
}

// readRoute reads a route's table.
func readRoute(t *table, c *config) *route {
	r := &route{at: t, pattern: t.text("path"), settings: maps.Clone(t.values)}
	delete(r.settings, "target")
	delete(r.settings, "upstreams")
	r.settings["drain_window"] = c.drainWindow
	r.add(wsproxy.WithDrain(c.drainWindow, 0))
	r.cite("WithDrain", "drain_window", c.drainWindow)

	r.readMembers()
	r.readBalance()
	r.readTimes()
	r.readResume()
	r.readTrust()
	r.readRequest()
	r.readLimits()
	r.readCompression()
	r.readTLS()
	if t.flag("detach") {
		r.add(wsproxy.WithDetach())
	}
	t.end()
	return r
}

// readTimes reads the time limits.
func (r *route) readTimes() {
	t := r.at
	toClient := func(i, d time.Duration) wsproxy.Option { return wsproxy.WithPingTo(wsproxy.Client, i, d) }
	toUpstream := func(i, d time.Duration) wsproxy.Option { return wsproxy.WithPingTo(wsproxy.Upstream, i, d) }
	for _, o := range []struct {
		key, name string
		with      func(interval, timeout time.Duration) wsproxy.Option
	}{
		{"ping", "WithPing", wsproxy.WithPing},
		{"ping_client", "WithPingTo", toClient},
		{"ping_upstream", "WithPingTo", toUpstream},
	} {
		if ping := t.table(o.key); ping != nil {
			interval, timeout := ping.duration("interval", 25*time.Second), ping.duration("timeout", 35*time.Second)
			ping.end()
			r.add(o.with(interval, timeout))
			r.cite(o.name, ping.at("interval"), interval)
			r.cite(o.name, ping.at("timeout"), timeout)
		}
	}
	for _, o := range []struct {
		key, name string
		with      func(time.Duration) wsproxy.Option
	}{
		{"idle_timeout", "WithIdleTimeout", wsproxy.WithIdleTimeout},
		{"write_timeout", "WithWriteTimeout", wsproxy.WithWriteTimeout},
		{"handshake_timeout", "WithHandshakeTimeout", wsproxy.WithHandshakeTimeout},
		{"close_timeout", "WithCloseTimeout", wsproxy.WithCloseTimeout},
		{"max_age", "WithMaxAge", wsproxy.WithMaxAge},
	} {
		if t.has(o.key) {
			d := t.duration(o.key, time.Second)
			r.add(o.with(d))
			r.cite(o.name, t.at(o.key), d)
		}
	}
	if t.has("lost_code") {
		code := t.whole("lost_code")
		r.add(wsproxy.WithLostCode(websocket.StatusCode(code)))
		r.cite("WithLostCode", t.at("lost_code"), code)
	}
}

// readResume reads for how long a client is kept without an upstream.
func (r *route) readResume() {
	if !r.at.has("resume") {
		return
	}
	window := r.at.duration("resume", time.Second)
	if window == 0 { // for the library that is its default
		r.at.mistake("resume", "must be positive")
		return
	}
	r.add(wsproxy.WithResume(wsproxy.Resume{Window: window}))
	r.cite("WithResume", r.at.at("resume"), window)
}

// readTrust reads which pages may open WebSockets, and whose forwarding fields
// are trusted.
func (r *route) readTrust() {
	t := r.at
	if t.has("origins") {
		origins := t.texts("origins")
		r.add(wsproxy.WithOrigins(origins...))
		for i, origin := range origins {
			r.cite("WithOrigins", t.at(fmt.Sprintf("origins[%d]", i)), origin)
		}
	}
	if t.flag("any_origin") {
		r.add(wsproxy.WithInsecureAnyOrigin())
		r.cite("WithInsecureAnyOrigin", t.at("any_origin"), true)
	}
	if t.has("trusted_proxies") {
		var prefixes []netip.Prefix
		for i, text := range t.texts("trusted_proxies") {
			key := fmt.Sprintf("trusted_proxies[%d]", i)
			if text == "unix:" {
				r.add(wsproxy.WithTrustedUnixSockets())
				continue
			}
			prefix, err := netip.ParsePrefix(text)
			if err != nil {
				t.mistake(key, "%q is not a prefix such as \"10.0.0.0/8\", nor \"unix:\"", text)
				continue
			}
			prefixes = append(prefixes, prefix)
			r.cite("WithTrustedProxies", t.at(key), prefix)
		}
		r.add(wsproxy.WithTrustedProxies(prefixes...))
	}
}

// readRequest reads how requests are changed.
func (r *route) readRequest() {
	t := r.at
	if host, ok := get[string](t, "host"); ok {
		r.add(wsproxy.WithHost(host))
		r.cite("WithHost", t.at("host"), host)
	}
	if t.flag("target_path") {
		r.add(wsproxy.WithTargetPath())
	}
	if via, ok := get[string](t, "via"); ok {
		r.add(wsproxy.WithVia(via))
		r.cite("WithVia", t.at("via"), via)
	}
	if headers := t.table("set_headers"); headers != nil {
		fields := readFields(headers)
		r.add(wsproxy.WithRewrite(func(pr *httputil.ProxyRequest) {
			for name := range fields {
				pr.Out.Header.Set(name, fields.Get(name))
			}
		}))
	}
	if answer := t.table("answer_headers"); answer != nil {
		fields, removed := make(http.Header), answer.texts("remove")
		if set := answer.table("set"); set != nil {
			fields = readFields(set)
		}
		for i, name := range removed {
			if !httpguts.ValidHeaderFieldName(name) {
				answer.mistake(fmt.Sprintf("remove[%d]", i), "%q is not a field name", name)
			}
		}
		answer.end()
		r.add(wsproxy.WithRewriteAnswer(func(answer *http.Response) {
			for _, name := range removed {
				answer.Header.Del(name)
			}
			for name := range fields {
				answer.Header.Set(name, fields.Get(name))
			}
		}))
	}
}

// readFields reads a table of header fields.
func readFields(t *table) http.Header {
	fields := make(http.Header)
	for _, name := range slices.Sorted(maps.Keys(t.values)) {
		value := t.text(name)
		canonical := http.CanonicalHeaderKey(name)
		switch {
		case !httpguts.ValidHeaderFieldName(name):
			t.mistake(name, "invalid field name")
		case !httpguts.ValidHeaderFieldValue(value):
			t.mistake(name, "invalid field value")
		case slices.Contains(notOurs, canonical):
			t.mistake(name, "is set by the handshake")
		case canonical == "Host":
			t.mistake(name, "set by the route's host")
		default:
			fields.Set(name, value)
		}
	}
	return fields
}

// notOurs are fields that the proxy always sets itself.
var notOurs = []string{"Connection", "Upgrade", "Sec-Websocket-Version", "Sec-Websocket-Key"}

// readLimits reads the limits on numbers, sizes and rates.
func (r *route) readLimits() {
	t := r.at
	for _, o := range []struct {
		key, name string
		with      func(int) wsproxy.Option
	}{
		{"max_sessions", "WithMaxSessions", wsproxy.WithMaxSessions},
		{"max_handshakes", "WithMaxHandshakes", wsproxy.WithMaxHandshakes},
		{"max_sessions_per_client", "WithMaxSessionsPerClient", func(n int) wsproxy.Option {
			return wsproxy.WithMaxSessionsPerClient(n, nil) // by address
		}},
	} {
		if t.has(o.key) {
			n := t.whole(o.key)
			r.add(o.with(n))
			r.cite(o.name, t.at(o.key), n)
		}
	}
	sides := []wsproxy.Side{wsproxy.Client, wsproxy.Upstream}
	for _, o := range []struct {
		key, name string
		with      func(wsproxy.Side, int) wsproxy.Option
	}{
		{"max_message_size", "WithMaxMessageSize", wsproxy.WithMaxMessageSize},
		{"max_frame_size", "WithMaxFrameSize", wsproxy.WithMaxFrameSize},
	} {
		if sizes := t.table(o.key); sizes != nil {
			for _, side := range sides {
				n := sizes.whole(side.String())
				r.add(o.with(side, n))
				r.cite(o.name, sizes.at(side.String()), n)
			}
			sizes.end()
		}
	}
	if rates := t.table("rate_limit"); rates != nil {
		for _, side := range sides {
			if rate := rates.table(side.String()); rate != nil {
				limit := wsproxy.RateLimit{
					Messages: rate.number("messages"),
					Frames:   rate.number("frames"),
					Bytes:    rate.number("bytes"),
					Burst:    rate.duration("burst", 0),
					Close:    rate.flag("close"),
				}
				rate.end()
				r.add(wsproxy.WithRateLimit(side, limit))
				r.cite("WithRateLimit", rate.path, limit)
			}
		}
		rates.end()
	}
}

// readCompression reads how messages are compressed.
func (r *route) readCompression() {
	t := r.at.table("compression")
	if t == nil {
		return
	}
	for _, side := range []wsproxy.Side{wsproxy.Client, wsproxy.Upstream} {
		of := t.table(side.String())
		if of == nil {
			continue
		}
		threshold := of.whole("threshold")
		var mode websocket.CompressionMode
		switch text := of.text("mode"); text {
		case "disabled":
			mode = websocket.CompressionDisabled
		case "no_context_takeover":
			mode = websocket.CompressionNoContextTakeover
		case "context_takeover":
			mode = websocket.CompressionContextTakeover
		default:
			of.mistake("mode", `%q is none of "disabled", "no_context_takeover", "context_takeover"`, text)
		}
		of.end()
		r.add(wsproxy.WithCompression(side, mode, threshold))
		r.cite("WithCompression", of.at("threshold"), threshold)
	}
	t.end()
}

// readTLS reads the TLS settings for upstreams.
func (r *route) readTLS() {
	t := r.at.table("upstream_tls")
	if t == nil {
		return
	}
	config := &tls.Config{ServerName: t.text("server_name")}
	if t.has("ca") {
		ca := t.content("ca")
		r.addFile(t, "ca", ca)
		config.RootCAs = x509.NewCertPool()
		if ca != nil && !config.RootCAs.AppendCertsFromPEM(ca) {
			t.mistake("ca", "no certificate in the file")
		}
	}
	switch cert, key := t.text("cert"), t.text("key"); {
	case cert != "" && key != "":
		certificate, err := clientCertificate(t.doc.file(cert), t.doc.file(key))
		if err != nil {
			t.mistake("cert", "%s", strings.TrimPrefix(err.Error(), "tls: "))
		}
		config.GetClientCertificate = certificate
	case cert != "", key != "":
		t.mistake("cert", "cert and key must be set together")
	}
	if t.flag("insecure_skip_verify") {
		r.add(wsproxy.WithInsecureSkipVerify())
	}
	t.end()
	r.add(wsproxy.WithTLSConfig(config))
	r.cite("WithTLSConfig", t.path, "")
}

// clientCertificate reads a client certificate for each handshake, because it
// may have been replaced. While it cannot be read, the last one is used.
func clientCertificate(cert, key string) (func(*tls.CertificateRequestInfo) (*tls.Certificate, error), error) {
	first, err := tls.LoadX509KeyPair(cert, key)
	if err != nil {
		return nil, err
	}
	var last atomic.Pointer[tls.Certificate]
	last.Store(&first)
	return func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
		if pair, err := tls.LoadX509KeyPair(cert, key); err == nil {
			last.Store(&pair)
		}
		return last.Load(), nil
	}, nil
}
