// ws as a client.
import { readFileSync } from 'node:fs'
import WebSocket from 'ws'

const [url, root] = process.argv.slice(2)
const options = { ca: readFileSync(root), origin: url.replace(/^ws/, 'http').replace(/\/zoo$/, '') }
const open = (path) => new WebSocket(url.replace(/zoo$/, path), ['zoo.v1', 'zoo.v2'], options)
const once = (ws, event) => new Promise((resolve, reject) => {
  ws.once(event, (...args) => resolve(args))
  ws.once('error', reject)
})

let ws = open('zoo')
await once(ws, 'open')
console.log(`open: ${ws.protocol}, ${ws.extensions}`)
for (const sent of ['small', 'ä'.repeat(35000), Buffer.from([0, 255]), Buffer.alloc(300000, 7)]) {
  ws.send(sent)
  const [data, isBinary] = await once(ws, 'message')
  if (isBinary !== Buffer.isBuffer(sent) || !data.equals(Buffer.from(sent))) throw new Error('another message comes back')
}
console.log('messages: all come back')
ws.ping('anybody')
console.log(`Ping: Pong ${(await once(ws, 'pong'))[0]}`)
ws.send('leave')
let [code, reason] = await once(ws, 'close')
console.log(`server closes: ${code} ${reason}`)

ws = open('zoo')
await once(ws, 'open')
ws.close(1000, 'bye');
[code, reason] = await once(ws, 'close')
console.log(`client closes: ${code} ${reason}`)

try {
  await once(open('private'), 'open')
} catch (e) {
  console.log(`without login: ${e.message}`)
}
