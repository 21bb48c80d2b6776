package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"net"
	"time"
)

// newCertificate creates a certificate for hosts and the authority that has
// signed it, in PEM.
//
// The authority's key is discarded, and the authority is limited to hosts:
// trusting it, and forgetting to remove it later, is no risk.
func newCertificate(hosts []string) (authority []byte, certificate tls.Certificate, err error) {
	began := time.Now().Add(-time.Hour) // for clocks that are behind
	ends := began.AddDate(0, 0, 7)
	ca := &x509.Certificate{
		Subject:                     pkix.Name{CommonName: "wsproxy example, " + time.Now().Format(time.DateTime)},
		NotBefore:                   began,
		NotAfter:                    ends,
		IsCA:                        true,
		BasicConstraintsValid:       true,
		MaxPathLenZero:              true,
		KeyUsage:                    x509.KeyUsageCertSign,
		PermittedDNSDomainsCritical: true,
	}
	leaf := &x509.Certificate{
		Subject:     pkix.Name{CommonName: hosts[0]},
		NotBefore:   began,
		NotAfter:    ends,
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	for _, host := range hosts {
		ip := net.ParseIP(host)
		if ip == nil {
			leaf.DNSNames = append(leaf.DNSNames, host)
			ca.PermittedDNSDomains = append(ca.PermittedDNSDomains, host)
			continue
		}
		if v4 := ip.To4(); v4 != nil {
			ip = v4
		}
		leaf.IPAddresses = append(leaf.IPAddresses, ip)
		ca.PermittedIPRanges = append(ca.PermittedIPRanges, &net.IPNet{IP: ip, Mask: net.CIDRMask(8*len(ip), 8*len(ip))})
	}
	caKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, tls.Certificate{}, err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, tls.Certificate{}, err
	}
	caDER, err := x509.CreateCertificate(rand.Reader, ca, ca, caKey.Public(), caKey)
	if err != nil {
		return nil, tls.Certificate{}, err
	}
	der, err := x509.CreateCertificate(rand.Reader, leaf, ca, key.Public(), caKey)
	if err != nil {
		return nil, tls.Certificate{}, err
	}
	authority = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: caDER})
	return authority, tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, nil
}
