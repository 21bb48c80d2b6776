// Action Cable's client: https://guides.rubyonrails.org/action_cable_overview.html
import WebSocket from 'ws'

globalThis.document = { addEventListener () {}, removeEventListener () {}, createElement: () => ({}), visibilityState: 'visible' }
globalThis.addEventListener = globalThis.removeEventListener = () => {}
const { adapters, createConsumer } = await import('@rails/actioncable')
// A browser sends the page's origin.
adapters.WebSocket = class extends WebSocket {
  constructor (url, protocols) { super(url, protocols, { origin: process.argv[2] }) }
}
const consumer = createConsumer(process.argv[2].replace('http', 'ws') + '/cable')
const heard = []
let changed = () => {}
const until = async (n) => { while (heard.length < n) await new Promise((resolve) => { changed = resolve }) }
const hear = (what) => { heard.push(what); changed() }
const channel = consumer.subscriptions.create({ channel: 'ZooChannel', id: 'life' }, {
  connected: () => hear('connected'),
  received: ({ text }) => hear(text),
  disconnected: ({ willAttemptReconnect }) => hear(`disconnected, reconnects: ${willAttemptReconnect}`)
})
await until(1)
channel.perform('echo', { text: 'hello' })
await until(2)
channel.perform('leave')
await until(3)
console.log(heard.join(', '))
consumer.disconnect()
process.exit(0)
