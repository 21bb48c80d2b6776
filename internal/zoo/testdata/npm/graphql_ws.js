// graphql-ws as a server: https://the-guild.dev/graphql/ws/get-started
import { createServer } from 'node:http'
import { graphql } from 'graphql'
import { useServer } from 'graphql-ws/use/ws'
import { WebSocketServer } from 'ws'

import { schema } from './graphql_schema.js'

const server = createServer(async (request, response) => {
  let body = ''
  for await (const part of request) body += part
  if (request.url !== '/graphql' || request.method !== 'POST') return response.writeHead(404).end()
  const { query: source, variables: variableValues } = JSON.parse(body)
  response.writeHead(200, { 'Content-Type': 'application/json' }).end(JSON.stringify(await graphql({ schema, source, variableValues })))
})
const wss = new WebSocketServer({ server, path: '/graphql' })
useServer({ schema, onConnect: (c) => c.connectionParams?.token !== 'wrong' }, wss, 12000 / (process.env.ZOO_SCALE ?? 20))
server.listen(process.argv[2], '127.0.0.1')
