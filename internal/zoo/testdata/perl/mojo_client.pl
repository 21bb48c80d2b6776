# Mojo::UserAgent: https://docs.mojolicious.org/Mojo/UserAgent#WebSockets
use Mojo::Base -strict, -signatures;
use Mojo::IOLoop;
use Mojo::UserAgent;

my ($url, $root) = @ARGV;
my $ua = Mojo::UserAgent->new(ca => $root, max_response_size => 0);
$| = 1;
Mojo::IOLoop->timer(25 => sub { die 'slow' });

sub open_ws ($path) {
  my $opened;
  $ua->websocket($url =~ s/\/zoo$/$path/r, {}, ['zoo.v1', 'zoo.v2'] => sub ($ua, $tx) { $opened = $tx; Mojo::IOLoop->stop });
  Mojo::IOLoop->start;
  die $opened->error->{message} unless $opened->is_websocket || $opened->res->code;
  $opened->max_websocket_size(2**20) if $opened->is_websocket;
  return $opened;
}

sub wait_for ($tx, $event) {
  my @got;
  $tx->once($event => sub ($tx, @args) { @got = @args; Mojo::IOLoop->stop });
  Mojo::IOLoop->start;
  return @got;
}

my $tx = open_ws('/zoo');
say 'open: ', $tx->protocol, ', ', $tx->res->headers->sec_websocket_extensions // 'no extension';
for my $case ([text => 'small'], [text => "\xc3\xa4" x 35000], [binary => "\x00\xff"], [binary => "\x07" x 300000]) {
  my ($kind, $sent) = @$case;
  $tx->send({$kind => $sent});
  my ($back) = wait_for($tx, $kind);
  die 'another message comes back' if $back ne $sent;
}
say 'messages: all come back';
$tx->send('leave');
say 'server closes: ', join ' ', map { $_ // '' } wait_for($tx, 'finish');

$tx = open_ws('/zoo');
$tx->finish(1000 => 'bye');
say 'client closes: ', join ' ', map { $_ // '' } wait_for($tx, 'finish');

$tx = open_ws('/private');
say 'without login: ', $tx->res->code, ' ', $tx->res->headers->www_authenticate;
