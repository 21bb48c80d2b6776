//go:build linux

package zoo

// subscriptions-transport-ws is how subscriptions of GraphQL travelled before.
// npm's subscriptions-transport-ws on ws.
var subscriptionsTransportWS = server{
	name:         "subscriptions-transport-ws",
	source:       npm("subscriptions-transport-ws"),
	start:        node("subscriptions_transport_ws.js"),
	path:         "/subscriptions",
	subprotocols: []string{"graphql-ws"},
	kinds:        onlyText,
	greet: func(v *visit) error {
		_, err := v.ask(`{"type":"connection_init"}`, `{"type":"connection_ack"`)
		return err
	},
	say:   sayGraphQL("start", `"type":"data"`),
	leave: func(v *visit) error { return v.send(text(`{"type":"connection_terminate"}`)) },
}
