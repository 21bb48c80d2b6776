//go:build linux

package zoo

import (
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/seed-ffb73231/wsproxy/internal/remains"
)

// limit is the time limit of one wait. It is far above what is needed: it turns a
// hang into a failure.
const limit = 30 * time.Second

var (
	update = flag.Bool("update", false, "write the tables of docs/compatibility.md instead of comparing them")
	part   = flag.Int("part", -1, "run only this third of the animals: 0, 1 or 2; -1: all of them")
	awake  = flag.Bool("awake", false, "wait for real: 75 s of silence with every time-out as it comes")
)

// servers are in the order of the table.
var servers = []server{
	socketIO,
	engineIO,
	npmWS,
	npmWebsocket,
	fayeWebsocket,
	sockJS,
	primus,
	signalR,
	phoenix,
	graphqlWS,
	subscriptionsTransportWS,
	yWebsocket,
	aedes,
	faye,
	vite,
	gorillaServer,
	coderServer,
	gwsServer,
	gobwasServer,
	xnetServer,
	melodyServer,
	fasthttpServer,
	tornado,
	jupyter,
	flaskSocketIO,
	pyWebsockets,
	aiohttpServer,
	uvicorn,
	uvicornWsproto,
	hypercorn,
	daphne,
	autobahn,
	trio,
	gevent,
	gunicorn,
	ws4py,
	mosquitto,
	nchan,
	actionCable,
	emWebsocket,
	mojolicious,
	websockify,
	ttyd,
	civetweb,
	libwebsockets,
	prosody,
	websocketd,
	ejabberd,
	rabbitMQTT,
	rabbitSTOMP,
	janus,
	tomcat,
	jetty,
	netty,
	fayeRuby,
	qtServer,
	soupServer,
	webpack,
	cockpit,
	natsServer,
	centrifugeServer,
	uwsgi,
	cowboy,
	websocketpp,
}

// clients are in the order of the table.
var clients = []client{
	wsClient,
	undiciClient,
	websocketClient,
	fayeWebsocketClient,
	websocketsClient,
	aiohttpClient,
	websocketClientPython,
	tornadoClient,
	gorillaClient,
	coderClient,
	gwsClient,
	gobwasClient,
	xnetClient,
	fasthttpClient,
	autobahnClient,
	trioClient,
	qtClient,
	soupClient,
	wscatClient,
	chromiumClient,
	firefoxClient,
	javaClient,
	mojoliciousClient,
	fayeWebsocketRubyClient,
	libwebsocketsClient,
	mqttClient,
	pahoGoClient,
	pahoClient,
	natsClient,
	centrifugeClient,
	centrifugeGoClient,
	xmppClient,
	reconnectingWebsocketClient,
	partySocketClient,
	socketIOClient,
	engineIOClient,
	graphqlWSClient,
	subscriptionsTransportWSClient,
	signalRClient,
	phoenixClient,
	actionCableClient,
	primusClient,
	sockJSClient,
	yWebsocketClient,
}

// TestServers runs each server both ways.
func TestServers(t *testing.T) {
	for i, s := range servers {
		if mine(i) {
			t.Run(testName(s.name), func(t *testing.T) {
				if *awake { // mostly waiting, which one core does for many
					t.Parallel()
				}
				carryServer(t, s)
			})
		}
	}
}

// TestClients runs each client both ways.
func TestClients(t *testing.T) {
	for i, c := range clients {
		if mine(i) {
			t.Run(testName(c.name), func(t *testing.T) { carryClient(t, c) })
		}
	}
}

// testName returns a name without the slashes that separate subtests.
func testName(name string) string { return strings.ReplaceAll(name, "/", "-") }

// mine reports whether this part runs an animal.
func mine(i int) bool { return *part < 0 || i%3 == *part }

// TestNames checks that an animal is found by its name.
func TestNames(t *testing.T) {
	for table, names := range names() {
		slices.Sort(names)
		if all := len(names); len(slices.Compact(names)) != all {
			t.Errorf("two %s of one name: %q", table, names)
		}
	}
}

// names are those of the animals, by table.
func names() map[string][]string {
	all := make(map[string][]string)
	for _, s := range servers {
		all["servers"] = append(all["servers"], s.name)
	}
	for _, c := range clients {
		all["clients"] = append(all["clients"], c.name)
		if c.patience > 0 {
			all["reconnecting"] = append(all["reconnecting"], c.name)
		}
	}
	return all
}

// atEnd lists what to do after all tests.
var atEnd []func()

func TestMain(m *testing.M) {
	serveInstead()
	visitInstead()
	flag.Parse()
	code := m.Run()
	// Rows of those that failed stay as they are.
	if code == 0 || *update {
		if err := settle(*update); err != nil {
			fmt.Fprintln(os.Stderr, "zoo:", err)
			code = 1
		}
	}
	for _, f := range atEnd {
		f()
	}
	remains.Exit(code)
}
