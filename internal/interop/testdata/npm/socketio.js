'use strict';
// Runs Socket.IO for mount_test.go, with every setting left alone: as a server
// without arguments, which prints its port and ends with its standard input; as
// a client of the URL that is its argument, which talks, and prints what it has
// gone through.

function load(name) {
  try {
    return require(name);
  } catch (err) {
    if (err.code !== 'MODULE_NOT_FOUND') throw err;
    console.error(`npm's ${name} is not installed: run setup.sh`);
    process.exit(3);
  }
}

function serve() {
  const { Server } = load('socket.io');
  const http = require('http').createServer((req, res) => res.end('page'));
  const io = new Server(http);
  io.on('connection', (socket) => {
    socket.on('echo', (...args) => {
      const answer = args.pop();
      answer(socket.conn.transport.name, ...args);
    });
  });
  http.listen(0, '127.0.0.1', () => console.log(http.address().port));
  process.stdin.on('end', () => process.exit(0)).resume();
}

function talk(url) {
  const { io } = load('socket.io-client');
  const socket = io(url, { reconnection: false });
  const { engine } = socket.io;
  const seen = [engine.transport.name];
  const upgraded = new Promise((resolve) => engine.once('upgrade', (t) => resolve(t.name)));
  const fail = (what) => (err) => {
    console.error(what, err, seen);
    process.exit(1);
  };
  setTimeout(fail('timeout'), 20000).unref();
  socket.on('connect_error', fail('connect_error'));
  socket.on('disconnect', fail('disconnect'));
  const echo = (...args) =>
    new Promise((resolve) => socket.emit('echo', ...args, (transport, ...back) => resolve({ transport, back })));
  socket.on('connect', async () => {
    seen.push((await echo('hello')).back[0]);
    seen.push(await upgraded);
    const blob = Buffer.alloc(200000, 7);
    const { transport, back } = await echo('over the WebSocket', blob);
    seen.push(transport, back[0], Buffer.compare(back[1], blob) === 0 ? 'the same bytes' : 'other bytes');
    socket.off('disconnect');
    socket.disconnect();
    console.log(JSON.stringify(seen));
  });
}

if (process.argv[2]) talk(process.argv[2]);
else serve();
