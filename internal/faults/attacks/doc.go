// Package attacks holds hostile and odd handshakes and frames as raw bytes, and
// what must come of them: what the upstream sees, what the client is answered,
// whose connection ends how. Each runs over plain TCP and over TLS on both
// legs. What other proxies make of the same bytes is compared in README.md.
package attacks
