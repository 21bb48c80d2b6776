package console_test

import (
	"fmt"
	"io"
	"log"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"

	"github.com/seed-ffb73231/wsproxy"
	"github.com/seed-ffb73231/wsproxy/console"
)

// The console behind a team's own login, with a column for the users that a
// hook has stored.
func Example() {
	type userKey struct{}
	proxy, err := wsproxy.New("http://127.0.0.1:9000",
		wsproxy.WithOnOpen(func(s *wsproxy.Session, r *http.Request) error {
			s.Set(userKey{}, r.Header.Get("X-User")) // set by your authentication
			return nil
		}),
		wsproxy.WithLogger(slog.New(slog.DiscardHandler)))
	if err != nil {
		log.Fatal(err)
	}
	page := console.Handler(proxy, &console.Options{
		Title: "Chat",
		User: func(s *wsproxy.Session) string {
			name, _ := s.Value(userKey{}).(string)
			return name
		},
	})
	login := func(next http.Handler) http.Handler { // yours
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if name, password, _ := r.BasicAuth(); name != "operator" || password != "example" {
				w.Header().Set("WWW-Authenticate", "Basic")
				w.WriteHeader(http.StatusUnauthorized)
				return
			}
			next.ServeHTTP(w, r)
		})
	}
	mux := http.NewServeMux()
	mux.Handle("/chat", proxy)
	mux.Handle("/admin/chat/", login(page))
	server := httptest.NewServer(mux)
	defer server.Close()

	for _, user := range []string{"", "operator:example@"} {
		resp, err := http.Get(strings.Replace(server.URL, "://", "://"+user, 1) + "/admin/chat/")
		if err != nil {
			log.Fatal(err)
		}
		body, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		fmt.Println(resp.StatusCode, strings.Contains(string(body), "<title>Sessions – wsproxy</title>"))
	}
	// Output:
	// 401 false
	// 200 true
}
