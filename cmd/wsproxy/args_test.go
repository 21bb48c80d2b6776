package main

import (
	"bytes"
	"errors"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// What the program prints and how it exits, as a user sees it.
func TestCommandLine(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	bad := writeFile(t, dir, "bad.toml", "listen = [\"127.0.0.1:0\"]\nx = 1\n[[route]]\npath = \"/\"\ntarget = \"http://a\"\nmax_age = \"-1s\"\n")
	none := filepath.Join(dir, "none")
	for _, test := range []struct {
		args   []string
		code   int
		stdout []string // parts of it
		stderr []string
	}{
		{[]string{"check", "wsproxy.toml"}, 0, []string{"listens on 127.0.0.1:8080\n", "listens on 127.0.0.1:8081, for the admin\n", "/chat/{room}: 2 upstreams\n"}, nil},
		{[]string{"check", bad}, 1, nil, []string{bad + ":2: x: unknown key\n", bad + `:6: route.max_age: "-1s": negative` + "\n"}},
		{[]string{"check", none}, 1, nil, []string{"wsproxy: open " + none + ": "}},
		{[]string{"check"}, 2, nil, []string{"wsproxy: check takes the name of one file, and no flags; see wsproxy --help\n"}},
		{[]string{"check", bad, bad}, 2, nil, []string{"check takes the name of one file"}},
		{[]string{"check", bad, "--path", "/"}, 2, nil, []string{"check takes the name of one file"}},

		{[]string{"--config", bad}, 1, nil, []string{bad + ":2: x: unknown key\n"}},
		{[]string{"--config", none}, 1, nil, []string{"wsproxy: open " + none + ": "}},
		{[]string{"--config", ""}, 2, nil, []string{"--config needs the name of a file"}},
		{[]string{"--config"}, 2, nil, []string{"wsproxy: flag needs an argument: --config; see wsproxy --help\n"}},
		{[]string{"--config", bad, "http://a"}, 2, nil, []string{"--config cannot be combined with other flags"}},
		{[]string{"--config", bad, "--listen", ":80"}, 2, nil, []string{"--config cannot be combined with other flags"}},

		{nil, 2, nil, []string{"wsproxy: no upstream; name one, such as http://127.0.0.1:9000, or use --config FILE; see wsproxy --help\n"}},
		{[]string{"--nonsense"}, 2, nil, []string{"wsproxy: unknown flag --nonsense; see wsproxy --help\n"}},
		{[]string{"127.0.0.1:9000"}, 2, nil, []string{`"127.0.0.1:9000" is not a URL; an upstream is written as http://127.0.0.1:9000`}},
		{[]string{bad}, 2, nil, []string{"is a file, not the URL of an upstream; use --config " + bad}},
		{[]string{"ftp://a", "http://a", "--listen", "b"}, 2, nil, []string{
			`wsproxy: upstream: "ftp://a": unknown scheme`, `wsproxy: --listen: "b" is none of host:port, unix:/path, systemd:name` + "\n"}},
		{[]string{"http://a", "--path", "chat"}, 2, nil, []string{"wsproxy: --path: "}},
		{[]string{"http://a", "--origin", "a b"}, 2, nil, []string{"wsproxy: --origin: "}},
		{[]string{"http://a", "--admin", "127.0.0.1:8080"}, 2, nil, []string{`wsproxy: --admin: "127.0.0.1:8080" is listed twice`}},
		{[]string{"http://a", "--tls-self-signed", "--listen", "nowhere"}, 2, nil, []string{`wsproxy: --listen: "nowhere" is none of`}},
		{[]string{"http://a", "--listen", "systemd:web"}, 1, nil, []string{"systemd has passed no socket"}},

		{[]string{"--help"}, 0, []string{help}, nil},
		{[]string{"-h"}, 0, []string{help}, nil},
		{[]string{"http://a", "--version"}, 0, []string{"wsproxy ", " go1."}, nil},
	} {
		cmd := program(t, test.args...)
		var stdout, stderr bytes.Buffer
		cmd.Stdout, cmd.Stderr = &stdout, &stderr
		err := cmd.Run()
		if _, ok := errors.AsType[*exec.ExitError](err); err != nil && !ok {
			t.Fatal(err)
		}
		if code := cmd.ProcessState.ExitCode(); code != test.code {
			t.Errorf("%q: exit code %d, want %d\n%s%s", test.args, code, test.code, &stdout, &stderr)
		}
		for _, out := range []struct {
			name string
			got  string
			want []string
		}{{"stdout", stdout.String(), test.stdout}, {"stderr", stderr.String(), test.stderr}} {
			if len(out.want) == 0 && out.got != "" {
				t.Errorf("%q: %s is %q, want nothing", test.args, out.name, out.got)
			}
			for _, want := range out.want {
				if !strings.Contains(out.got, want) {
					t.Errorf("%q: %s is %q, want %q in it", test.args, out.name, out.got, want)
				}
			}
		}
	}
}

// The help has every flag, and lines that fit a terminal.
func TestHelp(t *testing.T) {
	t.Parallel()
	for line := range strings.Lines(help) {
		if n := len(strings.TrimSuffix(line, "\n")); n > 80 {
			t.Errorf("%d characters, want at most 80: %s", n, line)
		}
	}
	for _, flag := range []string{"listen", "path", "origin", "tls-self-signed", "admin", "config", "version", "help"} {
		if !strings.Contains(help, "\n  --"+flag+" ") {
			t.Errorf("the help does not explain --%s", flag)
		}
	}
}

// What a command line says is in the config.
func TestConfigOfFlags(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		args    string
		sockets []socket
		listen  string
	}{
		{"http://a", nil, "[127.0.0.1:8080]"},
		{"http://a --tls-self-signed", nil, "[tls:127.0.0.1:8080]"},
		{"--listen :80 http://a --listen unix:/run/a", nil, "[:80 unix:/run/a]"},
		{"http://a --admin localhost:81", []socket{{name: "web", fd: 3}, {name: "web", fd: 4}}, "[systemd:3 systemd:4 localhost:81]"},
		{"http://a --listen systemd:web", []socket{{name: "web", fd: 3}}, "[systemd:web]"},
	} {
		in, err := parseArgs(strings.Fields(test.args), nil)
		if err != nil {
			t.Errorf("%s: %v", test.args, err)
			continue
		}
		c, err := in.config(test.sockets)
		if err != nil {
			t.Errorf("%s: %v", test.args, err)
			continue
		}
		var listen []string
		for _, a := range c.listen {
			listen = append(listen, a.String())
		}
		if got := "[" + strings.Join(listen, " ") + "]"; got != test.listen {
			t.Errorf("%s: listens on %s, want %s", test.args, got, test.listen)
		}
	}
}
