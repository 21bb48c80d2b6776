// Command held holds mutexes, and prints what package sync notes of it.
package main

import (
	"fmt"
	"runtime"
	"sync"
	"time"
)

var mu sync.Mutex

func main() {
	for range 50 {
		work()
		rest()
		try()
	}
	for range 1000 {
		short()
	}
	for _, h := range sync.TakeHeld() {
		frames := runtime.CallersFrames(h.Stack[:])
		for f, more := frames.Next(); more; f, more = frames.Next() {
			if f.Function == "main.work" || f.Function == "main.rest" || f.Function == "main.try" || f.Function == "main.short" {
				fmt.Println(f.Function[5:], h.Times, h.Used, h.Longest)
			}
		}
	}
}

func spin(d time.Duration) {
	for began := time.Now(); time.Since(began) < d; {
	}
}

func work() {
	mu.Lock()
	defer mu.Unlock()
	spin(time.Millisecond)
}

func rest() {
	mu.Lock()
	time.Sleep(2 * time.Millisecond)
	mu.Unlock()
}

func try() {
	if mu.TryLock() {
		spin(time.Millisecond)
		mu.Unlock()
	}
}

func short() {
	mu.Lock()
	mu.Unlock()
	spin(10 * time.Microsecond)
}
