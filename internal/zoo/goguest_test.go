//go:build linux

package zoo

import (
	"fmt"
	"os"
	"sync"
	"time"
)

// A guest in Go does what testdata/npm/guest.js has those in Node.js do.
type guest interface {
	// opened is what was agreed on, as far as the library tells.
	opened() string
	// say sends a message of this size, and returns when it has come back.
	say(size int) error
	// close ends the connection.
	close()
	// gone waits for the connection's end and describes it.
	gone() string
}

// A connect function connects a guest as its library's documentation says. The
// guest reconnects by itself only if stay is true.
type connect func(url string, stay bool) (guest, error)

// goGuests are the guests in Go, by name. They run in processes of their own,
// like all guests: this test's binary with ZOO_GUEST set.
var goGuests = map[string]connect{}

// goGuest returns the command of a guest in Go.
func goGuest(name string, c connect) []string {
	goGuests[name] = c
	self, err := os.Executable()
	if err != nil {
		panic(err)
	}
	return []string{"env", "ZOO_GUEST=" + name, self}
}

// visitInstead runs a guest, instead of the tests, if ZOO_GUEST is set.
func visitInstead() {
	name := os.Getenv("ZOO_GUEST")
	if name == "" {
		return
	}
	if err := goGuests[name].act(os.Args[1], os.Args[2:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

func (c connect) act(mode string, args []string) error {
	switch mode {
	case "stay":
		for _, url := range args {
			if _, err := c(url, true); err != nil {
				return err
			}
		}
		fmt.Println("up")
		select {}
	case "silent":
		d, err := time.ParseDuration(args[0] + "ms")
		if err != nil {
			return err
		}
		came := make([]string, len(args)-1)
		var all sync.WaitGroup
		for i, url := range args[1:] {
			all.Go(func() { came[i] = c.silence(url, d) })
		}
		all.Wait()
		for i := range came {
			fmt.Printf("silence %d: %s\n", i, came[i])
		}
		return nil
	default:
		return c.visit(args[0])
	}
}

func (c connect) silence(url string, d time.Duration) string {
	g, err := c(url, false)
	if err != nil {
		return "fails: " + err.Error()
	}
	gone := make(chan string, 1)
	go func() { gone <- g.gone() }()
	select {
	case end := <-gone:
		return "cut: " + end
	case <-time.After(d):
	}
	if err := g.say(5); err != nil {
		return "lost: " + err.Error()
	}
	return "outlived"
}

func (c connect) visit(url string) error {
	g, err := c(url, false)
	if err != nil {
		return err
	}
	fmt.Println("open:", g.opened())
	for _, size := range []int{1, 200, 100_000} {
		if err := g.say(size); err != nil {
			return fmt.Errorf("a message of %d: %w", size, err)
		}
	}
	fmt.Println("messages: all come back")
	g.close()
	fmt.Println("client closes:", g.gone())
	return nil
}
