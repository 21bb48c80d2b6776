// PartySocket's WebSocket: https://docs.partykit.io/reference/partysocket-api/
import { WebSocket as PartySocket } from 'partysocket'
import WebSocket from 'ws'
import { guestOfEcho } from './guest.js'

await guestOfEcho((url, stay) => new PartySocket(url, 'zoo.v2', { WebSocket, ...(stay ? {} : { maxRetries: 0 }) }))
