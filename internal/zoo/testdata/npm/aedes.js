// aedes as a broker of MQTT over WebSockets: https://github.com/moscajs/aedes
import { createServer } from 'node:http'
import { Aedes } from 'aedes'
import { createWebSocketStream, WebSocketServer } from 'ws'

const broker = await Aedes.createBroker()
const server = createServer()
const wss = new WebSocketServer({ server, handleProtocols: (offered) => (offered.has('mqtt') ? 'mqtt' : false) })
wss.on('connection', (ws, request) => broker.handle(createWebSocketStream(ws), request))
server.listen(process.argv[2], '127.0.0.1')
