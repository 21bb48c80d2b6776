// subscriptions-transport-ws, which Apollo's server had before graphql-ws.
import { execute, subscribe } from 'graphql'
import transport from 'subscriptions-transport-ws'
import { createServer } from 'node:http'

import { schema } from './graphql_schema.js'

const server = createServer()
server.listen(process.argv[2], '127.0.0.1', () => {
  transport.SubscriptionServer.create({ schema, execute, subscribe, keepAlive: 1000 }, { server, path: '/subscriptions' })
})
