package interop

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"
)

// A process is an implementation in another language: a program that reads
// commands from its standard input and reports what happens on its standard
// output. Both are lines of JSON, each followed by its raw payloads. The program
// ends when its standard input does, and so with the test, however that ends.
type process struct {
	label   string
	missing string // why it can't run; "" if it can

	stdin   io.WriteCloser
	writing sync.Mutex // held while a line is written

	mu      sync.Mutex
	last    int                 // guarded by mu; the number of the last command
	replies map[int]chan report // guarded by mu
	inboxes map[string]*inbox   // guarded by mu; by connection
	arrived func(string, *conn) // guarded by mu
	dead    error               // guarded by mu; why no more replies come
}

// A command is a line to the process.
type command struct {
	ID   int    `json:"id"`
	Op   string `json:"op"` // dial, listen, send, ping, close
	Conn string `json:"conn,omitempty"`

	URL          string   `json:"url,omitempty"`
	Origin       string   `json:"origin,omitempty"`
	Subprotocols []string `json:"subprotocols,omitempty"`
	Deflate      bool     `json:"deflate,omitempty"`
	Root         string   `json:"root,omitempty"` // in PEM

	Binary bool     `json:"binary,omitempty"`
	Sizes  []int    `json:"sizes,omitempty"` // of parts
	parts  [][]byte // payloads of a message's frames or of a Ping
	Code   int      `json:"code,omitempty"`
	Reason string   `json:"reason,omitempty"`
}

// A report is a line from the process: the reply to a command, or an event.
type report struct {
	ID    int    `json:"id"`    // of the command; 0: an event
	Error string `json:"error"` // the command's
	Port  int    `json:"port"`  // of listen

	Event       string `json:"event"` // ready, accept, message, ping, pong, end
	Conn        string `json:"conn"`
	Path        string `json:"path"`
	Subprotocol string `json:"subprotocol"`
	Extensions  string `json:"extensions"`
	Binary      bool   `json:"binary"`
	Size        int    `json:"size"` // of data
	data        []byte // payload
	Code        int    `json:"code"`
	Reason      string `json:"reason"`
	Version     string `json:"version"`
}

// exitMissing is the exit code of a program whose library is missing.
const exitMissing = 3

// startProcess runs a program until the test's end.
func startProcess(t *testing.T, label, program string, args ...string) *process {
	p := &process{label: label, replies: make(map[int]chan report), inboxes: make(map[string]*inbox)}
	ctx, cancel := context.WithCancel(context.Background())
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.WaitDelay = time.Second
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	p.stdin = stdin
	if err := cmd.Start(); err != nil {
		cancel()
		if !errors.Is(err, exec.ErrNotFound) && !errors.Is(err, os.ErrNotExist) {
			t.Fatal(err)
		}
		p.missing = fmt.Sprintf("%s is not installed: run setup.sh", program)
		return p
	}
	ready := make(chan string, 1)
	done := make(chan struct{})
	go func() {
		defer close(done)
		p.read(stdout, ready)
	}()
	stop := func() error {
		timer := time.AfterFunc(limit, cancel)
		defer timer.Stop()
		defer cancel()
		stdin.Close()
		<-done
		return cmd.Wait()
	}
	timer := time.AfterFunc(limit, cancel)
	version, ok := <-ready
	timer.Stop()
	if !ok {
		err := stop()
		if cmd.ProcessState.ExitCode() != exitMissing {
			t.Fatalf("%s: %v\n%s", label, err, stderr.Bytes())
		}
		p.missing = string(bytes.TrimSpace(stderr.Bytes()))
		return p
	}
	t.Logf("%s: %s", label, version)
	t.Cleanup(func() {
		if err := stop(); err != nil {
			t.Errorf("%s: %v\n%s", label, err, stderr.Bytes())
		}
	})
	return p
}

// read reads the process's reports. It closes ready, and sends the version before
// if the process reports one.
func (p *process) read(stdout io.Reader, ready chan<- string) {
	in := bufio.NewReaderSize(stdout, 64<<10)
	var err error
	for err == nil {
		var r report
		if r, err = readReport(in); err == nil {
			p.take(r, ready)
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.dead = fmt.Errorf("%s has ended: %w", p.label, err)
	for id, reply := range p.replies {
		reply <- report{Error: p.dead.Error()}
		delete(p.replies, id)
	}
	close(ready)
}

func readReport(in *bufio.Reader) (r report, err error) {
	line, err := in.ReadSlice('\n')
	if err != nil {
		return r, err
	}
	if err := json.Unmarshal(line, &r); err != nil {
		return r, err
	}
	r.data = make([]byte, r.Size)
	_, err = io.ReadFull(in, r.data)
	return r, err
}

func (p *process) take(r report, ready chan<- string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if r.ID != 0 {
		if reply := p.replies[r.ID]; reply != nil {
			reply <- r
			delete(p.replies, r.ID)
		}
		return
	}
	if r.Event == "ready" {
		ready <- r.Version
		return
	}
	in := p.inboxLocked(r.Conn)
	switch r.Event {
	case "accept":
		p.arrived(r.Path, &conn{processLink{p, r.Conn}, in, r.Subprotocol, r.Extensions})
	case "message":
		in.gotMessage(r.Binary, r.data)
	case "ping":
		in.gotPing(string(r.data))
	case "pong":
		in.gotPong(string(r.data))
	case "end":
		in.gotEnd(r.Code, r.Reason)
		delete(p.inboxes, r.Conn)
	}
}

// inboxLocked returns a connection's inbox. A frame may be reported before
// the connection itself is.
func (p *process) inboxLocked(conn string) *inbox {
	in := p.inboxes[conn]
	if in == nil {
		in = newInbox()
		p.inboxes[conn] = in
	}
	return in
}

// do sends a command and returns the reply.
func (p *process) do(ctx context.Context, c command) (r report, err error) {
	reply := make(chan report, 1)
	p.mu.Lock()
	if p.dead != nil {
		defer p.mu.Unlock()
		return r, p.dead
	}
	p.last++
	c.ID = p.last
	p.replies[c.ID] = reply
	p.mu.Unlock()

	for _, part := range c.parts {
		c.Sizes = append(c.Sizes, len(part))
	}
	line, err := json.Marshal(c)
	if err != nil {
		return r, err
	}
	p.writing.Lock()
	_, err = p.stdin.Write(slices.Concat(line, []byte("\n"), bytes.Join(c.parts, nil)))
	p.writing.Unlock()
	if err != nil {
		return r, err
	}
	select {
	case r = <-reply:
	case <-ctx.Done():
		return r, fmt.Errorf("%s: %s: %w", p.label, c.Op, ctx.Err())
	}
	if r.Error != "" {
		err = fmt.Errorf("%s: %s: %s", p.label, c.Op, r.Error)
	}
	return r, err
}

func (p *process) name() string   { return p.label }
func (p *process) traits() traits { return traits{fragments: true, pingPayload: true} }

func (p *process) dial(ctx context.Context, o offer) (*conn, error) {
	p.mu.Lock()
	p.last++
	id := "c" + strconv.Itoa(p.last)
	in := p.inboxLocked(id)
	p.mu.Unlock()
	c := command{Op: "dial", Conn: id, URL: o.url, Origin: o.origin, Subprotocols: subprotocols, Deflate: o.deflate}
	if o.root != nil {
		c.Root = string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: o.root.Raw}))
	}
	r, err := p.do(ctx, c)
	if err != nil {
		return nil, err
	}
	return &conn{processLink{p, id}, in, r.Subprotocol, r.Extensions}, nil
}

func (p *process) listen(t *testing.T, arrived func(string, *conn)) string {
	p.mu.Lock()
	p.arrived = arrived
	p.mu.Unlock()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	r, err := p.do(ctx, command{Op: "listen", Subprotocols: []string{subprotocol}})
	if err != nil {
		t.Fatal(err)
	}
	return "http://127.0.0.1:" + strconv.Itoa(r.Port)
}

type processLink struct {
	p  *process
	id string
}

func (l processLink) do(c command) error {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	c.Conn = l.id
	_, err := l.p.do(ctx, c)
	return err
}

func (l processLink) send(m message, parts ...[]byte) error {
	if len(parts) == 0 {
		parts = [][]byte{m.data}
	}
	return l.do(command{Op: "send", Binary: m.binary, parts: parts})
}

func (l processLink) ping(payload []byte) error {
	return l.do(command{Op: "ping", parts: [][]byte{payload}})
}

func (l processLink) close(code int, reason string) error {
	return l.do(command{Op: "close", Code: code, Reason: reason})
}
