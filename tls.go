package wsproxy

import (
	"cmp"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// completeTLS completes the configuration for TLS with upstreams.
func completeTLS(config *tls.Config) {
	// WebSockets over HTTP/2 need another handshake (RFC 8441).
	config.NextProtos = []string{"http/1.1"}
	config.MinVersion = max(config.MinVersion, tls.VersionTLS12)
	// A resumed session relies on an earlier verification, which must have used
	// this same configuration. So the cache belongs to the proxy, and is keyed by
	// server name. There is no cache with VerifyPeerCertificate, which is not
	// called for a resumed session, or with client certificates, because a
	// resumed session would keep using one that has been replaced.
	config.ClientSessionCache = nil
	if config.VerifyPeerCertificate == nil && config.GetClientCertificate == nil && len(config.Certificates) == 0 {
		config.ClientSessionCache = tls.NewLRUClientSessionCache(0)
	}
}

// clientTLS performs the TLS handshake with the upstream over conn. The
// certificate must be valid for name, unless the configuration sets another
// one.
func clientTLS(ctx context.Context, conn net.Conn, config *tls.Config, name string) (net.Conn, error) {
	if config.ServerName == "" {
		config = config.Clone()
		// A zone is local to this machine and is in no certificate.
		config.ServerName, _, _ = strings.Cut(name, "%")
	}
	c := tls.Client(belowTLS(conn), config)
	if err := c.HandshakeContext(ctx); err != nil {
		return nil, err
	}
	if p := c.ConnectionState().NegotiatedProtocol; p != "" && p != "http/1.1" {
		return nil, errors.New("upstream selected a protocol other than http/1.1")
	}
	return c, nil
}

// CertificateFiles names the two PEM files of a certificate: the chain, leaf
// first, and the private key of the leaf.
type CertificateFiles struct {
	Cert, Key string
}

// Certificates provides a TLS server with certificates from files, and reloads
// them when the files change. Use its GetCertificate method as the field of
// that name in a [tls.Config]. Create one with [LoadCertificates]. Its methods
// are safe for concurrent use.
//
// The files are checked during a handshake if the last check is 10 s old or
// older; [Certificates.Reload] checks them immediately. If a pair of files
// cannot be read, or only one of them has been replaced so far, the current
// certificate stays in use and a log record says so. Existing connections are
// not affected.
type Certificates struct {
	// Logger receives one record for each certificate that was replaced (info),
	// and one for each that could not be (error), not repeated while the reason
	// stays the same. nil stands for [slog.Default]. Set it before use.
	Logger *slog.Logger

	files []CertificateFiles
	inUse atomic.Pointer[[]*tls.Certificate] // one for each pair of files
	next  atomic.Int64                       // when to check again, since began
	began time.Time

	mu     sync.Mutex
	seen   [][sha256.Size]byte // guarded by mu; hashes of the files in use
	failed []string            // guarded by mu; why the last check failed, as logged
}

// certificateCheck is the interval of checks of the files.
const certificateCheck = 10 * time.Second

// LoadCertificates reads the files. If there are several certificates,
// GetCertificate selects the first one that fits the server name and the
// algorithms that the client supports, or the first of all if none fits. All
// files must be valid: the errors of all pairs are returned, joined by
// [errors.Join].
func LoadCertificates(files ...CertificateFiles) (*Certificates, error) {
	if len(files) == 0 {
		return nil, errors.New("wsproxy: no certificate files")
	}
	c := &Certificates{
		files:  append([]CertificateFiles(nil), files...),
		began:  time.Now(),
		seen:   make([][sha256.Size]byte, len(files)),
		failed: make([]string, len(files)),
	}
	c.inUse.Store(new(make([]*tls.Certificate, len(files))))
	if err := c.Reload(); err != nil {
		return nil, err
	}
	return c, nil
}

// GetCertificate implements the GetCertificate field of [tls.Config].
func (c *Certificates) GetCertificate(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	// One handshake waits for the files; concurrent ones use the current certificates.
	if time.Since(c.began) >= time.Duration(c.next.Load()) && c.mu.TryLock() {
		c.reload() // it logs errors
	}
	certs := *c.inUse.Load()
	for _, cert := range certs {
		if hello.SupportsCertificate(cert) == nil {
			return cert, nil
		}
	}
	return certs[0], nil
}

// Reload checks the files immediately, for a program that knows when they have
// changed (SIGHUP, a renewal hook). It returns the errors of files that cannot
// be used, joined. The certificates that could be read are in use.
func (c *Certificates) Reload() error {
	c.mu.Lock()
	return c.reload()
}

// reload checks the files. c.mu is held; it is released before anything is
// logged, because the logger is user code and may call Reload.
func (c *Certificates) reload() error {
	var records []func()
	defer func() {
		c.mu.Unlock()
		for _, record := range records {
			record()
		}
	}()
	c.next.Store(int64(time.Since(c.began) + certificateCheck))
	var errs []error
	old := *c.inUse.Load()
	certs := append([]*tls.Certificate(nil), old...)
	for i, f := range c.files {
		cert, sum, err := f.load(c.seen[i])
		if err != nil {
			err = fmt.Errorf("wsproxy: certificate %q, key %q: %w", f.Cert, f.Key, err)
			errs = append(errs, err)
			if old[i] != nil && c.failed[i] != err.Error() {
				records = append(records, func() {
					c.log(slog.LevelError, "wsproxy: certificate not replaced",
						slog.String("cert", f.Cert), slog.String("key", f.Key), slog.String("error", err.Error()))
				})
				c.failed[i] = err.Error()
			}
			continue
		}
		c.failed[i] = ""
		if cert == nil { // unchanged
			continue
		}
		if certs[i], c.seen[i] = cert, sum; old[i] != nil {
			records = append(records, func() {
				c.log(slog.LevelInfo, "wsproxy: certificate replaced",
					slog.String("cert", f.Cert), slog.Time("not_after", cert.Leaf.NotAfter))
			})
		}
	}
	c.inUse.Store(&certs)
	return errors.Join(errs...)
}

func (c *Certificates) log(level slog.Level, message string, attrs ...slog.Attr) {
	logTo(cmp.Or(c.Logger, slog.Default()), context.Background(), level, message, attrs...)
}

// load reads the files. It returns nil if their contents match seen. It
// compares contents, because modification times repeat if a file is replaced
// twice in an instant or restored from elsewhere.
func (f CertificateFiles) load(seen [sha256.Size]byte) (*tls.Certificate, [sha256.Size]byte, error) {
	cert, err := os.ReadFile(f.Cert)
	if err != nil {
		return nil, seen, err
	}
	key, err := os.ReadFile(f.Key)
	if err != nil {
		return nil, seen, err
	}
	certSum, keySum := sha256.Sum256(cert), sha256.Sum256(key)
	sum := sha256.Sum256(append(certSum[:], keySum[:]...))
	if sum == seen {
		return nil, seen, nil
	}
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		return nil, seen, err
	}
	return &pair, sum, nil
}
