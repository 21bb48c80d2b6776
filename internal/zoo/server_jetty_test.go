//go:build linux

package zoo

// Jetty is the other server of Java, in Jenkins and many more. Debian's
// libjetty9-extra-java, embedded.
var jetty = server{
	name:         "Jetty",
	source:       debian("libjetty9-extra-java"),
	start:        java("Jetty.java", "jetty9-*", "servlet-api*"),
	path:         "/echo",
	subprotocols: []string{"zoo.v1", "zoo.v2"},
	leave:        askToLeave,
	private:      &offer{path: "/private"},
}
