//go:build linux

package zoo

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Tomcat runs the applications of most Java companies, and most of Spring's.
// Debian's libtomcat10-java, embedded.
var tomcat = server{
	name:         "Tomcat",
	source:       debian("libtomcat10-java"),
	start:        java("Tomcat.java", "tomcat10-*"),
	path:         "/echo",
	subprotocols: []string{"zoo.v1", "zoo.v2"},
	leave:        askToLeave,
	private:      &offer{path: "/private"},
}

// java starts a server in Java: a file of testdata that takes its port. The
// patterns name the jars of Debian that it needs.
func java(source string, patterns ...string) func(t *testing.T) *process {
	return func(t *testing.T) *process {
		var jars []string
		for _, p := range patterns {
			found, _ := filepath.Glob("/usr/share/java/" + p + ".jar") // a fixed pattern is never malformed
			for _, jar := range found {
				if info, err := os.Lstat(jar); err == nil && info.Mode().IsRegular() { // not once more by another name
					jars = append(jars, jar)
				}
			}
		}
		return command{args: []string{"java", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-cp", strings.Join(jars, ":"), testdata("java/" + source), "PORT"}}.start(t)
	}
}
