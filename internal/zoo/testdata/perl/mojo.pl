# Mojolicious as a server: https://docs.mojolicious.org/Mojolicious/Guides/Tutorial#WebSockets
use Mojolicious::Lite -signatures;

websocket '/echo' => sub ($c) {
  $c->tx->with_protocols('zoo.v2');
  $c->tx->with_compression;
  $c->tx->max_websocket_size(2**21);
  $c->on(text => sub ($c, $bytes) {
    return $c->finish(4001 => 'as asked') if $bytes eq 'leave';
    $c->send({text => $bytes});
  });
  $c->on(binary => sub ($c, $bytes) { $c->send({binary => $bytes}) });
};

under '/private' => sub ($c) {
  return 1 if $c->req->headers->authorization;
  $c->res->headers->www_authenticate('Basic realm="zoo"');
  $c->render(text => 'who are you', status => 401);
  return undef;
};
websocket '/' => sub ($c) { $c->on(text => sub { }) };

app->start;
