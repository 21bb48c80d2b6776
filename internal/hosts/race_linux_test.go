//go:build race

package hosts

// crowdSize is smaller under the race detector, because the clients then use
// most of the CPU.
const crowdSize = 500
