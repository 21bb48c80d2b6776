// Action Cable's client: https://guides.rubyonrails.org/action_cable_overview.html
import WebSocket from 'ws'
import { guest, ws } from './guest.js'

globalThis.document = { addEventListener () {}, removeEventListener () {}, createElement: () => ({}), visibilityState: 'visible' }
globalThis.addEventListener = globalThis.removeEventListener = () => {}
const { adapters, createConsumer } = await import('@rails/actioncable')
// A browser sends the page's origin.
adapters.WebSocket = class extends WebSocket {
  constructor (url, protocols) { super(url, protocols, { origin: new URL(url).origin.replace('ws', 'http') }) }
}

await guest(async (url, stay) => {
  const consumer = createConsumer(ws(url, '/cable'))
  let heard, disconnected
  const gone = new Promise((resolve) => { disconnected = resolve })
  const channel = await new Promise((resolve) => {
    const channel = consumer.subscriptions.create({ channel: 'ZooChannel', id: Math.random() }, {
      connected: () => resolve(channel),
      received: ({ text }) => heard(text),
      disconnected: ({ willAttemptReconnect }) => {
        if (!stay) consumer.connection.monitor.stop()
        disconnected(`disconnected, reconnects: ${willAttemptReconnect}`)
      }
    })
  })
  return {
    open: consumer.connection.getProtocol(),
    say: async (size) => {
      const back = new Promise((resolve) => { heard = resolve })
      const sent = 'ä'.repeat(size)
      channel.perform('echo', { text: sent })
      if (await back !== sent) throw new Error('another text')
    },
    leave: () => channel.perform('leave'),
    close: () => consumer.disconnect(),
    gone
  }
})
