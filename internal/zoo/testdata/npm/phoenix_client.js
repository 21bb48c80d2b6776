// Phoenix's client: https://hexdocs.pm/phoenix/js/
import { Socket } from 'phoenix'
import WebSocket from 'ws'
import { guest, ws } from './guest.js'

const answered = (push) => new Promise((resolve, reject) => push.receive('ok', resolve).receive('error', reject).receive('timeout', reject))

await guest(async (url, stay) => {
  const socket = new Socket(ws(url, '/socket'), { transport: WebSocket, ...(stay ? {} : { reconnectAfterMs: () => 1 << 30 }) })
  const gone = new Promise((resolve) => socket.onClose(({ code, reason }) => resolve(`${code} ${reason}`)))
  socket.connect()
  const channel = socket.channel('room:zoo', {})
  await answered(channel.join())
  return {
    say: async (size) => {
      const sent = 'ä'.repeat(size)
      if ((await answered(channel.push('echo', { sent }))).sent !== sent) throw new Error('another text')
    },
    ping: () => new Promise((resolve) => socket.ping(() => resolve('answered'))),
    leave: () => channel.push('leave', {}),
    close: () => socket.disconnect(),
    gone
  }
}, {
  lives: {
    'without login': (url) => new Promise((resolve) => {
      const socket = new Socket(ws(url, '/socket'), { transport: WebSocket, params: { token: 'wrong' } })
      socket.onError((e) => resolve(e.message))
      socket.connect()
    })
  }
})
