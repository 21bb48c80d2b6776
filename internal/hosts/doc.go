// Package hosts deploys the proxy as it is in production, on several machines,
// and takes machines away: network namespaces, joined by a bridge, stand for
// them. It holds tests only, in a module of its own.
//
// The tests run on Linux, as root; elsewhere they are skipped, and fail if the
// environment has CI=true. README.md says what they show.
package hosts
