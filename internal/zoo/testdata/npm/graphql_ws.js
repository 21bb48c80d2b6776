// graphql-ws as a server: https://the-guild.dev/graphql/ws/get-started
import { useServer } from 'graphql-ws/use/ws'
import { WebSocketServer } from 'ws'

import { schema } from './graphql_schema.js'

const wss = new WebSocketServer({ port: process.argv[2], host: '127.0.0.1', path: '/graphql' })
useServer({ schema, onConnect: (c) => c.connectionParams?.token !== 'wrong' }, wss, 12000 / 20)
