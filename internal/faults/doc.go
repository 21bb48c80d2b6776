// Package faults tests the proxy against peers that break, lie, stall and
// vanish; see README.md.
package faults
