//go:build !race

package hosts

// crowdSize is how many clients a proxy has that is drained.
const crowdSize = 2000
