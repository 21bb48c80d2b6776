// A socket that speaks Phoenix's protocol, for there is no Elixir here:
// https://hexdocs.pm/phoenix/writing_a_channels_client.html
import { createServer } from 'node:http'
import { WebSocketServer } from 'ws'

const server = createServer((request, response) => response.writeHead(404).end())
const wss = new WebSocketServer({
  server,
  path: '/socket/websocket',
  verifyClient: ({ req }, done) => done(!req.url.includes('token=wrong'), 403)
})
wss.on('connection', (ws) => {
  const joins = new Map() // by topic
  const send = (...message) => ws.send(JSON.stringify(message))
  ws.on('message', (data, binary) => {
    if (binary) { // a push: kind, four lengths, and what they are of
      const [, join, ref, topic, event] = data
      const end = 5 + join + ref + topic + event
      const name = data.subarray(5 + join + ref, 5 + join + ref + topic)
      const to = data.subarray(end - event, end)
      // a broadcast: kind, two lengths
      return ws.send(Buffer.concat([Buffer.from([2, topic, event]), name, to, data.subarray(end)]))
    }
    const [join, ref, topic, event, payload] = JSON.parse(data)
    const reply = (response) => send(join, ref, topic, 'phx_reply', { status: 'ok', response })
    switch (event) {
      case 'phx_join':
        joins.set(topic, join)
        return reply({})
      case 'heartbeat':
      case 'phx_leave':
        return reply({})
      case 'echo':
        return reply(payload)
      case 'shout':
        return send(null, null, topic, 'shout', payload)
      case 'leave':
        return ws.close(1000, 'as asked')
    }
  })
})
server.listen(process.argv[2], '127.0.0.1')
