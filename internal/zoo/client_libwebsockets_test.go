//go:build linux

package zoo

import "testing"

// libwebsockets, in C. Debian's libwebsockets-dev.
var libwebsocketsClient = client{
	name:   "libwebsockets",
	source: debian("libwebsockets-dev"),
	run: func(t *testing.T, url, root string) ([]outcome, error) {
		lines, err := run(t, compile(t, "lws_client.c", "-lwebsockets"), url, root)
		return said(lines), err
	},
}
