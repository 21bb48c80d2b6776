// reconnecting-websocket: https://github.com/pladaria/reconnecting-websocket#readme
import ReconnectingWebSocket from 'reconnecting-websocket'
import WebSocket from 'ws'
import { guestOfEcho } from './guest.js'

await guestOfEcho((url, stay) => new ReconnectingWebSocket(url, 'zoo.v2', { WebSocket, ...(stay ? {} : { maxRetries: 0 }) }))
