// Faye as a server: https://faye.jcoglan.com/node.html
import { createServer } from 'node:http'
import faye from 'faye'

const server = createServer()
// It forgets clients that don't ask for as long as this; ours are silent for 75 s.
new faye.NodeAdapter({ mount: '/faye', timeout: 120 }).attach(server)
server.listen(process.argv[2], '127.0.0.1')
