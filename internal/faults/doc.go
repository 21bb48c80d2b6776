// Package faults tests the proxy against peers that break, lie, stall and
// vanish; see README.md.
package faults

import (
	_ "github.com/Shopify/toxiproxy/v2"
	_ "github.com/Shopify/toxiproxy/v2/toxics"
	_ "github.com/coder/websocket"
	_ "github.com/gorilla/websocket"

	_ "github.com/seed-ffb73231/wsproxy"
)
