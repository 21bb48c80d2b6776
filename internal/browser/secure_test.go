package browser

import (
	"strings"
	"testing"

	"github.com/seed-ffb73231/wsproxy"
)

// TestMixedContent has a page that came over https try a ws:// URL. That the
// same URL works for a page that came over http shows that nothing but the
// browser stood in its way.
func TestMixedContent(t *testing.T) {
	t.Parallel()
	b := newTab(t)
	certificate := trusted.issue("page.test")
	secure := newSite(t, &certificate)
	plain := newSite(t, nil, wsproxy.WithInsecureAnyOrigin())
	ws := plain.at("ws", "page.test", "/websocket")

	b.visit(secure.at("https", "page.test", "/"))
	if got := b.dial(ws); len(got.Events) != 1 || got.Events[0] != "SecurityError" {
		t.Errorf("ws:// from an https page: got %s, want a SecurityError", got)
	}
	plain.untouched(t)

	b.visit(plain.at("http", "page.test", "/"))
	b.dial(ws).open(t, "ws:// from an http page")
	b.echo("hello")
}

// TestAddress has wss:// URLs with an IP address instead of a name.
func TestAddress(t *testing.T) {
	t.Parallel()
	t.Run("in the certificate", func(t *testing.T) {
		b := newTab(t)
		certificate := trusted.issue("127.0.0.1")
		s := newSite(t, &certificate)
		b.visit(s.at("https", "127.0.0.1", "/"))
		b.dial(s.at("wss", "127.0.0.1", "/websocket")).open(t, "wss:// to an address")
		b.echo("hello")
	})
	t.Run("not in the certificate", func(t *testing.T) {
		b := newTab(t)
		certificate := trusted.issue("page.test")
		s := newSite(t, &certificate, wsproxy.WithInsecureAnyOrigin())
		b.visit(s.at("https", "page.test", "/"))
		b.dial(s.at("wss", "127.0.0.1", "/websocket")).refused(t, "wss:// to an address that the certificate doesn't have")
		s.untouched(t)
		b.dial(s.at("wss", "page.test", "/websocket")).open(t, "wss:// to the name that it has")
	})
}

// TestTrust has a site whose authority the browser doesn't know: so that it
// knows that of the others means something.
func TestTrust(t *testing.T) {
	t.Parallel()
	b := newTab(t)
	good, bad := trusted.issue("page.test"), newAuthority().issue("page.test")
	page := newSite(t, &good)
	stranger := newSite(t, &bad, wsproxy.WithInsecureAnyOrigin())
	b.visit(page.at("https", "page.test", "/"))
	b.dial(stranger.at("wss", "page.test", "/websocket")).refused(t, "wss:// with an unknown authority")
	stranger.untouched(t)
}

// TestOrigin has a page of another site open a WebSocket.
func TestOrigin(t *testing.T) {
	require(t)
	t.Parallel()
	certificate := trusted.issue("page.test", "api.test")
	page := newSite(t, &certificate)
	origin := page.at("https", "page.test", "")

	t.Run("refused", func(t *testing.T) {
		b := newTab(t)
		api := newSite(t, &certificate)
		b.visit(origin + "/")
		b.dial(api.at("wss", "api.test", "/websocket")).refused(t, "a page of another origin")
		api.untouched(t)
		r := api.record(t)
		if r["status"] != "403" || r["side"] != "client" || !strings.HasPrefix(r["error"], wsproxy.ErrForbiddenOrigin.Error()) {
			t.Errorf("the proxy has logged %v, want the status 403 and %q", r, wsproxy.ErrForbiddenOrigin)
		}
	})
	t.Run("allowed", func(t *testing.T) {
		b := newTab(t)
		api := newSite(t, &certificate, wsproxy.WithOrigins(origin))
		b.visit(origin + "/")
		b.dial(api.at("wss", "api.test", "/websocket")).open(t, "a page of an origin that WithOrigins names")
		b.echo("hello")
	})
}
