//go:build linux

package zoo

import "fmt"

// SignalR is ASP.NET's. npm's @microsoft/signalr at a hub of our own on ws that
// speaks its protocol, for there is no .NET here. Its client negotiates by HTTP.
var signalR = server{
	name:     "SignalR",
	source:   npm("@microsoft/signalr"),
	start:    node("signalr.js"),
	path:     "/hub?id=1",
	fallback: true,
	kinds:    onlyText,
	auto: func(m message) *message {
		if m.is("{\"type\":6}\x1e") {
			return &message{false, m.data}
		}
		return nil
	},
	greet: func(v *visit) error {
		_, err := v.ask("{\"protocol\":\"json\",\"version\":1}\x1e", "{}\x1e")
		return err
	},
	say: func(v *visit, m message) error {
		packet := fmt.Sprintf("{\"type\":1,\"target\":\"Tell\",\"arguments\":[\"%s\"]}\x1e", m.data)
		return v.echoes(packet, packet)
	},
	leave: func(v *visit) error {
		return v.send(text("{\"type\":1,\"target\":\"leave\",\"arguments\":[]}\x1e"))
	},
	lives: []life{script("its client", "signalr_life.js")},
}
