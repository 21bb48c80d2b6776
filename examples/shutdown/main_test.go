package main

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/coder/websocket"
)

// asProgram in the environment makes the test binary the program itself, so
// that it can be run, and send signals to itself, as the real one does.
const asProgram = "WSPROXY_EXAMPLE_SHUTDOWN"

func TestMain(m *testing.M) {
	if os.Getenv(asProgram) != "" {
		main()
		return
	}
	flag.Parse()
	flag.Set("test.parallel", "8") // they mostly wait
	os.Exit(m.Run())
}

func program(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	if runtime.GOOS == "windows" {
		t.Skip("no SIGTERM there")
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), self, args...)
	cmd.Env = append(os.Environ(), asProgram+"=1")
	return cmd
}

// demonstration runs the program and returns what it has printed, and its exit
// code.
func demonstration(t *testing.T, args ...string) (output string, code int) {
	t.Helper()
	out, err := program(t, args...).CombinedOutput()
	exit, failed := errors.AsType[*exec.ExitError](err)
	switch {
	case failed:
		code = exit.ExitCode()
	case err != nil:
		t.Fatal(err)
	}
	return string(out), code
}

// number returns the number that comes first behind a label.
func number(t *testing.T, output, label string) float64 {
	t.Helper()
	match := regexp.MustCompile(`(?m)^` + label + `[^\d\n]*([\d.]+)`).FindStringSubmatch(output)
	if match == nil {
		t.Fatalf("no %q in\n%s", label, output)
	}
	n, err := strconv.ParseFloat(match[1], 64)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestDemonstration(t *testing.T) {
	t.Parallel()
	t.Run("spread", func(t *testing.T) {
		t.Parallel()
		out, code := demonstration(t, "-sessions=100", "-grace=1s", "-window=1s")
		if code != 0 {
			t.Fatalf("exit code %d\n%s", code, out)
		}
		for label, want := range map[string]float64{"Close 1001": 100, "cut": 0, "reconnected": 100, "messages lost": 0} {
			if got := number(t, out, label); got != want {
				t.Errorf("%s: got %v, want %v\n%s", label, got, want, out)
			}
		}
		// The last one is due in the last hundredth of the window.
		if got, least := number(t, out, "told to leave"), 1+0.98; got < least {
			t.Errorf("the last session was told to leave after %v s, want at least %v s\n%s", got, least, out)
		}
		for _, want := range []string{"\nA         drained in ", "\nA         exited: exit status 0\n"} {
			if !strings.Contains(out, want) {
				t.Errorf("no %q in\n%s", want, out)
			}
		}
		// First the balancer notices, then the drain begins.
		notices, drains := strings.Index(out, "balancer  A is not ready"), strings.Index(out, "draining: ")
		if notices < 0 || drains < notices {
			t.Errorf("the drain began before the balancer had noticed:\n%s", out)
		}
	})
	t.Run("at once", func(t *testing.T) {
		t.Parallel()
		// A window that isn't used: what the reconnects are compared with.
		out, code := demonstration(t, "-sessions=100", "-grace=300ms", "-window=30s", "-timeout=60s", "-at-once")
		if code != 0 {
			t.Fatalf("exit code %d\n%s", code, out)
		}
		if got, most := number(t, out, "told to leave"), 15.0; got > most {
			t.Errorf("the last session was told to leave after %v s, want all at once\n%s", got, out)
		}
		// 1.5 s a bucket: all of them in one is 20 times the mean.
		ratio := regexp.MustCompile(`busiest .*, ([\d.]+) times`).FindStringSubmatch(out)
		if ratio == nil {
			t.Fatalf("no ratio in\n%s", out)
		}
		if got, _ := strconv.ParseFloat(ratio[1], 64); got < 4 {
			t.Errorf("the busiest is %v times the mean, want a spike\n%s", got, out)
		}
	})
	t.Run("little time", func(t *testing.T) {
		t.Parallel()
		// A window that is longer than the time there is gets cut down.
		out, code := demonstration(t, "-sessions=20", "-grace=100ms", "-window=1m", "-timeout=4s")
		if got := number(t, out, "Close 1001"); code != 0 || got != 20 {
			t.Errorf("exit code %d, %v sessions were told, want all 20\n%s", code, got, out)
		}
	})
	t.Run("cut", func(t *testing.T) {
		t.Parallel()
		// A drain that has no time at all: what is lost must show.
		out, code := demonstration(t, "-sessions=100", "-grace=100ms", "-timeout=100100us")
		if code != 1 {
			t.Errorf("exit code %d, want 1\n%s", code, out)
		}
		if !regexp.MustCompile(`(?m)^A         drained in .*, [1-9]\d* cut$`).MatchString(out) {
			t.Errorf("no sessions are shown as cut\n%s", out)
		}
	})
}

// TestServer has the program alone, under SIGTERM.
func TestServer(t *testing.T) {
	t.Parallel()
	upstream := httptest.NewServer(http.HandlerFunc(echo))
	defer upstream.Close()
	cmd := program(t, "-upstream="+upstream.URL, "-grace=2s", "-window=100ms")
	cmd.Stderr = os.Stderr
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Process.Kill()
	lines := bufio.NewReader(stdout)
	await := func(label string) string {
		for {
			line, err := lines.ReadString('\n')
			if err != nil {
				t.Fatalf("the program has ended before it said %q: %v", label, err)
			}
			if _, rest, ok := strings.Cut(line, label); ok {
				return strings.TrimSpace(rest)
			}
		}
	}
	address := await("listens on ")
	ready := func() int {
		t.Helper()
		resp, err := http.Get("http://" + address + "/readyz")
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		return resp.StatusCode
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	dial := func() *websocket.Conn {
		t.Helper()
		conn, _, err := websocket.Dial(ctx, "ws://"+address+"/websocket", nil)
		if err != nil {
			t.Fatal(err)
		}
		return conn
	}
	if got, want := ready(), http.StatusOK; got != want {
		t.Errorf("before SIGTERM: /readyz answers %d, want %d", got, want)
	}
	early := dial()
	defer early.CloseNow()
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	await("not ready")
	if got, want := ready(), http.StatusServiceUnavailable; got != want {
		t.Errorf("after SIGTERM: /readyz answers %d, want %d", got, want)
	}
	late := dial() // in the grace period the balancer may not have noticed yet
	defer late.CloseNow()
	for name, conn := range map[string]*websocket.Conn{"before SIGTERM": early, "in the grace period": late} {
		if _, _, err := conn.Read(ctx); websocket.CloseStatus(err) != websocket.StatusGoingAway {
			t.Errorf("a session opened %s ended with %v, want Close 1001", name, err)
		}
	}
	io.Copy(io.Discard, lines)
	if err := cmd.Wait(); err != nil {
		t.Errorf("the program has ended with %v, want exit code 0", err)
	}
}
