//go:build linux

package zoo

import "time"

// graphql-ws's client, with pings.
var graphqlWSClient = client{
	name:     "graphql-ws's",
	source:   npm("graphql-ws"),
	args:     []string{"node", testdata("npm/graphql_ws_client.js")},
	of:       &graphqlWS,
	patience: 10 * time.Second,
}
