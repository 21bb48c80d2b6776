//go:build linux

package zoo

// aedes is a broker of MQTT in Node.js. npm's aedes on ws.
var aedes = server{
	name:         "aedes",
	source:       npm("aedes"),
	start:        node("aedes.js"),
	path:         "/mqtt",
	subprotocols: []string{"mqtt"},
	kinds:        onlyBinary,
	greet:        greetMQTT,
	say:          sayMQTT,
	leave:        func(v *visit) error { return v.send(message{true, connectMQTT}) },
	lives:        []life{script("mqtt.js", "mqtt_life.js")},
}
