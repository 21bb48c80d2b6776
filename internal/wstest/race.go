//go:build race

package wstest

// Race is whether the race detector is in this program. It needs memory and time
// that tests of these must not count.
const Race = true
