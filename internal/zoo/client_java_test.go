//go:build linux

package zoo

// The JDK's own java.net.http.WebSocket. Debian's openjdk-17-jdk-headless.
var javaClient = client{
	name:   "java.net.http",
	source: debian("openjdk-17-jdk-headless"),
	args:   []string{"java", testdata("java/Errand.java"), "URL", "ROOT"},
}
