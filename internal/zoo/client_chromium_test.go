//go:build linux

package zoo

// Chromium's own API, in a page.
var chromiumClient = client{
	name:   "Chromium",
	source: debian("chromium"),
	page:   true,
	run: browse(".pki/nssdb", func(dir, url string) command {
		return command{
			args: []string{"chromium", "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic",
				"--disable-component-update", "--no-first-run", "--remote-debugging-port=0", "--user-data-dir=" + dir, url},
			env: []string{"HOME=" + dir},
		}
	}),
}
