//go:build linux

package zoo

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// webpack-dev-server reloads what is being developed. npm's webpack-dev-server.
// What is built comes by HTTP.
var webpack = server{
	name:   "webpack-dev-server",
	source: npm("webpack-dev-server"),
	start: func(t *testing.T) *process {
		return command{
			args:  []string{"node", testdata("npm/webpack.js"), "PORT", "DIR"},
			files: map[string]string{"main.js": "document.title = 'first'\n"},
			ready: answers("/main.js"),
		}.start(t)
	},
	at: func(_ *testing.T, p *process) string {
		webpackDir = p.dir
		return "/ws"
	},
	fallback: true,
	mute:     true,
	loud:     true,
	greet: func(v *visit) error {
		_, err := v.receiveText(`{"type":"ok"`)
		return err
	},
	lives: []life{{"a page reloads", func(t *testing.T, f form) (string, error) {
		v, err := dial(t, f, offer{path: "/ws"})
		if err != nil {
			return "", err
		}
		defer v.conn.Close()
		if _, err := v.receiveText(`{"type":"ok"`); err != nil {
			return "", err
		}
		file := filepath.Join(t.TempDir(), "main.js") // see vite
		if err := os.WriteFile(file, []byte("document.title = '"+f.addr+"'\n"), 0o600); err != nil {
			return "", err
		}
		if err := os.Rename(file, filepath.Join(webpackDir, "main.js")); err != nil {
			return "", err
		}
		for _, kind := range []string{"invalid", "hash", "ok"} {
			if _, err := v.receiveText(`{"type":"` + kind + `"`); err != nil {
				return "", err
			}
		}
		text, err := page(f.http("/main.js"))
		if err == nil && !strings.Contains(text, f.addr) {
			err = fmt.Errorf("the page is still %.80q", text)
		}
		return "with what was changed", err
	}}},
}

var webpackDir string // where the one that runs has its files
