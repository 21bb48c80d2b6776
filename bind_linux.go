package wsproxy

import "syscall"

// bindLate makes the kernel choose the port when the destination is known
// (since Linux 4.2), so that connections to different upstreams do not use up
// each other's ports.
func bindLate(_, _ string, c syscall.RawConn) error {
	const ipBindAddressNoPort = 24
	return c.Control(func(fd uintptr) {
		// Ignore the error of an older kernel.
		_ = syscall.SetsockoptInt(int(fd), syscall.IPPROTO_IP, ipBindAddressNoPort, 1)
	})
}
