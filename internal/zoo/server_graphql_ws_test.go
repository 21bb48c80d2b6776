//go:build linux

package zoo

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/coder/websocket"
)

// graphql-ws is how subscriptions of GraphQL travel today. npm's graphql-ws on
// ws.
var graphqlWS = server{
	name:         "graphql-ws",
	source:       npm("graphql-ws"),
	start:        node("graphql_ws.js"),
	path:         "/graphql",
	subprotocols: []string{"graphql-transport-ws"},
	fallback:     true,
	lostCode:     websocket.StatusServiceRestart, // its client does not reconnect after 1011
	kinds:        onlyText,
	greet: func(v *visit) error {
		_, err := v.ask(`{"type":"connection_init"}`, `{"type":"connection_ack"`)
		return err
	},
	say:   sayGraphQL("subscribe", `"type":"next"`),
	leave: func(v *visit) error { return v.send(text(`{"type":"nonsense"}`)) },
	lives: []life{script("its client", "graphql_ws_life.js"), {"a query by POST", func(t *testing.T, f form) (string, error) {
		resp, err := http.Post(f.http("/graphql"), "application/json", strings.NewReader(`{"query":"{ echo(text: \"hello\") }"}`))
		if err != nil {
			return "", err
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		return string(body), err
	}}},
}

// sayGraphQL runs a query whose result is what it is sent.
func sayGraphQL(kind, result string) func(v *visit, m message) error {
	return func(v *visit, m message) error {
		query := fmt.Sprintf(`{"id":"1","type":%q,"payload":{"query":"query q($t: String) { echo(text: $t) }","variables":{"t":"%s"}}}`, kind, m.data)
		if err := v.send(text(query)); err != nil {
			return err
		}
		for back := false; ; {
			got, err := v.receive()
			switch {
			case err != nil:
				return err
			case strings.Contains(string(got.data), `"type":"complete"`) && back:
				return nil
			case strings.Contains(string(got.data), result):
				if back = strings.Contains(string(got.data), fmt.Sprintf(`{"echo":"%s"}`, m.data)); !back {
					return fmt.Errorf("%v came", got)
				}
			case !strings.Contains(string(got.data), `"type":"ka"`):
				return fmt.Errorf("%v came", got)
			}
		}
	}
}
