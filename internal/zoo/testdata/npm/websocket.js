// websocket as a server: https://github.com/theturtle32/WebSocket-Node#readme
import { createServer } from 'node:http'
import websocket from 'websocket'

const http = createServer((request, response) => response.writeHead(404).end())
http.listen(process.argv[2], '127.0.0.1')
const server = new websocket.server({ httpServer: http, maxReceivedMessageSize: 2 ** 21, maxReceivedFrameSize: 2 ** 21, keepaliveInterval: 1000 })
server.on('request', (request) => {
  if (request.resource === '/private' && !request.httpRequest.headers.authorization) return request.reject(401, 'who are you')
  const ws = request.accept(request.requestedProtocols.includes('zoo.v2') ? 'zoo.v2' : null, request.origin)
  ws.on('message', (m) => {
    if (m.utf8Data === 'leave') ws.close(4001, 'as asked')
    else if (m.type === 'utf8') ws.sendUTF(m.utf8Data)
    else ws.sendBytes(m.binaryData)
  })
})
