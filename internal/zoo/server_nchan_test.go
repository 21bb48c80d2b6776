//go:build linux

package zoo

import (
	"fmt"
	"testing"
)

// nchan makes nginx itself a publish-subscribe server. Debian's
// libnginx-mod-nchan, each WebSocket with a channel of its own.
var nchan = server{
	name:   "nchan",
	source: debian("libnginx-mod-nchan"),
	start: func(t *testing.T) *process {
		return command{
			args: []string{"nginx", "-p", ".", "-c", "conf", "-e", "stderr"},
			files: map[string]string{"conf": `
load_module /usr/lib/nginx/modules/ngx_nchan_module.so;
daemon off; user root; worker_processes 1; pid pid; error_log stderr warn;
events {}
http {
  access_log off;
  client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path fastcgi;
  uwsgi_temp_path uwsgi; scgi_temp_path scgi;
  server {
    listen 127.0.0.1:PORT;
    location /channel { nchan_pubsub websocket; nchan_channel_id $connection; nchan_websocket_ping_interval 1; }
  }
}
`},
		}.start(t)
	},
	path:  "/channel",
	kinds: onlyText,
	say: func(v *visit, m message) error {
		if err := v.send(m); err != nil {
			return err
		}
		got, err := v.receiveText(string(m.data))
		if err == nil && got != string(m.data) {
			return fmt.Errorf("%.80q came", got)
		}
		return err
	},
}
