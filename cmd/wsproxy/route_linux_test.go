package main

import (
	"fmt"
	"net"
	"testing"
)

// Linux has all of 127.0.0.0/8.
func TestSourceAddresses(t *testing.T) {
	u := newUpstream(t, "u")
	in := start(t, fmt.Sprintf("[[route]]\npath = \"/\"\ntarget = %q\nsource_addresses = [\"127.0.0.2\", \"127.0.0.3\"]\n", u.URL))
	from := make(map[string]bool)
	for range 2 {
		dial(t, in.url(t, "/"), nil)
		host, _, err := net.SplitHostPort(u.last(t).RemoteAddr)
		if err != nil {
			t.Fatal(err)
		}
		from[host] = true
	}
	if !from["127.0.0.2"] || !from["127.0.0.3"] {
		t.Errorf("the upstream was dialled from %v, want 127.0.0.2 and 127.0.0.3", from)
	}
}
