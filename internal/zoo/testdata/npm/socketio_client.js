// Socket.IO's client: https://socket.io/docs/v4/client-initialization/
import { io } from 'socket.io-client'
import { guest, once } from './guest.js'

await guest(async (url, stay) => {
  const socket = io(url, { forceNew: true, reconnection: stay })
  await once(socket, 'connect')
  if (socket.io.engine.transport.name !== 'websocket') await once(socket.io.engine, 'upgrade')
  return {
    open: socket.io.engine.transport.name,
    say: async (size) => {
      const back = once(socket, 'echo')
      const sent = Buffer.alloc(size, 7)
      socket.emit('echo', sent)
      if (!sent.equals(await back)) throw new Error('another blob')
    },
    leave: () => socket.emit('leave'),
    close: () => socket.disconnect(),
    gone: once(socket, 'disconnect')
  }
}, {
  lives: {
    'without login': async (url) => (await once(io(url + '/private', { forceNew: true }), 'connect_error')).message
  }
})
