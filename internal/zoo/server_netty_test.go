//go:build linux

package zoo

// Netty is below Vert.x, Play, Micronaut and Spring WebFlux. Debian's
// libnetty-java.
var netty = server{
	name:         "Netty",
	source:       debian("libnetty-java"),
	start:        java("Netty.java", "netty-*"),
	path:         "/echo",
	subprotocols: []string{"zoo.v1", "zoo.v2"},
	leave:        askToLeave,
	private:      &offer{path: "/private"},
}
