// Faye as a server: https://faye.jcoglan.com/node.html
import { createServer } from 'node:http'
import faye from 'faye'

const server = createServer()
new faye.NodeAdapter({ mount: '/faye', timeout: 45 / 20 }).attach(server)
server.listen(process.argv[2], '127.0.0.1')
