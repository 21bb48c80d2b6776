//go:build linux

package zoo

// wscat, npm's program for the terminal: text only, by its --execute.
var wscatClient = client{
	name:   "wscat",
	source: npm("wscat"),
	args:   []string{"node", testdata("npm/wscat.js"), "URL", "ROOT"},
}
