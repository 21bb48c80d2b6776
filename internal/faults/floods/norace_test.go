//go:build linux && !race

package floods_test

const race = false
