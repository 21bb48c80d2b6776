//go:build !linux

package wsproxy

import "syscall"

func bindLate(_, _ string, _ syscall.RawConn) error { return nil }
