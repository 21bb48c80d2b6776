// A hub that speaks SignalR's protocol, for there is no .NET here:
// https://github.com/dotnet/aspnetcore/blob/main/src/SignalR/docs/specs/HubProtocol.md
import { createServer } from 'node:http'
import { randomUUID } from 'node:crypto'
import { WebSocketServer } from 'ws'

const end = '\x1e'
const server = createServer((request, response) => {
  if (!request.url.startsWith('/hub/negotiate')) return response.writeHead(404).end()
  const connectionId = randomUUID()
  response.writeHead(200, { 'Content-Type': 'application/json' }).end(JSON.stringify({
    negotiateVersion: 1, connectionId, connectionToken: randomUUID(),
    availableTransports: [{ transport: 'WebSockets', transferFormats: ['Text', 'Binary'] }]
  }))
})
const wss = new WebSocketServer({ server, path: '/hub' })
wss.on('connection', (ws) => {
  let greeted = false
  const send = (message) => ws.send(JSON.stringify(message) + end)
  let pings
  ws.on('close', () => clearInterval(pings))
  ws.on('message', (data) => {
    for (const part of data.toString().split(end).slice(0, -1)) {
      const m = JSON.parse(part)
      if (!greeted) {
        greeted = true
        send({})
        pings = setInterval(() => send({ type: 6 }), 15000 / (process.env.ZOO_SCALE ?? 20))
      } else if (m.type === 1 && m.target === 'leave') {
        send({ type: 7, error: 'as asked' })
        ws.close(1000)
      } else if (m.type === 1) {
        send({ type: 1, target: m.target, arguments: m.arguments })
        if (m.invocationId) send({ type: 3, invocationId: m.invocationId, result: m.arguments[0] })
      } else if (m.type === 4) {
        for (let i = 1; i <= m.arguments[0]; i++) send({ type: 2, invocationId: m.invocationId, item: i })
        send({ type: 3, invocationId: m.invocationId })
      }
    }
  })
})
server.listen(process.argv[2], '127.0.0.1')
