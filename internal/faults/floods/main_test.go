//go:build linux

// Package floods_test floods a proxy that runs in its own process, while good
// sessions continue: its memory for each session stays within a limit, the good
// sessions keep their pace, and the documented options shed the flood.
package floods_test

import (
	"bufio"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/seed-ffb73231/wsproxy/internal/faults/wire"
	"github.com/seed-ffb73231/wsproxy/internal/remains"
)

// asEnv is the variable that makes this binary a child instead of the tests:
// "proxy" or "meter".
const asEnv = "WSPROXY_FLOODS_AS"

func TestMain(m *testing.M) {
	wire.RaiseFiles()
	switch os.Getenv(asEnv) {
	case "proxy":
		exitOn(runProxy())
	case "meter":
		exitOn(runMeter())
	default:
		flag.Parse()
		flag.Set("test.parallel", "4") // they mostly wait
		os.Exit(m.Run())
	}
}

func exitOn(err error) {
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}

// A child is a process that the test has started.
type child struct {
	t   *testing.T
	cmd *exec.Cmd
	hello
}

// A hello is a child's first message.
type hello struct {
	Plain, TLS string // fronts of the proxy
	Control    string // where it is asked
	Authority  []byte // of its certificate
}

// start starts a child. It exits when its stdin ends, and so with this process.
func start(t *testing.T, as string, env ...string) *child {
	t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(append(os.Environ(), asEnv+"="+as), env...)
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	c := &child{t: t, cmd: cmd}
	t.Cleanup(func() {
		stdin.Close()
		if err := cmd.Wait(); err != nil {
			t.Errorf("%s: %v", as, err)
		}
	})
	if err := json.NewDecoder(bufio.NewReader(out)).Decode(&c.hello); err != nil {
		t.Fatalf("%s says nothing: %v", as, err)
	}
	return c
}

// greet is the child's part of start: it serves control and waits until the
// parent leaves. The child fails if sessions have left anything after last.
func greet(h hello, control http.Handler, last func()) error {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	go http.Serve(l, control)
	h.Control = "http://" + l.Addr().String()
	if err := json.NewEncoder(os.Stdout).Encode(h); err != nil {
		return err
	}
	io.Copy(io.Discard, os.Stdin)
	last()
	if found := remains.Find(); found != "" {
		return errors.New("sessions have left: " + found)
	}
	os.Exit(0)
	return nil
}

// ask sends a request to a child.
func (c *child) ask(path string, answer any) {
	c.t.Helper()
	client := http.Client{Timeout: 2 * wire.Timeout}
	resp, err := client.Get(c.Control + path)
	if err != nil {
		c.t.Fatal(err)
	}
	defer resp.Body.Close()
	if err := json.NewDecoder(resp.Body).Decode(answer); err != nil {
		c.t.Fatalf("%s: %v", path, err)
	}
}

// await polls until a condition holds.
func await(t *testing.T, what string, f func() bool) {
	t.Helper()
	for end := time.Now().Add(2 * wire.Timeout); !f(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within %v: %s", 2*wire.Timeout, what)
		}
	}
}
