// Package wstest holds what the tests of this repository share: connections
// in memory and of other kinds, peers that speak WebSocket byte by byte,
// frames, handshakes, certificates and logs.
//
// It imports nothing else of this module, so that every package's tests can
// use it. Above all it shares no code with the proxy's own handling of frames
// and handshakes: a mistake in code that both shared would cancel out.
package wstest
