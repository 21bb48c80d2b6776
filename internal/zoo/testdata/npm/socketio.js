// Socket.IO as a server: https://socket.io/docs/v4/server-initialization/
// Its Pings come every 25 s, here as much oftener as nginx is shorter.
import { createServer } from 'node:http'
import { Server } from 'socket.io'

const http = createServer()
const io = new Server(http, { maxHttpBufferSize: 2 ** 22, pingInterval: 25000 / (process.env.ZOO_SCALE ?? 20), pingTimeout: 20000 })
const serve = (socket) => {
  socket.on('echo', (data) => socket.emit('echo', data))
  socket.on('ask', (data, answer) => answer(data))
  socket.on('join', (room) => { socket.join(room); io.of(socket.nsp.name).to(room).emit('joined', room) })
  socket.on('leave', () => socket.disconnect(true))
}
io.on('connection', serve)
io.of('/private').use((socket, next) => next(socket.handshake.auth.token ? undefined : new Error('who are you')))
io.of('/private').on('connection', serve)
http.listen(process.argv[2], '127.0.0.1')
