package browser

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/chromedp/chromedp"

	"github.com/seed-ffb73231/wsproxy"
	"github.com/seed-ffb73231/wsproxy/internal/wstest"
)

// TestMixedContent has a page that was loaded over https open a ws:// URL. The
// same URL works for a page loaded over http, which shows that only the browser
// blocks it.
func TestMixedContent(t *testing.T) {
	t.Parallel()
	b := newTab(t)
	certificate := trusted.Issue("page.test")
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

// TestAddress uses wss:// URLs with an IP address instead of a name.
func TestAddress(t *testing.T) {
	t.Parallel()
	t.Run("in the certificate", func(t *testing.T) {
		b := newTab(t)
		certificate := trusted.Issue("127.0.0.1")
		s := newSite(t, &certificate)
		b.visit(s.at("https", "127.0.0.1", "/"))
		b.dial(s.at("wss", "127.0.0.1", "/websocket")).open(t, "wss:// to an address")
		b.echo("hello")
	})
	t.Run("not in the certificate", func(t *testing.T) {
		b := newTab(t)
		certificate := trusted.Issue("page.test")
		s := newSite(t, &certificate, wsproxy.WithInsecureAnyOrigin())
		b.visit(s.at("https", "page.test", "/"))
		b.dial(s.at("wss", "127.0.0.1", "/websocket")).refused(t, "wss:// to an address that the certificate doesn't have")
		s.untouched(t)
		b.dial(s.at("wss", "page.test", "/websocket")).open(t, "wss:// to the name that it has")
	})
}

// TestTrust uses a site whose authority the browser does not know. It shows
// that trust matters in the other tests.
func TestTrust(t *testing.T) {
	t.Parallel()
	b := newTab(t)
	good, bad := trusted.Issue("page.test"), wstest.NewAuthority().Issue("page.test")
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
	certificate := trusted.Issue("page.test", "api.test")
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

// framed has a sandboxed frame of the page call dial, as the page itself does:
// its origin is null. The frame reports the result to the page.
const framed = `
const frame = document.createElement("iframe");
frame.sandbox = "allow-scripts";
frame.srcdoc = "<script>" + %q + "</" + "script><script>" +
	"onmessage = e => e.data.url ? dial(e.data.url) : got.socket.send(e.data.send);" +
	"setInterval(() => parent.postMessage(window.got ? {...got, socket: null} : null, '*'), 10);" +
	"</" + "script>";
window.loaded = new Promise(done => frame.onload = done);
onmessage = e => { if (e.source === frame.contentWindow && e.data) window.got = e.data; };
document.body.append(frame);
window.tell = what => loaded.then(() => frame.contentWindow.postMessage(what, "*"));
`

// TestNullOrigin has pages without an origin open a WebSocket: a sandboxed
// frame and a local file.
func TestNullOrigin(t *testing.T) {
	require(t)
	t.Parallel()
	inFrame := func(b *tab, s *site) talk {
		b.visit(s.at("http", "page.test", "/"))
		eval[chromedp.Void](b, fmt.Sprintf(framed, script))
		eval[chromedp.Void](b, fmt.Sprintf("tell({url: %q})", s.at("ws", "page.test", "/websocket")))
		b.await(`window.got && ["open", "close", "SecurityError"].includes(got.events.at(-1))`)
		return b.talk()
	}
	inFile := func(b *tab, s *site) talk {
		file := filepath.Join(t.TempDir(), "page.html")
		page := fmt.Sprintf("<!doctype html><title>file</title><script>%s</script>", script)
		if err := os.WriteFile(file, []byte(page), 0o644); err != nil {
			t.Fatal(err)
		}
		b.visit("file://" + file)
		return b.dial(s.at("ws", "page.test", "/websocket"))
	}
	for _, row := range []struct {
		name string
		dial func(*tab, *site) talk
	}{
		{"sandboxed frame", inFrame},
		{"local file", inFile},
	} {
		t.Run(row.name+" refused", func(t *testing.T) {
			b := newTab(t)
			s := newSite(t, nil, wsproxy.WithOrigins("https://page.test", "chrome-extension://*"))
			row.dial(b, s).refused(t, "a page without an origin")
			s.untouched(t)
			if r := s.record(t); r["status"] != "403" || !strings.Contains(r["error"], `"null" is not "http://page.test:`) {
				t.Errorf("the proxy has logged %v, want the status 403 and both origins", r)
			}
		})
		t.Run(row.name+" allowed", func(t *testing.T) {
			b := newTab(t)
			s := newSite(t, nil, wsproxy.WithOrigins("null"))
			row.dial(b, s).open(t, "a page whose origin WithOrigins names")
			if row.name == "sandboxed frame" {
				eval[chromedp.Void](b, `tell({send: "hello"})`)
				b.await(`got.messages.includes("hello")`)
				return
			}
			b.echo("hello")
		})
	}
}
