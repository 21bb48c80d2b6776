// faye-websocket as a client, with the compression that it is documented with.
import { readFileSync } from 'node:fs'
import websocket from 'faye-websocket'

const [url, root] = process.argv.slice(2)
const headers = { Origin: url.replace(/^ws/, 'http').replace(/\/zoo$/, '') }
const open = (path) => new websocket.Client(url.replace(/zoo$/, path), ['zoo.v1', 'zoo.v2'], { ca: readFileSync(root), tls: { ca: readFileSync(root) }, headers })
const once = (ws, event) => new Promise((resolve, reject) => {
  ws.once(event, resolve)
  if (event !== 'close') ws.once('error', reject)
})

let ws = open('zoo')
await once(ws, 'open')
console.log(`open: ${ws.protocol}`)
for (const sent of ['small', 'ä'.repeat(35000), Buffer.from([0, 255]), Buffer.alloc(300000, 7)]) {
  ws.send(sent)
  const { data } = await once(ws, 'message')
  const same = typeof data === 'string' ? data === sent : data.equals(sent)
  if (!same) throw new Error('another message comes back')
}
console.log('messages: all come back')
await new Promise((resolve) => ws.ping('anybody', resolve))
console.log('Ping: Pong')
ws.send('leave')
let end = await once(ws, 'close')
console.log(`server closes: ${end.code} ${end.reason}`)

ws = open('zoo')
await once(ws, 'open')
ws.close(1000, 'bye')
end = await once(ws, 'close')
console.log(`client closes: ${end.code} ${end.reason}`)

ws = open('private')
ws.on('error', ({ message }) => console.log(`without login: ${message}`))
await once(ws, 'close')
