// Package attacks holds hostile and unusual handshakes and frames as raw bytes,
// and their required results: what the upstream gets, what the client is
// answered, and whose connection ends how. Each runs over plain TCP and over
// TLS on both legs. README.md compares what other proxies do with the same
// bytes.
package attacks
