module github.com/seed-ffb73231/wsproxy/bench

go 1.26.0

require (
	github.com/coder/websocket v1.8.15
	github.com/koding/websocketproxy v0.0.0-20181220232114-7ed82d81a28c
	github.com/seed-ffb73231/wsproxy v0.0.0
)

require (
	github.com/gorilla/websocket v1.5.3 // indirect
	golang.org/x/net v0.62.0 // indirect
	golang.org/x/text v0.43.0 // indirect
)

replace github.com/seed-ffb73231/wsproxy => ../
