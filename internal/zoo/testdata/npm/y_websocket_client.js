// y-websocket's provider, whose document another provider reads:
// https://github.com/yjs/y-websocket#readme
import { WebsocketProvider } from 'y-websocket'
import WebSocket from 'ws'
import * as Y from 'yjs'
import { guest, once, ws } from './guest.js'

const open = async (url, room) => {
  const doc = new Y.Doc()
  const provider = new WebsocketProvider(ws(url, ''), room, doc, { WebSocketPolyfill: WebSocket, disableBc: true })
  await once(provider, 'sync')
  return { doc, provider, text: doc.getText('t') }
}

await guest(async (url, stay) => {
  const room = 'room' + Math.random()
  const writer = await open(url, room)
  const gone = once(writer.provider, 'connection-close').then((e) => {
    if (!stay) writer.provider.shouldConnect = false
    return e ? `${e.code} ${e.reason}` : 'closed'
  })
  return {
    say: async (size) => {
      writer.text.delete(0, writer.text.length)
      writer.text.insert(0, 'ä'.repeat(size))
      const reader = await open(url, room)
      while (reader.text.length !== size) await once(reader.doc, 'update')
      reader.provider.destroy()
    },
    close: () => writer.provider.disconnect(),
    gone
  }
})
