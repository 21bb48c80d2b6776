//go:build linux

package zoo

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// Vite reloads what is being developed. npm's vite. Its pages come by HTTP.
var vite = server{
	name:   "Vite",
	source: npm("vite"),
	start: func(t *testing.T) *process {
		return command{
			args: []string{"node", testdata("npm/vite.js"), "PORT", "DIR"},
			files: map[string]string{
				"index.html": `<!doctype html><script type="module" src="/main.js"></script>`,
				"main.js":    "document.title = 'first'\n",
			},
			ready: answers("/"),
		}.start(t)
	},
	at: func(t *testing.T, p *process) string {
		client, err := page("http://" + p.addr + "/@vite/client")
		if err != nil {
			t.Fatal(err)
		}
		token := regexp.MustCompile(`wsToken = "([^"]+)"`).FindStringSubmatch(client)
		if token == nil {
			t.Fatal("there is no token in Vite's client")
		}
		viteDir = p.dir
		return "/?token=" + token[1]
	},
	subprotocols: []string{"vite-hmr"},
	fallback:     true,
	mute:         true,
	loud:         true,
	greet: func(v *visit) error {
		_, err := v.receiveText(`{"type":"connected"}`)
		return err
	},
	lives: []life{{"a page reloads", func(t *testing.T, f form) (string, error) {
		if text, err := page(f.http("/")); err != nil || !strings.Contains(text, "/@vite/client") {
			return "", fmt.Errorf("the page: %.200q, %w", text, err)
		}
		client, err := page(f.http("/@vite/client"))
		if err != nil {
			return "", err
		}
		if _, err := page(f.http("/main.js")); err != nil { // now it is watched
			return "", err
		}
		token := regexp.MustCompile(`wsToken = "([^"]+)"`).FindStringSubmatch(client)
		v, err := dial(t, f, offer{path: "/?token=" + token[1], subprotocols: []string{"vite-hmr"}})
		if err != nil {
			return "", err
		}
		defer v.conn.Close()
		if _, err := v.receiveText(`{"type":"connected"}`); err != nil {
			return "", err
		}
		// As editors do: while a file is written in place, Vite may see it empty,
		// and then it reloads twice. What watches files for it may miss a change that
		// comes soon after another: then the file is saved again.
		dir := t.TempDir()
		save := func() error {
			file := filepath.Join(dir, "main.js")
			if err := os.WriteFile(file, []byte("document.title = '"+f.addr+"'\n"), 0o600); err != nil {
				return err
			}
			return os.Rename(file, filepath.Join(viteDir, "main.js"))
		}
		if err := save(); err != nil {
			return "", err
		}
		again := time.NewTicker(3 * time.Second)
		defer again.Stop()
		reloaded := make(chan error, 1)
		go func() {
			_, err := v.receiveText(`{"type":"full-reload"`)
			reloaded <- err
		}()
		for waiting := true; waiting; {
			select {
			case err := <-reloaded:
				if err != nil {
					return "", err
				}
				waiting = false
			case <-again.C:
				if err := save(); err != nil {
					return "", err
				}
			}
		}
		text, err := page(f.http("/main.js"))
		if err == nil && !strings.Contains(text, f.addr) {
			err = fmt.Errorf("the module is still %.80q", text)
		}
		return "with what was changed", err
	}}},
}

var viteDir string // where the one that runs has its files

// page gets a page by HTTP.
func page(url string) (string, error) {
	resp, err := http.Get(url)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", url, resp.Status)
	}
	return string(body), err
}
