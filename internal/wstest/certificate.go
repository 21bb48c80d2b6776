package wstest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"sync"
	"time"
)

// An Authority issues certificates.
type Authority struct {
	Cert *x509.Certificate
	Key  *ecdsa.PrivateKey
}

// NewAuthority returns an authority with a self-signed certificate.
func NewAuthority() *Authority {
	a := new(Authority)
	c := a.Sign(&x509.Certificate{
		Subject:               pkix.Name{CommonName: "wsproxy test authority"},
		IsCA:                  true,
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageCertSign,
	})
	a.Cert, a.Key = c.Leaf, c.PrivateKey.(*ecdsa.PrivateKey)
	return a
}

// Sign returns a certificate made from a template, with a new key and serial
// number. Without a NotAfter it is always valid. If the authority has no
// certificate yet, the result is self-signed.
func (a *Authority) Sign(template *x509.Certificate) tls.Certificate {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	c := *template
	if c.SerialNumber, err = rand.Int(rand.Reader, big.NewInt(1<<62)); err != nil {
		panic(err)
	}
	if c.NotAfter.IsZero() {
		c.NotBefore, c.NotAfter = time.Unix(0, 0), time.Unix(1<<33, 0)
	}
	parent, signer := a.Cert, a.Key
	if parent == nil {
		parent, signer = &c, key
	}
	der, err := x509.CreateCertificate(rand.Reader, &c, parent, &key.PublicKey, signer)
	if err != nil {
		panic(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		panic(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}
}

// Issue issues a certificate for names and addresses, for servers and clients. The
// first is its common name.
func (a *Authority) Issue(hosts ...string) tls.Certificate {
	template := &x509.Certificate{
		Subject:     pkix.Name{CommonName: hosts[0]},
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	for _, host := range hosts {
		if ip := net.ParseIP(host); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, host)
		}
	}
	return a.Sign(template)
}

// Pool returns a pool of the authority alone.
func (a *Authority) Pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(a.Cert)
	return pool
}

// PEM returns the authority's own certificate.
func (a *Authority) PEM() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.Cert.Raw})
}

// PEM returns a certificate's chain and its key.
func PEM(c tls.Certificate) (chain, key []byte) {
	for _, der := range c.Certificate {
		chain = append(chain, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})...)
	}
	der, err := x509.MarshalPKCS8PrivateKey(c.PrivateKey)
	if err != nil {
		panic(err)
	}
	return chain, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
}

// CA returns the authority that the peers of this package trust.
var CA = sync.OnceValue(NewAuthority)

// Cert returns its certificate for front.test, upstream.test and 127.0.0.1.
var Cert = sync.OnceValue(func() tls.Certificate {
	return CA().Issue("front.test", "upstream.test", "127.0.0.1")
})

// ServerConfig returns a configuration with [Cert] and the fastest key exchange.
func ServerConfig() *tls.Config {
	return &tls.Config{Certificates: []tls.Certificate{Cert()}, CurvePreferences: []tls.CurveID{tls.X25519}}
}

// ClientConfig returns a configuration that trusts [CA] and expects the server
// to be called name; if name is empty, after the address. It uses the fastest
// key exchange.
func ClientConfig(name string) *tls.Config {
	return &tls.Config{RootCAs: CA().Pool(), ServerName: name, CurvePreferences: []tls.CurveID{tls.X25519}}
}
