package wsproxy_test

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/seed-ffb73231/wsproxy"
	"github.com/seed-ffb73231/wsproxy/internal/wstest"
)

// Irregular handshakes of either side that are accepted and forwarded in normal
// form. In the same row: similar ones that could do harm and are refused.

// lines returns the lines of a header with one of the names, in order.
func lines(head string, names ...string) (found []string) {
	for line := range strings.SplitSeq(head, "\r\n") {
		name, _, _ := strings.Cut(line, ":")
		if slices.ContainsFunc(names, func(n string) bool { return strings.EqualFold(n, name) }) {
			found = append(found, line)
		}
	}
	return found
}

// An attack is a request that is similar to one that is accepted.
type attack struct {
	request string
	status  int
}

func TestUntidyRequests(t *testing.T) {
	t.Attr("case", "A14 A17 A34 A38")
	t.Parallel()
	const (
		keyLine   = "Sec-WebSocket-Key: " + wstest.Key
		version   = "Sec-WebSocket-Version: 13"
		protocol  = "Sec-WebSocket-Protocol: "
		extension = "Sec-WebSocket-Extensions: "
	)
	rows := []struct {
		name    string
		request string
		key     string   // "": testKey
		want    []string // of the lines compared, what the upstream gets
		attacks []attack
	}{
		{"the example key of RFC 6455, 4.1", edited(wstest.Key, "AQIDBAUGBwgJCgsMDQ4PEC=="), "AQIDBAUGBwgJCgsMDQ4PEC==", nil, []attack{
			{edited(wstest.Key, "AQIDBAUGBwgJCgsMDQ4P"), 400}, {edited(wstest.Key, "AQIDBAUGBwgJCgsMDQ4PEC"), 400}, {edited(wstest.Key, "AQIDBAUGBwgJCgsMDQ4PECA="), 400},
		}},
		{"a key of 22 random digits", edited(wstest.Key, "zzzzzzzzzz//zzzzzzz+zz=="), "zzzzzzzzzz//zzzzzzz+zz==", nil, []attack{
			{edited(wstest.Key, "zzzzzzzzzz__zzzzzzz-zz=="), 400}, {edited(wstest.Key, "zzzzzzzzzz zzzzzzzzzzz=="), 400}, {edited(wstest.Key, "zzzzzzzzzzzzzzzzzzzzz==="), 400},
		}},
		{"the key twice", edited(keyLine, keyLine+"\r\n"+keyLine), "", nil, []attack{
			{edited(keyLine, keyLine+"\r\nSec-WebSocket-Key: AQIDBAUGBwgJCgsMDQ4PEC=="), 400}, {edited(keyLine, keyLine+", "+wstest.Key), 400},
		}},
		{"an empty key besides", edited(keyLine, "Sec-WebSocket-Key:\r\n"+keyLine), "", nil, []attack{{edited(wstest.Key, ""), 400}}},
		{"the version twice", edited(version, version+"\r\n"+version), "", nil, []attack{
			{edited(version, version+"\r\nSec-WebSocket-Version: 8"), 426}, {edited(version, "Sec-WebSocket-Version: 13 13"), 426},
		}},
		{"versions made a list", edited(version, version+" ,, 13,"), "", nil, []attack{{edited(version, "Sec-WebSocket-Version: 8, 13"), 426}, {edited(version, "Sec-WebSocket-Version: ,"), 426}}},
		{"the origin twice", withLines("Origin: http://front.test", "Origin: http://front.test"), "", []string{"Origin: http://front.test"}, []attack{
			{withLines("Origin: http://front.test", "Origin: http://evil.test"), 400},
		}},
		{"an accept", withLines("Sec-WebSocket-Accept: " + wstest.KeyAnswer), "", nil, nil},
		{"Expect without a body", withLines("Expect: 100-Continue"), "", nil, []attack{{withLines("Expect: 100-continue", "Content-Length: 5"), 400}}},

		{"an empty subprotocol field", withLines(protocol), "", nil, nil},
		{"gaps in the subprotocols", withLines(protocol + " ,a,, b\t,"), "", []string{protocol + "a, b"}, []attack{{withLines(protocol + "a b"), 400}, {withLines(protocol + `"a, b"`), 400}}},
		{"a subprotocol twice", withLines(protocol+"a, b, a", protocol+"b,c"), "", []string{protocol + "a, b, c"}, []attack{{withLines(protocol+"a", protocol+"a\xe9"), 400}}},
		{"a subprotocol that is no token", withLines(protocol + "v1.chat/2, bearer:a+b/c=="), "", []string{protocol + "v1.chat/2, bearer:a+b/c=="}, []attack{
			{withLines(protocol + "a;b"), 400}, {withLines(protocol + `a"b`), 400}, {withLines(protocol + `a\b`), 400}, {withLines(protocol + "a(b)"), 400},
		}},

		{"an empty extension field", withLines(extension, extension+" , "), "", nil, nil},
		{"gaps in the extensions", withLines(extension + ",a,, b\t,"), "", []string{extension + "a, b"}, []attack{{withLines(extension + "a b"), 400}, {withLines(extension + "a, =b"), 400}}},
		{"a semicolon at the end", withLines(extension+"a;", extension+"b; ;c ;, d;e=f ; "), "", []string{extension + "a, b; c, d; e=f"}, []attack{
			{withLines(extension + ";a"), 400}, {withLines(extension + "a; =b"), 400}, {withLines(extension + "a; b="), 400},
		}},
		{"white space and quotes", withLines(extension + `a ; b = "c" ;d	=e,A; b`), "", []string{extension + `a; b="c"; d=e, A; b`}, []attack{
			{withLines(extension + `a; b="c`), 400}, {withLines(extension + `a; b="c, d"`), 400}, {withLines(extension + `a; b="c\"d"`), 400}, {withLines(extension + `a; b="c"d`), 400},
		}},
	}
	wstest.EachKind(t, func(t *testing.T, k wstest.Kind) {
		var dials atomic.Int32
		var r *rig
		r = newRig(t, k, wsproxy.WithDialContext(func(ctx context.Context, _, _ string) (net.Conn, error) {
			dials.Add(1)
			return wstest.Dial(ctx, r.back)
		}))
		for _, row := range rows {
			t.Run(row.name, func(t *testing.T) {
				r := r.on(t)
				client := r.client()
				client.Send(row.request)
				upstream := r.upstream()
				head := upstream.ReadHead()
				wantCleanHead(t, head)
				if got := lines(head, "Sec-WebSocket-Protocol", "Sec-WebSocket-Extensions", "Origin", "Expect"); !slices.Equal(got, row.want) {
					t.Errorf("upstream: got %q, want %q", got, row.want)
				}
				upstream.Send(answerTo(head, ""))
				key := row.key
				if key == "" {
					key = wstest.Key
				}
				want := "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n" +
					"Sec-WebSocket-Accept: " + wstest.AcceptKey(key) + "\r\n\r\n"
				if got := client.ReadHead(); got != want {
					t.Errorf("client: got\n%s\nwant\n%s", got, want)
				}
				client.Close()
				upstream.Close()
				r.wantReturned()
				before := dials.Load()
				for _, a := range row.attacks {
					c := r.client()
					c.SendLater(a.request + secondRequest)
					c.WantRefusal(a.status)
					r.wantReturned()
				}
				if dials.Load() != before {
					t.Error("the upstream was dialled for what is refused")
				}
			})
		}
	})
}

func TestUntidyAnswers(t *testing.T) {
	t.Attr("case", "A7 A8 A9 A35 A36")
	t.Parallel()
	const (
		status = "HTTP/1.1 101 Switching Protocols\r\n"
		up     = "Upgrade: websocket\r\n"
		rest   = "Connection: Upgrade\r\nSec-WebSocket-Accept: ACCEPT\r\n"
		good   = status + up + rest
		offer  = "Sec-WebSocket-Protocol: chat, v2\r\nSec-WebSocket-Extensions: x-a; y, permessage-deflate\r\n"
	)
	rows := []struct {
		name, answer string
		want         string   // after the 101's own lines
		attacks      []string // answers for which the client gets 502
	}{
		{"no body, by its length", good + "Content-Length: 0\r\n", "", []string{good + "Content-Length: 5\r\n", good + "Content-Length: 0, 1\r\n", good + "Content-Length: -0\r\n", good + "Content-Length: 0\r\nContent-Length: 7\r\n"}},
		{"no body, twice", good + "Content-Length: 0\r\nContent-Length: 00\r\nContent-Length:\r\n", "", nil},
		{"chunked", good + "Transfer-Encoding: chunked\r\n", "", []string{good + "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n"}},
		{"any coding", good + "Transfer-Encoding: identity\r\nTransfer-Encoding:\r\nContent-Length: 0\r\n", "", nil},
		{"white space before the colon", strings.Replace(good, ":", " \t:", 1) + "X-A : a\r\n", "X-A: a\r\n", []string{
			good + "Content-Length : 5\r\n", good + "Sec-WebSocket-Accept : x\r\n", good + "X A: a\r\n", good + " X-A: a\r\n", good + "X-A: a\r\n b: c\r\n", good + "\t: a\r\n",
		}},
		{"an empty subprotocol", good + "Sec-WebSocket-Protocol:\r\n", "", []string{good + "Sec-WebSocket-Protocol: other\r\n", good + "Sec-WebSocket-Protocol: Chat\r\n"}},
		{"a subprotocol with gaps, twice", good + "Sec-WebSocket-Protocol: ,chat\r\nSec-WebSocket-Protocol: chat,\r\n", "Sec-WebSocket-Protocol: chat\r\n", []string{
			good + "Sec-WebSocket-Protocol: chat, v2\r\n", good + "Sec-WebSocket-Protocol: chat\r\nSec-WebSocket-Protocol: v2\r\n", good + "Sec-WebSocket-Protocol: chat v2\r\n",
		}},
		{"empty extensions", good + "Sec-WebSocket-Extensions: ,\r\n", "", []string{good + "Sec-WebSocket-Extensions: ;\r\n"}},
		{"an extension with a semicolon", good + "Sec-WebSocket-Extensions: x-a; ,, permessage-deflate ;z=1;\r\n", "Sec-WebSocket-Extensions: x-a, permessage-deflate; z=1\r\n", []string{
			good + "Sec-WebSocket-Extensions: x-a, x-a\r\n", good + "Sec-WebSocket-Extensions: x-a;, x-b\r\n", good + "Sec-WebSocket-Extensions: x-a; b=\"c, x-b\"\r\n",
		}},
		{"Upgrade twice", status + up + "Upgrade: WebSocket,\r\n" + rest, "", []string{
			status + up + "Upgrade: h2c\r\n" + rest, status + "Upgrade: websocket, h2c\r\n" + rest, status + "Upgrade:\r\n" + rest, status + "Upgrade: websocket/13\r\n" + rest,
		}},
		{"no reason", strings.Replace(good, " Switching Protocols", "", 1), "", []string{strings.Replace(good, "1.1 101 Switching Protocols", "1.0 101", 1), strings.Replace(good, " 101 Switching Protocols", "", 1)}},
		{"an empty reason", strings.Replace(good, "Switching Protocols", "", 1), "", nil},
		{"spaces before the status", strings.Replace(good, " ", "   ", 1), "", []string{strings.Replace(good, " ", "\t", 1), strings.Replace(good, " ", " \t", 1), strings.Replace(good, "101", "1 01", 1)}},
		{"a later HTTP/1", strings.Replace(good, "1.1", "1.2", 1), "", []string{strings.Replace(good, "1.1", "1.0", 1), strings.Replace(good, "1.1", "2.1", 1), strings.Replace(good, "1.1", "1.10", 1)}},
		{"lines that end in LF", strings.ReplaceAll(good+"X-A: a\r\n", "\r\n", "\n"), "X-A: a\r\n", []string{good + "X-A: a\rX-B: b\r\n"}},
		{"bytes above 7F", good + "X-A: \xe4\r\n", "X-A: \xe4\r\n", []string{good + "X-\xe4: a\r\n"}},
	}
	wstest.EachKind(t, func(t *testing.T, k wstest.Kind) {
		r := newRig(t, k)
		for _, row := range rows {
			t.Run(row.name, func(t *testing.T) {
				r := r.on(t)
				answered := func(answer, behind string) (client, upstream *wstest.Wire) {
					client = r.client()
					client.Send(wstest.Request("/", offer))
					upstream = r.upstream()
					accept := wstest.AcceptKey(keyLine.FindStringSubmatch(upstream.ReadHead())[1])
					end := "\r\n"
					if !strings.Contains(answer, "\r\n") {
						end = "\n"
					}
					upstream.Send(strings.ReplaceAll(answer, "ACCEPT", accept) + end + behind)
					return client, upstream
				}
				client, upstream := answered(row.answer, wstest.RawFrame(wstest.Text, false, "coalesced"))
				want := "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n" +
					"Sec-WebSocket-Accept: " + wstest.KeyAnswer + "\r\n" + row.want + "\r\n"
				if got := client.ReadHead(); got != want {
					t.Errorf("client: got\n%s\nwant\n%s", got, want)
				}
				client.Want(wstest.Text, "coalesced")
				client.Close()
				upstream.Close()
				r.wantReturned()
				for _, answer := range row.attacks {
					client, upstream := answered(answer, "")
					if head, _ := client.WantRefusal(502); t.Failed() {
						t.Fatalf("for %q the client got %q", answer, head)
					}
					upstream.WantEnd()
					r.wantReturned()
				}
			})
		}
	})
}

// The client's key and offers are recorded before a hook gets the request:
// whatever the hook changes, the answer is to the client's own.
func TestAskedOnce(t *testing.T) {
	t.Attr("case", "A20 A35")
	t.Parallel()
	const plain = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n" +
		"Sec-WebSocket-Accept: " + wstest.KeyAnswer + "\r\n"
	open := func(f func(r *http.Request)) wsproxy.Option {
		return wsproxy.WithOnOpen(func(_ *wsproxy.Session, r *http.Request) error { f(r); return nil })
	}
	rewrite := func(f func(*httputil.ProxyRequest)) wsproxy.Option { return wsproxy.WithRewrite(f) }
	rows := []struct {
		name   string
		option wsproxy.Option
		offers []string // that the upstream gets
		answer string   // further lines of the upstream's
		want   string   // answer to the client; "": 502
	}{
		{"a new header", open(func(r *http.Request) { r.Header = http.Header{"X-A": {"a"}} }), nil, "", plain + "\r\n"},
		{"another key", open(func(r *http.Request) { r.Header["Sec-Websocket-Key"] = []string{"AQIDBAUGBwgJCgsMDQ4PEC=="} }),
			[]string{"Sec-WebSocket-Protocol: chat", "Sec-WebSocket-Extensions: x-a"}, "Sec-WebSocket-Protocol: chat\r\n", plain + "Sec-WebSocket-Protocol: chat\r\n\r\n"},
		{"a subprotocol of the hook's", open(func(r *http.Request) { r.Header.Set("Sec-WebSocket-Protocol", "inner") }),
			[]string{"Sec-WebSocket-Protocol: inner", "Sec-WebSocket-Extensions: x-a"}, "Sec-WebSocket-Protocol: inner\r\n", plain + "\r\n"},
		{"an extension of the hook's", open(func(r *http.Request) { r.Header.Set("Sec-WebSocket-Extensions", "permessage-deflate") }),
			[]string{"Sec-WebSocket-Protocol: chat", "Sec-WebSocket-Extensions: permessage-deflate"}, "Sec-WebSocket-Extensions: permessage-deflate\r\n", ""},
		{"the request that is shown to a rewrite", rewrite(func(pr *httputil.ProxyRequest) {
			pr.In.Header = http.Header{"Sec-Websocket-Key": {"x"}, "Sec-Websocket-Protocol": {"inner"}}
			pr.Out.Header.Set("Sec-WebSocket-Protocol", "inner, chat")
		}), []string{"Sec-WebSocket-Protocol: inner, chat", "Sec-WebSocket-Extensions: x-a"}, "Sec-WebSocket-Protocol: inner\r\n", plain + "\r\n"},
		{"an untidy offer of a rewrite's", rewrite(func(pr *httputil.ProxyRequest) { pr.Out.Header.Set("Sec-WebSocket-Protocol", ",inner,,inner,") }),
			[]string{"Sec-WebSocket-Protocol: inner", "Sec-WebSocket-Extensions: x-a"}, "", plain + "\r\n"},
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			r := newRig(t, wstest.TCP, row.option)
			client := r.client()
			client.Send(withLines("Sec-WebSocket-Protocol: chat", "Sec-WebSocket-Extensions: x-a"))
			upstream := r.upstream()
			head := upstream.ReadHead()
			wantCleanHead(t, head)
			got := append(lines(head, "Sec-WebSocket-Protocol"), lines(head, "Sec-WebSocket-Extensions")...)
			if !slices.Equal(got, row.offers) {
				t.Errorf("upstream: got %q, want %q", got, row.offers)
			}
			upstream.Send(answerTo(head, row.answer))
			if row.want == "" {
				client.WantRefusal(502)
			} else if got := client.ReadHead(); got != row.want {
				t.Errorf("client: got\n%s\nwant\n%s", got, row.want)
			}
		})
	}
	t.Run("who the client is", func(t *testing.T) {
		r := newRig(t, wstest.TCP, open(func(r *http.Request) {
			r.Host, r.RemoteAddr, r.TLS = "hook.test", "192.0.2.1:1", new(tls.ConnectionState)
		}))
		client := r.client()
		client.Send(edited())
		head := r.upstream().ReadHead()
		want := []string{"Host: hook.test", "X-Forwarded-For: 127.0.0.1", "X-Forwarded-Host: front.test", "X-Forwarded-Proto: http"}
		if got := lines(head, "Host", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto"); !slices.Equal(got, want) {
			t.Errorf("upstream: got %q, want %q", got, want)
		}
	})
	for name, f := range map[string]func(*http.Request){
		"no header": func(r *http.Request) { r.Header = nil }, "no URL": func(r *http.Request) { r.URL = nil },
	} {
		t.Run(name, func(t *testing.T) {
			var dials atomic.Int32
			r := newRig(t, wstest.TCP, open(f), noDial(&dials))
			client := r.client()
			client.Send(edited() + secondRequest)
			client.WantRefusal(500)
			if dials.Load() > 0 {
				t.Error("the upstream was dialled")
			}
		})
	}
}

// A field that a hook or middleware has set in several spellings is one field,
// and is forwarded the same way each time.
func TestSpellings(t *testing.T) {
	t.Parallel()
	r := newRig(t, wstest.TCP, wsproxy.WithRewrite(func(pr *httputil.ProxyRequest) {
		pr.Out.Header["sec-websocket-protocol"] = []string{"c"}
		pr.Out.Header["Sec-WebSocket-Protocol"] = []string{"b", "a"}
		pr.Out.Header["SEC-WEBSOCKET-KEY"] = []string{"x"}
		pr.Out.Header["expect"] = []string{"100-continue"}
		pr.Out.Header["transfer-encoding"] = []string{"chunked"}
	}))
	front := wstest.Listen(t, wstest.TCP)
	go http.Serve(front, http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		for _, name := range []string{"sec-websocket-accept", "SEC-WEBSOCKET-PROTOCOL", "content-length", "connection", "upgrade"} {
			w.Header()[name] = []string{"7"}
		}
		r.proxy.ServeHTTP(w, req)
	}))
	r.front = front
	for range 30 {
		client := r.client()
		client.Send(withLines("Sec-WebSocket-Protocol: a"))
		upstream := r.upstream()
		head := upstream.ReadHead()
		wantCleanHead(t, head)
		if got := lines(head, "Sec-WebSocket-Protocol"); !slices.Equal(got, []string{"Sec-WebSocket-Protocol: b, a, c"}) {
			t.Fatalf("upstream: got %q, want all three", got)
		}
		upstream.Send(answerTo(head, "Sec-WebSocket-Protocol: a\r\n"))
		const want = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n" +
			"Sec-WebSocket-Accept: " + wstest.KeyAnswer + "\r\nSec-WebSocket-Protocol: a\r\n\r\n"
		if got := client.ReadHead(); got != want {
			t.Fatalf("client: got\n%s\nwant\n%s", got, want)
		}
		client.Close()
		upstream.Close()
	}
}

// numbered returns n different elements, joined.
func numbered(n int, format, sep string) string {
	list := make([]string, n)
	for i := range list {
		list[i] = fmt.Sprintf(format, i)
	}
	return strings.Join(list, sep)
}

// The number of elements in a header is limited, too: 256 fields, and 256
// elements in a list. A plain handshake has four fields, and a 101 three.
func TestItemLimits(t *testing.T) {
	t.Attr("case", "A62 A63 A84")
	t.Parallel()
	const most = 256
	protocols := func(n int) string { return "Sec-WebSocket-Protocol: " + numbered(n, "%x", ",") }
	extensions := func(n int) string { return "Sec-WebSocket-Extensions: " + numbered(n, "%x", ",") }
	parameters := func(n int) string { return "Sec-WebSocket-Extensions: a; " + numbered(n-1, "%x", ";") }
	wstest.EachKind(t, func(t *testing.T, k wstest.Kind) {
		r := newRig(t, k)
		for name, request := range map[string]func(n int) string{
			"fields":                  func(n int) string { return withLines(numbered(n-4, "X-%x:", "\r\n")) },
			"values":                  func(n int) string { return withLines(numbered(n-4, "X-A: %x", "\r\n")) },
			"subprotocols":            func(n int) string { return withLines(protocols(n)) },
			"a subprotocol, repeated": func(n int) string { return withLines("Sec-WebSocket-Protocol: " + strings.Repeat("a,", n)) },
			"extensions":              func(n int) string { return withLines(extensions(n)) },
			"parameters":              func(n int) string { return withLines(parameters(n)) },
		} {
			t.Run(name, func(t *testing.T) {
				r := r.on(t)
				client := r.client()
				client.SendLater(request(most))
				upstream := r.upstream()
				upstream.Answer("")
				if resp := client.ReadResponse(); resp.StatusCode != 101 {
					t.Errorf("%d: got %d, want 101", most, resp.StatusCode)
				}
				client.Close()
				upstream.Close()
				r.wantReturned()
				for _, n := range []int{most + 1, 8000} {
					client := r.client()
					if countsFields && (name == "fields" || name == "values") && n > most+1 {
						go io.WriteString(client, request(n)) // net/http does not read all of it
						if head := client.ReadHead(); !strings.HasPrefix(head, "HTTP/1.1 431 ") {
							t.Errorf("%d: got %q, want 431", n, head)
						}
						continue
					}
					client.SendLater(request(n) + secondRequest)
					client.WantRefusal(431)
					r.wantReturned()
				}
			})
		}
		for name, answer := range map[string]struct {
			lines func(n int) string
			most  int
		}{
			"answer's fields":       {func(n int) string { return numbered(n-3, "X-%x:", "\r\n") }, most},
			"answer's values":       {func(n int) string { return numbered(n-3, "X-A: %x", "\r\n") }, most},
			"answer's subprotocols": {func(n int) string { return "Sec-WebSocket-Protocol: " + strings.Repeat("a,", n) }, most},
			"answer's extensions":   {extensions, 16},
			"answer's parameters":   {parameters, most},
		} {
			t.Run(name, func(t *testing.T) {
				r := r.on(t)
				for _, n := range []int{answer.most, answer.most + 1, 8000} {
					client := r.client()
					client.Send(withLines("Sec-WebSocket-Protocol: a", extensions(50)))
					upstream := r.upstream()
					head := upstream.ReadHead()
					go upstream.Write([]byte(answerTo(head, answer.lines(n)+"\r\n"))) // it is not read to its end
					want := 502
					if n == answer.most {
						want = 101
					}
					if resp := client.ReadResponse(); resp.StatusCode != want {
						t.Errorf("%d: got %d, want %d", n, resp.StatusCode, want)
					}
					client.Close()
					upstream.Close()
					r.wantReturned()
				}
			})
		}
	})
}

// What a session retains of its handshakes, whatever their form: while
// ServeHTTP waits, net/http retains the request, once; a detached session
// retains nothing.
func TestHandshakeMemory(t *testing.T) {
	t.Attr("case", "A62 A63 F45 A84")
	if !alone(t) {
		return
	}
	const most = 250
	filler := strings.Repeat("y", 225) // 60,000 bytes in total
	shapes := map[string][2]string{
		"one field":    {"X-A: " + strings.Repeat("y", 60_000), "X-A: " + strings.Repeat("y", 60_000)},
		"fields":       {numbered(most, "X-%x: "+filler, "\r\n"), numbered(most, "X-%x: "+filler, "\r\n")},
		"names":        {numbered(most, "X-%x"+filler+":", "\r\n"), numbered(most, "X-%x"+filler+":", "\r\n")},
		"values":       {numbered(most, "X-A: %x"+filler, "\r\n"), numbered(most, "Set-Cookie: %x"+filler, "\r\n")},
		"subprotocols": {"Sec-WebSocket-Protocol: chat," + numbered(most, "%x"+filler, ","), "Sec-WebSocket-Protocol: chat\r\nX-A: " + strings.Repeat("y", 60_000)},
		"empty elements": {"Sec-WebSocket-Protocol: chat" + strings.Repeat(",", 30_000) + "\r\nSec-WebSocket-Extensions: a" + strings.Repeat(";", 30_000),
			"Sec-WebSocket-Protocol: chat" + strings.Repeat(",", 30_000) + "\r\nSec-WebSocket-Extensions: a" + strings.Repeat(";", 30_000)},
		"parameters": {"Sec-WebSocket-Extensions: a; " + numbered(most, "%x"+filler, ";"), "Sec-WebSocket-Extensions: a; " + numbered(most, "%x"+filler, ";")},
		"Connection": {"Connection: " + numbered(10_000, "%x", ","), "Connection: " + numbered(10_000, "%x", ",")},
		"target":     {"", ""},
	}
	hook := wsproxy.WithOnOpen(func(_ *wsproxy.Session, r *http.Request) error { r.Header.Set("X-Hook", "1"); return nil })
	for name, c := range map[string]struct {
		options []wsproxy.Option
		bound   int
	}{
		"waiting":          {nil, 112 << 10},
		"waiting, hook":    {[]wsproxy.Option{hook}, 112 << 10},
		"detached":         {[]wsproxy.Option{wsproxy.WithDetach()}, 12 << 10},
		"detached, a hook": {[]wsproxy.Option{wsproxy.WithDetach(), hook}, 12 << 10},
	} {
		t.Run(name, func(t *testing.T) {
			// perSession opens sessions and returns the memory that each
			// retains.
			perSession := func(t *testing.T, path string, shape [2]string) int {
				r := newRig(t, wstest.TCP, c.options...)
				for i := range shape {
					if shape[i] != "" {
						shape[i] += "\r\n"
					}
				}
				request := wstest.Request(path, shape[0])
				heap := func() int {
					runtime.GC()
					runtime.GC() // frees what pools have released
					var m runtime.MemStats
					runtime.ReadMemStats(&m)
					return int(m.HeapAlloc)
				}
				n := 10 // what a detached session keeps is small beside what else changes
				if c.bound >= 64<<10 {
					n = 4
				}
				ends := make([]*wstest.Wire, 0, 2*n)
				before := heap()
				for range n {
					client := r.client()
					client.SendLater(request)
					upstream := r.upstream()
					upstream.Answer(shape[1])
					if resp := client.ReadResponse(); resp.StatusCode != 101 {
						t.Fatalf("got %d, want 101", resp.StatusCode)
					}
					if c.bound < 64<<10 {
						r.wantReturned()
					}
					ends = append(ends, client, upstream)
				}
				after := heap()
				for _, w := range ends {
					w.Close()
				}
				if c.bound >= 64<<10 {
					for range n {
						r.wantReturned()
					}
				}
				// What these sessions free must not count for the next ones.
				wstest.Await(t, func() bool { return r.proxy.Stats().Open == 0 }, func() string { return "sessions are left" })
				return (after - before) / n
			}
			perSession(t, "/", [2]string{}) // fills the pools
			plain := perSession(t, "/", [2]string{})
			for name, shape := range shapes {
				t.Run(name, func(t *testing.T) {
					path := "/"
					if name == "target" {
						path = "/p?" + strings.Repeat("q", 60_000)
					}
					got := perSession(t, path, shape) - plain
					t.Logf("%d bytes over the %d of a plain session", got, plain)
					if got > c.bound {
						t.Errorf("a session keeps %d bytes more than a plain one, want at most %d", got, c.bound)
					}
				})
			}
		})
	}
}
