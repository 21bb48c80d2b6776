//go:build !(linux && (amd64 || arm64) && wsproxy_simulated)

package main

import (
	"fmt"
	"os"
)

func main() {
	fmt.Fprintln(os.Stderr, "million: needs Linux on amd64 or arm64, and the simulated kernel: go run -tags wsproxy_simulated ./million")
	os.Exit(2)
}
