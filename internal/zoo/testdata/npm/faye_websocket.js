// faye-websocket as a server: https://github.com/faye/faye-websocket-node#readme
import { createServer } from 'node:http'
import WebSocket from 'faye-websocket'

const server = createServer()
server.on('upgrade', (request, socket, body) => {
  if (!WebSocket.isWebSocket(request)) return socket.destroy()
  const ws = new WebSocket(request, socket, body, ['zoo.v2'], { ping: 1 })
  ws.on('message', (event) => {
    if (event.data === 'leave') ws.close(4001, 'as asked')
    else ws.send(event.data)
  })
})
server.listen(process.argv[2], '127.0.0.1')
