//go:build race

package hosts

// crowdSize is smaller under the race detector: the clients take most of the
// machine then.
const crowdSize = 500
