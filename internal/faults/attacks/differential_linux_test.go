package attacks

import (
	"bufio"
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/seed-ffb73231/wsproxy/internal/wstest"
)

var update = flag.Bool("update", false, "write the tables in README.md anew")

// A difference is a handshake that is sent to each proxy, and the reason why
// they handle it differently, if they do.
type difference struct {
	cases, name string
	send        string                   // the client's bytes
	answer      func(head string) string // the upstream's; nil: the 101 to whatever it is asked
	see         []string                 // the fields that the upstream has got, to be told
	get         []string                 // those that the client has got
	why         string
}

// decided is how long nothing may happen before the test concludes that nothing
// will.
const decided = 1500 * time.Millisecond

// mark is what the client sends after the answer: if there is a tunnel, it
// arrives unchanged.
var mark = frame("client", wstest.Text, "mark")

// An asked is an upstream that treats everything as a handshake.
type asked struct {
	ln     net.Listener
	mu     sync.Mutex
	answer func(head string) string
	heads  []string      // the requests that have come
	behind bytes.Buffer  // what has come behind the first of them
	marked chan struct{} // closed when the mark has
	conns  []net.Conn
	open   sync.WaitGroup
}

func newAsked(t *testing.T) *asked {
	a := &asked{ln: wstest.Listen(t, wstest.TCP)}
	go func() {
		for {
			c, err := a.ln.Accept()
			if err != nil {
				return
			}
			a.mu.Lock()
			a.conns = append(a.conns, c)
			a.mu.Unlock()
			a.open.Go(func() { a.serve(c) })
		}
	}()
	return a
}

// begin sets how the upstream answers.
func (a *asked) begin(answer func(head string) string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.answer, a.heads, a.marked = answer, nil, make(chan struct{})
	a.behind.Reset()
}

// end closes all open connections, so that none is reused.
func (a *asked) end() {
	a.mu.Lock()
	for _, c := range a.conns {
		c.Close()
	}
	a.conns = nil
	a.mu.Unlock()
	a.open.Wait()
}

func (a *asked) serve(c net.Conn) {
	defer c.Close()
	c.SetDeadline(time.Now().Add(wstest.Timeout))
	br := bufio.NewReaderSize(c, 128<<10)
	var head strings.Builder
	for {
		line, err := br.ReadString('\n')
		head.WriteString(line)
		if err != nil {
			return
		}
		if line == "\r\n" {
			break
		}
	}
	a.mu.Lock()
	a.heads = append(a.heads, head.String())
	answer, marked := a.answer, a.marked
	a.mu.Unlock()
	io.WriteString(c, answer(head.String()))
	b := make([]byte, 4096)
	for {
		n, err := br.Read(b)
		a.mu.Lock()
		a.behind.Write(b[:n])
		if marked != nil && bytes.Contains(a.behind.Bytes(), []byte(mark)) {
			close(marked)
			marked = nil
		}
		a.mu.Unlock()
		if err != nil {
			return
		}
	}
}

// ask sends a handshake to the proxy at addr and returns the result.
func (a *asked) ask(t *testing.T, addr string, d difference) string {
	a.begin(d.answer)
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	go io.WriteString(c, d.send)
	br := bufio.NewReaderSize(c, 128<<10)
	c.SetReadDeadline(time.Now().Add(decided))
	heads, err := readAnswers(br)
	var told []string
	tell := func(format string, args ...any) { told = append(told, fmt.Sprintf(format, args...)) }
	for _, head := range heads {
		tell("%.3s", head[strings.Index(head, " ")+1:])
	}
	if err != nil {
		if errors.Is(err, os.ErrDeadlineExceeded) {
			tell("no answer")
		} else {
			tell("closed")
		}
	}
	tunnel := false
	if err == nil {
		ended := make(chan struct{})
		c.SetReadDeadline(time.Now().Add(wstest.Timeout))
		go func() {
			defer close(ended)
			io.WriteString(c, mark)
			io.Copy(io.Discard, br)
		}()
		select {
		case <-a.marked:
			tunnel = true
		case <-ended:
			select {
			case <-a.marked: // and yet it went through
				tunnel = true
			case <-time.After(100 * time.Millisecond):
			}
		case <-time.After(decided):
		}
	}
	c.Close()
	a.end()
	a.mu.Lock()
	defer a.mu.Unlock()
	switch {
	case len(a.heads) == 0:
		tell("not asked")
	case len(a.heads) > 1:
		tell("asked %d times", len(a.heads))
	}
	if tunnel {
		tell("tunnel")
	}
	if len(a.heads) > 0 {
		for _, name := range d.see {
			tell("%s", field(a.heads[0], name))
		}
	}
	if err == nil {
		for _, name := range d.get {
			tell("%s", field(heads[len(heads)-1], name))
		}
	}
	return strings.Join(told, ", ")
}

// readAnswers reads the header of an answer and of the 1xx answers before it.
func readAnswers(br *bufio.Reader) (heads []string, err error) {
	for {
		var head strings.Builder
		for line := ""; strings.TrimRight(line, "\r\n") != "" || head.Len() == 0; {
			line, err = br.ReadString('\n')
			head.WriteString(line)
			if err != nil {
				return heads, err
			}
		}
		heads = append(heads, head.String())
		if code := regexp.MustCompile(`^HTTP/1\.\d 1(\d\d)`).FindStringSubmatch(head.String()); code == nil || code[1] == "01" {
			return heads, nil
		}
	}
}

// field returns the values of a field in a header; "" is its first line.
func field(head, name string) string {
	if name == "" {
		line, _, _ := strings.Cut(head, "\r\n")
		return "`" + line + "`"
	}
	var values []string
	for line := range strings.Lines(head) {
		n, v, ok := strings.Cut(line, ":")
		if ok && strings.EqualFold(n, name) {
			values = append(values, strings.TrimSpace(v))
		}
	}
	switch {
	case values == nil:
		return "no `" + name + "`"
	case name == "Sec-WebSocket-Key":
		return map[bool]string{true: "the client's key", false: "a key of its own"}[slices.Equal(values, []string{key})]
	}
	v := strings.Join(values, "; ")
	if len(v) > 60 {
		v = fmt.Sprintf("%.20s… (%d)", v, len(v))
	}
	return "`" + name + ": " + v + "`"
}

// README.md states what each proxy does with the same bytes, and why if they
// differ from ours.
func TestDifferences(t *testing.T) {
	for _, name := range []string{"nginx", "haproxy"} {
		if _, err := program(name); err != nil {
			if os.Getenv("CI") == "true" {
				t.Fatalf("%s is not installed: run setup.sh", name)
			}
			t.Skipf("%s is not installed: run setup.sh", name)
		}
	}
	upstream := newAsked(t)
	var addrs []string
	for _, p := range proxies {
		addrs = append(addrs, p.start(t, upstream.ln.Addr().String()))
	}
	readme, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, table := range []struct {
		name string
		rows []difference
	}{{"requests", requestDifferences}, {"answers", answerDifferences}} {
		var b strings.Builder
		b.WriteString("| |")
		for _, p := range proxies {
			b.WriteString(" " + p.name + " |")
		}
		b.WriteString(" why |\n|---|" + strings.Repeat("---|", len(proxies)+1) + "\n")
		for _, d := range table.rows {
			t.Run(d.name, func(t *testing.T) {
				t.Attr("case", d.cases)
				if d.answer == nil {
					d.answer = func(head string) string { return answer(head, "") }
				}
				var cells []string
				for i := range proxies {
					cells = append(cells, upstream.ask(t, addrs[i], d))
				}
				if len(slices.Compact(slices.Clone(cells))) > 1 && d.why == "" {
					t.Errorf("the proxies differ, and nothing says why: %q", cells)
				}
				line := fmt.Sprintf("| %s (%s) | %s | %s |\n", d.name, d.cases, strings.Join(cells, " | "), d.why)
				b.WriteString(line)
				if !*update && !bytes.Contains(readme, []byte(line)) {
					t.Errorf("README.md doesn't have the line\n%s", line)
				}
			})
		}
		if *update {
			begin, end := "<!-- "+table.name+" -->\n", "<!-- end of "+table.name+" -->"
			before, rest, ok1 := bytes.Cut(readme, []byte(begin))
			_, after, ok2 := bytes.Cut(rest, []byte(end))
			if !ok1 || !ok2 {
				t.Fatalf("README.md has no place for the table of %s", table.name)
			}
			readme = slices.Concat(before, []byte(begin), []byte(b.String()), []byte(end), after)
		}
	}
	if *update {
		if err := os.WriteFile("README.md", readme, 0o644); err != nil {
			t.Fatal(err)
		}
	}
}
