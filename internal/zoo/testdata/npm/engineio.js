// engine.io as a server: https://github.com/socketio/socket.io/tree/main/packages/engine.io
import { createServer } from 'node:http'
import { attach } from 'engine.io'

const http = createServer()
const server = attach(http, { maxHttpBufferSize: 2 ** 22, pingInterval: 25000 / (process.env.ZOO_SCALE ?? 20), pingTimeout: 20000, perMessageDeflate: { threshold: 100 } })
server.on('connection', (socket) => {
  socket.on('message', (data) => {
    if (data === 'leave') socket.close()
    else socket.send(data)
  })
})
http.listen(process.argv[2], '127.0.0.1')
