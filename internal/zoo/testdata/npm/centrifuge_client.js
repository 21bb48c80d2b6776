// Centrifuge's client: https://github.com/centrifugal/centrifuge-js#readme
import { Centrifuge } from 'centrifuge'
import WebSocket from 'ws'
import { guest, once, ws } from './guest.js'

await guest(async (url, stay) => {
  const client = new Centrifuge(ws(url, '/connection/websocket'), { websocket: WebSocket })
  const gone = new Promise((resolve) => {
    client.on('disconnected', ({ code, reason }) => resolve(`${code} ${reason}`))
    client.on('connecting', ({ code, reason }) => {
      if (code === 0 || stay) return
      resolve(`${code} ${reason}`) // it would reconnect
      client.disconnect()
    })
  })
  const connected = once(client, 'connected')
  client.connect()
  const { transport } = await connected
  return {
    open: transport,
    say: async (size) => {
      const sent = 'ä'.repeat(size)
      if ((await client.rpc('echo', sent)).data !== sent) throw new Error('another text')
    },
    leave: () => client.rpc('leave', '').catch(() => {}),
    close: () => client.disconnect(),
    gone
  }
})
