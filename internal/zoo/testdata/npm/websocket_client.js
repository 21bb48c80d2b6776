// websocket as a client.
import { readFileSync } from 'node:fs'
import websocket from 'websocket'

const [url, root] = process.argv.slice(2)
const origin = url.replace(/^ws/, 'http').replace(/\/zoo$/, '')
const open = (path) => new Promise((resolve, reject) => {
  const client = new websocket.client({ tlsOptions: { ca: readFileSync(root) } })
  client.on('connect', resolve)
  client.on('connectFailed', reject)
  client.connect(url.replace(/zoo$/, path), ['zoo.v1', 'zoo.v2'], origin)
})
const once = (connection, event) => new Promise((resolve, reject) => {
  connection.once(event, (...args) => resolve(args))
  connection.once('error', reject)
})

let connection = await open('zoo')
console.log(`open: ${connection.protocol}, ${connection.extensions.length} extensions`)
for (const sent of ['small', 'ä'.repeat(35000), Buffer.from([0, 255]), Buffer.alloc(300000, 7)]) {
  connection.send(sent)
  const [m] = await once(connection, 'message')
  const same = m.type === 'utf8' ? m.utf8Data === sent : m.binaryData.equals(sent)
  if (!same) throw new Error('another message comes back')
}
console.log('messages: all come back')
connection.ping('anybody')
console.log(`Ping: Pong ${(await once(connection, 'pong'))[0]}`)
connection.send('leave')
let [code, reason] = await once(connection, 'close')
console.log(`server closes: ${code} ${reason}`)

connection = await open('zoo')
connection.close() // with 1000
;[code, reason] = await once(connection, 'close')
console.log(`client closes: ${code} ${reason}`)

try {
  await open('private')
} catch (e) {
  console.log(`without login: ${e.message.split('\n')[0]}`)
}
process.exit() // it keeps the connection of a refusal, and nginx does, too
