//go:build linux

package zoo

import "time"

// Eclipse's MQTT client for Python, with Mosquitto.
var pahoClient = client{
	name:     "Paho, Python",
	source:   debian("python3-paho-mqtt"),
	args:     []string{"/usr/bin/python3", testdata("python/paho_client.py")},
	of:       &mosquitto,
	patience: 8 * time.Second,
}
