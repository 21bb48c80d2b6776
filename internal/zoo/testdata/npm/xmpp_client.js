// xmpp.js: https://github.com/xmppjs/xmpp.js/tree/main/packages/client
import { client, xml } from '@xmpp/client'
import WebSocket from 'ws'
import { guest, once, ws } from './guest.js'

globalThis.WebSocket ??= WebSocket

await guest(async (url, stay) => {
  const xmpp = client({ service: ws(url, '/xmpp-websocket'), domain: 'zoo.example' }) // without a name: as a guest
  if (!stay) xmpp.reconnect.stop()
  xmpp.on('error', () => {}) // it reconnects after these
  const gone = once(xmpp, 'disconnect').then(({ clean, event }) => `clean: ${clean}, ${event?.code ?? ''}`)
  const jid = await xmpp.start()
  return {
    open: 'xmpp',
    say: async (size) => {
      const sent = 'ä'.repeat(size)
      const back = new Promise((resolve) => xmpp.on('stanza', (s) => { if (s.is('message')) resolve(s.getChildText('body')) }))
      await xmpp.send(xml('message', { type: 'chat', to: jid }, xml('body', {}, sent)))
      if (await back !== sent) throw new Error('another text')
    },
    ping: async () => (await xmpp.iqCaller.request(xml('iq', { type: 'get' }, xml('ping', 'urn:xmpp:ping')))).attrs.type,
    close: () => xmpp.stop(),
    gone
  }
}, { sizes: [1, 200, 35000] })
