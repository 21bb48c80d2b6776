// SockJS's client: https://github.com/sockjs/sockjs-client#readme
import SockJS from 'sockjs-client'
import { guest } from './guest.js'

await guest(async (url) => {
  const sock = new SockJS(url + '/echo')
  const event = (name) => new Promise((resolve) => sock.addEventListener(name, resolve))
  const gone = event('close').then(({ code, reason }) => `${code} ${reason}`)
  await event('open')
  return {
    open: sock.transport,
    say: async (size) => {
      const back = event('message')
      const sent = 'ä'.repeat(size)
      sock.send(sent)
      if ((await back).data !== sent) throw new Error('another text')
    },
    leave: () => sock.send('leave'),
    close: () => sock.close(),
    gone
  }
})
