package hosts

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const (
	prefix = "wsproxy-hosts-"     // of the namespaces' names
	center = prefix + "switch"    // the namespace that holds the bridge
	subnet = "10.77.0."           // nobody else's: the namespaces know no other network
	lock   = "wsproxy-hosts.lock" // in the directory for temporary files
)

// A network is a bridge with hosts on it.
type network struct {
	hosts []*host
	lock  *os.File
}

// A host is a network namespace with a cable to the bridge.
type host struct {
	name string
	ip   netip.Addr
	ns   int // a descriptor of the namespace
	own  int // the same of the test's own
	// dialling is held by those that are about to connect from here: each
	// takes a thread for as long.
	dialling chan struct{}
}

// newNetwork creates the bridge. It first removes what a crashed run has left
// behind.
func newNetwork(t *testing.T) *network {
	t.Helper()
	if os.Getuid() != 0 {
		unable(t, "needs root, for network namespaces")
	}
	for _, program := range []string{"ip", "nft", "haproxy"} {
		if _, err := exec.LookPath(program); err != nil {
			unable(t, program+" is not installed: run setup.sh")
		}
	}
	n := &network{lock: lockNamespaces(t)}
	t.Cleanup(func() { n.remove(t) })
	must(t, removeNamespaces())
	if err := errors.Join(
		run("ip", "netns", "add", center),
		run("ip", "-n", center, "link", "add", "bridge", "up", "type", "bridge"),
		run("ip", "netns", "exec", center, "nft", "add", "table", "inet", "probe"),
	); err != nil {
		unable(t, "no network namespaces, bridges or packet filters here: "+err.Error())
	}
	return n
}

// unable ends a test that cannot run here.
func unable(t *testing.T, why string) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatal(why)
	}
	t.Skip(why)
}

// lockNamespaces waits for other runs on this machine to end, because they use
// the same names.
func lockNamespaces(t *testing.T) *os.File {
	t.Helper()
	f, err := os.OpenFile(filepath.Join(os.TempDir(), lock), os.O_CREATE|os.O_RDWR, 0o600)
	must(t, err)
	waitFor(t, "the end of another run", 5*time.Minute, func() error {
		return syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	})
	return f
}

// host adds a host. Its name must be short, because it is also the name of an
// interface.
func (n *network) host(t *testing.T, name string, last int) *host {
	t.Helper()
	ns := prefix + name
	h := &host{name: name, ip: netip.MustParseAddr(subnet + strconv.Itoa(last)), dialling: make(chan struct{}, 32)}
	must(t, run("ip", "netns", "add", ns))
	must(t, run("ip", "-n", center, "link", "add", name, "master", "bridge", "up", "type", "veth", "peer", "name", "eth0", "netns", ns))
	must(t, run("ip", "-n", ns, "link", "set", "lo", "up"))
	h.addAddress(t, h.ip)
	must(t, run("ip", "-n", ns, "link", "set", "eth0", "up"))
	for path, fd := range map[string]*int{"/run/netns/" + ns: &h.ns, "/proc/self/ns/net": &h.own} {
		var err error
		*fd, err = unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		must(t, err)
	}
	n.hosts = append(n.hosts, h)
	return h
}

func (h *host) addAddress(t *testing.T, ip netip.Addr) {
	t.Helper()
	must(t, run("ip", "-n", prefix+h.name, "address", "add", ip.String()+"/24", "dev", "eth0"))
}

// run runs a command in the namespace.
func (h *host) run(name string, args ...string) error {
	return run("ip", append([]string{"netns", "exec", prefix + h.name, name}, args...)...)
}

// cut silently drops all packets from and to the host; ARP still works.
func (h *host) cut(t *testing.T) {
	t.Helper()
	must(t, h.run("nft", `add table inet cut
		add chain inet cut in { type filter hook input priority 0; policy drop; }
		add chain inet cut out { type filter hook output priority 0; policy drop; }`))
}

func (h *host) mend(t *testing.T) {
	t.Helper()
	must(t, h.run("nft", "delete", "table", "inet", "cut"))
}

// dial connects from the host. A socket belongs to the namespace that its
// thread was in when it was made.
func (h *host) dial(ctx context.Context, network, address string) (net.Conn, error) {
	select {
	case h.dialling <- struct{}{}:
		defer func() { <-h.dialling }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	runtime.LockOSThread()
	if err := unix.Setns(h.ns, unix.CLONE_NEWNET); err != nil {
		runtime.UnlockOSThread()
		return nil, fmt.Errorf("to %s: %w", h.name, err)
	}
	conn, err := new(net.Dialer).DialContext(ctx, network, address)
	if back := unix.Setns(h.own, unix.CLONE_NEWNET); back != nil {
		return nil, errors.Join(err, back) // the thread stays locked, and ends with the goroutine
	}
	runtime.UnlockOSThread()
	return conn, err
}

// client returns an HTTP client that is on the host.
func (h *host) client() *http.Client {
	return &http.Client{Transport: &http.Transport{DialContext: h.dial, DisableKeepAlives: true}}
}

// processes returns the processes in the namespace of that name.
func processes(ns string) (pids []int) {
	out, err := exec.Command("ip", "netns", "pids", ns).Output()
	if err != nil {
		return nil // there is no such namespace
	}
	for field := range strings.FieldsSeq(string(out)) {
		if pid, err := strconv.Atoi(field); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids
}

// namespaces returns the names of our namespaces.
func namespaces() (names []string) {
	entries, _ := os.ReadDir("/run/netns") // there may be none
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), prefix) {
			names = append(names, e.Name())
		}
	}
	return names
}

// removeNamespaces removes all of our namespaces and kills their processes.
func removeNamespaces() error {
	var errs []error
	for _, ns := range namespaces() {
		for _, pid := range processes(ns) {
			syscall.Kill(pid, syscall.SIGKILL)
		}
		errs = append(errs, run("ip", "netns", "delete", ns))
	}
	return errors.Join(errs...)
}

// remove removes the network, in which nothing should be running.
func (n *network) remove(t *testing.T) {
	for _, h := range n.hosts {
		if pids := processes(prefix + h.name); len(pids) > 0 {
			t.Errorf("on %s still run processes %v", h.name, pids)
		}
		unix.Close(h.ns)
		unix.Close(h.own)
	}
	if err := removeNamespaces(); err != nil {
		t.Error(err)
	}
	if names := namespaces(); len(names) > 0 {
		t.Errorf("namespaces %v are left", names)
	}
	n.lock.Close()
}

func run(name string, args ...string) error {
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s %s: %w\n%s", name, strings.Join(args, " "), err, out)
	}
	return nil
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// waitFor waits until ok returns no error.
func waitFor(t *testing.T, what string, limit time.Duration, ok func() error) {
	t.Helper()
	for began := time.Now(); ; time.Sleep(20 * time.Millisecond) {
		err := ok()
		if err == nil {
			return
		}
		if time.Since(began) > limit {
			t.Fatalf("waited %v for %s: %v", limit, what, err)
		}
	}
}
