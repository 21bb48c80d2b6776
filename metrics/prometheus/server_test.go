//go:build linux

package wsprometheus_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/seed-ffb73231/wsproxy"
	wsprometheus "github.com/seed-ffb73231/wsproxy/metrics/prometheus"
)

// These tests run Prometheus' own programs, which setup.sh installs.

// program returns a program's path. Without it, the test is skipped, and fails
// in CI.
func program(t *testing.T, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		text := name + " is not installed: run setup.sh"
		if os.Getenv("CI") == "true" {
			t.Fatal(text)
		}
		t.Skip(text)
	}
	return path
}

// scraped returns a proxy with one open session and one that has ended, and a
// server with its metrics.
func scraped(t *testing.T) (*site, *httptest.Server) {
	s := newSite(t, wsproxy.WithKeepRemovedMembers())
	conn, session := s.open(t)
	conn.CloseNow()
	<-session.Done()
	s.open(t)
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(wsprometheus.New(s.proxy, prometheus.Labels{"proxy": "chat"}))
	metrics := httptest.NewServer(promhttp.HandlerFor(registry, promhttp.HandlerOpts{}))
	t.Cleanup(metrics.Close)
	return s, metrics
}

// Names, types and help texts follow Prometheus' rules.
func TestPromtool(t *testing.T) {
	path := program(t, "promtool")
	_, metrics := scraped(t)
	resp, err := http.Get(metrics.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	cmd := exec.CommandContext(t.Context(), path, "check", "metrics")
	cmd.Stdin = resp.Body
	if said, err := cmd.CombinedOutput(); err != nil || len(said) > 0 {
		t.Errorf("promtool: %v\n%s", err, said)
	}
}

// A Prometheus server scrapes the proxy and answers queries.
func TestPrometheus(t *testing.T) {
	path := program(t, "prometheus")
	s, metrics := scraped(t)
	target, err := url.Parse(metrics.URL)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	api := startPrometheus(ctx, t, path, target.Host)
	wantAnswers(ctx, t, api, map[string]string{
		`wsproxy_sessions{proxy="chat"}`:                                                       "1",
		`sum(wsproxy_sessions_ended_total{by="client",reason="lost"})`:                         "1",
		`wsproxy_received_messages_total{from="upstream"}`:                                     "2",
		`histogram_quantile(0.5, sum by (le) (wsproxy_session_duration_seconds_bucket)) <= 10`: "0.5",
		`wsproxy_resumes_total`:                                                                "0",
		`wsproxy_resumes_failed_total`:                                                         "0",
		`wsproxy_retries_total`:                                                                "0",
		fmt.Sprintf(`wsproxy_member_sessions{member=%q}`, s.upstream):                          "1",
		fmt.Sprintf(`avg_over_time(wsproxy_member_up{member=%q}[5m])`, s.upstream):             "1",
	})
	// The series of a member that has left end at once, not only when
	// Prometheus considers them stale, after 5 minutes.
	other := nobody(t)
	setUpstreams(t, s, other)
	wantAnswers(ctx, t, api, map[string]string{
		fmt.Sprintf(`absent(wsproxy_member_up{member=%q})`, s.upstream): "1",
		fmt.Sprintf(`wsproxy_member_sessions{member=%q}`, other):        "0",
		`count(wsproxy_member_sessions)`:                                "1",
		`wsproxy_sessions`:                                              "1",
	})
}

// wantAnswers repeats the queries until their answers are as wanted.
func wantAnswers(ctx context.Context, t *testing.T, api string, answers map[string]string) {
	t.Helper()
	for query, want := range answers {
		for got := ""; got != want; {
			var err error
			if got, err = ask(ctx, api, query); ctx.Err() != nil {
				t.Fatalf("%s: got %q (%v), want %s", query, got, err, want)
			}
			if got != want { // it hasn't scraped yet
				time.Sleep(50 * time.Millisecond)
			}
		}
	}
}

// ask returns the only value of a query, or "" if it has none or several.
func ask(ctx context.Context, api, query string) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, api+"/api/v1/query?query="+url.QueryEscape(query), nil)
	if err != nil {
		return "", err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	var answer struct {
		Error string
		Data  struct {
			Result []struct{ Value [2]any } // time and value
		}
	}
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil {
		return "", err
	}
	if len(answer.Data.Result) != 1 {
		return "", fmt.Errorf("%d values: %s", len(answer.Data.Result), answer.Error)
	}
	value, _ := answer.Data.Result[0].Value[1].(string)
	return value, nil
}

// startPrometheus runs a server that scrapes target, until the test's end, and
// returns its URL.
func startPrometheus(ctx context.Context, t *testing.T, path, target string) string {
	t.Helper()
	dir := t.TempDir()
	conf := filepath.Join(dir, "prometheus.yml")
	if err := os.WriteFile(conf, fmt.Appendf(nil, `
global: {scrape_interval: 1s}
scrape_configs:
- job_name: wsproxy
  static_configs:
  - targets: [%q]
`, target), 0o600); err != nil {
		t.Fatal(err)
	}
	for {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		addr := ln.Addr().String()
		ln.Close() // another process may take the port before Prometheus does
		var said bytes.Buffer
		cmd := exec.Command(path, "--config.file="+conf, "--storage.tsdb.path="+filepath.Join(dir, addr), "--web.listen-address="+addr)
		cmd.Stdout, cmd.Stderr = &said, &said
		cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM} // in case the test is killed
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			_ = cmd.Wait() // however it ends
		}()
		t.Cleanup(func() {
			_ = cmd.Process.Signal(syscall.SIGTERM)
			kill := time.AfterFunc(limit, func() { _ = cmd.Process.Kill() })
			<-ended
			kill.Stop()
			if t.Failed() {
				t.Logf("prometheus said:\n%s", said.Bytes())
			}
		})
		if ready(ctx, t, "http://"+addr, ended) {
			return "http://" + addr
		}
		<-ended
		if !strings.Contains(said.String(), "address already in use") {
			t.Fatal("prometheus has ended at once")
		}
	}
}

// ready waits until the server is ready, or ends.
func ready(ctx context.Context, t *testing.T, api string, ended <-chan struct{}) bool {
	t.Helper()
	for {
		resp, err := http.Get(api + "/-/ready")
		if err == nil {
			resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return true
			}
			err = errors.New(resp.Status)
		}
		select {
		case <-ended:
			return false
		case <-ctx.Done():
			t.Fatal(err)
		case <-time.After(50 * time.Millisecond):
		}
	}
}
