// Package interop runs WebSocket implementations against each other through
// the proxy: each as a client and each as an upstream, over real sockets. It
// holds tests only, in a module of its own, so that their dependencies are
// nobody else's.
//
// setup.sh installs the implementations that are not Go modules. Where one is
// missing its tests are skipped, and fail if the environment has CI=true.
package interop
