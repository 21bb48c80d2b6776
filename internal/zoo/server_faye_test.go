//go:build linux

package zoo

import (
	"encoding/json"
	"fmt"
)

// Faye speaks Bayeux. npm's faye. Its client asks by HTTP first.
var faye = server{
	name:     "Faye",
	source:   npm("faye"),
	start:    node("faye.js"),
	path:     "/faye",
	fallback: true,
	kinds:    onlyText,
	greet: func(v *visit) error {
		answer, err := v.ask(`[{"channel":"/meta/handshake","version":"1.0","supportedConnectionTypes":["websocket"]}]`, "[")
		if err != nil {
			return err
		}
		var all []struct{ ClientID string }
		if err := json.Unmarshal([]byte(answer), &all); err != nil {
			return err
		}
		v.name = all[0].ClientID
		_, err = v.ask(fmt.Sprintf(`[{"channel":"/meta/subscribe","clientId":%q,"subscription":"/%s"}]`, v.name, v.name), "[")
		return err
	},
	say: func(v *visit, m message) error {
		if err := v.send(text(fmt.Sprintf(`[{"channel":"/%s","clientId":%q,"data":"%s"}]`, v.name, v.name, m.data))); err != nil {
			return err
		}
		// What has come for a client is handed out when it connects.
		if err := v.send(text(fmt.Sprintf(`[{"channel":"/meta/connect","clientId":%q,"connectionType":"websocket"}]`, v.name))); err != nil {
			return err
		}
		for {
			m2, err := v.receive()
			if err != nil {
				return err
			}
			var all []struct{ Data string }
			if err := json.Unmarshal(m2.data, &all); err != nil {
				return err
			}
			for _, one := range all {
				if one.Data == string(m.data) {
					return nil
				}
			}
		}
	},
	lives: []life{script("its client", "faye_life.js")},
}
