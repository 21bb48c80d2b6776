// engine.io's client, with its default transports:
// https://github.com/socketio/socket.io/tree/main/packages/engine.io-client
import { Socket } from 'engine.io-client'
import { guest, once } from './guest.js'

await guest(async (url) => {
  const socket = new Socket(url)
  await once(socket, 'upgrade')
  return {
    open: socket.transport.name,
    say: async (size) => {
      const back = once(socket, 'message')
      const sent = 'ä'.repeat(size)
      socket.send(sent)
      if (await back !== sent) throw new Error('another message')
    },
    leave: () => socket.send('leave'),
    close: () => socket.close(),
    gone: once(socket, 'close')
  }
})
