// undici's WebSocket, which is Node's own as well.
import { readFileSync } from 'node:fs'
import { Agent, WebSocket } from 'undici'

const [url, root] = process.argv.slice(2)
const dispatcher = new Agent({ connect: { ca: readFileSync(root) } })
const headers = { origin: url.replace(/^ws/, 'http').replace(/\/zoo$/, '') }
const open = (path) => {
  const ws = new WebSocket(url.replace(/zoo$/, path), { protocols: ['zoo.v1', 'zoo.v2'], dispatcher, headers })
  ws.binaryType = 'arraybuffer'
  return ws
}
const once = (ws, type) => new Promise((resolve, reject) => {
  ws.addEventListener(type, resolve, { once: true })
  if (type !== 'close') ws.addEventListener('error', reject, { once: true })
})

let ws = open('zoo')
await once(ws, 'open')
console.log(`open: ${ws.protocol}, ${ws.extensions}`)
for (const sent of ['small', 'ä'.repeat(35000), Uint8Array.of(0, 255), new Uint8Array(300000).fill(7)]) {
  ws.send(sent)
  const { data } = await once(ws, 'message')
  const same = typeof sent === 'string' ? data === sent : Buffer.from(sent).equals(Buffer.from(data))
  if (!same) throw new Error('another message comes back')
}
console.log('messages: all come back')
ws.send('leave')
let end = await once(ws, 'close')
console.log(`server closes: ${end.code} ${end.reason}`)

ws = open('zoo')
await once(ws, 'open')
ws.close(1000, 'bye')
end = await once(ws, 'close')
console.log(`client closes: ${end.code} ${end.reason}`)

ws = open('private')
ws.addEventListener('error', ({ message }) => console.log(`without login: ${message}`))
await once(ws, 'close')
