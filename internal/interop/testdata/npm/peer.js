'use strict';
// Runs the npm package ws for process_test.go, which says how the two talk.

const readline = require('node:readline');

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

function report(line) {
  process.stdout.write(JSON.stringify(line) + '\n');
}

function watch(conn, ws) {
  conns.set(conn, ws);
  const base64 = (data) => data.toString('base64');
  ws.on('message', (data, binary) => report({ event: 'message', conn, binary, data: base64(data) }));
  ws.on('ping', (data) => report({ event: 'ping', conn, data: base64(data) }));
  ws.on('pong', (data) => report({ event: 'pong', conn, data: base64(data) }));
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
      conns.get(conn).send(Buffer.from(part, 'base64'), options, (err) => {
        if (i === last) reply({ error: err?.message });
      });
    });
  },

  ping({ conn, parts }, reply) {
    conns.get(conn).ping(Buffer.from(parts[0], 'base64'), undefined, (err) => reply({ error: err?.message }));
  },

  close({ conn, code, reason }, reply) {
    conns.get(conn).close(code, reason);
    reply({});
  },
};

readline
  .createInterface({ input: process.stdin })
  .on('line', (line) => {
    const command = JSON.parse(line);
    const reply = (fields) => report({ id: command.id, ...fields });
    try {
      commands[command.op](command, reply);
    } catch (err) {
      reply({ error: err.message });
    }
  })
  .on('close', () => process.exit());

report({ event: 'ready', version: `ws ${require('ws/package.json').version}, node ${process.version}` });
