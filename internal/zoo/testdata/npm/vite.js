// Vite's development server: https://vite.dev/guide/api-javascript
import { createServer } from 'vite'

const server = await createServer({
  root: process.argv[3],
  configFile: false,
  logLevel: 'error',
  server: { host: '127.0.0.1', port: Number(process.argv[2]), strictPort: true, watch: { usePolling: true, interval: 50 } }
})
await server.listen()
