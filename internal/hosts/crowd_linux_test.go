//go:build !race

package hosts

// crowdSize is the number of clients of a proxy that is drained.
const crowdSize = 2000
