//go:build !race

package wstest

// Race is whether the race detector is in this program.
const Race = false
