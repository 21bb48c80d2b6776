// graphql-ws's client: https://the-guild.dev/graphql/ws/recipes
import { createClient } from 'graphql-ws'
import WebSocket from 'ws'
import { guest, ws } from './guest.js'

const create = (url, more) => createClient({ url: ws(url, '/graphql'), webSocketImpl: WebSocket, ...more })

await guest(async (url, stay) => {
  let socket
  const client = create(url, { ...(stay ? {} : { retryAttempts: 0 }), keepAlive: 1000 })
  const on = (event) => new Promise((resolve) => client.on(event, resolve))
  client.on('connected', (s) => { socket = s })
  const pong = on('pong')
  const gone = on('closed').then(({ code, reason }) => `${code} ${reason}`)
  const subscription = client.iterate({ query: 'subscription { wait }' })
  await subscription.next()
  subscription.next().catch(() => {}) // it fails with the connection
  return {
    open: socket.protocol,
    say: async (size) => {
      const sent = 'ä'.repeat(size)
      for await (const { data } of client.iterate({ query: 'query q($t: String) { echo(text: $t) }', variables: { t: sent } })) {
        if (data.echo !== sent) throw new Error('another text')
      }
    },
    ping: () => pong.then((received) => `pong ${received}`),
    leave: () => socket.send('{"type":"nonsense"}'),
    close: () => client.dispose(),
    gone
  }
}, {
  lives: {
    'without login': async (url) => {
      try {
        for await (const _ of create(url, { connectionParams: { token: 'wrong' }, retryAttempts: 0 }).iterate({ query: '{ echo(text: "a") }' }));
      } catch (e) {
        return `${e.code} ${e.reason}`
      }
    }
  }
})
