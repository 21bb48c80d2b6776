//go:build linux

package zoo

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"
)

// Eclipse's MQTT client for Go, with Mosquitto.
var pahoGoClient = client{
	name:     "Paho, Go",
	source:   goModule("github.com/eclipse/paho.mqtt.golang"),
	args:     goGuest("paho", connectPaho),
	of:       &mosquitto,
	patience: 8 * time.Second,
}

type pahoGuest struct {
	client mqtt.Client
	topic  string
	heard  chan []byte
	ended  chan string
}

func connectPaho(url string, stay bool) (guest, error) {
	g := &pahoGuest{
		topic: fmt.Sprintf("zoo/%x", rand.Uint64()),
		heard: make(chan []byte, 1),
		ended: make(chan string, 1),
	}
	options := mqtt.NewClientOptions().
		AddBroker("ws" + strings.TrimPrefix(url, "http") + "/mqtt").
		SetAutoReconnect(stay).
		SetConnectionLostHandler(func(_ mqtt.Client, err error) {
			select {
			case g.ended <- strings.ReplaceAll(err.Error(), url, "URL"):
			default:
			}
		})
	g.client = mqtt.NewClient(options)
	if t := g.client.Connect(); !t.WaitTimeout(limit) || t.Error() != nil {
		return nil, fmt.Errorf("connecting: %w", errors.Join(t.Error(), errSlow))
	}
	t := g.client.Subscribe(g.topic, 1, func(_ mqtt.Client, m mqtt.Message) { g.heard <- m.Payload() })
	if !t.WaitTimeout(limit) || t.Error() != nil {
		return nil, fmt.Errorf("subscribing: %w", errors.Join(t.Error(), errSlow))
	}
	return g, nil
}

func (g *pahoGuest) opened() string { return "MQTT" }

func (g *pahoGuest) say(size int) error {
	sent := bytes.Repeat([]byte{7}, size)
	if t := g.client.Publish(g.topic, 1, false, sent); !t.WaitTimeout(limit) || t.Error() != nil {
		return errors.Join(t.Error(), errSlow)
	}
	select {
	case got := <-g.heard:
		if !bytes.Equal(got, sent) {
			return errors.New("another payload comes")
		}
		return nil
	case <-time.After(limit):
		return errSlow
	}
}

func (g *pahoGuest) close() {
	g.client.Disconnect(250)
	g.ended <- "disconnected"
}

func (g *pahoGuest) gone() string { return <-g.ended }
