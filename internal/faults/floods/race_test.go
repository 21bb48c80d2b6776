//go:build linux && race

package floods_test

// race: the detector's own memory is resident, too.
const race = true
