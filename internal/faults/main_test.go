package faults

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/seed-ffb73231/wsproxy/internal/faults/wire"
	"github.com/seed-ffb73231/wsproxy/internal/remains"
)

// The test binary also runs as the peers that need processes of their own,
// selected by name in the environment.
const roleVariable = "WSPROXY_FAULTS_ROLE"

var roles = map[string]func(args []string){
	"upstream": upstreamProcess,
	"client":   clientProcess,
}

func TestMain(m *testing.M) {
	if name := os.Getenv(roleVariable); name != "" {
		role, ok := roles[name]
		if !ok {
			fmt.Println("no such role:", name)
			os.Exit(2)
		}
		role(os.Args[1:])
		return
	}
	remains.Exit(m.Run())
}

// A process is a peer in its own process.
type process struct {
	*exec.Cmd
	in  io.WriteCloser
	out *bufio.Scanner
}

// start starts a process. It exits when its standard input ends, at the latest
// with the test, which fails if the process does.
func start(t *testing.T, role string, args ...string) *process {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(exe, args...)
	cmd.Env = append(os.Environ(), roleVariable+"="+role)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
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
	p := &process{cmd, in, bufio.NewScanner(out)}
	t.Cleanup(func() {
		in.Close()
		go io.Copy(io.Discard, out) // or it may wait for somebody to read its log
		late := time.AfterFunc(wire.Timeout, func() { cmd.Process.Kill() })
		defer late.Stop()
		if cmd.Wait(); cmd.ProcessState.ExitCode() > 0 { // for instance because of a data race
			t.Errorf("%s: %v", role, cmd.ProcessState)
		}
	})
	return p
}

// line returns the next line of its output.
func (p *process) line(t *testing.T) string {
	t.Helper()
	if !p.out.Scan() {
		t.Fatalf("%s: no line, %v", p.Args, p.out.Err())
	}
	return p.out.Text()
}

// untilStdinEnds waits for the end of the parent process.
func untilStdinEnds() {
	var b [1]byte
	for {
		if _, err := os.Stdin.Read(b[:]); err != nil {
			return
		}
	}
}

// upstreamProcess is an upstream that echoes. It prints its address.
func upstreamProcess([]string) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Println(ln.Addr())
	go http.Serve(ln, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, err := websocket.Accept(w, r, nil)
		if err != nil {
			return
		}
		defer c.CloseNow()
		for {
			kind, message, err := c.Read(context.Background())
			if err != nil || c.Write(context.Background(), kind, message) != nil {
				return
			}
		}
	}))
	untilStdinEnds()
}

// clientProcess is a client that opens a WebSocket, reports that, and reads.
func clientProcess(args []string) {
	c, _, err := websocket.Dial(context.Background(), strings.Replace(args[0], "http", "ws", 1), nil)
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Println("open")
	go func() {
		for {
			if _, _, err := c.Read(context.Background()); err != nil {
				return
			}
		}
	}()
	untilStdinEnds()
}
