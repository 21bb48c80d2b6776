// SockJS as a server: https://github.com/sockjs/sockjs-node#readme
import { createServer } from 'node:http'
import sockjs from 'sockjs'

const echo = sockjs.createServer({ log: () => {}, heartbeat_delay: 25000 / (process.env.ZOO_SCALE ?? 20) })
echo.on('connection', (conn) => {
  conn.on('data', (message) => {
    if (message === 'leave') conn.close(4001, 'as asked')
    else conn.write(message)
  })
})
const server = createServer()
echo.installHandlers(server, { prefix: '/echo' })
server.listen(process.argv[2], '127.0.0.1')
