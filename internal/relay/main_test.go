package relay

import (
	"flag"
	"fmt"
	"os"
	"testing"
	"time"
)

// After all tests, the event driver must have nothing left.
func TestMain(m *testing.M) {
	flag.Parse()
	flag.Set("test.parallel", "8") // they mostly wait
	code := m.Run()
	var c Census
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(time.Millisecond) { // between two looks
		if c = CountEvents(); c == (Census{}) {
			break
		}
		if time.Now().After(deadline) {
			fmt.Printf("the event driver has something left after all tests: %+v\n", c)
			code = 1
			break
		}
	}
	os.Exit(code)
}
