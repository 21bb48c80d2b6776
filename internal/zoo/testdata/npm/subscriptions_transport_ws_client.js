// subscriptions-transport-ws's client: https://github.com/apollographql/subscriptions-transport-ws#client-side
import transport from 'subscriptions-transport-ws'
import WebSocket from 'ws'
import { guest, ws } from './guest.js'

await guest(async (url, stay) => {
  const client = new transport.SubscriptionClient(ws(url, '/subscriptions'), { reconnect: stay, minTimeout: 20000 }, WebSocket)
  await new Promise((resolve, reject) => { client.onConnected(resolve); client.onError(reject) })
  const gone = new Promise((resolve) => client.onDisconnected(() => resolve('disconnected')))
  return {
    open: client.client.protocol,
    say: (size) => new Promise((resolve, reject) => {
      const sent = 'ä'.repeat(size)
      client.request({ query: 'query q($t: String) { echo(text: $t) }', variables: { t: sent } }).subscribe({
        next: ({ data }) => { if (data.echo !== sent) reject(new Error('another text')) },
        error: reject,
        complete: resolve
      })
    }),
    leave: () => client.client.send('{"type":"connection_terminate"}'),
    close: () => client.close(),
    gone
  }
})
