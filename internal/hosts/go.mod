module github.com/seed-ffb73231/wsproxy/internal/hosts

go 1.26.0

require (
	github.com/coder/websocket v1.8.15
	github.com/seed-ffb73231/wsproxy v0.0.0
	golang.org/x/sys v0.48.0
)

replace github.com/seed-ffb73231/wsproxy => ../..
