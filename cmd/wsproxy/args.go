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

  wsproxy [flags] URL...        carry WebSockets to these upstreams
  wsproxy --config FILE         do what a file says, which can say much more
  wsproxy check FILE            say what is wrong with a file, or what it does

Examples:

  wsproxy http://127.0.0.1:9000
  wsproxy --listen :8443 --tls-self-signed http://10.0.0.1:9000 http://10.0.0.2
  wsproxy --listen unix:/run/chat.sock --admin 127.0.0.1:8081 unix:/run/app.sock

An upstream is an http, https, ws, wss or unix URL. Several share the sessions.

Flags:

  --listen ADDRESS    host:port, unix:PATH or systemd:NAME; may be repeated. The
                      default is what systemd passes, or else 127.0.0.1:8080
  --path PATH         the path to serve, as in Go's http.ServeMux: /chat/ is all
                      that begins with it. The default is /, every path
  --origin PATTERN    pages that may open WebSockets besides those of the same
                      origin, such as https://*.example.com; may be repeated
  --tls-self-signed   serve TLS, with a certificate that is made now and kept in
                      memory. Its SHA-256 fingerprint is logged
  --admin ADDRESS     where to serve /healthz, /stats, /metrics and /console/,
                      without a login. The default is nowhere
  --config FILE       a TOML file, instead of all of the above
  --version           print the version
  --help              print this text

SIGHUP makes it read the file again: sessions continue. SIGTERM or Ctrl-C tells
the sessions to end, one by one, and then it exits; a second one does not wait.

Exit codes: 0 success, 1 failure, 2 wrong command line.

Documentation: https://github.com/seed-ffb73231/wsproxy/tree/main/cmd/wsproxy
`

// defaultListen is where it listens if nothing says so.
const defaultListen = "127.0.0.1:8080"

// An invocation is a command line.
type invocation struct {
	check bool   // the file, and exit
	file  string // "": the flags say it all

	listen, origins, targets list
	path, admin              string
	selfSigned               bool
}

// list is a flag that may be repeated.
type list []string

func (l *list) String() string     { return strings.Join(*l, " ") }
func (l *list) Set(v string) error { *l = append(*l, v); return nil }

// errDone means that the command line has been done by printing something.
var errDone = errors.New("done")

// parseArgs reads a command line. An error is about how to write it, or errDone.
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
			return nil, errors.New("write check and the name of one file")
		}
		in.check, in.file = true, rest[1]
		return in, nil
	}
	in.targets = rest
	switch {
	case set["--config"] && (len(set) > 1 || len(rest) > 0):
		return nil, errors.New("--config can't be combined with anything else: the file says it all")
	case set["--config"] && in.file == "":
		return nil, errors.New("--config needs the name of a file")
	case set["--config"]:
	case len(rest) == 0:
		return nil, errors.New("write an upstream, such as http://127.0.0.1:9000, or --config and a file")
	}
	for _, target := range rest {
		if strings.Contains(target, "://") || strings.HasPrefix(target, "unix:") {
			continue
		}
		if _, err := os.Stat(target); err == nil {
			return nil, fmt.Errorf("%q is a file, no URL of an upstream: write --config %s, or check %s", target, target, target)
		}
		return nil, fmt.Errorf("%q is no URL of an upstream: write http://%s, perhaps", target, target)
	}
	return in, nil
}

// config returns the config that the command line asks for. Sockets are those
// that systemd has passed.
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

// flagOf names what a key comes from if there is no file.
var flagOf = map[string]string{
	"listen":                 "--listen",
	"tls.listen":             "--listen",
	"admin":                  "--admin",
	"route.path":             "--path",
	"route.origins":          "--origin",
	"route.upstreams.target": "upstream",
}

// version returns the program's version. One that was built from a checkout has
// that of the commit.
func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "(unknown)"
	}
	return cmp.Or(info.Main.Version, "(unknown)")
}
