module github.com/seed-ffb73231/wsproxy/cmd/wsproxy

go 1.26.0

require (
	github.com/coder/websocket v1.8.15
	github.com/pelletier/go-toml/v2 v2.4.3
	github.com/seed-ffb73231/wsproxy v0.0.0
	golang.org/x/net v0.62.0
)

require golang.org/x/text v0.43.0 // indirect

replace github.com/seed-ffb73231/wsproxy => ../..
