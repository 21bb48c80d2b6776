//go:build linux

package zoo

import (
	"os"
	"path/filepath"
)

// Firefox's own API, in a page.
var firefoxClient = client{
	name:   "Firefox",
	source: debian("firefox-esr"),
	page:   true,
	run: browse("", func(dir, url string) command {
		// Nothing to ask on a first start, and nobody to tell.
		_ = os.WriteFile(filepath.Join(dir, "user.js"), []byte(`
user_pref("app.normandy.enabled", false);
user_pref("browser.aboutwelcome.enabled", false);
user_pref("browser.shell.checkDefaultBrowser", false);
user_pref("datareporting.policy.dataSubmissionEnabled", false);
user_pref("network.captive-portal-service.enabled", false);
user_pref("toolkit.telemetry.enabled", false);
`), 0o600)
		return command{
			args: []string{"firefox-esr", "--headless", "--no-remote", "--profile", dir, url},
			env:  []string{"HOME=" + dir},
		}
	}),
}
