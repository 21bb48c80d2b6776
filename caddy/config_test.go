package wscaddy

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"time"

	core "github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/coder/websocket"
)

// parse reads a directive.
func parse(text string) (*Handler, error) {
	h := new(Handler)
	return h, h.UnmarshalCaddyfile(caddyfile.NewTestDispenser(text))
}

// provision has Caddy load a Caddyfile's site with the directive, without
// starting it.
func provision(directive string) error {
	adapter := caddyfile.Adapter{ServerType: httpcaddyfile.ServerType{}}
	text, _, err := adapter.Adapt([]byte("{\n\tadmin off\n}\nhttp://127.0.0.1:1 {\n"+directive+"\n}\n"), nil)
	if err != nil {
		return err
	}
	var config core.Config
	if err := core.StrictUnmarshalJSON(text, &config); err != nil {
		return err
	}
	return core.Validate(&config)
}

// everything has each subdirective; the comment of UnmarshalCaddyfile has no
// other.
const everything = `wsproxy 127.0.0.1:9000 unix//run/a.sock {
	name chat
	to http://10.0.0.1:9000/ws 10.0.0.2:9001-9002
	upstream 10.0.0.3 {
		address 10.0.0.4:80
		weight 2
		max_sessions 10
	}
	target_path
	lb_policy cookie room 0123456789abcdef {
		max_age 1h
		secure
	}
	lb_retry_share 0.5
	lb_retry_after_send
	health_uri /healthz
	health_headers {
		Authorization "Bearer x"
	}
	health_interval 3s
	health_timeout 1s
	health_passes 4
	health_fails 5
	health_close
	judge_answers 7
	origins https://a.example *.b.example
	header_up X-A b
	header_up -X-B
	header_down X-C d e
	ping client 10s 20s
	ping upstream off
	idle_timeout 1m
	write_timeout 2m
	handshake_timeout 3s
	close_timeout 4s
	max_age 5h
	drain 6s 1012
	lost_code 1013
	max_sessions 100
	max_sessions_per_client 101
	max_handshakes 102
	max_message_size client 1MiB
	max_message_size upstream 2MiB
	max_frame_size 3KiB
	rate_limit client {
		messages 0.5
		frames 20
		bytes 1MiB
		burst 7s
		close
	}
	detach
}`

// A directive with everything is the JSON that it should be, and Caddy takes it.
func TestEverything(t *testing.T) {
	h, err := parse(everything)
	if err != nil {
		t.Fatal(err)
	}
	got, err := json.Marshal(h)
	if err != nil {
		t.Fatal(err)
	}
	const want = `{
		"name": "chat",
		"upstreams": [
			{"target": "127.0.0.1:9000"}, {"target": "unix//run/a.sock"},
			{"target": "http://10.0.0.1:9000/ws"}, {"target": "10.0.0.2:9001-9002"},
			{"target": "10.0.0.3", "address": "10.0.0.4:80", "weight": 2, "max_sessions": 10}
		],
		"load_balancing": {
			"policy": "cookie", "key": "room", "secret": "0123456789abcdef", "max_age": 3600000000000, "secure": true,
			"retry_share": 0.5, "retry_after_send": true
		},
		"health_checks": {
			"uri": "/healthz", "headers": {"Authorization": ["Bearer x"]}, "interval": 3000000000, "timeout": 1000000000,
			"passes": 4, "fails": 5, "close": true
		},
		"judge_answers": 7,
		"target_path": true,
		"headers": {
			"request": {"set": {"X-A": ["b"]}, "delete": ["X-B"]},
			"response": {"replace": {"X-C": [{"search_regexp": "d", "replace": "e"}]}}
		},
		"origins": ["https://a.example", "*.b.example"],
		"client": {
			"ping": {"interval": 10000000000, "timeout": 20000000000},
			"max_message_size": 1048576, "max_frame_size": 3072,
			"rate_limit": {"messages": 0.5, "frames": 20, "bytes": 1048576, "burst": 7000000000, "close": true}
		},
		"upstream": {"ping": {"interval": 0}, "max_message_size": 2097152, "max_frame_size": 3072},
		"idle_timeout": 60000000000, "write_timeout": 120000000000, "handshake_timeout": 3000000000,
		"close_timeout": 4000000000, "max_age": 18000000000000,
		"max_sessions": 100, "max_sessions_per_client": 101, "max_handshakes": 102,
		"drain": 6000000000, "drain_code": 1012, "lost_code": 1013,
		"detach": true
	}`
	var a, b any
	if err := json.Unmarshal(got, &a); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal([]byte(want), &b); err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(a, b) {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	if err := provision(everything); err != nil {
		t.Error(err)
	}
	// The alternatives to what is in there.
	for _, rest := range []string{
		"dynamic a http://localhost:9000 {\n refresh 1m\n resolvers 127.0.0.1:1\n max_sessions 5\n keep_removed\n}",
		"dynamic srv http://_ws._tcp.chat.invalid",
		"to a:1 b:2\n health_websocket",
		"to a:1\n tls\n tls_server_name b\n tls_curves x25519\n tls_insecure_skip_verify",
		"to https://a\n tls_trust_pool system",
		"to {env.HOME}.example:80",
		"to :9000\n origins *",
		"to a:1 b:2\n lb_policy weighted_round_robin 1 2",
		"to a:1\n lb_policy random_choose 3",
		"to a:1\n lb_policy header X-Room",
		"to a:1\n lb_policy query room",
	} {
		if err := provision("wsproxy {\n " + rest + "\n}"); err != nil {
			t.Errorf("%s: %v", rest, err)
		}
	}
}

// The comment of UnmarshalCaddyfile, the README and TestEverything have the same
// subdirectives.
func TestDocumented(t *testing.T) {
	source, err := os.ReadFile("caddyfile.go")
	if err != nil {
		t.Fatal(err)
	}
	groups, err := os.ReadFile("caddyfile_groups.go")
	if err != nil {
		t.Fatal(err)
	}
	readme, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, syntax, _ := strings.Cut(string(source), "Syntax:")
	syntax, _, _ = strings.Cut(syntax, "\nfunc")
	known := make(map[string]bool)
	for _, m := range regexp.MustCompile(`(?m)^\s*case ((?:"[a-z_]+"(?:, )?)+):`).FindAllStringSubmatch(string(source)+string(groups), -1) {
		for name := range strings.SplitSeq(m[1], ", ") {
			known[strings.Trim(name, `"`)] = true
		}
	}
	for _, value := range []string{"client", "weighted_round_robin", "random_choose", "query", "header", "cookie"} {
		delete(known, value)
	}
	if len(known) < 50 {
		t.Errorf("found %d subdirectives", len(known))
	}
	for name := range known {
		if !regexp.MustCompile(`(?m)^//\s+` + name + `\b`).MatchString(syntax) {
			t.Errorf("the syntax in caddyfile.go does not have %s", name)
		}
		if name != "upstream" && !regexp.MustCompile("`"+name+"[` ]").Match(readme) {
			t.Errorf("README.md does not have %s", name)
		}
	}
}

// Mistakes are reported by the names that users know.
func TestMistakes(t *testing.T) {
	for _, row := range []struct{ directive, want string }{
		{"wsproxy", "want upstreams, or dynamic upstreams, and not both"},
		{"wsproxy a:1 {\n dynamic a http://b\n}", "and not both"},
		{"wsproxy ftp://a", `to: "ftp://a": unknown scheme`},
		{"wsproxy a:1 a:1", `to: "http://a:1": duplicate member`},
		{"wsproxy a:9-1", "end port must not be less"},
		{"wsproxy udp/a:1", `unsupported network "udp"`},
		{"wsproxy {http.request.host}:80", `"{http.request.host}:80": unrecognized placeholder`},
		{"wsproxy unix//a {\n tls\n}", "TLS over a unix socket"},
		{"wsproxy a:1 {\n to\n}", "wrong argument count"},
		{"wsproxy a:1 {\n colour red\n}", `unrecognized subdirective "colour"`},
		{"wsproxy a:1 {\n upstream b:1 {\n colour red\n }\n}", `unrecognized subdirective "colour" of upstream`},
		{"wsproxy a:1 {\n max_sessions many\n}", `max_sessions: "many" is not a whole number`},
		{"wsproxy a:1 {\n max_sessions -1\n}", `max_sessions: "-1": negative`},
		{"wsproxy a:1 {\n idle_timeout 5\n}", `idle_timeout: `},
		{"wsproxy a:1 {\n idle_timeout -5s\n}", `idle_timeout: "-5s": negative`},
		{"wsproxy a:1 {\n write_timeout 0\n}", `write_timeout: must be above 0`},
		{"wsproxy a:1 {\n ping 0s\n}", "to disable pings, write off"},
		{"wsproxy a:1 {\n ping 5ns\n}", `ping: "5ns": less than 1 ms`},
		{"wsproxy a:1 {\n drain 5s 1005\n}", `drain: "`},
		{"wsproxy a:1 {\n lost_code 1006\n}", `lost_code: "1006": close code may not be sent`},
		{"wsproxy a:1 {\n drain 5s now\n}", `drain: "now" is not a close code`},
		{"wsproxy a:1 {\n max_message_size 1furlong\n}", "max_message_size: "},
		{"wsproxy a:1 {\n origins https://a/path\n}", `origins: "https://a/path"`},
		{"wsproxy a:1 {\n lb_policy best\n}", `unknown lb_policy "best"`},
		{"wsproxy a:1 {\n lb_policy cookie a short\n}", "lb_policy: "},
		{"wsproxy a:1 {\n lb_policy header\n}", "lb_policy header: no name"},
		{"wsproxy a:1 {\n lb_policy random_choose 1\n}", `"1" is not a number from 2`},
		{"wsproxy a:1 {\n lb_policy weighted_round_robin 1 2\n}", "2 weights for 1 upstreams"},
		{"wsproxy a:1 {\n lb_policy least_conn\n lb_policy first\n}", "lb_policy is already set"},
		{"wsproxy a:1 {\n lb_retry_share 2\n}", "lb_retry_share: "},
		{"wsproxy a:1 {\n rate_limit client {\n messages -1\n }\n}", "rate_limit: "},
		{"wsproxy a:1 {\n judge_answers 1\n}", "judge_answers: "},
		{"wsproxy a:1 {\n tls_client_auth none.pem none.key\n}", "tls: loading client certificate"},
		{"wsproxy a:1 {\n tls_trust_pool nobody\n}", "tls.ca_pool.source.nobody"},
		{"wsproxy a:1 {\n header_up\n}", "wrong argument count"},
		{"wsproxy a:1 {\n header_up X-A ( b\n}", "error parsing regexp"},
	} {
		if err := provision(row.directive); err == nil || !strings.Contains(err.Error(), row.want) {
			t.Errorf("%s:\ngot  %v\nwant %s", row.directive, err, row.want)
		}
	}
}

// Each policy places sessions as its name says.
func TestPolicies(t *testing.T) {
	a, b := newUpstream(t, "a"), newUpstream(t, "b")
	policies := map[string]string{ // to the upstreams of six sessions, that of the first standing for x
		"least_conn":                 "xyxyxy",
		"round_robin":                "xyxyxy",
		"weighted_round_robin 2 1":   "",
		"random":                     "",
		"random_choose 2":            "balanced",
		"first":                      "aaaaaa",
		"ip_hash":                    "xxxxxx",
		"client_ip_hash":             "xxxxxx",
		"uri_hash":                   "xxxxxx",
		"query room":                 "xxxxxx",
		"header X-Room":              "xxxxxx",
		"cookie lb 0123456789abcdef": "xxxxxx",
	}
	var sites strings.Builder
	for policy := range policies {
		fmt.Fprintf(&sites, "\thandle /%s {\n\t\twsproxy %s %s {\n\t\t\tlb_policy %s\n\t\t}\n\t}\n", strings.Fields(policy)[0], a.addr(), b.addr(), policy)
	}
	s := start(t, "SITE {\n"+sites.String()+"}\n")
	for policy, want := range policies {
		got, first, header := "", "", http.Header{"X-Room": {"7"}}
		for range 6 {
			conn, resp, err := s.dial(t, "/"+strings.Fields(policy)[0]+"?room=7", header)
			if err != nil {
				t.Fatalf("%s: %v", policy, err)
			}
			defer conn.CloseNow()
			name := resp.Header.Get("X-Upstream")
			if first == "" {
				first = name
			}
			switch {
			case policy == "first":
				got += name
			case name == first:
				got += "x"
			default:
				got += "y"
			}
			for _, c := range resp.Cookies() {
				header.Set("Cookie", c.Name+"="+c.Value)
			}
		}
		if want == "balanced" && strings.Count(got, "x") == 3 {
			want = got
		}
		if want != "" && got != want {
			t.Errorf("%s: got the upstreams %s, want %s", policy, got, want)
		}
	}
}

// TLS with the upstreams is verified with the configuration's own authority. A
// reload reads its file again.
func TestTLS(t *testing.T) {
	u := &upstream{name: "a"}
	secure := httptest.NewTLSServer(u)
	defer secure.Close()
	file := filepath.Join(t.TempDir(), "ca.pem")
	write := func(c tls.Certificate) {
		text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Certificate[0]})
		if err := os.WriteFile(file, text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(secure.TLS.Certificates[0])
	site := fmt.Sprintf("SITE {\n\twsproxy %s {\n\t\ttls_trust_pool file %s\n\t}\n\t%%s\n}\n", secure.Listener.Addr(), file)
	s := start(t, fmt.Sprintf(site, ""))
	conn := s.open(t, "/", nil)
	s.reload(t, fmt.Sprintf(site, "header X-A b"))
	if err := echo(conn); err != nil {
		t.Errorf("the file is the same, and the session is lost: %v", err)
	}
	write(selfSigned(t))
	s.reload(t, fmt.Sprintf(site, "header X-A c"))
	if code := ended(conn); code != websocket.StatusGoingAway {
		t.Errorf("the file has changed: the session has ended with %d, want 1001", code)
	}
	if _, resp, err := s.dial(t, "/", nil); err == nil || resp.StatusCode != 502 {
		t.Errorf("with another authority: got %v, want 502", err)
	}
}

// An upstream may listen at a unix socket, and the site as well; detached
// sessions outlive a reload like others.
func TestUnixAndDetached(t *testing.T) {
	u := &upstream{name: "a"}
	socket := filepath.Join(t.TempDir(), "u.sock")
	ln, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: u}
	go server.Serve(ln)
	defer server.Close()
	site := "SITE {\n\tlog\n\twsproxy unix/" + socket + " {\n\t\tdetach\n\t}\n\t%s\n}\n"
	s := start(t, fmt.Sprintf(site, ""))
	conn := s.open(t, "/", nil)
	if status := s.record(t, "handled request")["status"]; status != float64(101) {
		t.Errorf("the access log has status %v, want 101 as soon as the session is open", status)
	}
	s.reload(t, fmt.Sprintf(site, "header X-A b"))
	if err := echo(conn); err != nil {
		t.Error(err)
	}
	go s.cmd.Process.Signal(os.Interrupt)
	if code := ended(conn); code != websocket.StatusGoingAway {
		t.Errorf("at the exit: the session has ended with %d, want 1001", code)
	}
}

// selfSigned returns a certificate that nobody knows.
func selfSigned(t *testing.T) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}
