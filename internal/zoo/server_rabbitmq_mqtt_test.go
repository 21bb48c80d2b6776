//go:build linux

package zoo

import (
	"strings"
	"testing"
)

// RabbitMQ speaks MQTT over WebSockets with its plugin web_mqtt, which is on
// Cowboy. Debian's rabbitmq-server.
var rabbitMQTT = server{
	name:         "RabbitMQ, MQTT",
	source:       debian("rabbitmq-server"),
	start:        startRabbitMQ("web_mqtt"),
	path:         "/ws",
	subprotocols: []string{"mqtt"},
	kinds:        onlyBinary,
	greet:        greetMQTT,
	say:          sayMQTT,
	leave:        func(v *visit) error { return v.send(message{true, packetMQTT(0xe0, nil)}) }, // DISCONNECT
}

// startRabbitMQ starts a broker with one plugin. It needs epmd, which finds
// Erlang's nodes by their names: one of its own, lest it leave one behind.
func startRabbitMQ(plugin string) func(t *testing.T) *process {
	return func(t *testing.T) *process {
		epmd := command{args: []string{"epmd", "-address", "127.0.0.1", "-port", "PORT"}}.start(t)
		return command{
			args: []string{"/usr/lib/rabbitmq/bin/rabbitmq-server"},
			env: []string{
				"ERL_EPMD_PORT=" + port(epmd.addr), "RABBITMQ_NODENAME=zoo@localhost", "RABBITMQ_DIST_PORT=PORT2",
				"RABBITMQ_CONFIG_FILE=DIR/conf", "RABBITMQ_ENABLED_PLUGINS_FILE=DIR/plugins",
				"RABBITMQ_MNESIA_BASE=DIR", "RABBITMQ_LOG_BASE=DIR", "RABBITMQ_PID_FILE=DIR/pid",
			},
			files: map[string]string{
				"plugins": "[rabbitmq_" + plugin + "].",
				"conf": "listeners.tcp = none\n" + strings.TrimPrefix(plugin, "web_") + ".listeners.tcp = none\n" +
					plugin + ".tcp.ip = 127.0.0.1\n" + plugin + ".tcp.port = PORT\nlog.console = true\nlog.file = false\n",
			},
		}.start(t)
	}
}
