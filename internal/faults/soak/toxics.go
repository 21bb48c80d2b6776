//go:build linux

package main

import (
	"fmt"
	"net"
	"strings"

	toxiproxy "github.com/Shopify/toxiproxy/v2"
	"github.com/rs/zerolog"
)

// Toxics that a session survives, and toxics that it does not. Each is in front
// of the front servers and of the upstreams, and acts in both directions.
var (
	mildToxics = map[string]string{
		"latency":   `{"type":"latency","attributes":{"latency":15,"jitter":10}}`,
		"slicer":    `{"type":"slicer","attributes":{"average_size":300,"size_variation":250,"delay":0}}`,
		"bandwidth": `{"type":"bandwidth","attributes":{"rate":400}}`,
		"slowclose": `{"type":"slow_close","attributes":{"delay":200}}`,
	}
	deadlyToxics = map[string]string{
		"reset":   `{"type":"reset_peer","attributes":{"timeout":100}}`,
		"limit":   `{"type":"limit_data","attributes":{"bytes":6000}}`,
		"timeout": `{"type":"timeout","attributes":{"timeout":300}}`,
	}
)

type toxics struct {
	proxies map[string]*toxiproxy.Proxy
}

// newToxics starts them. The listeners are plain ones and TLS ones.
func newToxics(fronts, upstreams [2]net.Listener) (*toxics, error) {
	server := toxiproxy.NewServer(toxiproxy.NewMetricsContainer(nil), zerolog.Nop())
	t := &toxics{proxies: make(map[string]*toxiproxy.Proxy)}
	for _, set := range []map[string]string{mildToxics, deadlyToxics} {
		for name, json := range set {
			for i := range 2 {
				for where, to := range map[string]net.Listener{"front": fronts[i], "back": upstreams[i]} {
					key := fmt.Sprint(where, name, i)
					p := toxiproxy.NewProxy(server, key, "127.0.0.1:0", to.Addr().String())
					if err := p.Start(); err != nil {
						return nil, err
					}
					for _, stream := range []string{"upstream", "downstream"} {
						one := fmt.Sprintf(`{"stream":%q,%s`, stream, json[1:])
						if _, err := p.Toxics.AddToxicJson(strings.NewReader(one)); err != nil {
							return nil, fmt.Errorf("toxic %s: %w", one, err)
						}
					}
					t.proxies[key] = p
				}
			}
		}
	}
	return t, nil
}

// address returns the address of an upstream behind a toxic.
func (t *toxics) address(name string, tls bool) string {
	return t.proxies[fmt.Sprint("back", name, index(tls))].Listen
}

// frontAddress is the same for a front server.
func (t *toxics) frontAddress(name string, tls bool) string {
	return t.proxies[fmt.Sprint("front", name, index(tls))].Listen
}

func (t *toxics) close() {
	for _, p := range t.proxies {
		p.Stop()
	}
}
