// Primus's client, made by its server's options: https://github.com/primus/primus#readme
import Primus from 'primus'
import { guest, once } from './guest.js'

const Socket = Primus.createSocket({ transformer: 'websockets' })

await guest(async (url, stay) => {
  const socket = new Socket(url, stay ? {} : { strategy: [] })
  await once(socket, 'open')
  return {
    say: async (size) => {
      const back = once(socket, 'data')
      const sent = 'ä'.repeat(size)
      socket.write(sent)
      if (await back !== sent) throw new Error('another text')
    },
    leave: () => socket.write('leave'),
    close: () => socket.end(),
    gone: once(socket, 'close').then(() => 'closed')
  }
})
