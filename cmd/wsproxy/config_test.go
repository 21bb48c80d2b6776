package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"maps"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// sample returns wsproxy.toml with the commented-out settings enabled.
func sample(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile("wsproxy.toml")
	if err != nil {
		t.Fatal(err)
	}
	return regexp.MustCompile(`(?m)^# (\[tls\]|[a-z_]+ = )`).ReplaceAllString(string(text), "$1")
}

func TestSample(t *testing.T) {
	if c, err := load("wsproxy.toml"); err != nil {
		t.Errorf("as it is: %v", err)
	} else if len(c.routes) != 2 || c.routes[1].pattern != "/chat/{room}" {
		t.Errorf("as it is: got %d routes, want / and /chat/{room}", len(c.routes))
	}
}

// The configuration at the top of the README is valid.
func TestREADME(t *testing.T) {
	readme, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	snippets := regexp.MustCompile("(?s)```toml\n(.*?)```").FindAllSubmatch(readme, -1)
	if len(snippets) != 1 {
		t.Fatalf("found %d snippets, want one", len(snippets))
	}
	dir := t.TempDir()
	if _, err := load(writeFile(t, dir, "wsproxy.toml", string(snippets[0][1]))); err != nil {
		t.Error(err)
	}
}

// The commented-out settings of the sample are valid, and the sample shows every
// key.
func TestSampleHasAllKeys(t *testing.T) {
	doc, root := parse("wsproxy.toml", []byte(sample(t)))
	if root == nil {
		t.Fatal(doc.err())
	}
	dir := t.TempDir()
	doc.name = filepath.Join(dir, "wsproxy.toml")
	writeCertificate(t, dir, "a", "localhost")
	writeCertificate(t, dir, "c", "localhost")
	writeCertificate(t, dir, "ca", "localhost")
	writeFile(t, dir, "sticky.key", "0123456789abcdef")
	writeFile(t, dir, "members.json", `[{"target": "http://10.0.0.1:9000"}]`)
	_, err := read(root)
	// Some of the settings exclude each other.
	var rest []string
	for line := range strings.Lines(fmt.Sprint(err)) {
		if !strings.Contains(line, "cannot be combined with") &&
			!strings.Contains(line, "set without a source of members") {
			rest = append(rest, line)
		}
	}
	if len(rest) > 0 {
		t.Errorf("with all settings enabled: %s", strings.Join(rest, ""))
	}
	text := sample(t)
	for _, path := range slices.Sorted(maps.Keys(doc.known)) {
		key := path[strings.LastIndex(path, ".")+1:]
		if !regexp.MustCompile(`\b` + regexp.QuoteMeta(key) + `"? ?[=:]|\[\[?` + key + `\]`).MatchString(text) {
			t.Errorf("the sample doesn't show %s", path)
		}
	}
	if len(doc.known) < 70 {
		t.Errorf("got %d keys that are known, want more: is the sample read at all?", len(doc.known))
	}
}

// Mistakes are reported with the line of their key.
func TestMistakes(t *testing.T) {
	const head = "listen = [\"127.0.0.1:0\"]\n[[route]]\npath = \"/\"\n"
	const valid = head + "target = \"http://127.0.0.1:9\"\n" // the next line is the fifth
	dir := t.TempDir()
	writeCertificate(t, dir, "a", "localhost")
	writeCertificate(t, dir, "b", "localhost")
	writeFile(t, dir, "short.key", "too short")
	writeFile(t, dir, "sticky.key", "0123456789abcdef")
	writeFile(t, dir, "bad.json", "[{\"target\": \"http://10.0.0.1\"},\n {\"traget\": 1}]")
	writeFile(t, dir, "ftp.json", `[{"target": "ftp://10.0.0.1"}]`)
	writeFile(t, dir, "empty.json", `[]`)
	for _, test := range []struct{ text, want string }{
		// not TOML
		{"listen = [\n\"x\"\nroute = 5\n", "3: expected ',' or ']'"},
		{"log = \"text\"\nlog = \"json\"\n", "2: key log is already defined"},

		// the root table
		{"", ": listen: no listen address"},
		{"", ": route: no routes"},
		{"listen = []\n", "1: listen: no listen address"},
		{"listen = \":80\"\n", "1: listen: want a list, this is a string"},
		{"listen = [\n \":80\",\n 5,\n]\n", "3: listen: want a string, this is a whole number"},
		{"listen = [\n \":80\",\n \"nowhere\",\n]\n", "3: listen: \"nowhere\" is none of host:port, unix:/path, systemd:name"},
		{"listen = [\n \":80\",\n \"unix:\",\n]\n", "3: listen: a unix socket without a path"},
		{"listen = [\n \":80\",\n \"systemd:\",\n]\n", "3: listen: a socket of systemd without a name"},
		{"listen = [\n \"systemd:a\",\n \"systemd:a\",\n]\n", "3: listen: \"systemd:a\" is listed twice"},
		{"console = \"remote\"\n", "1: console: \"remote\" is none of \"local\", \"all\", \"off\""},
		{"console = \"all\"\n", "1: console: set without admin"},
		{"listen = [\n \":80\",\n \":80\",\n]\n", "3: listen: \":80\" is listed twice"},
		{"listen = [\":80\"]\nadmin = \":80\"\n", "2: admin: \":80\" is listed twice"},
		{"listen = [\":80\"]\nadmin = true\n", "2: admin: want a string, this is true or false"},
		{"\nlisten_on = 5\n", "2: listen_on: unknown key"},
		{"drain_window = 20\n", "1: drain_window: want a string"},
		{"drain_window = \"20\"\n", "1: drain_window: \"20\" is not a duration"},
		{"drain_window = \"1h\"\n", "1: drain_window: 1h0m0s is not less than shutdown_timeout (30s"},
		{valid, ""},
		{"drain_window = \"-1s\"\n" + valid, "1: drain_window: \"-1s\": negative"},
		{"drain_window = \"0s\"\nshutdown_timeout = \"0s\"\n", "2: shutdown_timeout: must be positive"},
		{"\nshutdown_delay = \"-1s\"\n", "2: shutdown_delay: negative"},
		{"log = \"xml\"\n", "1: log: \"xml\" is neither"},
		{"log_level = \"loud\"\n", "1: log_level: \"loud\" is none of"},
		{"listen = [\":80\"]\nroute = \"/\"\n", "2: route: want a list, this is a string"},
		{"listen = [\":80\"]\nroute = [\n\"/\",\n]\n", "3: route: want a table, this is a string"},

		// tls
		{valid + "[tls]\ncertificates = [{ cert = \"a.pem\", key = \"a.key\" }]\n", "5: tls.listen: no listen address"},
		{valid + "[tls]\nlisten = [\":443\"]\n", "5: tls.certificates: no certificate"},
		{valid + "[tls]\nlisten = [\":443\"]\nself_signed = false\n", "5: tls.certificates: no certificate"},
		{valid + "[tls]\nlisten = [\":443\"]\nself_signed = true\ncertificates = [{ cert = \"a.pem\", key = \"a.key\" }]\n", "7: tls.self_signed: cannot be combined with certificates"},
		{valid + "[tls]\nlisten = [\":443\"]\ncertificates = [\n{ cert = \"a.pem\" },\n]\n", "8: tls.certificates.key: no file"},
		{valid + "[tls]\nlisten = [\":443\"]\ncertificates = [\n{ key = \"a.key\" },\n]\n", "8: tls.certificates.cert: no file"},
		{valid + "[tls]\nlisten = [\":443\"]\ncertificates = [\n{ cert = \"a.pem\", key = \"a.key\" },\n{ cert = \"a.pem\", key = \"b.key\" },\n]\n", "9: tls.certificates.cert: certificate"},
		{valid + "[tls]\nlisten = [\":443\"]\ncertificates = [\n{ cert = \"a.pem\", key = \"a.key\", x = 1 },\n]\n", "8: tls.certificates.x: unknown key"},
		{valid + "[tls]\nlisten = [\":443\"]\ncertificates = [{ cert = \"a.pem\", key = \"a.key\" }]\nciphers = 5\n", "8: tls.ciphers: unknown key"},

		// a route and its upstreams
		{"listen = [\":80\"]\n\n[[route]]\ntarget = \"http://127.0.0.1:9\"\n", "3: route.path: no path"},
		{"listen = [\":80\"]\n[[route]]\npath = \"GET /\"\ntarget = \"http://127.0.0.1:9\"\n", "3: route.path: \"GET /\" has a method"},
		{"listen = [\":80\"]\n[[route]]\npath = \"/{\"\ntarget = \"http://127.0.0.1:9\"\n", "3: route.path: parsing \"/{\""},
		{valid + "[[route]]\npath = \"/{x...}\"\ntarget = \"http://127.0.0.1:9\"\n", "6: route.path: \"/{x...}\" matches what the route \"/\" does"},
		{valid + "colour = 5\n", "5: route.colour: unknown key"},
		{head, "2: route: no target; set one of target, upstreams, addresses_of, srv, upstreams_file"},
		{valid + "srv = \"http://_a._b.c\"\n", "5: route.srv: cannot be combined with target"},
		{head + "target = \"127.0.0.1:9\"\n", "4: route.target: \"127.0.0.1:9\": "},
		{head + "target = \"http://u:geheim@127.0.0.1:9\"\n", "4: route.target: \"http://…@127.0.0.1:9\": contains a user"},
		{head + "upstreams = []\n", "4: route.upstreams: no upstreams"},
		{head + "upstreams = [\n{ target = \"http://a\" },\n{ target = \"http://a\" },\n]\n", "6: route.upstreams.target: \"http://a\": duplicate member"},
		{head + "upstreams = [\n{ target = \"http://a\" },\n{ target = \"\" },\n]\n", "6: route.upstreams.target: no scheme"},
		{head + "[[route.upstreams]]\ntarget = \"http://a\"\nweight = -1\n", "6: route.upstreams.weight: \"http://a\": weight must be from 0"},
		{head + "[[route.upstreams]]\ntarget = \"http://a\"\n[[route.upstreams]]\ntarget = \"http://b\"\nmax_sessions = -1\n", "8: route.upstreams.max_sessions: \"http://b\": negative"},
		{head + "[[route.upstreams]]\ntarget = \"http://a\"\n\naddress = \"b\"\n", "7: route.upstreams.address: \"http://a#b\": address is not host:port"},
		{head + "upstreams = [\n{ target = \"http://a\", weight = 1.5 },\n]\n", "5: route.upstreams.weight: want a whole number, this is a number"},
		{head + "upstreams = [\n{ target = \"http://a\", color = 1.5 },\n]\n", "5: route.upstreams.color: unknown key"},
		{head + "addresses_of = \"unix:/x\"\n", "4: route.addresses_of: \"unix:/x\": no host name"},
		{head + "srv = \"x\"\n", "4: route.srv: \"x\": no scheme"},
		{head + "srv = \"http://x\"\nevery = \"0s\"\n", "5: route.every: \"0s\": must be positive"},
		{valid + "every = \"5s\"\n", "5: route.every: set without a source"},
		{head + "upstreams_file = \"none.json\"\n", "4: route.upstreams_file: open "},
		{head + "upstreams_file = \"bad.json\"\n", "4: route.upstreams_file: " + dir + "/bad.json:2: json: unknown field"},
		{head + "upstreams_file = \"ftp.json\"\n", "4: route.upstreams_file: \"ftp://10.0.0.1\": unknown scheme"},
		{head + "upstreams_file = \"empty.json\"\n", "4: route.upstreams_file: no upstreams in it"},

		// balance
		{valid + "balance = \"best\"\n", "5: route.balance: \"best\" is none of"},
		{valid + "key = \"client\"\n", "5: route.key: applies only to rendezvous"},
		{valid + "balance = \"rendezvous\"\nkey = \"room\"\n", "6: route.key: \"room\" is none of"},
		{valid + "balance = \"rendezvous\"\nkey = \"path 0\"\n", "6: route.key: \"path 0\" is none of"},
		{valid + "sticky = { secret_file = \"sticky.key\", cookie = \"a b\" }\n", "5: route.sticky.cookie: \"a b\": invalid Cookie.Name"},
		{valid + "[route.sticky]\ncookie = \"a\"\n", "5: route.sticky.secret_file: no file"},
		{valid + "[route.sticky]\ncookie = \"a\"\nsecret_file = \"none\"\n", "7: route.sticky.secret_file: open "},
		{valid + "[route.sticky]\ncookie = \"a\"\nsecret_file = \"short.key\"\n", "7: route.sticky.secret_file: \"9\": secret is shorter"},
		{valid + "[route.sticky]\ncookie = \"a\"\nsecret_file = \"sticky.key\"\nmax_age = \"-1h\"\n", "8: route.sticky.max_age: negative"},
		{valid + "[route.sticky]\ncookie = \"a\"\nsecret_file = \"sticky.key\"\nsecure = 1\n", "8: route.sticky.secure: want true or false"},
		{valid + "[route.sticky]\ncookie = \"a\"\nsecret_file = \"sticky.key\"\nsame_site = \"some\"\n", "8: route.sticky.same_site: \"some\" is none of"},
		{valid + "[route.sticky]\ncookie = \"a\"\nsecret_file = \"sticky.key\"\nsecure = false\nsame_site = \"none\"\n", "9: route.sticky.same_site: browsers accept"},
		{valid + "[route.retry]\nshare = 1.5\n", "6: route.retry.share: \"1.5\": must be"},
		{valid + "[route.retry]\nsent = 5\n", "6: route.retry.sent: want true or false"},
		{valid + "[route.health_check]\npath = \"x\"\n", "6: route.health_check.path: \"x\": path"},
		{valid + "[route.health_check]\n\ninterval = \"-1s\"\n", "7: route.health_check.interval: \"Interval\": negative"},
		{valid + "[route.health_check]\n\ntimeout = \"-1s\"\n", "7: route.health_check.timeout: \"Timeout\": negative"},
		{valid + "[route.health_check]\n\nfall = -1\n", "7: route.health_check.fall: \"Fall\": negative"},
		{valid + "[route.health_check]\n\nrise = -1\n", "7: route.health_check.rise: \"Rise\": negative"},
		{valid + "[route.health_check]\n\nheaders = { \"a b\" = \"c\" }\n", "7: route.health_check.headers.a b: invalid field name"},
		{valid + "keep_removed = 1\n", "5: route.keep_removed: want true or false"},
		{valid + "source_addresses = [\n\"10.0.0.1\",\n\"10.0.0.300\",\n]\n", "7: route.source_addresses: \"10.0.0.300\" is not an IP address"},
		{valid + "source_addresses = [\n\"10.0.0.1\",\n\"0.0.0.0\",\n]\n", "7: route.source_addresses: \"0.0.0.0\": not a unicast address"},

		// the rest
		{valid + "[route.ping]\ninterval = \"-1s\"\n", "6: route.ping.interval: \"-1s\": negative interval"},
		{valid + "[route.ping]\ninterval = \"1s\"\ntimeout = \"0s\"\n", "7: route.ping.timeout: \"0s\": timeout must be"},
		{valid + "ping = \"1s\"\n", "5: route.ping: want a table"},
		{valid + "idle_timeout = \"-1s\"\n", "5: route.idle_timeout: \"-1s\": negative"},
		{valid + "write_timeout = \"0s\"\n", "5: route.write_timeout: \"0s\": must be positive"},
		{valid + "handshake_timeout = \"0s\"\n", "5: route.handshake_timeout: \"0s\": must be positive"},
		{valid + "close_timeout = \"0s\"\n", "5: route.close_timeout: \"0s\": must be positive"},
		{valid + "max_age = \"-1s\"\n", "5: route.max_age: \"-1s\": negative"},
		{valid + "origins = [\n\"a.com\",\n\"https://b.com/c\",\n]\n", "7: route.origins: \"https://b.com/c\": "},
		{valid + "origins = [\n\"a.com\",\n]\nany_origin = true\n", "8: route.any_origin: cannot be combined with WithOrigins"},
		{valid + "trusted_proxies = [\n\"10.0.0.0/8\",\n\"10.0.0.0/99\",\n]\n", "7: route.trusted_proxies: \"10.0.0.0/99\" is not a prefix"},
		{valid + "trusted_proxies = [\n\"unix:\",\n\"unix:/run/x\",\n]\n", "7: route.trusted_proxies: \"unix:/run/x\" is not a prefix"},
		{valid + "trusted_proxies = [\n\"10.0.0.0/8\",\n\"::ffff:10.0.0.0/104\",\n]\n", "7: route.trusted_proxies: \"::ffff:10.0.0.0/104\": IPv4-mapped"},
		{valid + "host = \"a/b\"\n", "5: route.host: \"a/b\": not a host"},
		{valid + "resume = \"0s\"\n", "5: route.resume: must be positive"},
		{valid + "resume = \"-1s\"\n", "5: route.resume: "},
		{valid + "[route.compression.client]\nmode = \"gzip\"\n", "6: route.compression.client.mode: \"gzip\" is none of"},
		{valid + "[route.compression.upstream]\nthreshold = 5\n", "5: route.compression.upstream.mode: \"\" is none of"},
		{valid + "[route.compression.client]\nmode = \"disabled\"\nthreshold = -5\n", "7: route.compression.client.threshold: \"-5\": negative"},
		{valid + "[route.answer_headers]\nremove = [\"a b\"]\n", "6: route.answer_headers.remove: \"a b\" is not a field name"},
		{valid + "[route.answer_headers.set]\nX = 5\n", "6: route.answer_headers.set.X: want a string"},
		{valid + "[route.set_headers]\nX = 5\n", "6: route.set_headers.X: want a string"},
		{valid + "[route.set_headers]\nX = \"a\\nb\"\n", "6: route.set_headers.X: invalid field value"},
		{valid + "[route.set_headers]\nX = \"a\"\nhost = \"b\"\n", "7: route.set_headers.host: set by the route's host"},
		{valid + "[route.set_headers]\nX = \"a\"\nupgrade = \"b\"\n", "7: route.set_headers.upgrade: is set by the handshake"},
		{valid + "max_sessions = -1\n", "5: route.max_sessions: \"-1\": negative"},
		{valid + "max_handshakes = -1\n", "5: route.max_handshakes: \"-1\": negative"},
		{valid + "max_sessions_per_client = -1\n", "5: route.max_sessions_per_client: \"-1\": negative"},
		{valid + "[route.max_message_size]\nclient = 5\nupstream = -1\n", "7: route.max_message_size.upstream: \"-1\": negative"},
		{valid + "[route.max_frame_size]\nclient = -1\nupstream = 5\n", "6: route.max_frame_size.client: \"-1\": negative"},
		{valid + "[route.max_frame_size]\nproxy = 5\n", "6: route.max_frame_size.proxy: unknown key"},
		{valid + "[route.rate_limit]\nclient = { messages = 5 }\nupstream = {}\n", "7: route.rate_limit.upstream: "},
		{valid + "[route.rate_limit.client]\nmessages = 5\n[route.rate_limit.upstream]\nbytes = -1\n", "7: route.rate_limit.upstream: "},
		{valid + "[route.rate_limit.client]\nmessages = inf\n", "5: route.rate_limit.client: "},
		{valid + "[route.upstream_tls]\nca = \"a.key\"\n", "6: route.upstream_tls.ca: no certificate in the file"},
		{valid + "[route.upstream_tls]\nca = \"none.pem\"\n", "6: route.upstream_tls.ca: open "},
		{valid + "[route.upstream_tls]\ncert = \"a.pem\"\n", "6: route.upstream_tls.cert: cert and key must be set together"},
		{valid + "[route.upstream_tls]\nkey = \"a.key\"\n", "5: route.upstream_tls.cert: cert and key must be set together"},
		{valid + "[route.upstream_tls]\nkey = \"b.key\"\ncert = \"a.pem\"\n", "7: route.upstream_tls.cert: private key does not match"},
		{valid + "[route.upstream_tls]\nserver_name = 5\n", "6: route.upstream_tls.server_name: want a string"},
		{valid + "detach = \"yes\"\n", "5: route.detach: want true or false, this is a string"},
	} {
		file := filepath.Join(dir, "wsproxy.toml")
		writeFile(t, dir, "wsproxy.toml", test.text)
		_, err := load(file)
		if test.want == "" {
			if err != nil {
				t.Errorf("%q: %v, want no mistake", test.text, err)
			}
			continue
		}
		want := file + ":" + test.want
		if strings.HasPrefix(test.want, ": ") { // without a line
			want = file + test.want
		}
		found := slices.ContainsFunc(strings.Split(fmt.Sprint(err), "\n"), func(line string) bool { return strings.HasPrefix(line, want) })
		if !found {
			t.Errorf("%q:\ngot  %v\nwant %s…", test.text, err, want)
		}
		// One wrong key is reported once.
		if strings.HasPrefix(test.text, "listen = [\"127.0.0.1:0\"]") && strings.Contains(fmt.Sprint(err), "\n") {
			t.Errorf("%q: more than one mistake:\n%v", test.text, err)
		}
		if strings.Contains(fmt.Sprint(err), "geheim") {
			t.Errorf("%q: a password in %v", test.text, err)
		}
	}
}

// All mistakes are reported at once, in the order of the file.
func TestMistakesTogether(t *testing.T) {
	dir := t.TempDir()
	writeFile(t, dir, "wsproxy.toml", `listen = ["nowhere"]
[[route]]
path = "/a"
upstreams = [
  { target = "ftp://a" },
  { target = "http://a", weight = -1 },
]
max_age = "-1s"
[[route]]
path = "/b"
srv = "b"
max_sessions = -1
ping = 5
`)
	_, err := load(filepath.Join(dir, "wsproxy.toml"))
	var lines []string
	for line := range strings.Lines(fmt.Sprint(err)) {
		lines = append(lines, strings.Split(line, ":")[1])
	}
	if got, want := strings.Join(lines, " "), "1 5 6 8 11 12 13"; got != want {
		t.Errorf("mistakes in lines %s, want %s:\n%v", got, want, err)
	}
}

// Lines are found for every notation of keys.
func TestLines(t *testing.T) {
	text := `a.b = 1
[c]
d = [
  1,

  { e = 2,
    f = 3 },
  [
    4,
  ],
]
[c.g]
"h" = 5
[[i]]
[[i]]
j = 6
[[i.k]]
[i.k.l]
m = 7
[[i]]
j = 8
`
	got := lines([]byte(text))
	for path, want := range map[string]int{
		"a.b": 1, "c": 2, "c.d": 3, "c.d[0]": 4, "c.d[1]": 6, "c.d[1].e": 6, "c.d[1].f": 7, "c.d[2][0]": 9,
		"c.g": 12, "c.g.h": 13, "i[0]": 14, "i[1]": 15, "i[1].j": 16, "i[1].k[0]": 17, "i[1].k[0].l": 18,
		"i[1].k[0].l.m": 19, "i[2]": 20, "i[2].j": 21,
	} {
		if got[path] != want {
			t.Errorf("%s: line %d, want %d", path, got[path], want)
		}
	}
}

func writeFile(t *testing.T, dir, name, text string) string {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// writeCertificate writes name.pem and name.key: a self-signed certificate for a
// host or an address.
func writeCertificate(t *testing.T, dir, name, host string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber:          big.NewInt(time.Now().UnixNano()),
		Subject:               pkix.Name{CommonName: name},
		DNSNames:              []string{host},
		NotBefore:             time.Now().Add(-time.Hour),
		NotAfter:              time.Now().Add(time.Hour),
		IsCA:                  true,
		BasicConstraintsValid: true,
	}
	if ip := net.ParseIP(host); ip != nil {
		template.DNSNames, template.IPAddresses = nil, []net.IP{ip}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	writeFile(t, dir, name+".pem", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})))
	writeFile(t, dir, name+".key", string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret})))
}
