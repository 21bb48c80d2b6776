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
	// WebSockets over HTTP/2 are another handshake (RFC 8441).
	config.NextProtos = []string{"http/1.1"}
	config.MinVersion = max(config.MinVersion, tls.VersionTLS12)
	// A resumed session stands for a verification that was done before, so
	// what is resumed must have been verified by this very configuration: the
	// cache is the proxy's own, and by server name. VerifyPeerCertificate isn't
	// called for a resumed session, and a client certificate that has been
	// replaced in the meantime would live on in one: then there is no cache.
	config.ClientSessionCache = nil
	if config.VerifyPeerCertificate == nil && config.GetClientCertificate == nil && len(config.Certificates) == 0 {
		config.ClientSessionCache = tls.NewLRUClientSessionCache(0)
	}
}

// clientTLS speaks TLS with the upstream over conn. name is what its
// certificate must be for, unless the configuration names something else.
func clientTLS(ctx context.Context, conn net.Conn, config *tls.Config, name string) (net.Conn, error) {
	if config.ServerName == "" {
		config = config.Clone()
		// A zone is this machine's own and stands in no certificate.
		config.ServerName, _, _ = strings.Cut(name, "%")
	}
	c := tls.Client(conn, config)
	if err := c.HandshakeContext(ctx); err != nil {
		return nil, err
	}
	if p := c.ConnectionState().NegotiatedProtocol; p != "" && p != "http/1.1" {
		return nil, errors.New("upstream insists on another protocol than http/1.1")
	}
	return c, nil
}

// CertificateFiles names the two files of a certificate, in PEM: the chain,
// leaf first, and the leaf's private key.
type CertificateFiles struct {
	Cert, Key string
}

// Certificates serves certificates from files to a TLS server, and notices
// when the files change: its GetCertificate is for the field of that name in
// a [tls.Config]. Make it with [LoadCertificates]. Its methods may be called
// by many goroutines at once.
//
// The files are looked at again when a handshake comes in and the last look
// is 10 s or more ago; [Certificates.Reload] does it at once. A pair of files
// that can't be read, or of which only one has been replaced so far, leaves
// the certificate that is in use where it is, and a log record says so. Sessions
// that are under way are not touched.
type Certificates struct {
	// Logger gets one record for each certificate that was replaced (info),
	// and for each that could not be (error), once as long as the reason
	// stays the same. nil stands for [slog.Default]. Set it before use.
	Logger *slog.Logger

	files []CertificateFiles
	inUse atomic.Pointer[[]*tls.Certificate] // as many as files
	next  atomic.Int64                       // when to look again, since began
	began time.Time

	mu     sync.Mutex
	seen   [][sha256.Size]byte // guarded by mu; what the files held that are in use
	failed []string            // guarded by mu; why the last look failed, and was logged
}

// certificateCheck is how old the last look at the files may be.
const certificateCheck = 10 * time.Second

// LoadCertificates reads the files. Of several certificates, GetCertificate
// chooses one that fits the name and the algorithms that the client asks for,
// the first of those; if none fits, the first of all. All files must be in
// order: what is wrong with each is returned, joined by [errors.Join].
func LoadCertificates(files ...CertificateFiles) (*Certificates, error) {
	if len(files) == 0 {
		return nil, errors.New("wsproxy: no certificate files given")
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

// GetCertificate is for [tls.Config].GetCertificate.
func (c *Certificates) GetCertificate(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	// One handshake waits for the files; those beside it take what is there.
	if time.Since(c.began) >= time.Duration(c.next.Load()) && c.mu.TryLock() {
		c.reload() // it has logged what is wrong
	}
	certs := *c.inUse.Load()
	for _, cert := range certs {
		if hello.SupportsCertificate(cert) == nil {
			return cert, nil
		}
	}
	return certs[0], nil
}

// Reload looks at the files now, for a program that knows when they have
// changed (SIGHUP, a renewal hook). The errors are those of files that can't
// be used, joined; what could be read is in use.
func (c *Certificates) Reload() error {
	c.mu.Lock()
	return c.reload()
}

// reload looks at the files. c.mu is held, and released before anything is
// logged: the logger is the user's, and may call Reload.
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
		if cert == nil { // what is in use
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

// load reads the files; of what was seen before it returns nil. By the bytes
// themselves, not by modification times, it can't be fooled: these repeat
// where a file is replaced twice in an instant or restored from elsewhere.
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
