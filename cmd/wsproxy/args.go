package main

import (
	"cmp"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"runtime"
	"runtime/debug"
	"strings"
)

const help = `wsproxy is a reverse proxy for WebSockets.

Usage:

  wsproxy [flags] URL...        proxy WebSockets to these upstreams
  wsproxy --config FILE         proxy as configured in a file
  wsproxy check FILE            check a file, and print mistakes or a summary

Examples:

  wsproxy http://127.0.0.1:9000
  wsproxy --listen :8443 --tls-self-signed http://10.0.0.1:9000 http://10.0.0.2
  wsproxy --listen unix:/run/chat.sock --admin 127.0.0.1:8081 unix:/run/app.sock

An upstream is an http, https, ws, wss or unix URL. Several share the sessions.

Flags:

  --listen ADDRESS    host:port, unix:PATH or systemd:NAME; may be repeated. The
                      default is the sockets that systemd passes, or else
                      127.0.0.1:8080
  --path PATH         the path to serve. /chat is that path only, /chat/ is all
                      paths below it. The default is /, all paths
  --origin PATTERN    an origin whose pages may open WebSockets, in addition to
                      the same origin: https://*.example.com; may be repeated
  --tls-self-signed   serve TLS with a new certificate, which is kept in memory.
                      Its SHA-256 fingerprint is logged
  --admin ADDRESS     serve /healthz, /stats, /metrics and /console/ at this
                      address, without a login. The default is off
  --config FILE       a TOML file that replaces the flags above
  --version           print the version
  --help              print this text

On SIGHUP, wsproxy reads the file again, and sessions continue. On SIGTERM or
Ctrl-C it ends the sessions one by one, and exits. A second signal ends it at
once.

Exit codes: 0 success, 1 failure, 2 wrong command line.

Documentation: https://github.com/seed-ffb73231/wsproxy/tree/main/cmd/wsproxy
`

// defaultListen is the address to listen on if neither --listen nor systemd
// provides one.
const defaultListen = "127.0.0.1:8080"

// An invocation is a command line.
type invocation struct {
	check bool   // check the file and exit
	file  string // the config file; "": there is none

	listen, origins, targets list
	path, admin              string
	selfSigned               bool
}

// list is a flag that may be repeated.
type list []string

func (l *list) String() string     { return strings.Join(*l, " ") }
func (l *list) Set(v string) error { *l = append(*l, v); return nil }

// errDone is returned when the command line only asked for some text, which has
// been printed.
var errDone = errors.New("done")

// parseArgs parses a command line. The error is a usage error, or errDone.
func parseArgs(args []string, stdout io.Writer) (*invocation, error) {
	in := new(invocation)
	flags := flag.NewFlagSet("wsproxy", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	flags.Var(&in.listen, "listen", "")
	flags.Var(&in.origins, "origin", "")
	flags.StringVar(&in.path, "path", "/", "")
	flags.StringVar(&in.admin, "admin", "", "")
	flags.BoolVar(&in.selfSigned, "tls-self-signed", false, "")
	flags.StringVar(&in.file, "config", "", "")
	printVersion := flags.Bool("version", false, "")
	// Flags may also follow the other arguments.
	var rest []string
	for {
		switch err := flags.Parse(args); {
		case errors.Is(err, flag.ErrHelp):
			fmt.Fprint(stdout, help)
			return nil, errDone
		case err != nil:
			text := strings.Replace(err.Error(), "flag provided but not defined:", "unknown flag", 1)
			return nil, errors.New(strings.ReplaceAll(text, " -", " --"))
		}
		if flags.NArg() == 0 {
			break
		}
		rest, args = append(rest, flags.Arg(0)), flags.Args()[1:]
	}
	if *printVersion {
		fmt.Fprintf(stdout, "wsproxy %s %s %s/%s\n", version(), runtime.Version(), runtime.GOOS, runtime.GOARCH)
		return nil, errDone
	}
	set := make(map[string]bool)
	flags.Visit(func(f *flag.Flag) { set["--"+f.Name] = true })
	if len(rest) > 0 && rest[0] == "check" {
		if len(rest) != 2 || len(set) > 0 {
			return nil, errors.New("check takes the name of one file, and no flags")
		}
		in.check, in.file = true, rest[1]
		return in, nil
	}
	in.targets = rest
	switch {
	case set["--config"] && (len(set) > 1 || len(rest) > 0):
		return nil, errors.New("--config cannot be combined with other flags or with upstreams")
	case set["--config"] && in.file == "":
		return nil, errors.New("--config needs the name of a file")
	case set["--config"]:
	case len(rest) == 0:
		return nil, errors.New("no upstream; name one, such as http://127.0.0.1:9000, or use --config FILE")
	}
	for _, target := range rest {
		if strings.Contains(target, "://") || strings.HasPrefix(target, "unix:") {
			continue
		}
		if _, err := os.Stat(target); err == nil {
			return nil, fmt.Errorf("%q is a file, not the URL of an upstream; use --config %s, or check %s", target, target, target)
		}
		return nil, fmt.Errorf("%q is not a URL; an upstream is written as http://%s", target, target)
	}
	return in, nil
}

// config returns the config for the command line. sockets are those that systemd
// has passed.
func (in *invocation) config(sockets []socket) (*config, error) {
	if in.file != "" {
		return load(in.file)
	}
	texts := func(list []string) (items []any) {
		for _, text := range list {
			items = append(items, text)
		}
		return items
	}
	listen := in.listen
	if len(listen) == 0 {
		for _, s := range sockets {
			listen = append(listen, fmt.Sprint("systemd:", s.fd))
		}
	}
	if len(listen) == 0 {
		listen = list{defaultListen}
	}
	var upstreams []any
	for _, target := range in.targets {
		upstreams = append(upstreams, map[string]any{"target": target})
	}
	route := map[string]any{"path": in.path, "upstreams": upstreams}
	if len(in.origins) > 0 {
		route["origins"] = texts(in.origins)
	}
	values := map[string]any{"route": []any{route}}
	if in.selfSigned {
		values["tls"] = map[string]any{"listen": texts(listen), "self_signed": true}
	} else {
		values["listen"] = texts(listen)
	}
	if in.admin != "" {
		values["admin"] = in.admin
	}
	return read(&table{newDocument(""), "", values})
}

// flagOf maps the keys of the config to the parts of a command line that set
// them, for error messages.
var flagOf = map[string]string{
	"listen":                 "--listen",
	"tls.listen":             "--listen",
	"admin":                  "--admin",
	"route.path":             "--path",
	"route.origins":          "--origin",
	"route.upstreams.target": "upstream",
}

// version returns the program's version: that of the release, or of the commit
// that it was built from.
func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "(unknown)"
	}
	return cmp.Or(info.Main.Version, "(unknown)")
}
