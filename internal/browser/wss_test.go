package browser

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"iter"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
)

// A program is a running examples/wss.
type program struct {
	url, ca string
	cmd     *exec.Cmd
	stderr  bytes.Buffer // read when done is closed
	done    chan struct{}
	err     error // set when done is closed
	end     func() error
}

// startProgram starts the example and waits until it serves.
func startProgram(ctx context.Context, binary string, args ...string) (*program, error) {
	p := &program{done: make(chan struct{})}
	p.cmd = exec.CommandContext(ctx, binary, append(args, "-addr=127.0.0.1:0")...)
	p.cmd.Stderr = &p.stderr
	stdout, err := p.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	serving := make(chan struct{})
	go func() {
		lines := bufio.NewScanner(stdout)
		for lines.Scan() {
			fields := strings.Fields(lines.Text())
			switch {
			case len(fields) < 2:
			case fields[0] == "page":
				p.url = fields[1]
			case fields[0] == "CA":
				p.ca = fields[1]
				close(serving)
			}
		}
		p.err = p.cmd.Wait()
		close(p.done)
	}()
	p.end = sync.OnceValue(p.interrupt)
	select {
	case <-serving:
		return p, nil
	case <-p.done:
		return nil, fmt.Errorf("%v: %v\n%s", p.cmd.Args, p.err, p.stderr.Bytes())
	}
}

// interrupt stops the program as Ctrl-C does. It must exit without an error.
func (p *program) interrupt() error {
	if err := p.cmd.Process.Signal(os.Interrupt); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	select {
	case <-p.done:
	case <-time.After(limit):
		p.cmd.Process.Kill()
		<-p.done
		return fmt.Errorf("%v still runs %v after it was interrupted", p.cmd.Args, limit)
	}
	if p.err != nil {
		return fmt.Errorf("%v: %w\n%s", p.cmd.Args, p.err, p.stderr.Bytes())
	}
	return nil
}

// openPage visits the example's page.
func openPage(t *testing.T, p *program) *tab {
	t.Helper()
	b := newTab(t)
	b.visit(p.url)
	b.await(`document.documentElement.dataset.ready === "true"`)
	return b
}

func (b *tab) click(id string) {
	b.t.Helper()
	b.do("click "+id, chromedp.Click(chromedp.ID(id)))
}

func (b *tab) connect() {
	b.t.Helper()
	b.click("connect")
	b.await(`document.getElementById("state").textContent === "open"`)
}

// set replaces the value of a field.
func (b *tab) set(id, value string) {
	b.t.Helper()
	eval[chromedp.Void](b, fmt.Sprintf("document.getElementById(%q).value = %q", id, value))
}

func (b *tab) read(id string) string {
	b.t.Helper()
	text, err := chromedp.Run(b.ctx, chromedp.TextContent(chromedp.ID(id)))
	if err != nil {
		b.t.Fatalf("%s: %v", id, err)
	}
	return text
}

// received waits for the log's nth received message and returns what the page
// shows of it.
func (b *tab) received(n int) (what, detail string) {
	b.t.Helper()
	b.await(fmt.Sprintf(`document.querySelectorAll("#log .received").length >= %d`, n))
	read := func(class string) string {
		return eval[string](b, fmt.Sprintf(`document.querySelectorAll("#log .received .%s")[%d].textContent`, class, n-1))
	}
	return read("what"), read("detail")
}

// ended waits for the session's end and checks what the page shows of it.
func (b *tab) ended(code, reason, clean string) {
	b.t.Helper()
	b.await(`document.getElementById("state").textContent === "closed" && !document.getElementById("ending").hidden`)
	if reason != "" {
		reason = "“" + reason + "”"
	}
	got := [3]string{b.read("code"), b.read("reason"), b.read("clean")}
	if want := [3]string{code, reason, clean}; got != want {
		b.t.Errorf("the session ended with %q, want %q", got, want)
	}
}

// complaints returns everything that the browser has printed on the console so
// far, such as violations of the content security policy.
func complaints(b *tab, console iter.Seq2[chromedp.ConsoleMessage, error]) (all []string) {
	b.t.Helper()
	const last = "that is all"
	eval[chromedp.Void](b, fmt.Sprintf("console.info(%q)", last))
	for m, err := range console {
		if err != nil {
			b.t.Fatal(err)
		}
		if m.Text == last {
			break
		}
		all = append(all, m.String())
	}
	return all
}

var roundTrip = regexp.MustCompile(`^(.*), ([\d.]+) ms$`)

func TestPage(t *testing.T) {
	t.Parallel()
	b := newTab(t)
	console := chromedp.Console(b.ctx)
	b.visit(example.plain.url)
	b.await(`document.documentElement.dataset.ready === "true"`)
	if !eval[bool](b, "isSecureContext && location.protocol === 'https:'") {
		t.Error("the page is not in a secure context")
	}
	if got, want := b.read("ping")+", "+b.read("idle"), "off, none"; got != want {
		t.Errorf("the page shows the settings %q, want %q", got, want)
	}
	b.connect()
	if got, want := b.read("protocol"), "echo.v2"; got != want {
		t.Errorf("subprotocol %q, want %q", got, want)
	}
	if got, want := b.read("extensions"), "permessage-deflate"; !strings.HasPrefix(got, want) {
		t.Errorf("extensions %q, want %s", got, want)
	}
	for i, m := range []struct{ field, value, button, what, size string }{
		{"text", "hello, wörld", "send-text", "hello, wörld", "13 B"},
		{"text", "", "send-text", "", "0 B"},
		{"size", "64", "send-binary", "binary", "64 KiB"},
		{"size", "3072", "send-binary", "binary", "3 MiB"},
	} {
		b.set(m.field, m.value)
		b.click(m.button)
		what, detail := b.received(i + 1)
		// The page compares what it receives with what it has sent, and reports
		// differences.
		trip := roundTrip.FindStringSubmatch(detail)
		if what != m.what || trip == nil || trip[1] != m.size {
			t.Errorf("%s %q came back as %q, %q, want %q, %q and the time", m.field, m.value, what, detail, m.what, m.size)
		}
	}
	if got := b.read("trips"); !strings.HasPrefix(got, "4: ") {
		t.Errorf("round trips are shown as %q, want 4 of them", got)
	}
	b.click("disconnect")
	b.ended("1000", "disconnected", "clean")
	if got := complaints(b, console); got != nil {
		t.Errorf("the browser complains: %q", got)
	}
}

func TestSubprotocol(t *testing.T) {
	t.Parallel()
	b := openPage(t, example.plain)
	for _, test := range []struct{ offered, want string }{
		{"chat, echo.v1", "echo.v1"},
		{"", "none"},
	} {
		b.set("protocols", test.offered)
		b.click("connect")
		b.await(`document.getElementById("state").textContent === "open"`)
		if got := b.read("protocol"); got != test.want {
			t.Errorf("offered %q: subprotocol %q, want %q", test.offered, got, test.want)
		}
		b.click("disconnect")
		b.ended("1000", "disconnected", "clean")
	}
	// The upstream supports none of these. A browser itself fails the WebSocket
	// of a page that has offered some.
	b.set("protocols", "chat")
	b.click("connect")
	b.ended("1006", "", "not clean")
}

func TestClose(t *testing.T) {
	t.Parallel()
	b := openPage(t, example.plain)
	for _, test := range []struct{ command, code, reason, clean string }{
		{"/close 1000 bye", "1000", "bye", "clean"},
		{"/close", "1000", "", "clean"},
		{"/close 4401 token expired", "4401", "token expired", "clean"},
		{"/close 1012", "1012", "", "clean"},
		// The upstream leaves without a Close frame: this one is the proxy's.
		{"/drop", "1011", "upstream lost", "clean"},
	} {
		b.connect()
		b.set("text", test.command)
		b.click("send-text")
		b.ended(test.code, test.reason, test.clean)
	}
}

func TestIdle(t *testing.T) {
	t.Parallel()
	b := openPage(t, example.idle)
	if got, want := b.read("idle"), "1 s without a message"; got != want {
		t.Errorf("the page shows the idle timeout %q, want %q", got, want)
	}
	b.connect()
	b.ended("1001", "idle timeout", "clean")
}

var drains atomic.Int64

func TestDrain(t *testing.T) {
	t.Parallel()
	require(t)
	p := example.drain[drains.Add(1)-1]
	b := openPage(t, p)
	if got, want := b.read("ping"), "after 25 s of silence, answer within 10 s"; got != want {
		t.Errorf("the page shows the pings %q, want %q", got, want)
	}
	b.connect()
	b.click("send-text")
	b.received(1)
	if err := p.end(); err != nil {
		t.Error(err)
	}
	b.ended("1001", "shutting down", "clean")
}
