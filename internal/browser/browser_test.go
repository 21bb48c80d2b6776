package browser

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"

	"github.com/seed-ffb73231/wsproxy/internal/remains"
	"github.com/seed-ffb73231/wsproxy/internal/wstest"
)

// limit bounds every wait, on a machine that may be busy.
const limit = 30 * time.Second

// State shared by the tests, set by TestMain before any test runs.
var (
	missing  string            // what isn't installed; "": nothing
	chromium context.Context   // holds the one browser
	trusted  *wstest.Authority // of the sites that tests make
	example  struct {
		plain, idle *program
		drain       []*program // one each time that the tests are run (-count), to be ended
	}
)

func TestMain(m *testing.M) {
	remains.Exit(testMain(m))
}

func testMain(m *testing.M) int {
	for _, name := range []string{"chromium", "certutil"} {
		if _, err := exec.LookPath(name); err != nil {
			missing = name + " is missing: run setup.sh"
			return m.Run()
		}
	}
	dir, err := os.MkdirTemp("", "wsproxy-browser-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	flag.Parse()
	count, _ := strconv.Atoi(flag.Lookup("test.count").Value.String())
	if err := start(ctx, dir, max(count, 1)); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	code := m.Run()
	for _, p := range append(example.drain, example.plain, example.idle) {
		if err := p.end(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	if err := chromedp.Cancel(chromium); err != nil {
		fmt.Fprintln(os.Stderr, "chromium:", err)
		code = 1
	}
	return code
}

// start starts the example with different settings, and the browser, which
// trusts the authorities of all of them and one more.
func start(ctx context.Context, dir string, count int) (err error) {
	binary := filepath.Join(dir, "wss")
	if err := wstest.Build(ctx, "../..", "./examples/wss", binary); err != nil {
		return err
	}
	// No pings in tests of something else: a browser that does not run for a
	// while would be dropped.
	if example.plain, err = startProgram(ctx, binary, "-ping=0"); err != nil {
		return err
	}
	if example.idle, err = startProgram(ctx, binary, "-ping=0", "-idle=1s"); err != nil {
		return err
	}
	for range count {
		p, err := startProgram(ctx, binary)
		if err != nil {
			return err
		}
		example.drain = append(example.drain, p)
	}

	trusted = wstest.NewAuthority()
	file := filepath.Join(dir, "ca.pem")
	if err := os.WriteFile(file, trusted.PEM(), 0o644); err != nil {
		return err
	}
	// Chromium on Linux reads the user's NSS database once: all authorities
	// must be in it by then.
	database := filepath.Join(dir, ".pki", "nssdb")
	if err := os.MkdirAll(database, 0o700); err != nil {
		return err
	}
	certutil := func(args ...string) error {
		out, err := exec.CommandContext(ctx, "certutil", append(args, "-d", "sql:"+database)...).CombinedOutput()
		if err != nil {
			return fmt.Errorf("certutil: %w\n%s", err, out)
		}
		return nil
	}
	if err := certutil("-N", "--empty-password"); err != nil {
		return err
	}
	files := []string{file, example.plain.ca, example.idle.ca}
	for _, p := range example.drain {
		files = append(files, p.ca)
	}
	for i, file := range files {
		if err := certutil("-A", "-t", "C,,", "-n", fmt.Sprint("authority ", i), "-i", file); err != nil {
			return err
		}
	}

	options := append(chromedp.DefaultExecAllocatorOptions[:],
		chromedp.ExecPath("chromium"),
		chromedp.Env("HOME="+dir),
		chromedp.NoSandbox,
		chromedp.DisableGPU,
		chromedp.Flag("disable-quic", true),
		chromedp.Flag("disable-component-update", true),
		// Names other than localhost, which counts as secure even without TLS.
		chromedp.Flag("host-resolver-rules", "MAP *.test 127.0.0.1"))
	allocator, _ := chromedp.NewExecAllocator(ctx, options...)
	chromium, _ = chromedp.NewContext(allocator)
	if err := chromedp.Do(chromium); err != nil {
		return fmt.Errorf("chromium: %w", err)
	}
	return nil
}

// require skips a test if the browser is not installed. In CI it fails.
func require(t *testing.T) {
	t.Helper()
	switch {
	case missing == "":
	case os.Getenv("CI") == "true":
		t.Fatal(missing)
	default:
		t.Skip(missing)
	}
}

// A tab is a browser tab for one test.
type tab struct {
	t   *testing.T
	ctx context.Context
}

func newTab(t *testing.T) *tab {
	t.Helper()
	require(t)
	ctx, closeTab := chromedp.NewContext(chromium)
	t.Cleanup(closeTab)
	// Not in the context with the time limit: the tab would be closed after the
	// call.
	if err := chromedp.Do(ctx); err != nil {
		t.Fatal("a new tab: ", err)
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	t.Cleanup(cancel)
	return &tab{t, ctx}
}

func (b *tab) do(what string, steps ...chromedp.Action[chromedp.Void]) {
	b.t.Helper()
	if err := chromedp.Do(b.ctx, steps...); err != nil {
		b.t.Fatalf("%s: %v", what, err)
	}
}

func (b *tab) visit(url string) {
	b.t.Helper()
	b.do(url, chromedp.Navigate(url))
}

// eval returns the value of an expression in the page.
func eval[T any](b *tab, expression string) T {
	b.t.Helper()
	v, err := chromedp.Run(b.ctx, chromedp.Evaluate[T](expression))
	if err != nil {
		b.t.Fatalf("%s: %v", expression, err)
	}
	return v
}

// await waits until an expression is true in the page.
func (b *tab) await(expression string) {
	b.t.Helper()
	// At an interval, because frames may not be drawn for a tab in the
	// background.
	_, err := chromedp.Run(b.ctx, chromedp.Poll[bool](expression,
		chromedp.WithPollingInterval(10*time.Millisecond), chromedp.WithPollingTimeout(0)))
	if err != nil {
		b.t.Fatalf("%s: %v; the page:\n%s", expression, err, b.text())
	}
}

// text returns the page's text for a failure message, with its own time limit.
func (b *tab) text() string {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(b.ctx), limit)
	defer cancel()
	text, err := chromedp.Run(ctx, chromedp.Evaluate[string](`document.body.innerText + "\n" + JSON.stringify(window.got ?? null)`))
	if err != nil {
		return err.Error()
	}
	return text
}

// A talk is the result of the WebSocket that dial has opened.
type talk struct {
	Events   []string // in order; an exception by its name
	Messages []string
	Code     int
	Reason   string
	Clean    bool
}

// script is included in the pages of the sites that tests create.
const script = `
function dial(url) {
	const got = window.got = {events: [], messages: [], opened: Infinity};
	let s;
	try {
		s = got.socket = new WebSocket(url);
	} catch (err) {
		got.events.push(err.name);
		return;
	}
	s.onopen = () => { got.opened = performance.now(); got.events.push("open"); };
	s.onmessage = e => got.messages.push(e.data);
	s.onerror = () => got.events.push("error");
	s.onclose = e => {
		Object.assign(got, {code: e.code, reason: e.reason, clean: e.wasClean});
		got.events.push("close");
	};
}`

// dial opens a WebSocket from the tab's page. It returns when that is open or
// has failed.
func (b *tab) dial(url string) talk {
	b.t.Helper()
	eval[chromedp.Void](b, fmt.Sprintf("dial(%q)", url))
	b.await(`["open", "close", "SecurityError"].includes(got.events.at(-1))`)
	return b.talk()
}

// echo sends a text and waits for the echo.
func (b *tab) echo(text string) {
	b.t.Helper()
	eval[chromedp.Void](b, fmt.Sprintf("got.socket.send(%q)", text))
	b.await(fmt.Sprintf("got.messages.includes(%q)", text))
}

func (b *tab) awaitClose() talk {
	b.t.Helper()
	b.await(`got.events.includes("close")`)
	return b.talk()
}

func (b *tab) talk() talk {
	b.t.Helper()
	return eval[talk](b, `({...got, socket: null})`)
}

func (t talk) String() string {
	return fmt.Sprintf("%s (code %d, reason %q, clean %v)", strings.Join(t.Events, ", "), t.Code, t.Reason, t.Clean)
}

// refused checks that a WebSocket has failed in the way in which browsers
// report it, whatever the cause.
func (t talk) refused(tb testing.TB, what string) {
	tb.Helper()
	if got, want := t.String(), `error, close (code 1006, reason "", clean false)`; got != want {
		tb.Errorf("%s: got %s, want %s", what, got, want)
	}
}

func (t talk) open(tb testing.TB, what string) {
	tb.Helper()
	if len(t.Events) != 1 || t.Events[0] != "open" {
		tb.Fatalf("%s: got %s, want it open", what, t)
	}
}
