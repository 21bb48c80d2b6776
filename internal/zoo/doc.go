// Package zoo runs real programs that speak WebSocket, each set up as its own
// documentation says, through nginx with the four lines that its manual has for
// WebSockets, and through the proxy with its defaults. It compares the outcomes.
// A difference is a defect unless promise_test.go names it.
//
// Each program, called an animal, has one file: server_NAME_test.go starts a
// server, and client_NAME_test.go a client. Clients of one protocol are guests
// (guest_test.go) of the server that speaks it as well; it is also recorded after
// which Close codes they reconnect. Programs in other languages are in testdata. zoo_test.go has the lists. setup.sh installs what is not a Go module.
// If something is missing, its tests are skipped, or fail if the environment has
// CI=true.
//
// zoo.sh runs the tests. ./zoo.sh -update writes the tables in
// docs/compatibility.md. Every other run compares the rows of the animals that it
// ran.
package zoo
