package wsproxy

import "syscall"

// bindLate has the kernel choose the port when it knows where the connection
// goes (since Linux 4.2): then ports to different upstreams don't use each
// other up.
func bindLate(_, _ string, c syscall.RawConn) error {
	const ipBindAddressNoPort = 24
	return c.Control(func(fd uintptr) {
		// An older kernel does without.
		_ = syscall.SetsockoptInt(int(fd), syscall.IPPROTO_IP, ipBindAddressNoPort, 1)
	})
}
