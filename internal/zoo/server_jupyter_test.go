//go:build linux

package zoo

import (
	"crypto/rand"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
)

// Jupyter runs cells over the WebSocket of a kernel. Debian's jupyter-server and
// python3-ipykernel, without a password.
var jupyter = server{
	name:   "Jupyter",
	source: debian("python3-jupyter-server"),
	start: func(t *testing.T) *process {
		return command{
			args: []string{"/usr/bin/python3", "-m", "jupyter_server", "--allow-root", "--no-browser", "--ip=127.0.0.1", "--port=PORT",
				"--ServerApp.token=", "--ServerApp.password=", "--ServerApp.disable_check_xsrf=True", "--ServerApp.root_dir=DIR"},
			env:   []string{"JUPYTER_PLATFORM_DIRS=0", "PYTHONDONTWRITEBYTECODE=1"},
			ready: answers("/api"),
		}.start(t)
	},
	at: func(t *testing.T, p *process) string {
		resp, err := http.Post("http://"+p.addr+"/api/kernels", "application/json", strings.NewReader("{}"))
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		var kernel struct{ ID string }
		if err := json.NewDecoder(resp.Body).Decode(&kernel); err != nil || kernel.ID == "" {
			t.Fatalf("no kernel: %s, %v", resp.Status, err)
		}
		return "/api/kernels/" + kernel.ID + "/channels"
	},
	nginx:    ownHost,
	why:      "it compares the page's origin with Host",
	fallback: true,
	keeps:    true,
	kinds:    onlyText,
	most:     70_000,
	say: func(v *visit, m message) error { // the cell prints it
		code, _ := json.Marshal(fmt.Sprintf("print('%s')", m.data))
		request := rand.Text() // the kernel ignores what it has had before
		if err := v.send(text(fmt.Sprintf(`{"header":{"msg_id":"%s","session":"%[1]s","username":"zoo","date":"2026-01-01T00:00:00Z","msg_type":"execute_request","version":"5.3"},`+
			`"parent_header":{},"metadata":{},"channel":"shell","buffers":[],"content":{"code":%[2]s,"silent":false,"store_history":false,"user_expressions":{},"allow_stdin":false}}`,
			request, code))); err != nil {
			return err
		}
		var printed strings.Builder
		for printed.Len() <= len(m.data) {
			got, err := v.receive()
			if err != nil {
				return err
			}
			var output struct {
				Content struct{ Text string }
				Header  struct {
					Type string `json:"msg_type"`
				}
				Parent struct {
					ID string `json:"msg_id"`
				} `json:"parent_header"`
			}
			if err := json.Unmarshal(got.data, &output); err != nil {
				return err
			}
			if output.Header.Type == "stream" && output.Parent.ID == request {
				printed.WriteString(output.Content.Text)
			}
		}
		if printed.String() != string(m.data)+"\n" {
			return fmt.Errorf("the cell printed %.80q", printed.String())
		}
		return nil
	},
	lives: []life{{"its pages", func(t *testing.T, f form) (string, error) {
		var status struct{ Kernels int }
		text, err := page(f.http("/api/status"))
		if err == nil {
			err = json.Unmarshal([]byte(text), &status)
		}
		return fmt.Sprintf("%d kernel", status.Kernels), err
	}}},
}
