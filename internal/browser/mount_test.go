package browser

import (
	"log/slog"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"

	"github.com/chromedp/chromedp"
	"github.com/coder/websocket"

	"github.com/seed-ffb73231/wsproxy"
	"github.com/seed-ffb73231/wsproxy/console"
)

// TestMountedConsole opens package console's page for two routes, below a path
// and behind a login. The page shows what the options and the routes ask for,
// and says when the login is over.
func TestMountedConsole(t *testing.T) {
	t.Parallel()
	require(t)
	upstream := httptest.NewServer(http.HandlerFunc(new(site).echo))
	defer upstream.Close()
	var routes []console.Route
	mux := http.NewServeMux()
	for _, name := range []string{"/chat", "/feed"} {
		proxy, err := wsproxy.New(upstream.URL, wsproxy.WithLogger(slog.New(slog.DiscardHandler)))
		if err != nil {
			t.Fatal(err)
		}
		defer proxy.Close()
		mux.Handle(name, proxy)
		routes = append(routes, console.Route{Name: name, Proxy: proxy})
	}
	current := func() []console.Route { return routes }
	var signedOut atomic.Bool
	login := func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if signedOut.Load() {
				http.Redirect(w, r, "/login", http.StatusFound)
				return
			}
			next.ServeHTTP(w, r)
		})
	}
	mux.Handle("/admin/ws/", login(console.RoutesHandler(current, nil)))
	mux.Handle("/watch/ws/", http.StripPrefix("/watch/ws", console.RoutesHandler(current, &console.Options{ReadOnly: true, Title: "Watch"})))
	server := httptest.NewServer(mux)
	defer server.Close()

	b := newTab(t)
	b.do("viewport", chromedp.EmulateViewport(1280, 800))
	for _, path := range []string{"/chat", "/feed", "/feed"} {
		conn, _, err := websocket.Dial(b.ctx, server.URL+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.CloseNow()
	}
	const heads = `[...document.querySelectorAll("#head th")].map(e => e.dataset.key ?? "").join()`
	b.visit(server.URL + "/watch/ws/")
	b.await(`document.querySelectorAll("#rows tr").length === 3`)
	if got, want := eval[string](b, heads), "id,route,client,path,upstream,age,idle,messages,bytes,rtt"; got != want {
		t.Errorf("read-only, the columns are %s, want %s", got, want)
	}
	if got := eval[string](b, `document.title`); got != "Watch – wsproxy" || !eval[bool](b, `document.querySelector("#rows button") === null && document.getElementById("drain").hidden`) {
		t.Errorf("the page %q has buttons that do something, though it is read-only", got)
	}

	b.visit(server.URL + "/admin/ws/")
	b.await(`document.querySelectorAll("#rows tr button").length === 3`)
	if got, want := eval[string](b, heads), "id,route,client,path,upstream,age,idle,messages,bytes,rtt,"; got != want {
		t.Errorf("the columns are %s, want %s", got, want)
	}
	b.await(`document.getElementById("members").textContent === "2 of 2 up"`)
	// IDs are those of a route: the first sessions of both have the same one.
	b.do("click", chromedp.Click(chromedp.CSS("th[data-key=route] button")), chromedp.Click(chromedp.CSS("#rows tr:nth-child(2) button")))
	b.do("end it", chromedp.Click(chromedp.CSS("#kick-do")))
	b.await(`document.querySelectorAll("#rows tr").length === 2`)
	if got := eval[string](b, `[...document.querySelectorAll("#rows td[data-label=Route]")].map(e => e.textContent).join()`); got != "/chat,/feed" {
		t.Errorf("after one of /feed was ended, there are sessions of %s", got)
	}

	signedOut.Store(true)
	b.await(`document.getElementById("state").textContent === "reload the page to sign in"`)
	signedOut.Store(false)
	b.await(`document.getElementById("state").textContent === "live"`)
}
