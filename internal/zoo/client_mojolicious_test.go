//go:build linux

package zoo

// Perl's Mojo::UserAgent. Debian's libmojolicious-perl.
var mojoliciousClient = client{
	name:   "Mojolicious",
	source: debian("libmojolicious-perl"),
	args:   []string{"perl", testdata("perl/mojo_client.pl"), "URL", "ROOT"},
}
