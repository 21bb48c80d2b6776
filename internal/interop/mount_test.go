package interop

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/coder/websocket/wsjson"
	"github.com/gin-gonic/gin"
	"github.com/go-chi/chi/v5"
	"github.com/labstack/echo/v4"

	"github.com/seed-ffb73231/wsproxy"
)

// One mount for ordinary HTTP and WebSockets, as in docs/options.md, in front
// of servers that use both, with their default settings.

// mount puts a proxy in front of an upstream whose pages go through a
// ReverseProxy. It returns its URL and a counter of the ReverseProxy's
// requests.
func mount(t *testing.T, upstream string) (front *front, pages *atomic.Int64) {
	target, err := url.Parse(upstream)
	if err != nil {
		t.Fatal(err)
	}
	pages = new(atomic.Int64)
	through := &httputil.ReverseProxy{
		Rewrite: func(pr *httputil.ProxyRequest) {
			pages.Add(1)
			pr.SetURL(target)
			pr.SetXForwarded()
			pr.Out.Host = pr.In.Host
		},
	}
	return newFront(t, target.String(), false, wsproxy.WithFallback(through)), pages
}

// node runs a script that prints its port, until the test ends, and returns its
// URL.
func node(t *testing.T, args ...string) string {
	cmd := exec.Command("node", args...)
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
	if err := cmd.Start(); err != nil {
		unavailable(t, err.Error()+": run setup.sh")
	}
	timer := time.AfterFunc(limit, func() { cmd.Process.Kill() })
	port, err := bufio.NewReader(stdout).ReadString('\n')
	timer.Stop()
	if err != nil {
		cmd.Wait()
		absent(t, cmd, stderr.String())
		t.Fatalf("%s: %v\n%s", args, err, stderr.Bytes())
	}
	t.Cleanup(func() {
		timer := time.AfterFunc(limit, func() { cmd.Process.Kill() })
		defer timer.Stop()
		stdin.Close()
		if err := cmd.Wait(); err != nil {
			t.Errorf("%s: %v\n%s", args, err, stderr.Bytes())
		}
	})
	return "http://127.0.0.1:" + strings.TrimSpace(port)
}

// absent ends the test if the script's library is missing.
func absent(t *testing.T, cmd *exec.Cmd, stderr string) {
	if cmd.ProcessState.ExitCode() == exitMissing {
		unavailable(t, strings.TrimSpace(stderr))
	}
}

// Socket.IO, client and server with default settings: it starts with polling
// and upgrades to a WebSocket.
func TestSocketIO(t *testing.T) {
	f, pages := mount(t, node(t, "testdata/npm/socketio.js"))
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	cmd := exec.CommandContext(ctx, "node", "testdata/npm/socketio.js", f.origin)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		absent(t, cmd, stderr.String())
		t.Fatalf("client: %v\n%s", err, stderr.Bytes())
	}
	var seen []string
	if err := json.Unmarshal(out, &seen); err != nil {
		t.Fatalf("client: %v in %q", err, out)
	}
	want := []string{"polling", "hello", "websocket", "websocket", "over the WebSocket", "the same bytes"}
	if !slices.Equal(seen, want) {
		t.Errorf("client: went through %q, want %q", seen, want)
	}
	if got := f.proxy.Stats().Opened; got != 1 || pages.Load() < 3 {
		t.Errorf("%d sessions and %d polls went through the mount, want 1 session and at least 3 polls", got, pages.Load())
	}
	// The other parts of that server.
	resp, err := http.Get(f.origin)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if b, err := io.ReadAll(resp.Body); err != nil || string(b) != "page" {
		t.Errorf("got %q, %v, want the server's page", b, err)
	}
}

// Vite's development server: the page, its modules, and the socket that makes
// the page reload them.
func TestVite(t *testing.T) {
	dir := t.TempDir()
	write := func(name, content string) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("index.html", `<!doctype html><script type="module" src="/main.js"></script>`)
	write("main.js", "document.title = 'first'\n")
	f, _ := mount(t, node(t, "testdata/npm/vite.js", dir))
	get := func(path string) string {
		resp, err := http.Get(f.origin + path)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		if err != nil || resp.StatusCode != 200 {
			t.Fatalf("%s: %d, %v", path, resp.StatusCode, err)
		}
		return string(b)
	}
	if page := get("/"); !strings.Contains(page, "/@vite/client") {
		t.Fatalf("got the page %q, want one with Vite's client", page)
	}
	if module := get("/main.js"); !strings.Contains(module, "first") {
		t.Errorf("got the module %q", module)
	}
	token := regexp.MustCompile(`wsToken = "([^"]+)"`).FindStringSubmatch(get("/@vite/client"))
	if token == nil {
		t.Fatal("no token in Vite's client")
	}
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	open := func(subprotocol string) *websocket.Conn {
		c, _, err := websocket.Dial(ctx, f.url+"/?token="+token[1], &websocket.DialOptions{
			Subprotocols: []string{subprotocol},
			HTTPHeader:   http.Header{"Origin": {f.origin}},
		})
		if err != nil {
			t.Fatal(err)
		}
		if got := c.Subprotocol(); got != subprotocol {
			t.Errorf("got subprotocol %q, want %q", got, subprotocol)
		}
		return c
	}
	c := open("vite-hmr")
	defer c.CloseNow()
	var message struct{ Type string }
	for _, want := range []string{"connected", "full-reload"} {
		if err := wsjson.Read(ctx, c, &message); err != nil || message.Type != want {
			t.Fatalf("got message %q, %v, want %q", message.Type, err, want)
		}
		write("main.js", "document.title = 'second'\n")
	}
	if module := get("/main.js"); !strings.Contains(module, "second") {
		t.Errorf("after the reload, got the module %q", module)
	}
	// With this request a page detects that the server has restarted.
	open("vite-ping").Close(websocket.StatusNormalClosure, "")
	c.Close(websocket.StatusNormalClosure, "")
}

// The mounting snippets of README and docs/options.md: what the upstream sees.
func TestMounts(t *testing.T) {
	gin.SetMode(gin.ReleaseMode) // it prints its routes otherwise
	seen := make(chan string, 1)
	upstream := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		seen <- r.RequestURI
		c, err := websocket.Accept(w, r, nil)
		if err != nil {
			t.Error(err)
			return
		}
		<-c.CloseRead(r.Context()).Done()
	}))
	defer upstream.Close()
	for _, row := range []struct {
		name       string
		mount      func(proxy http.Handler) http.Handler
		asked      string
		want       string
		targetPath bool
	}{
		{"ServeMux", func(p http.Handler) http.Handler {
			mux := http.NewServeMux()
			mux.Handle("/websocket/", p)
			return mux
		}, "/websocket/room?a=b", "/ws/websocket/room?a=b", false},
		{"ServeMux, StripPrefix", func(p http.Handler) http.Handler {
			mux := http.NewServeMux()
			mux.Handle("/chat/", http.StripPrefix("/chat", p))
			return mux
		}, "/chat/room", "/ws/room", false},
		{"ServeMux, StripPrefix, nothing left", func(p http.Handler) http.Handler {
			mux := http.NewServeMux()
			mux.Handle("/live", http.StripPrefix("/live", p))
			return mux
		}, "/live", "/ws", false},
		{"chi", func(p http.Handler) http.Handler {
			r := chi.NewRouter()
			r.Handle("/websocket/*", p)
			return r
		}, "/websocket/a%2Fb", "/ws/websocket/a%2Fb", false},
		{"chi, sub-router", func(p http.Handler) http.Handler {
			r, sub := chi.NewRouter(), chi.NewRouter()
			sub.Handle("/*", p)
			r.Mount("/api", sub)
			return r
		}, "/api/room", "/ws/api/room", false},
		{"chi, StripPrefix", func(p http.Handler) http.Handler {
			r := chi.NewRouter()
			r.Mount("/chat", http.StripPrefix("/chat", p))
			return r
		}, "/chat/room", "/ws/room", false},
		{"gin", func(p http.Handler) http.Handler {
			r := gin.New()
			r.GET("/websocket/*path", gin.WrapH(p))
			return r
		}, "/websocket/a%2Fb", "/ws/websocket/a%2Fb", false},
		{"gin, StripPrefix", func(p http.Handler) http.Handler {
			r := gin.New()
			r.GET("/chat/*path", gin.WrapH(http.StripPrefix("/chat", p)))
			return r
		}, "/chat/room", "/ws/room", false},
		{"echo", func(p http.Handler) http.Handler {
			e := echo.New()
			e.GET("/websocket/*", echo.WrapHandler(p))
			return e
		}, "/websocket/a%2Fb", "/ws/websocket/a%2Fb", false},
		{"echo, StripPrefix", func(p http.Handler) http.Handler {
			e := echo.New()
			e.GET("/chat/*", echo.WrapHandler(http.StripPrefix("/chat", p)))
			return e
		}, "/chat/room", "/ws/room", false},
		{"WithTargetPath", func(p http.Handler) http.Handler {
			mux := http.NewServeMux()
			mux.Handle("/websocket/", p)
			return mux
		}, "/websocket/a%2Fb?a=b", "/ws?a=b", true},
		{"WithTargetPath, StripPrefix", func(p http.Handler) http.Handler {
			return http.StripPrefix("/websocket", p)
		}, "/websocket", "/ws", true},
	} {
		t.Run(row.name, func(t *testing.T) {
			var options []wsproxy.Option
			if row.targetPath {
				options = append(options, wsproxy.WithTargetPath())
			}
			proxy, err := wsproxy.New(upstream.URL+"/ws", append(options, wsproxy.WithLogger(slog.New(slog.DiscardHandler)))...)
			if err != nil {
				t.Fatal(err)
			}
			defer proxy.Close()
			server := httptest.NewServer(row.mount(proxy))
			defer server.Close()
			ctx, cancel := context.WithTimeout(t.Context(), limit)
			defer cancel()
			c, _, err := websocket.Dial(ctx, "ws"+strings.TrimPrefix(server.URL, "http")+row.asked, nil)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close(websocket.StatusNormalClosure, "")
			if got := <-seen; got != row.want {
				t.Errorf("upstream was asked for %q, want %q", got, row.want)
			}
		})
	}
}
