// Package wstest has the tools that the tests of this repository share:
// connections in memory and of other kinds, peers that speak WebSocket byte by
// byte, frames, handshakes, certificates and logs.
//
// It imports nothing else of this module, so that every package's tests can use
// it. It shares no code with the proxy's own handling of frames and handshakes:
// a mistake in shared code would cancel out.
package wstest
