// ws as a server: https://github.com/websockets/ws#readme
import { createServer } from 'node:http'
import { WebSocketServer } from 'ws'

const server = createServer()
const wss = new WebSocketServer({
  noServer: true,
  perMessageDeflate: { threshold: 100 },
  handleProtocols: (offered) => (offered.has('zoo.v2') ? 'zoo.v2' : false)
})
wss.on('connection', (ws) => {
  ws.on('error', console.error)
  ws.on('message', (data, isBinary) => {
    if (!isBinary && data.toString() === 'leave') return ws.close(4001, 'as asked')
    ws.send(data, { binary: isBinary })
  })
})
server.on('upgrade', (request, socket, head) => {
  if (request.url === '/private' && !request.headers.authorization) {
    socket.end('HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Basic realm="zoo"\r\nConnection: close\r\n\r\n')
    return
  }
  wss.handleUpgrade(request, socket, head, (ws) => wss.emit('connection', ws, request))
})
server.listen(process.argv[2], '127.0.0.1')
