// Package zoo carries real programs that speak WebSocket, each used as its own
// documentation says, twice: through nginx with the four lines that its manual
// has for WebSockets, and through the proxy with its defaults. What came of it
// is compared. A difference is a defect, or it is promised and named
// (promise_test.go).
//
// An animal is one file: server_NAME_test.go starts a server, and
// client_NAME_test.go a client. What runs in another language is in testdata.
// The lists are in zoo_test.go. setup.sh installs what is not a Go module.
// Where something is missing its tests are skipped, and fail if the environment
// has CI=true.
//
// zoo.sh runs them. The tables in docs/compatibility.md are written by
// ./zoo.sh -update, and every other run compares the rows of the animals that
// it ran.
package zoo
