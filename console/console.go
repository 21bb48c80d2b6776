// Package console serves a page for the operators of a
// [github.com/seed-ffb73231/wsproxy.Proxy]: it lists the open sessions, shows
// what the proxy counts, and ends sessions.
//
//	mux.Handle("/admin/websockets/", login(console.Handler(proxy, nil)))
//
// Here login is a middleware of your own. The handler looks only at the last
// element of a request's path, so it can be mounted on any path that ends with a
// slash, with or without [http.StripPrefix].
//
// # Security
//
// The console has no login of its own. Everyone who can send it a request can
// read the addresses and paths of all clients, and end sessions. Mount it behind
// a login, or on a server that only operators can reach.
//
// A login that uses a cookie is sufficient. All actions are POST requests, and
// those of pages of other origins are refused ([http.CrossOriginProtection]).
// Other pages cannot put the console into a frame. The page loads nothing from
// other servers and has no inline script. It shows what clients have sent as
// text only.
//
// Without a login, check the Host of requests, even on a loopback address: a web
// page may have its own name resolve to that address (DNS rebinding), and then
// its requests are of the same origin.
//
// # Cost
//
// A visible page requests a snapshot every second, or less often if a snapshot
// takes longer than a tenth of a second. A snapshot reads the counters of every
// session, and contains at most 500 sessions.
package console

import (
	"bytes"
	"embed"
	"encoding/json"
	"fmt"
	"net/http"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/coder/websocket"

	"github.com/seed-ffb73231/wsproxy"
)

//go:embed page
var files embed.FS

// contentPolicy lets the page load its own files and connect to its own server,
// and nothing else. It also forbids frames: a page around it could trick the
// operator into clicking its buttons.
const contentPolicy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; " +
	"base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

// maxBody is the maximum size of an action's body in bytes.
const maxBody = 4 << 10

// Options are a console's options. Each function is called by many goroutines
// at once.
type Options struct {
	// Title is the heading of the page. The default is "Sessions".
	Title string

	// Notice is a sentence below the heading, for example about who can reach
	// the page. The default is none.
	Notice string

	// User returns the user of a session, which the page shows in a column: for
	// example a value that a hook has stored with [wsproxy.Session.Set]. The
	// default is nil: there is no such column.
	User func(*wsproxy.Session) string

	// ReadOnly disables all actions.
	ReadOnly bool

	// Drain starts to drain all sessions, for example by calling
	// [wsproxy.Proxy.Shutdown] in a new goroutine, and returns. It may be called
	// more than once. With nil, the default, or with ReadOnly, the page has no
	// button for it.
	Drain func()
}

// A Route is a proxy and the name under which the page shows it.
type Route struct {
	Name  string // unique among the routes
	Proxy *wsproxy.Proxy
}

// Handler returns the console of one proxy. The options may be nil. The handler
// keeps no state, and is safe for concurrent use. It does not have to be closed.
func Handler(proxy *wsproxy.Proxy, o *Options) http.Handler {
	routes := []Route{{"", proxy}}
	return RoutesHandler(func() []Route { return routes }, o)
}

// RoutesHandler returns the console of several proxies, which are shown as one,
// with a column for their names. The function returns the current routes, and
// is called for every request.
func RoutesHandler(routes func() []Route, o *Options) http.Handler {
	h := &handler{routes: routes, crossOrigin: http.NewCrossOriginProtection()}
	if o != nil {
		h.options = *o
	}
	if h.options.ReadOnly {
		h.options.Drain = nil
	}
	return h
}

// A handler is a console. Nothing changes after it was made.
type handler struct {
	options     Options
	routes      func() []Route
	crossOrigin *http.CrossOriginProtection
}

func (h *handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	header := w.Header()
	header.Set("Content-Security-Policy", contentPolicy)
	header.Set("Cross-Origin-Opener-Policy", "same-origin")
	header.Set("Cross-Origin-Resource-Policy", "same-origin")
	header.Set("X-Content-Type-Options", "nosniff")
	header.Set("Referrer-Policy", "no-referrer")
	header.Set("Cache-Control", "no-store") // snapshots contain clients' addresses
	if err := h.crossOrigin.Check(r); err != nil {
		http.Error(w, "a page of another origin has made this request", http.StatusForbidden)
		return
	}
	name := r.URL.Path[strings.LastIndexByte(r.URL.Path, '/')+1:]
	switch name {
	case "snapshot":
		if allow(w, r, http.MethodGet, http.MethodHead) {
			h.snapshot(w, r)
		}
	case "close":
		if allow(w, r, http.MethodPost) {
			h.close(w, r)
		}
	case "drain":
		if allow(w, r, http.MethodPost) {
			h.drain(w, r)
		}
	default:
		if allow(w, r, http.MethodGet, http.MethodHead) {
			serveFile(w, r, name)
		}
	}
}

// allow reports whether the request has one of the methods, and answers it if
// not.
func allow(w http.ResponseWriter, r *http.Request, methods ...string) bool {
	if slices.Contains(methods, r.Method) {
		return true
	}
	w.Header().Set("Allow", strings.Join(methods, ", "))
	http.Error(w, "use "+methods[0], http.StatusMethodNotAllowed)
	return false
}

// serveFile serves a file of the page; "" is the page itself.
func serveFile(w http.ResponseWriter, r *http.Request, name string) {
	if name == "" {
		name = "index.html"
	}
	content, err := files.ReadFile(path.Join("page", name))
	if err != nil {
		http.Error(w, "no such file; the console's own path ends with a slash", http.StatusNotFound)
		return
	}
	http.ServeContent(w, r, name, time.Time{}, bytes.NewReader(content))
}

// snapshot answers with a [snapshot], of the view that the query describes.
func (h *handler) snapshot(w http.ResponseWriter, r *http.Request) {
	query := r.URL.Query()
	snap := h.take(view{
		filter:     query.Get("filter"),
		sort:       query.Get("sort"),
		descending: query.Get("descending") == "true",
	})
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(snap) // an error means that the client has left
}

// close ends a session.
func (h *handler) close(w http.ResponseWriter, r *http.Request) {
	var want struct {
		Route   string               `json:"route"`
		Session uint64               `json:"session"`
		Code    websocket.StatusCode `json:"code"`
		Reason  string               `json:"reason"`
	}
	if !h.mayAct(w, r) || !decode(w, r, &want) {
		return
	}
	for _, route := range h.routes() {
		if route.Name != want.Route {
			continue
		}
		for s := range route.Proxy.Sessions() {
			if s.ID() != want.Session {
				continue
			}
			if err := s.Close(want.Code, want.Reason); err != nil {
				http.Error(w, strings.TrimPrefix(err.Error(), "wsproxy: "), http.StatusUnprocessableEntity)
				return
			}
			w.WriteHeader(http.StatusNoContent)
			return
		}
	}
	http.Error(w, fmt.Sprintf("session %d has already ended", want.Session), http.StatusGone)
}

// drain drains all sessions.
func (h *handler) drain(w http.ResponseWriter, r *http.Request) {
	if !h.mayAct(w, r) || !decode(w, r, &struct{}{}) {
		return
	}
	if h.options.Drain == nil {
		http.Error(w, "this console can't drain sessions", http.StatusForbidden)
		return
	}
	h.options.Drain()
	w.WriteHeader(http.StatusNoContent)
}

// mayAct reports whether the console may change anything, and answers the
// request if not.
func (h *handler) mayAct(w http.ResponseWriter, r *http.Request) bool {
	if h.options.ReadOnly {
		http.Error(w, "this console is read-only", http.StatusForbidden)
	}
	return !h.options.ReadOnly
}

// decode reads a request's body, and answers the request if it is invalid. The
// content type is required because pages of other origins cannot send it without
// a preflight request (CORS), even in browsers that send neither Origin nor
// Sec-Fetch-Site.
func decode(w http.ResponseWriter, r *http.Request, v any) bool {
	if r.Header.Get("Content-Type") != "application/json" {
		http.Error(w, "the content type must be application/json", http.StatusUnsupportedMediaType)
		return false
	}
	d := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxBody))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		http.Error(w, "the body is not as expected", http.StatusBadRequest)
		return false
	}
	return true
}
