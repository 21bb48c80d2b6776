//go:build linux

package zoo

import "testing"

// Faye was made in Ruby as well. Debian's ruby-faye on puma.
var fayeRuby = server{
	name:   "Faye, Ruby",
	source: debian("ruby-faye"),
	start: func(t *testing.T) *process {
		return command{args: []string{"puma", "-b", "tcp://127.0.0.1:PORT", testdata("ruby/faye.ru")}}.start(t)
	},
	path:     faye.path,
	fallback: true,
	kinds:    onlyText,
	greet:    faye.greet,
	say:      faye.say,
	lives:    faye.lives,
}
