//go:build linux

package zoo

import "time"

// npm's mqtt, which is MQTT.js, with aedes. It sends the protocol's own pings.
var mqttClient = client{
	name:     "mqtt.js",
	source:   npm("mqtt"),
	args:     []string{"node", testdata("npm/mqtt_client.js")},
	of:       &aedes,
	patience: 8 * time.Second,
}
