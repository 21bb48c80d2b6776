//go:build linux

package zoo

// faye-websocket for Ruby, on EventMachine. Debian's ruby-faye-websocket.
var fayeWebsocketRubyClient = client{
	name:   "faye-websocket, Ruby",
	source: debian("ruby-faye-websocket"),
	args:   []string{"ruby", testdata("ruby/faye_websocket_client.rb"), "URL", "ROOT"},
}
