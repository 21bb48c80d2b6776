package main

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"
)

// In this file the program is released, installed and used as its README and
// CONTRIBUTING.md say.

const (
	repository = "github.com/seed-ffb73231/wsproxy"
	released   = "v0.999.0" // which no other one is
)

// A user has a machine on which the program is to be installed.
type user struct {
	t   *testing.T
	ctx context.Context
	dir string
	env []string
}

// sh runs a command line and returns what it prints.
func (u *user) sh(line string) (output string, code int) {
	u.t.Helper()
	cmd := exec.CommandContext(u.ctx, "sh", "-c", line)
	cmd.Dir, cmd.Env = u.dir, u.env
	out, err := cmd.CombinedOutput()
	if _, exited := errors.AsType[*exec.ExitError](err); err != nil && !exited {
		u.t.Fatalf("%s: %v", line, err)
	}
	return string(out), cmd.ProcessState.ExitCode()
}

func (u *user) must(line string) string {
	u.t.Helper()
	out, code := u.sh(line)
	if code != 0 {
		u.t.Fatalf("%s: exit code %d\n%s", line, code, out)
	}
	return out
}

// TestInstall makes a release of the work tree in a copy of it, by release.sh,
// and serves it as a module proxy would. Then it does what the README says, from
// go install on.
func TestInstall(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("it compiles everything anew")
	}
	for _, name := range []string{"git", "bash", "sed"} {
		if _, err := exec.LookPath(name); err != nil {
			t.Skip(err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 8*time.Minute)
	defer cancel()
	temp := t.TempDir()
	u := &user{t: t, ctx: ctx, dir: filepath.Join(temp, "checkout"), env: os.Environ()}
	cache := strings.TrimSpace(u.at("").must("go env GOMODCACHE"))
	proxy := filepath.Join(temp, "proxy")
	u.env = append(u.env,
		"GOPROXY=file://"+filepath.ToSlash(proxy)+",file://"+filepath.ToSlash(cache)+"/cache/download,"+strings.TrimSpace(u.at("").must("go env GOPROXY")),
		"GONOPROXY=none", "GOSUMDB=off", "GOWORK=off", "GOTOOLCHAIN=local",
		"GOFLAGS=-modcacherw -trimpath", // so that it can be removed, and compiled code used again
		"GOMODCACHE="+filepath.Join(temp, "modules"),
		"GOBIN="+filepath.Join(temp, "bin"),
		"PATH="+filepath.Join(temp, "bin")+string(os.PathListSeparator)+os.Getenv("PATH"),
		"GIT_CONFIG_GLOBAL="+os.DevNull, "GIT_AUTHOR_NAME=a", "GIT_AUTHOR_EMAIL=a@localhost", "GIT_COMMITTER_NAME=a", "GIT_COMMITTER_EMAIL=a@localhost")

	// The work tree, with what is not committed yet.
	files := u.at("../..").must("git ls-files -z --cached --others --exclude-standard")
	for name := range strings.SplitSeq(strings.TrimSuffix(files, "\x00"), "\x00") {
		if err := copyFile(filepath.Join(u.dir, name), filepath.Join("../..", name)); err != nil && !errors.Is(err, fs.ErrNotExist) { // removed
			t.Fatal(err)
		}
	}
	u.must("git init -q -b main && git add -A && git commit -q -m all")

	if out, code := u.sh("./release.sh 1.0"); code != 2 || !strings.Contains(out, "./release.sh v0.2.0") {
		t.Errorf("a version that is none: exit code %d\n%s", code, out)
	}
	out := u.must("./release.sh " + released)
	if want := "git push --atomic origin HEAD " + released + " metrics/prometheus/" + released; !strings.Contains(out, want) {
		t.Errorf("release.sh says %q, want %q", out, want)
	}
	if out := u.must("git status --porcelain"); out != "" {
		t.Errorf("after the release there are changes:\n%s", out)
	}
	publish(u, proxy, released)
	if out := u.must("./release.sh " + released + " program"); !strings.Contains(out, "git push origin cmd/wsproxy/"+released) {
		t.Errorf("release.sh says %q", out)
	}
	publish(u, proxy, "cmd/wsproxy/"+released)
	if out := u.must("git branch --show-current && git worktree list | wc -l && git status --porcelain"); strings.Join(strings.Fields(out), " ") != "main 1" {
		t.Errorf("after the release: %q, want branch main, one work tree, no changes", out)
	}
	for _, name := range []string{"CHANGELOG.md", "README.md", "docs/operations.md", "cmd/wsproxy/README.md"} {
		text, err := os.ReadFile(filepath.Join(u.dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(text), "Until there is a release") {
			t.Errorf("%s still says what was so before the release", name)
		}
		if name == "CHANGELOG.md" && !strings.Contains(string(text), "## [Unreleased]\n\n## ["+released[1:]+"] - 2") {
			t.Errorf("CHANGELOG.md has no heading for %s", released)
		}
	}
	// The commit that is tagged can also be built from a checkout of it.
	u.must("git checkout -q cmd/wsproxy/" + released)
	u.at(filepath.Join(u.dir, "cmd/wsproxy")).must("go mod tidy -diff && go build -o " + os.DevNull + " .")
	if _, err := exec.LookPath("openssl"); err == nil && runtime.GOOS != "windows" {
		useREADME(u.at(filepath.Join(temp)))
	}
}

// at returns the user in another directory.
func (u *user) at(dir string) *user {
	other := *u
	other.dir = dir
	return &other
}

func copyFile(to, from string) error {
	info, err := os.Stat(from)
	if err != nil {
		return err
	}
	content, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(to), 0o700); err != nil {
		return err
	}
	return os.WriteFile(to, content, info.Mode())
}

// publish adds the module that the tag is for to a module proxy; those of the
// other libraries, too, if it is the root's.
func publish(u *user, proxy, tag string) {
	u.t.Helper()
	cmd := exec.CommandContext(u.ctx, "git", "archive", "--format=tar", tag)
	cmd.Dir, cmd.Env = u.dir, u.env
	archive, err := cmd.Output()
	if err != nil {
		u.t.Fatal(err)
	}
	files := make(map[string][]byte)
	for r := tar.NewReader(bytes.NewReader(archive)); ; {
		h, err := r.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			u.t.Fatal(err)
		}
		if h.Typeflag != tar.TypeReg {
			continue
		}
		if files[h.Name], err = io.ReadAll(r); err != nil {
			u.t.Fatal(err)
		}
	}
	dirs := []string{strings.TrimSuffix(strings.TrimSuffix(tag, released), "/")}
	if dirs[0] == "" {
		dirs = append(dirs, "metrics/prometheus", "metrics/otel", "caddy")
	}
	moduleOf := func(name string) string {
		dir := path.Dir(name)
		for dir != "." && files[dir+"/go.mod"] == nil {
			dir = path.Dir(dir)
		}
		return strings.TrimPrefix(dir, ".")
	}
	for _, dir := range dirs {
		module := path.Join(repository, dir)
		var b bytes.Buffer
		z := zip.NewWriter(&b)
		add := func(name string, content []byte) {
			w, err := z.Create(module + "@" + released + "/" + name)
			if err == nil {
				_, err = w.Write(content)
			}
			if err != nil {
				u.t.Fatal(err)
			}
		}
		for name, content := range files {
			if moduleOf(name) == dir {
				add(strings.TrimPrefix(name, dir+"/"), content)
			}
		}
		if dir != "" && files[dir+"/LICENSE"] == nil { // as proxies do
			add("LICENSE", files["LICENSE"])
		}
		if err := z.Close(); err != nil {
			u.t.Fatal(err)
		}
		info, err := json.Marshal(map[string]any{"Version": released, "Time": time.Now().UTC().Truncate(time.Second)})
		if err != nil {
			u.t.Fatal(err)
		}
		at := filepath.Join(proxy, filepath.FromSlash(module), "@v")
		if err := os.MkdirAll(at, 0o700); err != nil {
			u.t.Fatal(err)
		}
		for name, content := range map[string][]byte{
			"list":             []byte(released + "\n"),
			released + ".info": info,
			released + ".mod":  files[path.Join(dir, "go.mod")],
			released + ".zip":  b.Bytes(),
		} {
			if err := os.WriteFile(filepath.Join(at, name), content, 0o600); err != nil {
				u.t.Fatal(err)
			}
		}
	}
}

// useREADME runs the README's commands, with other ports.
func useREADME(u *user) {
	t := u.t
	text, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	a, b := newUpstream(t, "a"), newUpstream(t, "b")
	front, secure, admin := free(t), free(t), free(t)
	ports := strings.NewReplacer("http://127.0.0.1:9000", a.URL, "http://127.0.0.1:9001", b.URL,
		"127.0.0.1:8080", front, "127.0.0.1:8443", secure, "127.0.0.1:8081", admin)
	snippet := regexp.MustCompile("(?s)```toml\n(.*?)```").FindStringSubmatch(string(text))[1]
	writeFile(t, u.dir, "wsproxy.toml", ports.Replace(snippet))

	commands := make(map[string]bool)
	for _, m := range regexp.MustCompile(`(?m)^    (\S.*)$`).FindAllStringSubmatch(string(text), -1) {
		commands[m[1]] = true
	}
	// take returns a command of the README, with this test's ports.
	take := func(line string) string {
		t.Helper()
		if !commands[line] {
			t.Errorf("the README has no command %s", line)
		}
		delete(commands, line)
		return ports.Replace(line)
	}
	serve := func(line string) *process {
		t.Helper()
		cmd := exec.CommandContext(u.ctx, "sh", "-c", "exec "+line)
		cmd.Dir, cmd.Env = u.dir, u.env
		return startCommand(t, cmd)
	}
	end := func(p *process) {
		t.Helper()
		p.signal(t, syscall.SIGTERM)
		if code := p.exited(t); code != 0 {
			t.Errorf("%v: exit code %d, want 0", p.cmd.Args, code)
		}
	}

	u.must(take("go install " + repository + "/cmd/wsproxy@latest"))
	if got, want := u.must("wsproxy --version"), "wsproxy "+released+" "+runtime.Version(); !strings.HasPrefix(got, want) {
		t.Errorf("it is %q, want %q", got, want)
	}
	if out := u.must("wsproxy --help"); out != help {
		t.Errorf("--help prints %q", out)
	}

	// Its own default address may be in use here.
	p := serve(take("wsproxy http://127.0.0.1:9000") + " --listen " + front)
	p.line(t, "msg=listening address="+front)
	c := dial(t, "ws://"+front+"/any/path", nil)
	c.echo(t)
	c.CloseNow()
	end(p)

	p = serve(take("wsproxy --listen 127.0.0.1:8443 --tls-self-signed http://127.0.0.1:9000 http://127.0.0.1:9001"))
	p.line(t, "msg=listening address="+secure)
	logged := regexp.MustCompile(`sha256=(\S+)`).FindStringSubmatch(p.line(t, `msg="certificate made"`))[1]
	if out := u.must(take("openssl s_client -connect 127.0.0.1:8443 </dev/null | openssl x509 -noout -fingerprint -sha256")); !strings.Contains(out, "="+logged+"\n") {
		t.Errorf("openssl prints %q, the log has %s", out, logged)
	}
	end(p)

	if out := u.must(take("wsproxy check wsproxy.toml")); out != "listens on "+front+"\nlistens on "+admin+", for the admin\n/chat/: 2 upstreams\n" {
		t.Errorf("check prints %q", out)
	}
	p = serve(take("wsproxy --config wsproxy.toml"))
	p.line(t, "msg=listening address="+front)
	c = dial(t, "ws://"+front+"/chat/room", nil)
	c.echo(t)
	for path, want := range map[string]string{"healthz": "ok\n", "stats": `"open": 1`, "metrics": `wsproxy_sessions{route="/chat/"} 1`} {
		if out := u.must(take("curl http://127.0.0.1:8081/" + path)); !strings.Contains(out, want) {
			t.Errorf("/%s: got %s, want %s in it", path, out, want)
		}
	}
	p.signal(t, syscall.SIGHUP)
	p.line(t, "msg=reloaded")
	c.echo(t)
	c.CloseNow()
	end(p)

	// The mistakes are those of this file.
	writeFile(t, u.dir, "wsproxy.toml", "listen = [\":8080\"]\n\n[[route]]\npath = \"/chat/\"\nupstreams = [\n  { target = \"http://10.0.0.2:9000\" },\n"+
		"  { target = \"10.0.0.1:9000\" },\n]\n\n[[route]]\npath = \"/feed\"\nmax_age = \"-1s\"\ntarget = \"http://10.0.0.1:9000\"\n")
	var want strings.Builder
	for _, mistake := range []string{`wsproxy.toml:7: route.upstreams.target: "10.0.0.1:9000": not a URL`, `wsproxy.toml:12: route.max_age: "-1s": negative`} {
		want.WriteString(take(mistake) + "\n")
	}
	if out, code := u.sh("wsproxy check wsproxy.toml"); code != 1 || out != want.String() {
		t.Errorf("check: exit code %d, %q, want 1 and %q", code, out, want.String())
	}

	for line := range commands {
		if !regexp.MustCompile(`^(install -m|systemctl|docker|kubectl) `).MatchString(line) {
			t.Errorf("this test does not run the README's command %s", line)
		}
	}
}

// line waits for a line of the log that contains a text, and returns it.
func (p *process) line(t *testing.T, text string) (found string) {
	t.Helper()
	eventually(t, fmt.Sprintf("the line %s in the log", text), func() bool {
		p.mu.Lock()
		defer p.mu.Unlock()
		for _, r := range p.records {
			if line := fmt.Sprint(r["msg"]); strings.Contains(line, text) {
				found = line
			}
		}
		return found != ""
	})
	return found
}
