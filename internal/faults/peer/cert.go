package peer

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"net"
	"sync"
	"time"
)

// An authority is a throw-away certificate that has signed itself.
type authority struct {
	cert tls.Certificate
	pool *x509.CertPool
}

// trusted is what both legs of a rig use. Stranger is nobody's friend.
var (
	trusted  = sync.OnceValue(newAuthority)
	stranger = sync.OnceValue(newAuthority)
)

// Stranger is a certificate for the upstream's address that the proxy has no
// reason to trust.
func Stranger() tls.Certificate { return stranger().cert }

// Trust is a configuration that trusts the peers of a rig.
func Trust() *tls.Config { return &tls.Config{RootCAs: trusted().pool} }

func newAuthority() authority {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: "faults"},
		NotBefore: time.Unix(0, 0), NotAfter: time.Unix(1<<33, 0),
		DNSNames:    []string{"front.test", "upstream.test"},
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1), net.IPv4(10, 221, 2, 2)}, // of the tests' own networks
		IsCA:        true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		panic(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		panic(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(leaf)
	return authority{tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, pool}
}
