//go:build linux

package zoo

import (
	"fmt"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// TestRecipes checks that each recipe of docs/recipes.md is what its animal is
// carried with: its patterns match the path of the animal's WebSocket, and it has
// a fallback if the animal needs one. The animals use the defaults for everything
// else but lostCode, and so do the recipes.
func TestRecipes(t *testing.T) {
	text, err := os.ReadFile("../../docs/recipes.md")
	if err != nil {
		t.Fatal(err)
	}
	recipes := regexp.MustCompile("(?s)\n## ([^\n]+)\n<!-- zoo: ([^\n]+) -->\n\n```go\n(.*?)```").FindAllSubmatch(text, -1)
	if len(recipes) != 10 {
		t.Errorf("found %d recipes, want 10", len(recipes))
	}
	for _, recipe := range recipes {
		name, animal, code := string(recipe[1]), string(recipe[2]), string(recipe[3])
		i := slices.IndexFunc(servers, func(s server) bool { return s.name == animal })
		if i < 0 {
			t.Errorf("%s: there is no %s", name, animal)
			continue
		}
		s := servers[i]
		if s.path == "" { // found when it runs
			s.path = map[string]string{"Jupyter": "/api/kernels/1/channels", "Vite": "/?token=1"}[animal]
		}
		mux := http.NewServeMux()
		for _, pattern := range regexp.MustCompile(`mux\.Handle\("([^"]+)", proxy\)`).FindAllStringSubmatch(code, -1) {
			mux.Handle(pattern[1], http.NotFoundHandler())
		}
		r, err := http.NewRequest(http.MethodGet, "http://zoo"+s.path, nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, pattern := mux.Handler(r); pattern == "" {
			t.Errorf("%s: no pattern of the recipe matches %s", name, s.path)
		}
		if has := strings.Contains(code, "wsproxy.WithFallback("); has != s.fallback {
			t.Errorf("%s: the recipe has a fallback: %v, its animal: %v", name, has, s.fallback)
		}
		rest := strings.ReplaceAll(code, "wsproxy.WithFallback(", "")
		if s.lostCode != 0 {
			rest = strings.Replace(rest, fmt.Sprintf("wsproxy.WithLostCode(%d)", s.lostCode), "", 1)
		}
		if strings.Contains(rest, "wsproxy.With") {
			t.Errorf("%s: the recipe has options that its animal is not carried with", name)
		}
	}
}
