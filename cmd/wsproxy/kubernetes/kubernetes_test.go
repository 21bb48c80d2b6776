// Package kubernetes has the manifests to run the gateway by; there is nothing
// in it but their test.
package kubernetes

import (
	"bytes"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	apps "k8s.io/api/apps/v1"
	core "k8s.io/api/core/v1"
	policy "k8s.io/api/policy/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/yaml"
)

// manifests are what is in the files.
type manifests struct {
	config     core.ConfigMap
	deployment apps.Deployment
	service    core.Service // the gateway's
	upstreams  core.Service
	budget     policy.PodDisruptionBudget
}

// read reads the files, and finds fault with any field that Kubernetes doesn't
// know.
func read(t *testing.T) *manifests {
	t.Helper()
	m := new(manifests)
	kinds := map[string]any{
		"v1 ConfigMap wsproxy":                  &m.config,
		"apps/v1 Deployment wsproxy":            &m.deployment,
		"v1 Service wsproxy":                    &m.service,
		"v1 Service chat":                       &m.upstreams,
		"policy/v1 PodDisruptionBudget wsproxy": &m.budget,
	}
	for _, name := range []string{"wsproxy.yaml", "chat.yaml"} {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for doc := range bytes.SplitSeq(text, []byte("\n---\n")) {
			var head struct {
				meta.TypeMeta   `json:",inline"`
				meta.ObjectMeta `json:"metadata"`
			}
			if err := yaml.Unmarshal(doc, &head); err != nil {
				t.Fatal(err)
			}
			is := fmt.Sprint(head.APIVersion, " ", head.Kind, " ", head.Name)
			into := kinds[is]
			if into == nil {
				t.Fatalf("%s: %s is there twice, or is nothing that this test knows", name, is)
			}
			delete(kinds, is)
			if err := yaml.UnmarshalStrict(doc, into); err != nil {
				t.Errorf("%s: %s: %v", name, is, err)
			}
			if head.Namespace != "default" {
				t.Errorf("%s: %s is in the namespace %q, want default, as the others", name, is, head.Namespace)
			}
		}
	}
	for is := range kinds {
		t.Errorf("there is no %s", is)
	}
	return m
}

// container is the gateway's.
func (m *manifests) container(t *testing.T) *core.Container {
	t.Helper()
	if n := len(m.deployment.Spec.Template.Spec.Containers); n != 1 {
		t.Fatalf("%d containers, want one", n)
	}
	return &m.deployment.Spec.Template.Spec.Containers[0]
}

// port is the number of one of the container's ports; 0: there is none.
func (m *manifests) port(t *testing.T, port intstr.IntOrString) int32 {
	t.Helper()
	for _, p := range m.container(t).Ports {
		if port.Type == intstr.String && p.Name == port.StrVal || port.Type == intstr.Int && p.ContainerPort == port.IntVal {
			return p.ContainerPort
		}
	}
	return 0
}

// toml is the value of a key in the gateway's config.
func (m *manifests) toml(t *testing.T, key string) string {
	t.Helper()
	found := regexp.MustCompile(`(?m)^`+key+` = \[?"([^"]*)"`).FindAllStringSubmatch(m.config.Data["wsproxy.toml"], -1)
	if len(found) != 1 {
		t.Fatalf("wsproxy.toml: got %d keys %s, want one", len(found), key)
	}
	return found[0][1]
}

func (m *manifests) duration(t *testing.T, key string) time.Duration {
	t.Helper()
	d, err := time.ParseDuration(m.toml(t, key))
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// The ConfigMap is one that the gateway takes.
func TestConfig(t *testing.T) {
	m := read(t)
	dir := t.TempDir()
	program, file := filepath.Join(dir, "wsproxy.exe"), filepath.Join(dir, "wsproxy.toml")
	build := exec.CommandContext(t.Context(), "go", "build", "-o", program, ".")
	build.Dir = ".." // in its own module
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	check := func(text string) (string, error) {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		out, err := exec.CommandContext(t.Context(), program, "check", file).CombinedOutput()
		return string(out), err
	}
	text := m.config.Data["wsproxy.toml"]
	if out, err := check(text); err != nil {
		t.Errorf("wsproxy check: %v\n%s", err, out)
	}
	if out, err := check(text + "nonsense = 1\n"); err == nil {
		t.Errorf("wsproxy check takes nonsense: %s", out)
	}
}

// The config is where the gateway looks for it.
func TestMount(t *testing.T) {
	m := read(t)
	c := m.container(t)
	mounts, volumes := c.VolumeMounts, m.deployment.Spec.Template.Spec.Volumes
	if len(mounts) != 1 || len(volumes) != 1 || mounts[0].Name != volumes[0].Name {
		t.Fatalf("got the mounts %v of the volumes %v, want one of one", mounts, volumes)
	}
	if v := volumes[0].ConfigMap; v == nil || v.Name != m.config.Name {
		t.Errorf("the volume is %v, want the ConfigMap %s", v, m.config.Name)
	}
	for key := range m.config.Data {
		if want := []string{"--config", mounts[0].MountPath + "/" + key}; strings.Join(c.Args, " ") != strings.Join(want, " ") {
			t.Errorf("got the arguments %q, want %q", c.Args, want)
		}
	}
	dockerfile, err := os.ReadFile("Dockerfile")
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Contains(dockerfile, []byte("-t "+c.Image+" ")) {
		t.Errorf("the Dockerfile doesn't tell how to build %s", c.Image)
	}
}

// What selects pods selects the gateway's.
func TestSelectors(t *testing.T) {
	m := read(t)
	pods := m.deployment.Spec.Template.Labels
	for what, selector := range map[string]map[string]string{
		"the Deployment":            m.deployment.Spec.Selector.MatchLabels,
		"the Service":               m.service.Spec.Selector,
		"the PodDisruptionBudget":   m.budget.Spec.Selector.MatchLabels,
		"the topology's constraint": m.deployment.Spec.Template.Spec.TopologySpreadConstraints[0].LabelSelector.MatchLabels,
	} {
		if len(selector) == 0 {
			t.Errorf("%s selects everything", what)
		}
		for key, value := range selector {
			if pods[key] != value {
				t.Errorf("%s selects %s=%s, the pods have %v", what, key, value, pods)
			}
		}
	}
	if maps.Equal(m.upstreams.Spec.Selector, m.service.Spec.Selector) {
		t.Error("the gateway is its own upstream")
	}
}

// Ports are the same everywhere.
func TestPorts(t *testing.T) {
	m := read(t)
	c := m.container(t)
	numbers := make(map[string]int32)
	for key, port := range map[string]intstr.IntOrString{
		"listen": m.service.Spec.Ports[0].TargetPort,
		"admin":  c.ReadinessProbe.HTTPGet.Port,
	} {
		numbers[key] = m.port(t, port)
		if want := ":" + strconv.Itoa(int(numbers[key])); m.toml(t, key) != want {
			t.Errorf("the gateway's %s is %s, want %s", key, m.toml(t, key), want)
		}
	}
	if p := m.port(t, c.LivenessProbe.TCPSocket.Port); p != numbers["listen"] {
		t.Errorf("the liveness probe asks port %d, want %d", p, numbers["listen"])
	}
	if p := m.deployment.Spec.Template.Annotations["prometheus.io/port"]; p != strconv.Itoa(int(numbers["admin"])) {
		t.Errorf("Prometheus asks port %s, want %d", p, numbers["admin"])
	}
	for _, p := range m.service.Spec.Ports {
		if m.port(t, p.TargetPort) == numbers["admin"] {
			t.Error("the Service has the admin's port: whoever reaches it sees it")
		}
	}
	up := m.upstreams.Spec
	want := fmt.Sprintf("http://%s.%s.svc.cluster.local:%d", m.upstreams.Name, m.upstreams.Namespace, up.Ports[0].TargetPort.IntVal)
	if got := m.toml(t, " *addresses_of"); got != want {
		t.Errorf("the route goes to %s, want %s", got, want)
	}
	if up.ClusterIP != core.ClusterIPNone {
		t.Error("the upstreams' Service has an address of its own: its pods can't be told apart")
	}
}

// There is time for everything before Kubernetes kills the pod.
func TestTimes(t *testing.T) {
	m := read(t)
	c := m.container(t)
	delay, timeout, window := m.duration(t, "shutdown_delay"), m.duration(t, "shutdown_timeout"), m.duration(t, "drain_window")
	grace := time.Duration(*m.deployment.Spec.Template.Spec.TerminationGracePeriodSeconds) * time.Second
	if grace <= delay+timeout {
		t.Errorf("terminationGracePeriodSeconds is %v, want more than %v and %v", grace, delay, timeout)
	}
	// Of the timeout a tenth is for the server; the last session takes up to
	// the close timeout and a second.
	if rest := timeout*9/10 - 6*time.Second; window > rest {
		t.Errorf("drain_window is %v, but there is time for %v only", window, rest)
	}
	probe := c.ReadinessProbe
	if probe.HTTPGet.Path != "/healthz" {
		t.Errorf("the readiness probe asks for %s", probe.HTTPGet.Path)
	}
	noticed := time.Duration(probe.PeriodSeconds*(probe.FailureThreshold+1)) * time.Second
	if delay < noticed {
		t.Errorf("shutdown_delay is %v, but the readiness probe takes up to %v", delay, noticed)
	}
	if c.LivenessProbe.HTTPGet != nil {
		t.Error("the liveness probe asks for a page: does it fail in a drain?")
	}
	if n := *m.deployment.Spec.Replicas; int(n) <= m.budget.Spec.MaxUnavailable.IntValue() {
		t.Errorf("of %d gateways %v may be taken away at once", n, m.budget.Spec.MaxUnavailable)
	}
	if m.deployment.Spec.Strategy.RollingUpdate.MaxUnavailable.IntValue() != 0 {
		t.Error("an update takes gateways away before there are others")
	}
}

// It runs with as few rights as it needs.
func TestRights(t *testing.T) {
	m := read(t)
	pod, c := m.deployment.Spec.Template.Spec, m.container(t)
	yes := func(b *bool) bool { return b != nil && *b }
	no := func(b *bool) bool { return b != nil && !*b }
	for what, is := range map[string]bool{
		"runs as root":                 pod.SecurityContext == nil || !yes(pod.SecurityContext.RunAsNonRoot) || *pod.SecurityContext.RunAsUser == 0,
		"has no seccomp profile":       pod.SecurityContext == nil || pod.SecurityContext.SeccompProfile.Type != core.SeccompProfileTypeRuntimeDefault,
		"can write its file system":    !yes(c.SecurityContext.ReadOnlyRootFilesystem),
		"may get more rights":          !no(c.SecurityContext.AllowPrivilegeEscalation),
		"keeps capabilities":           fmt.Sprint(c.SecurityContext.Capabilities.Drop) != "[ALL]" || len(c.SecurityContext.Capabilities.Add) > 0,
		"has an account's token":       !no(pod.AutomountServiceAccountToken),
		"asks for no memory":           c.Resources.Requests.Memory().IsZero() || c.Resources.Requests.Cpu().IsZero(),
		"may use any amount of memory": c.Resources.Limits.Memory().Cmp(*c.Resources.Requests.Memory()) < 0,
	} {
		if is {
			t.Errorf("the gateway %s", what)
		}
	}
}
