//go:build linux

package zoo

import (
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// browse does the errand with a browser, which opens a page that the host serves.
// start returns its command. It gets a URL, and a directory for what the browser
// keeps, which has a database of authorities to trust.
func browse(database string, start func(dir, url string) command) func(t *testing.T, url, root string) ([]outcome, error) {
	return func(t *testing.T, url, root string) ([]outcome, error) {
		reports := make(chan string, 1)
		desk := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			if report, err := io.ReadAll(r.Body); err == nil && r.Method == http.MethodPost {
				reports <- string(report)
			}
		}))
		t.Cleanup(desk.Close)
		dir := t.TempDir()
		if err := trustInNSS(t, filepath.Join(dir, database), root); err != nil {
			return nil, err
		}
		page := "http" + strings.TrimPrefix(strings.TrimSuffix(url, "/zoo"), "ws") + "/page#" + desk.URL
		c := start(dir, page)
		c.ready = func(string) bool { return true }
		p := c.start(t)
		defer p.kill()
		select {
		case report := <-reports:
			lines := strings.Split(report, "\n")
			if i := slices.Index(lines, "error"); i >= 0 {
				return said(lines[:i]), &pageError{strings.Join(lines[i+1:], "\n")}
			}
			return said(lines), nil
		case <-p.ended:
			return nil, &pageError{"the browser ends: " + p.said()}
		case <-time.After(2 * limit):
			return nil, &pageError{"the page reports nothing: " + p.said()}
		}
	}
}

type pageError struct{ said string }

func (e *pageError) Error() string { return e.said }

// servePage serves the page for browsers.
func servePage(w http.ResponseWriter, r *http.Request) {
	http.ServeFile(w, r, testdata("web/errand.html"))
}

// trustInNSS makes a database of Mozilla's NSS with an authority in it.
func trustInNSS(t *testing.T, dir, root string) error {
	t.Helper()
	if _, err := exec.LookPath("certutil"); err != nil {
		unavailable(t, "certutil is not installed: run setup.sh")
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	for _, args := range [][]string{{"-N", "--empty-password"}, {"-A", "-t", "C,,", "-n", "the zoo", "-i", root}} {
		if said, err := exec.Command("certutil", append(args, "-d", "sql:"+dir)...).CombinedOutput(); err != nil {
			return &pageError{"certutil: " + string(said)}
		}
	}
	return nil
}
