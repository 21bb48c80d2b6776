'use strict';
// Runs Vite's development server for mount_test.go on the directory that is its
// argument. It prints its port and ends with its standard input.

let vite;
try {
  vite = require.resolve('vite');
} catch {
  console.error("npm's vite is not installed: run setup.sh");
  process.exit(3);
}

(async () => {
  const { createServer } = await import(require('url').pathToFileURL(vite));
  const server = await createServer({
    root: process.argv[2],
    configFile: false,
    logLevel: 'silent',
    server: { host: '127.0.0.1', port: 0, watch: { usePolling: true, interval: 50 } },
  });
  await server.listen();
  console.log(server.httpServer.address().port);
  process.stdin.on('end', () => process.exit(0)).resume();
})();
