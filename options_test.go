package wsproxy_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"math"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/seed-ffb73231/wsproxy"
	"github.com/seed-ffb73231/wsproxy/internal/wstest"
)

// optionErrors returns every OptionError in the error of New.
func optionErrors(t *testing.T, err error) (all []*wsproxy.OptionError) {
	t.Helper()
	joined, ok := err.(interface{ Unwrap() []error })
	if !ok {
		t.Fatalf("got %T, want errors that are joined", err)
	}
	for _, err := range joined.Unwrap() {
		var e *wsproxy.OptionError
		if !errors.As(err, &e) {
			t.Fatalf("got %T (%v), want an OptionError", err, err)
		}
		all = append(all, e)
	}
	return all
}

// No duration is so long that it overflows and so disables others.
func TestLongWaits(t *testing.T) {
	t.Parallel()
	const century = 100 * 365 * 24 * time.Hour
	options := map[string]wsproxy.Option{
		"WithPing":             wsproxy.WithPing(century, century),
		"WithIdleTimeout":      wsproxy.WithIdleTimeout(century),
		"WithWriteTimeout":     wsproxy.WithWriteTimeout(century),
		"WithHandshakeTimeout": wsproxy.WithHandshakeTimeout(century),
		"WithCloseTimeout":     wsproxy.WithCloseTimeout(century),
		"WithMaxAge":           wsproxy.WithMaxAge(century),
		"WithDrain":            wsproxy.WithDrain(century, 0),
		"WithResume":           wsproxy.WithResume(wsproxy.Resume{Window: century}),
		"WithHealthCheck":      wsproxy.WithHealthCheck(wsproxy.HealthCheck{Timeout: century}),
	}
	for name, option := range options {
		_, err := wsproxy.New("http://127.0.0.1", option)
		if want := "wsproxy: " + name + `: "876000h0m0s": …`; err == nil || !like(err.Error(), want) {
			t.Errorf("got %v, want %s", err, want)
		}
	}
	_, err := wsproxy.New("", wsproxy.WithSource(century, func(context.Context) ([]wsproxy.Member, error) { return nil, nil }))
	if mistake, ok := errors.AsType[*wsproxy.OptionError](err); !ok || mistake.Option != "WithSource" {
		t.Errorf("got %v", err)
	}
}

// With the longest durations, others still work.
func TestLongestWaits(t *testing.T) {
	t.Parallel()
	const longest = 50 * 365 * 24 * time.Hour
	for _, option := range []wsproxy.Option{wsproxy.WithWriteTimeout(longest), wsproxy.WithIdleTimeout(longest), wsproxy.WithCloseTimeout(longest), wsproxy.WithPing(time.Second, longest)} {
		synctest.Test(t, func(t *testing.T) {
			r := newRig(t, wstest.Memory, wsproxy.WithPing(time.Second, time.Minute), wsproxy.WithMaxAge(10*time.Second), option)
			client, upstream := r.open("", "")
			go io.Copy(io.Discard, upstream)
			for pings := 0; ; {
				f, err := client.ReadFrame()
				if err != nil {
					t.Fatal(err)
				}
				if f.First == wstest.Close {
					if pings != 2 { // the second one is unanswered
						t.Errorf("%d Pings", pings)
					}
					break
				}
				if pings++; pings == 1 {
					client.Send(client.Frame(wstest.Pong, f.Payload))
				}
			}
			client.Close()
			upstream.Close()
			r.wantRecord(0, "proxy", "age")
		})
	}
}

// like reports whether got is want, in which … stands for any text: tests pin
// what an error is about and what it suggests, not its wording.
func like(got, want string) bool {
	for i, part := range strings.Split(want, "…") {
		at := strings.Index(got, part)
		if at < 0 || i == 0 && at > 0 {
			return false
		}
		got = got[at+len(part):]
	}
	return got == "" || strings.HasSuffix(want, "…")
}

// Every mistake is reported, all at once, each under its option's name.
func TestMistakes(t *testing.T) {
	t.Parallel()
	rows := []struct {
		option string
		value  wsproxy.Option
		text   string // of the error; … stands for any text
	}{
		{"WithPing", wsproxy.WithPing(-1, 1), `wsproxy: WithPing: "-1ns": …`},
		{"WithPing", wsproxy.WithPing(time.Second, 0), `wsproxy: WithPing: "0s": …`},
		{"WithPing", wsproxy.WithPing(time.Second, -1), ""},
		{"WithPing", wsproxy.WithPing(25, 10), `wsproxy: WithPing: "25ns": …25*time.Second…`},
		{"WithPing", wsproxy.WithPing(time.Millisecond, 999*time.Microsecond), `wsproxy: WithPing: "999µs": …`},
		{"WithPingTo", wsproxy.WithPingTo(wsproxy.Client, 25, 10), `wsproxy: WithPingTo: "25ns": …25*time.Second…`},
		{"WithPingTo", wsproxy.WithPingTo(wsproxy.Client, time.Second, 0), `wsproxy: WithPingTo: "0s": …`},
		{"WithPingTo", wsproxy.WithPingTo(wsproxy.Upstream, -1, 1), ""},
		{"WithPingTo", wsproxy.WithPingTo(wsproxy.Self, time.Second, time.Second), `wsproxy: WithPingTo: "proxy": …`},
		{"WithIdleTimeout", wsproxy.WithIdleTimeout(-time.Second), `wsproxy: WithIdleTimeout: "-1s": …`},
		{"WithWriteTimeout", wsproxy.WithWriteTimeout(0), ""},
		{"WithHandshakeTimeout", wsproxy.WithHandshakeTimeout(-1), ""},
		{"WithCloseTimeout", wsproxy.WithCloseTimeout(0), ""},
		{"WithRewrite", wsproxy.WithRewrite(nil), ""},
		{"WithBalance", wsproxy.WithBalance(wsproxy.BalanceFunc(nil)), ""},
		{"WithHealthCheck", wsproxy.WithHealthCheck(wsproxy.HealthCheck{Path: "health?token=" + wstest.Secret}), `wsproxy: WithHealthCheck: "health": …`},
		{"WithHost", wsproxy.WithHost("a b"), ""},
		{"WithHost", wsproxy.WithHost("a/b"), ""},
		{"WithHost", wsproxy.WithHost("a\r\nX-B: c"), `wsproxy: WithHost: "a\r\nX-B: c": …`},
		{"WithHost", wsproxy.WithHost("a:99999"), `wsproxy: WithHost: "a:99999": …`},
		{"WithHost", wsproxy.WithHost("::1"), `wsproxy: WithHost: "::1": …`},
		{"WithHost", wsproxy.WithHost("http://a"), ""},
		{"WithOrigins", wsproxy.WithOrigins("*"), `wsproxy: WithOrigins: "*": …WithInsecureAnyOrigin…`},
		{"WithOrigins", wsproxy.WithOrigins("https://*"), `wsproxy: WithOrigins: "https://*": …WithInsecureAnyOrigin…`},
		{"WithOrigins", wsproxy.WithOrigins("*:*"), `wsproxy: WithOrigins: "*:*": …WithInsecureAnyOrigin…`},
		{"WithOrigins", wsproxy.WithOrigins(""), `wsproxy: WithOrigins: "": …`},
		{"WithOrigins", wsproxy.WithOrigins("https://a.test/chat"), `wsproxy: WithOrigins: "https://a.test/chat": …"https://a.test"…`},
		{"WithOrigins", wsproxy.WithOrigins("a.test?x"), `wsproxy: WithOrigins: "a.test?x": …"a.test"…`},
		{"WithOrigins", wsproxy.WithOrigins("https://u@a.test"), `wsproxy: WithOrigins: "https://u@a.test": …"https://a.test"…`},
		{"WithOrigins", wsproxy.WithOrigins("wss://a.test"), `wsproxy: WithOrigins: "wss://a.test": …"https://a.test"…`},
		{"WithOrigins", wsproxy.WithOrigins("WS://localhost:*"), `wsproxy: WithOrigins: "WS://localhost:*": …"http://localhost:*"…`},
		{"WithOrigins", wsproxy.WithOrigins("https://"), `wsproxy: WithOrigins: "https://": …`},
		{"WithOrigins", wsproxy.WithOrigins("file:///app/index.html"), `wsproxy: WithOrigins: "file:///app/index.html": …`},
		{"WithOrigins", wsproxy.WithOrigins("file://*"), `wsproxy: WithOrigins: "file://*": …`},
		{"WithOrigins", wsproxy.WithOrigins("https://a*.test"), ""},
		{"WithOrigins", wsproxy.WithOrigins("https://a.*.test"), ""},
		{"WithOrigins", wsproxy.WithOrigins("https://*.*.test"), ""},
		{"WithOrigins", wsproxy.WithOrigins("https://*:8443"), ""},
		{"WithOrigins", wsproxy.WithOrigins("*://a.test"), `wsproxy: WithOrigins: "*://a.test": …`},
		{"WithOrigins", wsproxy.WithOrigins("1x://a.test"), `wsproxy: WithOrigins: "1x://a.test": …`},
		{"WithOrigins", wsproxy.WithOrigins("https://a.test, https://b.test"), ""},
		{"WithOrigins", wsproxy.WithOrigins("a.test,b.test"), `wsproxy: WithOrigins: "a.test,b.test": …`},
		{"WithOrigins", wsproxy.WithOrigins("https://a.test:99999"), `wsproxy: WithOrigins: "https://a.test:99999": …`},
		{"WithOrigins", wsproxy.WithOrigins("::1"), `wsproxy: WithOrigins: "::1": …`},
		{"WithOrigins", wsproxy.WithOrigins("http://[fe80::1%eth0]"), `wsproxy: WithOrigins: "http://[fe80::1%eth0]": …`},
		{"WithOrigins", wsproxy.WithOrigins("*.127.0.0.1"), `wsproxy: WithOrigins: "*.127.0.0.1": …`},
		{"WithOrigins", wsproxy.WithOrigins("http://127.1"), `wsproxy: WithOrigins: "http://127.1": …`},
		{"WithOrigins", wsproxy.WithOrigins("http://aü\x00.test"), ""},
		{"WithTrustedProxies", wsproxy.WithTrustedProxies(netip.Prefix{}), ""},
		{"WithTrustedProxies", wsproxy.WithTrustedProxies(netip.MustParsePrefix("::ffff:10.0.0.0/104")), ""},
		{"WithDialContext", wsproxy.WithDialContext(nil), ""},
		{"WithTLSConfig", wsproxy.WithTLSConfig(nil), ""},
		{"WithTLSConfig", wsproxy.WithTLSConfig(&tls.Config{InsecureSkipVerify: true}), `wsproxy: WithTLSConfig: "InsecureSkipVerify": …WithInsecureSkipVerify…`},
		{"WithTLSConfig", wsproxy.WithTLSConfig(&tls.Config{MinVersion: tls.VersionTLS11}), `wsproxy: WithTLSConfig: "MinVersion TLS 1.1": …`},
		{"WithTLSConfig", wsproxy.WithTLSConfig(&tls.Config{MaxVersion: tls.VersionTLS10}), ""},
		{"WithRateLimit", wsproxy.WithRateLimit(wsproxy.Client, wsproxy.RateLimit{Messages: 1, Bytes: math.Inf(1)}), ""},
		{"WithRateLimit", wsproxy.WithRateLimit(wsproxy.Client, wsproxy.RateLimit{Messages: math.NaN()}), ""},
		{"WithRateLimit", wsproxy.WithRateLimit(wsproxy.Client, wsproxy.RateLimit{Messages: -1}), ""},
		{"WithRateLimit", wsproxy.WithRateLimit(wsproxy.Client, wsproxy.RateLimit{}), ""},
		{"WithRateLimit", wsproxy.WithRateLimit(wsproxy.Client, wsproxy.RateLimit{Messages: 1e-10}), "wsproxy: WithRateLimit: \"{1e-10 0 0 0s false}\": …"},
		{"WithRateLimit", wsproxy.WithRateLimit(wsproxy.Client, wsproxy.RateLimit{Messages: 1, Bytes: 0.5}), "wsproxy: WithRateLimit: \"{1 0.5 0 0s false}\": …"},
		{"WithRateLimit", wsproxy.WithRateLimit(wsproxy.Client, wsproxy.RateLimit{Messages: 1, Burst: math.MaxInt64}), ""},
		{"WithRateLimit", wsproxy.WithRateLimit(wsproxy.Self, wsproxy.RateLimit{Messages: 1}), `wsproxy: WithRateLimit: "proxy": …`},
		{"WithMaxMessageSize", wsproxy.WithMaxMessageSize(wsproxy.Client, -1), `wsproxy: WithMaxMessageSize: "-1": …`},
		{"WithMaxFrameSize", wsproxy.WithMaxFrameSize(wsproxy.Upstream, -1), ""},
		{"WithMaxSessions", wsproxy.WithMaxSessions(-1), ""},
		{"WithMaxHandshakes", wsproxy.WithMaxHandshakes(-1), ""},
		{"WithMaxSessionsPerClient", wsproxy.WithMaxSessionsPerClient(-1, nil), ""},
		{"WithMaxAge", wsproxy.WithMaxAge(-1), ""},
		{"WithDrain", wsproxy.WithDrain(-1, 1001), ""},
		{"WithResume", wsproxy.WithResume(wsproxy.Resume{Window: -1}), ""},
		{"WithResume", wsproxy.WithResume(wsproxy.Resume{Window: 30}), `wsproxy: WithResume: "30ns": …30*time.Second…`},
		{"WithDrain", wsproxy.WithDrain(0, 1006), `wsproxy: WithDrain: "1006": …`},
		{"WithLostCode", wsproxy.WithLostCode(0), `wsproxy: WithLostCode: "0": …`},
		{"WithLostCode", wsproxy.WithLostCode(1006), ""},
		{"WithRewriteAnswer", wsproxy.WithRewriteAnswer(nil), ""},
		{"WithOnOpen", wsproxy.WithOnOpen(nil), ""},
		{"WithOnClose", wsproxy.WithOnClose(nil), ""},
		{"WithLogger", wsproxy.WithLogger(nil), ""},
		{"WithErrorHandler", wsproxy.WithErrorHandler(nil), `wsproxy: WithErrorHandler: "<nil>": …`},
		{"Option", nil, ""},
	}
	var all []wsproxy.Option
	var want []string
	for _, row := range rows {
		p, err := wsproxy.New("http://upstream.test", row.value)
		if err == nil || p != nil {
			t.Errorf("%s: got %v and no error", row.option, p)
			continue
		}
		if e := optionErrors(t, err); len(e) != 1 || e[0].Option != row.option || e[0].Reason == "" || row.text != "" && !like(err.Error(), row.text) {
			t.Errorf("%s: got %v, want one mistake of it, %s", row.option, err, row.text)
		}
		all, want = append(all, row.value), append(want, row.option)
	}
	all = append(all, wsproxy.WithOrigins("a.test"), wsproxy.WithInsecureAnyOrigin())
	want = append(append([]string{"target"}, want...), "WithInsecureAnyOrigin")
	_, err := wsproxy.New("gopher://x", all...)
	var got []string
	for _, e := range optionErrors(t, err) {
		got = append(got, e.Option)
	}
	if !slices.Equal(got, want) {
		t.Errorf("got mistakes in\n%v\nwant\n%v", got, want)
	}
}

// Unusual but valid arguments are not mistakes.
func TestNoMistakes(t *testing.T) {
	t.Parallel()
	for _, o := range []wsproxy.Option{
		wsproxy.WithPing(0, 0), wsproxy.WithPing(0, -1), wsproxy.WithIdleTimeout(0), wsproxy.WithHost(""), wsproxy.WithHost("[::1]:80"),
		wsproxy.WithOrigins(), wsproxy.WithOrigins("a.test", "*.a.test", "http://a.test:80", "https://[::1]:8443", "chrome-extension://abc"),
		wsproxy.WithOrigins("Null", "FILE://", "https://a.test/", "vscode-webview://*", "capacitor://localhost", "127.0.0.1:*", "*.1password.example", "https://Bücher.example"),
		wsproxy.WithHost("bücher.example:81"), wsproxy.WithHost("A.test:"), wsproxy.WithTrustedUnixSockets(),
		wsproxy.WithTrustedProxies(), wsproxy.WithTrustedProxies(netip.MustParsePrefix("10.1.2.3/8")),
	} {
		if _, err := wsproxy.New("http://upstream.test", o); err != nil {
			t.Error(err)
		}
	}
}

// A81: targets that cannot be intended are mistakes, and the error's text and
// value never contain the password, query or fragment of one.
func TestTargets(t *testing.T) {
	t.Attr("case", "A81")
	t.Parallel()
	for _, good := range []string{"http://h", "HTTPS://h:1/p?q", "ws://[::1]:80", "wss://h", "unix:/s", "unix:///s", "unix:s", "unix:@s",
		"http://bücher.example", "http://127.0.0.1:", "http://h:080/", "http://[fe80::1%25eth0]:80", "http://a_b.c-d"} {
		if _, err := wsproxy.New(good); err != nil {
			t.Errorf("%s: %v", good, err)
		}
	}
	for _, bad := range []string{
		"", "/", "h", "h:80", "127.0.0.1:80", "//h", "http:", "http://", "http:h", "http:///p", "http://:80", "ftp://h", "h2c://h", "wsss://h",
		"http://h:0", "http://h:65536", "http://h:99999", "http://a<b", "http://[::ffff]x", "http://bü cher", "http://ü ", "http://" + strings.Repeat("a", 256), "http://" + strings.Repeat("ü", 1<<12),
		"unix:", "unix://", "http://h/#f", "http://h:port", "http://h:99:99", "http://a b", "http://h/%zz", "http://[::1",
		"http://user@h", "http://user:s3cr3t@h", "http://:s3cr3t@h", "https://user:s3cr3t@h:port", "user:s3cr3t@h", "user:s3cr3t@h:80",
		"ftp://user:s3cr3t@h", "http://user:s3cr3t%zz@h", "http://user:%zs3cr3t@h", "http://user:s3cr3t?x@h", "http://user:x?s3cr3t@h",
		"http://user:s3cr3t/x@h", "http://user:s3cr3t#x@h", "http://user:x#s3cr3t@h", "http://user:s3cr3t @h", "http://user:s3cr3t\n@h",
		"http://user:a@s3cr3t@h", "//user:s3cr3t@h", "http//user:s3cr3t@h", "ftp://h?key=s3cr3t", "http://h/?key=s3cr3t#s3cr3t", "http://h/#s3cr3t",
		"http://u@h/?key=s3cr3t@x", "http://u@h/#s3cr3t", "ftp://h/#?s3cr3t",
	} {
		_, err := wsproxy.New(bad)
		if err == nil {
			t.Errorf("%q: no error", bad)
			continue
		}
		e := optionErrors(t, err)
		if len(e) != 1 || e[0].Option != "target" {
			t.Errorf("%q: got %v, want one mistake in the target", bad, err)
		}
		if all := fmt.Sprintf("%v %+v %#v", err, e[0], e[0]); strings.Contains(all, "s3cr3t") {
			t.Errorf("%q: the secret is in %s", bad, all)
		}
	}
}

// Durations so short that seconds were probably meant are mistakes, each under
// its option's name. The shortest plausible ones are not.
func TestShortWaits(t *testing.T) {
	t.Parallel()
	source := func(d time.Duration) wsproxy.Option {
		return wsproxy.WithSource(d, func(context.Context) ([]wsproxy.Member, error) {
			return []wsproxy.Member{{Target: "http://upstream.test"}}, nil
		})
	}
	for name, option := range map[string]func(time.Duration) wsproxy.Option{
		"WithPing":             func(d time.Duration) wsproxy.Option { return wsproxy.WithPing(d, d) },
		"WithPingTo":           func(d time.Duration) wsproxy.Option { return wsproxy.WithPingTo(wsproxy.Upstream, time.Second, d) },
		"WithIdleTimeout":      wsproxy.WithIdleTimeout,
		"WithWriteTimeout":     wsproxy.WithWriteTimeout,
		"WithHandshakeTimeout": wsproxy.WithHandshakeTimeout,
		"WithCloseTimeout":     wsproxy.WithCloseTimeout,
		"WithMaxAge":           wsproxy.WithMaxAge,
		"WithDrain":            func(d time.Duration) wsproxy.Option { return wsproxy.WithDrain(d, 0) },
		"WithSource":           source,
		"WithHealthCheck": func(d time.Duration) wsproxy.Option {
			return wsproxy.WithHealthCheck(wsproxy.HealthCheck{Interval: time.Hour, Timeout: d})
		},
		"WithRateLimit": func(d time.Duration) wsproxy.Option {
			return wsproxy.WithRateLimit(wsproxy.Upstream, wsproxy.RateLimit{Bytes: 1, Burst: d})
		},
	} {
		for d, want := range map[time.Duration]string{
			30:                     `wsproxy: ` + name + `: "30ns": …30*time.Second…`,
			1:                      `wsproxy: ` + name + `: "1ns": …1*time.Second…`,
			time.Millisecond:       "",
			100 * time.Millisecond: "",
		} {
			target := "http://upstream.test"
			if name == "WithSource" {
				target = ""
			}
			p, err := wsproxy.New(target, option(d))
			if got := fmt.Sprint(err); !like(got, want) && !(want == "" && err == nil) {
				t.Errorf("%s %v: got %v, want %s", name, d, err, want)
			}
			if p != nil {
				p.Close()
			}
		}
	}
}

// If an option is given twice, the later one is used.
func TestLaterOptionCounts(t *testing.T) {
	t.Parallel()
	refused := func(text string) wsproxy.Option {
		return wsproxy.WithDialContext(func(context.Context, string, string) (net.Conn, error) { return nil, errors.New(text) })
	}
	var got error
	direct(t, "http://upstream.test", edited(), nil, refused("first"), refused("second"), wsproxy.WithErrorHandler(
		func(_ http.ResponseWriter, _ *http.Request, e *wsproxy.Error) { got = e }))
	if want := "wsproxy: upstream dial: second"; got == nil || got.Error() != want {
		t.Errorf("got %v, want %s", got, want)
	}
}

// The defaults that the comments promise are those in the const block.
func TestDocumentedDefaults(t *testing.T) {
	t.Parallel()
	files := token.NewFileSet()
	source := func(name string) *ast.File {
		f, err := parser.ParseFile(files, name, nil, parser.ParseComments)
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	var text []byte
	for _, name := range []string{"options.go", "keepalive.go", "options_limit.go", "options_balance.go", "probe.go"} {
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		text = append(text, b...)
	}
	consts := make(map[string]string) // name: "25 s"
	for _, m := range regexp.MustCompile(`(?m)^\t(default\w+) += (\d+) \* time\.Second$`).FindAllStringSubmatch(string(text), -1) {
		consts[m[1]] = m[2] + " s"
	}
	comments := make(map[string]string)
	names, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		for _, d := range source(name).Decls {
			if f, ok := d.(*ast.FuncDecl); ok && f.Recv == nil && !strings.HasSuffix(name, "_test.go") {
				comments[f.Name.Name] = strings.Join(strings.Fields(f.Doc.Text()), " ")
			}
		}
	}
	for _, row := range []struct {
		option, says string // with the constants' names in it
	}{
		{"WithPing", "The defaults are defaultPingInterval and defaultPongTimeout."},
		{"WithWriteTimeout", "The default is defaultWriteTimeout."},
		{"WithHandshakeTimeout", "The default is defaultHandshakeTimeout."},
		{"WithCloseTimeout", "The default is defaultCloseTimeout."},
		{"docs/options.md", "| `WithPing(interval, timeout)` | defaultPingInterval, defaultPongTimeout |"},
		{"docs/options.md", "| `WithWriteTimeout(d)` | defaultWriteTimeout |"},
		{"docs/options.md", "| `WithHandshakeTimeout(d)` | defaultHandshakeTimeout |"},
		{"docs/options.md", "| `WithCloseTimeout(d)` | defaultCloseTimeout |"},
		{"README.md", "A side that is silent for defaultPingInterval gets a Ping."},
		{"README.md", "| `WithPing(interval, timeout)` | defaultPingInterval, defaultPongTimeout |"},
		{"package", "A peer that has been silent for defaultPingInterval is sent a Ping, on either side, and is dropped defaultPongTimeout later"},
	} {
		comment := comments[row.option]
		switch {
		case strings.HasSuffix(row.option, ".md"):
			comment = documents(t)[row.option]
		case row.option == "package":
			comment = strings.Join(strings.Fields(source("proxy.go").Doc.Text()), " ")
		}
		want := regexp.MustCompile(`default[A-Z]\w+`).ReplaceAllStringFunc(row.says, func(name string) string {
			value, ok := consts[name]
			if !ok {
				t.Fatalf("no constant %s", name)
			}
			return value
		})
		if !strings.Contains(comment, want) {
			t.Errorf("%s: the comment says\n%s\nwant in it: %s", row.option, comment, want)
		}
	}
	for _, want := range []string{"random; 0: " + consts["defaultCheckInterval"], "of each; 0: " + consts["defaultCheckTimeout"]} {
		if !strings.Contains(string(text), want) {
			t.Errorf("HealthCheck's fields don't say %q", want)
		}
	}
	if len(consts) != 7 {
		t.Errorf("got the defaults %v, want each of them compared here", consts)
	}
	// Every option's comment says what happens without it.
	for name, comment := range comments {
		if strings.HasPrefix(name, "With") && !regexp.MustCompile(`[Dd]efault|Without it|WithInsecure|instead of`).MatchString(comment) {
			t.Errorf("%s: the comment names no default: %s", name, comment)
		}
	}
}
