// Two documents of Yjs that meet through y-websocket's server.
import { WebsocketProvider } from 'y-websocket'
import WebSocket from 'ws'
import * as Y from 'yjs'

const url = process.argv[2].replace(/^http/, 'ws')
const join = (name) => {
  const doc = new Y.Doc()
  const provider = new WebsocketProvider(url, name, doc, { WebSocketPolyfill: WebSocket, disableBc: true })
  return { doc, provider, text: doc.getText('t') }
}
const until = async (doc, done) => { while (!done()) await new Promise((resolve) => doc.once('update', resolve)) }
const room = 'room' + process.pid
const a = join(room)
const b = join(room)
a.text.insert(0, 'ä'.repeat(100000))
await until(b.doc, () => b.text.length === 100000)
b.text.insert(0, 'lion ')
await until(a.doc, () => a.text.length === 100005)
console.log(`both have ${a.text.toString().slice(0, 5).trim()} and ${b.text.length} characters`)
const met = new Promise((resolve) => a.provider.awareness.on('change', ({ added, updated }) => {
  for (const id of [...added, ...updated]) {
    const name = a.provider.awareness.getStates().get(id)?.name
    if (name) resolve(name)
  }
}))
b.provider.awareness.setLocalStateField('name', 'tiger')
console.log(`awareness: ${await met}`)
process.exit(0)
