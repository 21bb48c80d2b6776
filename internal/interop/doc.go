// Package interop runs WebSocket implementations against each other through
// the proxy: each as a client and each as an upstream, over real sockets. It
// holds tests only, in a module of its own, so that their dependencies are
// nobody else's.
//
// On Linux it also puts nginx and HAProxy in front of the proxy, where they end
// TLS, and behind it, as its upstream (behind_test.go, before_test.go).
//
// Servers in C, on LibVNCServer and CivetWeb (testdata/c), stand for those that
// answer no Ping (silent_linux_test.go).
//
// setup.sh installs what is not a Go module. Where something is missing its
// tests are skipped, and fail if the environment has CI=true.
package interop
