package wsproxy

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"sync/atomic"
)

// dialFrom returns a dial function that uses the addresses in turn. Without
// addresses the system chooses.
func dialFrom(d *net.Dialer, addresses []netip.Addr) func(ctx context.Context, network, address string) (net.Conn, error) {
	if len(addresses) == 0 {
		return d.DialContext
	}
	var turn atomic.Uint32
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		if network == "unix" {
			return d.DialContext(ctx, network, address)
		}
		first := int(turn.Add(1) % uint32(len(addresses)))
		var errs []error
		for i := range addresses {
			from := *d
			from.LocalAddr = net.TCPAddrFromAddrPort(netip.AddrPortFrom(addresses[(first+i)%len(addresses)], 0))
			from.Control = bindLate
			conn, err := from.DialContext(ctx, network, address)
			if err == nil {
				return conn, nil
			}
			// An answer of the upstream would be the same for the other
			// addresses, and is the only relevant error.
			var mismatch *net.AddrError
			if !localFault(err) && !errors.As(err, &mismatch) {
				return nil, err
			}
			errs = append(errs, err)
		}
		return nil, errors.Join(errs...)
	}
}
