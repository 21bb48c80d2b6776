'use strict';
// Runs the npm package ws for process_test.go, which says how the two talk.

let WebSocket, WebSocketServer;
try {
  ({ WebSocket, WebSocketServer } = require('ws'));
} catch (err) {
  if (err.code !== 'MODULE_NOT_FOUND') throw err;
  console.error("npm's ws is not installed: run setup.sh");
  process.exit(3);
}

const conns = new Map();
let accepted = 0;

function report(line, data = Buffer.alloc(0)) {
  process.stdout.write(JSON.stringify({ ...line, size: data.length }) + '\n');
  process.stdout.write(data);
}

function watch(conn, ws) {
  conns.set(conn, ws);
  ws.on('message', (data, binary) => report({ event: 'message', conn, binary }, data));
  ws.on('ping', (data) => report({ event: 'ping', conn }, data));
  ws.on('pong', (data) => report({ event: 'pong', conn }, data));
  ws.on('close', (code, reason) => {
    conns.delete(conn);
    report({ event: 'end', conn, code, reason: reason.toString() });
  });
}

const commands = {
  dial({ conn, url, origin, subprotocols, deflate, root }, reply) {
    const ws = new WebSocket(url, subprotocols, { origin, perMessageDeflate: Boolean(deflate), ca: root });
    let failed = (err) => reply({ error: err.message });
    watch(conn, ws);
    ws.on('error', (err) => failed(err));
    ws.on('open', () => {
      failed = () => {}; // 'close' follows
      reply({ subprotocol: ws.protocol, extensions: ws.extensions });
    });
  },

  listen({ subprotocols }, reply) {
    const server = new WebSocketServer({
      host: '127.0.0.1',
      port: 0,
      perMessageDeflate: true,
      handleProtocols: (offered) => subprotocols.find((p) => offered.has(p)) ?? false,
    });
    server.on('connection', (ws, request) => {
      const conn = `s${++accepted}`;
      ws.on('error', () => {}); // 'close' follows
      const extensions = request.headers['sec-websocket-extensions'];
      report({ event: 'accept', conn, path: request.url, subprotocol: ws.protocol, extensions });
      watch(conn, ws);
    });
    server.on('error', (err) => reply({ error: err.message }));
    server.on('listening', () => reply({ port: server.address().port }));
  },

  send({ conn, binary, parts }, reply) {
    const last = parts.length - 1;
    parts.forEach((part, i) => {
      const options = { binary: Boolean(binary), fin: i === last };
      conns.get(conn).send(part, options, (err) => {
        if (i === last) reply({ error: err?.message });
      });
    });
  },

  ping({ conn, parts }, reply) {
    conns.get(conn).ping(parts[0], undefined, (err) => reply({ error: err?.message }));
  },

  close({ conn, code, reason }, reply) {
    conns.get(conn).close(code, reason);
    reply({});
  },
};

function run(command) {
  const reply = (fields) => report({ id: command.id, ...fields });
  try {
    commands[command.op](command, reply);
  } catch (err) {
    reply({ error: err.message });
  }
}

let input = Buffer.alloc(0);

// next takes the next command out of the input; undefined: it isn't complete.
function next() {
  let end = input.indexOf('\n') + 1;
  if (end === 0) return undefined;
  const command = JSON.parse(input.subarray(0, end));
  command.parts = (command.sizes ?? []).map((size) => input.subarray(end, (end += size)));
  if (end > input.length) return undefined;
  input = input.subarray(end);
  return command;
}

process.stdin
  .on('data', (chunk) => {
    input = Buffer.concat([input, chunk]);
    for (let command; (command = next()); ) run(command);
  })
  .on('end', () => process.exit());

report({ event: 'ready', version: `ws ${require('ws/package.json').version}, node ${process.version}` });
