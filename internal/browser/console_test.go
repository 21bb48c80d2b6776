package browser

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
	"github.com/coder/websocket"
	"github.com/seed-ffb73231/wsproxy/internal/wstest"
)

// TestConsole opens a page of examples/console, and clients whose sessions it
// shows and ends.
func TestConsole(t *testing.T) {
	t.Parallel()
	require(t)
	binary := filepath.Join(t.TempDir(), "console")
	if err := wstest.Build(t.Context(), "../..", "./examples/console", binary); err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]func(*testing.T, string){
		"live":     testLive,
		"stranger": testStranger,
		"filter":   testFilter,
		"kick":     testKick,
		"drain":    testConsoleDrain,
		"return":   testReturn,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, binary)
		})
	}
}

// A desk is a running examples/console and a page that shows it.
type desk struct {
	*program // url is the console's
	*tab
	public string // the proxy's URL
}

// startConsole starts the example and visits its page.
func startConsole(t *testing.T, binary string, args ...string) *desk {
	t.Helper()
	d := &desk{tab: newTab(t)}
	d.program, d.public = runConsole(t, binary, append(args, "-console=127.0.0.1:0")...)
	d.do("viewport", chromedp.EmulateViewport(1280, 800)) // wide enough for a table
	d.visit(d.url)
	d.live()
	return d
}

// runConsole starts the example and waits until it serves.
func runConsole(t *testing.T, binary string, args ...string) (p *program, public string) {
	t.Helper()
	p = &program{done: make(chan struct{})}
	p.cmd = exec.Command(binary, append(args, "-addr=127.0.0.1:0", "-ping=0")...)
	p.cmd.Stderr = &p.stderr
	stdout, err := p.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	serving := make(chan struct{})
	go func() {
		lines := bufio.NewScanner(stdout)
		for lines.Scan() {
			fields := strings.Fields(lines.Text())
			switch {
			case len(fields) < 2:
			case fields[0] == "proxy" && public == "":
				public = strings.TrimSuffix(fields[1], ",")
			case fields[0] == "console":
				p.url = fields[1]
				close(serving)
			}
		}
		p.err = p.cmd.Wait()
		close(p.done)
	}()
	p.end = sync.OnceValue(p.interrupt)
	t.Cleanup(func() {
		if err := p.end(); err != nil {
			t.Error(err)
		}
	})
	select {
	case <-serving:
	case <-p.done:
		t.Fatalf("%v: %v\n%s", p.cmd.Args, p.err, p.stderr.Bytes())
	}
	return p, public
}

// live waits until the page is connected.
func (d *desk) live() {
	d.t.Helper()
	d.await(`document.getElementById("state").textContent === "live"`)
}

// open opens a session through the proxy.
func (d *desk) open(path, user string) *websocket.Conn {
	d.t.Helper()
	conn, _, err := websocket.Dial(d.ctx, d.public+path+"?user="+url.QueryEscape(user), nil)
	if err != nil {
		d.t.Fatal(err)
	}
	d.t.Cleanup(func() { conn.CloseNow() })
	return conn
}

// users waits until the page's rows have these users, in this order.
func (d *desk) users(want ...string) {
	d.t.Helper()
	d.await(fmt.Sprintf(`[...document.querySelectorAll("#rows td[data-label=User]")].map(e => e.textContent).join("|") === %q`, strings.Join(want, "|")))
}

// closed waits for a session's Close and checks it.
func (d *desk) closed(conn *websocket.Conn, code websocket.StatusCode, reason string) {
	d.t.Helper()
	_, _, err := conn.Read(d.ctx)
	got, _ := errors.AsType[websocket.CloseError](err)
	if want := (websocket.CloseError{Code: code, Reason: reason}); got != want {
		d.t.Errorf("the session ended with %v, want %v", err, want)
	}
}

func (d *desk) press(selector string) {
	d.t.Helper()
	d.do("click "+selector, chromedp.Click(chromedp.CSS(selector)))
}

// enter replaces the text of a field.
func (d *desk) enter(selector, text string) {
	d.t.Helper()
	eval[chromedp.Void](d.tab, fmt.Sprintf("document.querySelector(%q).select()", selector))
	d.do("enter "+selector, chromedp.SendKeys(chromedp.CSS(selector), cmp.Or(text, "\b")))
}

// hear is chromedp.Console from the start of a page.
func (d *desk) hear() func() []string {
	console := chromedp.Console(d.ctx)
	d.visit(d.url)
	d.live()
	return func() []string { return complaints(d.tab, console) }
}

// testLive runs the example with its own clients.
func testLive(t *testing.T, binary string) {
	d := startConsole(t, binary, "-visitors=8", "-window=100ms")
	heard := d.hear()
	d.await(`document.querySelectorAll("#rows tr").length === 8`)
	d.await(`document.getElementById("shown").textContent === "8 of 8"`)
	if got, want := d.read("notice"), "this machine only"; !strings.Contains(got, want) {
		t.Errorf("the page says %q, want it to say that it is for %s", got, want)
	}
	// Every row is still the same element after its content has changed.
	eval[chromedp.Void](d.tab, `window.was = [...document.querySelectorAll("#rows tr")].map(tr => ({tr, text: tr.textContent}))`)
	d.await(`was.every(w => w.tr.isConnected && w.tr.textContent !== w.text)`)
	d.await(`was.some(w => /[↑] [1-9]/.test(w.tr.querySelector("td[data-label=Messages]").textContent))`)
	d.await(`/^[1-9]\d*\/s$/.test(document.getElementById("message-rate").textContent)`)
	if got := heard(); got != nil {
		t.Errorf("the browser complains: %q", got)
	}
}

// testStranger has clients whose texts try to be more than text.
func testStranger(t *testing.T, binary string) {
	d := startConsole(t, binary, "-visitors=0")
	heard := d.hear()
	const hostile = `<img src=x onerror="window.harmed=1"><script>window.harmed=1</script>`
	d.open("/"+url.PathEscape(hostile), hostile[:60])
	d.users(hostile[:60])
	if got, want := eval[string](d.tab, `document.querySelector("#rows td[data-label=Path]").textContent`), "/websocket/"+hostile; got != want {
		t.Errorf("the path is shown as %q, want %q", got, want)
	}
	d.press("#rows button")
	if got := d.read("kick-who"); !strings.Contains(got, hostile) {
		t.Errorf("the dialog is about %q, want it to show %q", got, hostile)
	}
	d.press("#kick .cancel")
	d.enter("#filter", "<IMG")
	d.await(`document.getElementById("shown").textContent === "1 of 1"`)
	if eval[bool](d.tab, `"harmed" in window || document.querySelector("img, #rows script, dialog script") !== null`) {
		t.Error("the page has made elements of what a client said")
	}
	if got := heard(); got != nil {
		t.Errorf("the browser complains: %q", got)
	}
}

func testFilter(t *testing.T, binary string) {
	d := startConsole(t, binary, "-visitors=0")
	d.await(`document.getElementById("none").textContent === "No sessions."`)
	d.open("/chat", "kiosk-1")
	d.open("/prices", "desk-1")
	d.open("/prices", "kiosk-2")
	d.users("kiosk-1", "desk-1", "kiosk-2")
	d.enter("#filter", "KIOSK")
	d.users("kiosk-1", "kiosk-2")
	d.await(`document.getElementById("shown").textContent === "2 of 3"`)
	d.open("", "kiosk-3")
	d.users("kiosk-1", "kiosk-2", "kiosk-3")
	d.press("th[data-key=user] button")
	d.press("th[data-key=user] button")
	d.users("kiosk-3", "kiosk-2", "kiosk-1")
	if got, want := eval[string](d.tab, `[...document.querySelectorAll("[aria-sort]")].map(e => e.dataset.key + e.ariaSort).join()`), "userdescending"; got != want {
		t.Errorf("the order is announced as %q, want %q", got, want)
	}
	d.enter("#filter", "prices")
	d.users("kiosk-2", "desk-1")
	d.enter("#filter", "nobody")
	d.users()
	d.await(`document.getElementById("none").checkVisibility() && document.getElementById("none").textContent === "No session holds that text."`)
	d.enter("#filter", "")
	d.users("kiosk-3", "kiosk-2", "kiosk-1", "desk-1")
}

func testKick(t *testing.T, binary string) {
	d := startConsole(t, binary, "-visitors=0")
	stays, goes := d.open("/", "desk-1"), d.open("/", "desk-2")
	d.users("desk-1", "desk-2")
	d.press("#rows tr:nth-child(2) button")
	if got, want := d.read("kick-who"), "desk-2 · "; !strings.HasPrefix(got, want) {
		t.Errorf("the dialog is about %q, want %q", got, want)
	}
	// Invalid input is reported, and the dialog stays open.
	d.enter("#code", "1005")
	d.press("#kick-do")
	d.await(`document.getElementById("kick-error").textContent.includes("may not be sent")`)
	d.enter("#reason", strings.Repeat("é", 70)) // 140 bytes
	d.press("#codes button:nth-child(2)")
	d.press("#kick-do")
	d.await(`document.getElementById("kick-error").textContent.includes("123 bytes")`)

	d.enter("#reason", "token expired")
	d.press("#kick-do")
	d.closed(goes, 4401, "token expired")
	d.users("desk-1")
	d.await(`!document.getElementById("kick").open && document.getElementById("outcome").checkVisibility()`)
	d.await(`document.getElementById("ended-by").textContent === "closed by proxy1"`)
	echoes(t, d.tab.ctx, stays)
}

func testConsoleDrain(t *testing.T, binary string) {
	d := startConsole(t, binary, "-visitors=0", "-window=1s")
	var conns []*websocket.Conn
	for i := range 10 {
		conns = append(conns, d.open("/", fmt.Sprint("desk-", i)))
	}
	d.await(`document.getElementById("open").textContent === "10"`)
	d.press("#drain")
	d.press("#sure .cancel")
	echoes(t, d.tab.ctx, conns[0])
	d.press("#drain")
	d.press("#sure-do")
	d.await(`document.getElementById("draining").checkVisibility()`)
	for _, conn := range conns {
		d.closed(conn, websocket.StatusGoingAway, "shutting down")
	}
	d.await(`document.getElementById("progress").value === 1 && document.getElementById("draining-title").textContent === "Drained"`)
	if got, want := d.read("progress-text"), "100 %: 10 of 10 sessions told, 0 still open, 0 cut."; !strings.HasPrefix(got, want) {
		t.Errorf("the page says %q, want %q", got, want)
	}
	d.users()
	_, resp, err := websocket.Dial(d.tab.ctx, d.public, nil)
	if err == nil || resp == nil || resp.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("a new handshake got %v, %v, want 503", resp, err)
	}
	d.await(`document.getElementById("failed-by").textContent === "shutting down1"`)
	if !eval[bool](d.tab, `document.getElementById("drain").disabled`) {
		t.Error("what is drained can be drained again")
	}
}

// testReturn stops the program and starts another one in its place.
func testReturn(t *testing.T, binary string) {
	d := startConsole(t, binary, "-visitors=0", "-window=100ms")
	conn := d.open("/", "kiosk-1")
	d.users("kiosk-1")
	d.enter("#filter", "desk")
	d.users()
	conn.CloseNow()
	if err := d.end(); err != nil {
		t.Error(err)
	}
	d.await(`document.getElementById("state").textContent === "connection lost" && document.getElementById("drain").disabled`)

	address, err := url.Parse(d.url)
	if err != nil {
		t.Fatal(err)
	}
	d.program, d.public = runConsole(t, binary, "-visitors=0", "-window=100ms", "-console="+address.Host)
	d.live()
	d.open("/", "kiosk-2")
	d.open("/", "desk-2")
	d.users("desk-2") // the filter is still there
	d.await(`!document.getElementById("drain").disabled`)
}

// echoes checks that a session works.
func echoes(t *testing.T, ctx context.Context, conn *websocket.Conn) {
	t.Helper()
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	if err := conn.Write(ctx, websocket.MessageText, []byte("still there")); err != nil {
		t.Error(err)
		return
	}
	if _, _, err := conn.Read(ctx); err != nil {
		t.Errorf("a session that nobody has ended: %v", err)
	}
}
