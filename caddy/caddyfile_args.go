package wscaddy

import (
	"errors"
	"fmt"
	"math"
	"strconv"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/dustin/go-humanize"
)

// This file reads the arguments of subdirectives.

func wantArgs(d *caddyfile.Dispenser, right bool) error {
	if !right {
		return d.ArgErr()
	}
	return nil
}

func text(d *caddyfile.Dispenser, to *string) error {
	args := d.RemainingArgs()
	if len(args) != 1 {
		return d.ArgErr()
	}
	*to = args[0]
	return nil
}

func flag(d *caddyfile.Dispenser, to *bool) error {
	*to = true
	return wantArgs(d, !d.NextArg())
}

func number(d *caddyfile.Dispenser, to *int) (err error) {
	name, arg := d.Val(), ""
	if err := text(d, &arg); err != nil {
		return err
	}
	if *to, err = strconv.Atoi(arg); err != nil {
		return d.Errf("%s: %q is not a whole number", name, arg)
	}
	return nil
}

func decimal(d *caddyfile.Dispenser, to *float64) (err error) {
	name, arg := d.Val(), ""
	if err := text(d, &arg); err != nil {
		return err
	}
	if *to, err = strconv.ParseFloat(arg, 64); err != nil {
		return d.Errf("%s: %q is not a number", name, arg)
	}
	return nil
}

func duration(d *caddyfile.Dispenser, to *caddy.Duration) error {
	name := d.Val()
	if err := durationOf(d, d.RemainingArgs(), to); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}

// positive reads a duration for which 0 does not mean that there is none.
func positive(d *caddyfile.Dispenser, to *caddy.Duration) error {
	name := d.Val()
	if err := duration(d, to); err != nil {
		return err
	}
	if *to <= 0 {
		return d.Errf("%s: must be above 0", name)
	}
	return nil
}

func durationOf(d *caddyfile.Dispenser, args []string, to *caddy.Duration) error {
	if len(args) != 1 {
		return d.ArgErr()
	}
	t, err := caddy.ParseDuration(args[0])
	if err != nil {
		return d.Errf("%q is not a duration", args[0])
	}
	*to = caddy.Duration(t)
	return nil
}

// size reads a number of bytes, such as 512, 64KiB or 10MB.
func size(text string) (int, error) {
	n, err := humanize.ParseBytes(text)
	switch {
	case err != nil:
		return 0, err
	case n > math.MaxInt:
		return 0, errors.New("too large")
	}
	return int(n), nil
}
