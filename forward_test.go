package wsproxy_test

import (
	"bufio"
	"bytes"
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"net/netip"
	"net/textproto"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/seed-ffb73231/wsproxy"
	"github.com/seed-ffb73231/wsproxy/internal/wstest"
)

// The upstream's request is written straight from the client's header. It is what
// a copy of the header would be from which the unwanted fields are deleted, and
// what goes to the upstream if a hook of WithRewrite changes nothing.
func FuzzForward(f *testing.F) {
	for _, s := range []string{
		"", "Accept: a\r\nAccept: b\r\nCookie: c=d\r\nUser-Agent: \r\nAuthorization: x\r\nOrigin: http://front.test\r\nOrigin: \r\n",
		"Connection: X-Forwarded-For, cookie, Via, x-a, Origin, Forwarded\r\nVia: 1.0 a\r\nVia: \r\nX-A: 1\r\nx_a: 2\r\nX-Forwarded-For: 1, 2\r\nX-Forwarded-For: \r\nForwarded: for=3\r\n",
		"x_forwarded_for: 1\r\nX_Real-Ip: 2\r\nX-Real-IP: 3\r\nX-Forwarded-Anything: 4\r\nX-Forwarded-Host: h\r\nForwarded: \r\nSec_WebSocket_Protocol: a\r\nSec-WebSocket-Protocol: b, c\r\n",
		"TE: trailers\r\nTrailer: a\r\nKeep-Alive: 1\r\nkeep_alive: 2\r\nProxy-Authorization: b\r\nHTTP2-Settings: c\r\nAlt-Svc: d\r\nExpect: 100-continue\r\nhost_: e\r\nVia: 1.1 other, 1.0 x\r\n",
		"Connection: Accept,,Expect,Host,Sec-WebSocket-Key,Authorization\r\nAccept: 1\r\nX-Long: " + strings.Repeat("x", 5000) + "\r\nSec-WebSocket-Extensions: a;b=\"c\",d\r\n",
	} {
		f.Add(s, false)
		f.Add(s, true)
	}
	var got string
	proxy := func(options ...wsproxy.Option) *wsproxy.Proxy {
		p, err := wsproxy.New("http://upstream.test/base?q", append(options, wsproxy.WithLogger(discard), wsproxy.WithVia("me"), wsproxy.WithInsecureAnyOrigin(),
			wsproxy.WithDialContext(func(context.Context, string, string) (net.Conn, error) {
				return scripted(func(head string) string {
					got = head
					return "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"
				}), nil
			}))...)
		if err != nil {
			f.Fatal(err)
		}
		return p
	}
	trust := wsproxy.WithTrustedProxies(netip.MustParsePrefix("192.0.2.0/24"))
	unchanged := wsproxy.WithRewrite(func(*httputil.ProxyRequest) {})
	proxies := map[bool][2]*wsproxy.Proxy{false: {proxy(), proxy(unchanged)}, true: {proxy(trust), proxy(trust, unchanged)}}
	key := regexp.MustCompile("(?m)^Sec-WebSocket-Key: .*")

	f.Fuzz(func(t *testing.T, lines string, trusted bool) {
		r, err := http.ReadRequest(bufio.NewReader(strings.NewReader(wstest.Request("/chat?a=%2F", lines))))
		if err != nil || !reachesHandler(r) {
			return
		}
		r.RemoteAddr = "192.0.2.1:1"
		before := r.Header.Clone()
		var heads [2]string
		for i, p := range proxies[trusted] {
			got = ""
			w := &response{hijack: func() (net.Conn, *bufio.ReadWriter, error) { return nil, nil, io.ErrClosedPipe }}
			w.Body = new(bytes.Buffer)
			p.ServeHTTP(w, r)
			heads[i] = key.ReplaceAllString(got, "Sec-WebSocket-Key: "+wstest.Key)
		}
		if heads[0] != heads[1] {
			t.Errorf("without a hook: got %q, want as with one: %q", heads[0], heads[1])
		}
		if !slices.Equal(headerLines(r.Header), headerLines(before)) {
			t.Errorf("the client's header became %q, want %q", r.Header, before)
		}
		if heads[0] == "" { // refused
			return
		}
		sent, err := http.ReadRequest(bufio.NewReader(strings.NewReader(heads[0])))
		if err != nil {
			t.Fatalf("sent %q: %v", heads[0], err)
		}
		_, header, _ := strings.Cut(heads[0], "Host: front.test\r\n")
		names := strings.Split(regexp.MustCompile(`(?m): .*$`).ReplaceAllString(strings.TrimSuffix(header, "\r\n\r\n"), ""), "\n")
		if !slices.IsSorted(names) || sent.Host != "front.test" || sent.RequestURI != "/base/chat?q&a=%2F" {
			t.Errorf("sent %q", heads[0])
		}
		for name := range sent.Header {
			if strings.HasPrefix(name, "Sec-Websocket-") {
				delete(sent.Header, name)
			}
		}
		if got, want := headerLines(sent.Header), headerLines(copyOfHeader(before, trusted)); !slices.Equal(got, want) {
			t.Errorf("got %q, want %q", got, want)
		}
	})
}

// copyOfHeader returns what is forwarded of a client's header, apart from the
// handshake's fields, by deleting the rest from a copy.
func copyOfHeader(client http.Header, trusted bool) http.Header {
	h := client.Clone()
	list := func(name string) (elements []string) { return strings.Split(strings.Join(client[name], ","), ",") }
	about := regexp.MustCompile("^(X-Forwarded-.*|Forwarded|X-Real-Ip)$")
	for _, name := range list("Connection") {
		name = textproto.CanonicalMIMEHeaderKey(strings.Trim(name, " \t"))
		if !slices.Contains([]string{"Authorization", "Cookie", "Origin"}, name) && !about.MatchString(name) {
			h.Del(name)
		}
	}
	perConnection := regexp.MustCompile("^(Connection|Proxy-Connection|Keep-Alive|Proxy-Authenticate|Proxy-Authorization|Te|Trailer|Transfer-Encoding|Upgrade|Http2-Settings|Content-Length|Alt-Svc|Expect|Sec-Websocket-.*)$")
	for name := range h {
		alias := textproto.CanonicalMIMEHeaderKey(strings.ReplaceAll(name, "_", "-"))
		if perConnection.MatchString(alias) || about.MatchString(alias) && (alias != name || !trusted) {
			delete(h, name)
		}
	}
	if h.Get("User-Agent") == "" {
		delete(h, "User-Agent")
	}
	if origin, ok := h["Origin"]; ok { // they are equal, or empty
		delete(h, "Origin")
		if i := slices.IndexFunc(origin, func(v string) bool { return v != "" }); i >= 0 {
			h.Set("Origin", origin[i])
		}
	}
	added := func(name, value string) {
		h.Set(name, strings.Join(append(slices.DeleteFunc(h[name], func(v string) bool { return v == "" }), value), ", "))
	}
	if len(h["Forwarded"]) > 0 {
		h.Set("Forwarded", strings.Join(append(h["Forwarded"], "for=192.0.2.1"), ", "))
	}
	added("X-Forwarded-For", "192.0.2.1")
	added("Via", "1.1 me")
	for name, value := range map[string]string{"X-Forwarded-Host": "front.test", "X-Forwarded-Proto": "http"} {
		if len(h[name]) == 0 {
			h.Set(name, value)
		}
	}
	h["Upgrade"], h["Connection"] = []string{"websocket"}, []string{"Upgrade"}
	return h
}

// headerLines returns a header's lines in a fixed order.
func headerLines(h http.Header) []string {
	var b bytes.Buffer
	h.Write(&b)
	return strings.Split(b.String(), "\r\n")
}

// WithTargetPath sends the target's own path, whatever the client asks for.
func TestTargetPath(t *testing.T) {
	var got string
	p, err := wsproxy.New("http://upstream.test/only?a", wsproxy.WithLogger(discard), wsproxy.WithTargetPath(),
		wsproxy.WithDialContext(func(context.Context, string, string) (net.Conn, error) {
			return scripted(func(head string) string {
				got, _, _ = strings.Cut(head, "\r\n")
				return answerTo(head, "")
			}), nil
		}))
	if err != nil {
		t.Fatal(err)
	}
	r, err := http.ReadRequest(bufio.NewReader(strings.NewReader(wstest.Request("/chat%2Fx?b", ""))))
	if err != nil {
		t.Fatal(err)
	}
	p.ServeHTTP(&response{hijack: func() (net.Conn, *bufio.ReadWriter, error) { return nil, nil, io.ErrClosedPipe }}, r)
	if want := "GET /only?a&b HTTP/1.1"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}
