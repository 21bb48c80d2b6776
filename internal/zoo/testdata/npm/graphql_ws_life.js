// graphql-ws's client.
import { createClient } from 'graphql-ws'
import WebSocket from 'ws'

const url = process.argv[2].replace(/^http/, 'ws') + '/graphql'
const client = createClient({ url, webSocketImpl: WebSocket })
const counts = []
for await (const r of client.iterate({ query: 'subscription { count(to: 5) }' })) counts.push(r.data.count)
console.log(`subscription: ${counts.join(' ')}`)
await client.dispose()
const wrong = createClient({ url, webSocketImpl: WebSocket, connectionParams: { token: 'wrong' }, retryAttempts: 0 })
try {
  for await (const _ of wrong.iterate({ query: '{ echo(text: "a") }' }));
} catch (e) {
  console.log(`wrong token: ${e.code} ${e.reason}`)
}
