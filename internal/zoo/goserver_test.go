//go:build linux

package zoo

import (
	"fmt"
	"net/http"
	"os"
	"testing"
)

// goServers are the handlers of Go servers, by name. They run in processes of
// their own, so that they can be killed: this test's binary with ZOO_SERVE set.
var goServers = map[string]func(addr string) error{}

// goServer starts a Go server.
func goServer(name string, serve func(addr string) error) func(t *testing.T) *process {
	goServers[name] = serve
	return func(t *testing.T) *process {
		self, err := os.Executable()
		if err != nil {
			t.Fatal(err)
		}
		return command{args: []string{self}, env: []string{"ZOO_SERVE=" + name, "ZOO_ADDR=127.0.0.1:PORT"}}.start(t)
	}
}

// httpServer starts a Go server on net/http.
func httpServer(name string, h http.HandlerFunc) func(t *testing.T) *process {
	mux := http.NewServeMux()
	mux.HandleFunc("/echo", h)
	mux.HandleFunc("/private", func(w http.ResponseWriter, r *http.Request) {
		if _, _, ok := r.BasicAuth(); !ok {
			w.Header().Set("WWW-Authenticate", `Basic realm="zoo"`)
			http.Error(w, "who are you", http.StatusUnauthorized)
			return
		}
		h(w, r)
	})
	return goServer(name, func(addr string) error { return http.ListenAndServe(addr, mux) })
}

// serveInstead runs a server, instead of the tests, if ZOO_SERVE is set.
func serveInstead() {
	if name := os.Getenv("ZOO_SERVE"); name != "" {
		fmt.Println(goServers[name](os.Getenv("ZOO_ADDR")))
		os.Exit(1)
	}
}
