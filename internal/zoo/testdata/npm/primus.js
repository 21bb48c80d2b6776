// Primus as a server: https://github.com/primus/primus#readme
import { createServer } from 'node:http'
import Primus from 'primus'

const server = createServer()
const primus = new Primus(server, { transformer: 'websockets', pingInterval: 30000 / (process.env.ZOO_SCALE ?? 20), maxLength: 2 ** 22, compression: true })
primus.on('connection', (spark) => {
  spark.on('data', (data) => {
    if (data === 'leave') spark.end()
    else spark.write(data)
  })
})
server.listen(process.argv[2], '127.0.0.1')
